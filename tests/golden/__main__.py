"""Writes the files of the formats of today: `python -m tests.golden`. Those of earlier releases are never
written again.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden.samples import SORTS, now

if __name__ == "__main__":
    for name, sort in SORTS.items():
        Path(__file__).with_name(f"{name}-{sort.format}.json").write_text(now(name))
