"""The lock: requirements/*.txt, which `make lock` writes. Run as a program it says how the environment
that it runs in differs from it.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME, DEVELOPMENT = (REPOSITORY / "requirements" / name for name in ("runtime.txt", "development.txt"))


@dataclass(frozen=True)
class Pin:
    """One locked package."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> str:
        """The only version that is installed."""
        return next(iter(self.requirement.specifier)).version


def pins(lock: Path) -> dict[str, Pin]:
    """What a lock file holds, by canonical name; ValueError: a line that is neither a package, nor a
    comment, nor `--only-binary :all:`.
    """
    found = {}
    for line in lock.read_text().replace("\\\n", " ").splitlines():
        text = line.partition("#")[0].strip()
        if text and text != "--only-binary :all:":
            requirement, *hashes = re.split(r"\s+--hash=", text)
            pin = Pin(Requirement(requirement), tuple(hashes))
            found[canonicalize_name(pin.requirement.name)] = pin
    return found


def wanted(*extras: str) -> list[Requirement]:
    """What setup.cfg asks for, these extras included."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    texts = (
        setup["options"]["install_requires"],
        *(setup["options.extras_require"][extra] for extra in extras),
    )
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def differences(locked: Mapping[str, Pin], installed: Mapping[str, str]) -> list[str]:
    """In words, what is installed in another version than the locked one, or not locked at all, or locked
    and not installed.
    """
    both = locked.keys() & installed.keys()
    changed = [
        f"{name} {locked[name].version} -> {installed[name]}"
        for name in both
        if locked[name].version != installed[name]
    ]
    new = [f"{name} {version} is new" for name, version in installed.items() if name not in locked]
    gone = [
        f"{name} {pin.version} is no longer needed"
        for name, pin in locked.items()
        if name not in installed and _applies(pin)
    ]
    return sorted([*changed, *new, *gone])


def _applies(pin: Pin) -> bool:
    return pin.requirement.marker is None or pin.requirement.marker.evaluate()


def installed() -> dict[str, str]:
    """The packages of this environment and their versions, without ourselves and what every virtual
    environment comes with.
    """
    found = {canonicalize_name(each.name): each.version for each in importlib.metadata.distributions()}
    return {
        name: version
        for name, version in found.items()
        if name not in ("pip", "setuptools", "vpn-facilitator")
    }


def main() -> None:
    """Print the differences."""
    locked = {name: pin for name, pin in pins(DEVELOPMENT).items() if name != "setuptools"}
    found = differences(locked, installed())
    print("\nDifferent from the lock:", *(f"  {line}" for line in found), sep="\n") if found else print(
        "\nNothing differs from the lock."
    )


if __name__ == "__main__":
    sys.exit(main())
