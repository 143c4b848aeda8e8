"""Writes the files of the formats of today: `python -m tests.golden`. Those of earlier releases are never
written again. With `--missing` it writes nothing, and prints the names of files that it would change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.golden.samples import SORTS, now

FILES = {Path(__file__).with_name(f"{name}-{sort.format}.json"): name for name, sort in SORTS.items()}


def up_to_date(file: Path, name: str) -> bool:
    """Whether the file holds what the code of today writes of this sort."""
    return file.exists() and json.loads(file.read_text()) == json.loads(now(name))


if __name__ == "__main__":
    for file, name in FILES.items():
        if "--missing" not in sys.argv:
            file.write_text(now(name))
        elif not up_to_date(file, name):
            print(file.name)
