"""The words that the kinds give to the programs which drive their clients, as far as they are the same for
several.
"""

from __future__ import annotations

import argparse


def parser() -> argparse.ArgumentParser:
    """Understands the name of the device, the descriptor of the configuration, and what a login may need;
    a program adds its own.
    """
    words = argparse.ArgumentParser()
    words.add_argument("--device", required=True)
    words.add_argument("--config", type=int, required=True, help="descriptor of the configuration")
    words.add_argument("--talk", type=int, required=True, help="descriptor of the key that the daemon shows")
    words.add_argument("--mtu", type=int)
    words.add_argument(
        "--append-code", action="store_true", help="the one-time code follows the password in the same field"
    )
    return words
