"""The command `facilitator-hub`; the module of a command is loaded when it is wanted."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import click

# Command: the module in hub.cli that defines it under this name.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "doctor": "doctor",
        "profile": "profile",
        "sessions": "sessions",
        "sidecar": "sidecar",
        "who": "operator",
        "history": "operator",
        "events": "operator",
        "end": "operator",
        "block": "operator",
        "nodes": "operator",
    }
)


class _Loaded(UserDict[str, Any]):
    """Commands by their names."""

    def __getitem__(self, name: str) -> Any:
        return getattr(import_module(f"hub.cli.{self.data[name]}"), name)


@click.group(commands=_Loaded(COMMANDS), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vpn-facilitator"), prog_name="facilitator-hub")
def main() -> None:
    """Sessions of the staff VPN: who is connected; end and block them."""
