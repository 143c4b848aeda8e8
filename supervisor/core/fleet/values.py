"""Reads JSON objects that other members, or whoever may write to the lock engine, have written: everything is
bounded, nothing is trusted, keys of later versions are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.core.formats import parsed
from tunnels.text import one_line

MOST_MEMBERS = 50  # of a fleet
MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
# Of a person, as a hub names it; never a mistyped address.
PERSON_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@+-]{0,99}", re.ASCII)
TUNNEL_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
LAST_MOMENT = 253_402_300_799  # Unix time in seconds of the end of the year 9999
MOST_CHARACTERS = 200  # of a text that people have written


def people_text(text: str) -> str:
    """What people have written, in one line that is safe to show, and cut."""
    return one_line(text[:MOST_CHARACTERS])


@dataclass(frozen=True, slots=True)
class ForeignObject:
    """A JSON object of somebody else. Each method raises ValueError with what is wrong."""

    keys: Mapping[str, Any]

    @classmethod
    def read(cls, content: str, most: int) -> ForeignObject:
        """The object in a value of the engine that has at most so many characters."""
        if len(content) > most:
            raise ValueError(f"it has {len(content)} characters, at most {most} are read")
        try:
            return cls.of(parsed(content.encode("utf-8", "replace")))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    @classmethod
    def of(cls, raw: Any) -> ForeignObject:
        """The object in a list, or at another key."""
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        return cls(raw)

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        """A text of this pattern; without one, whatever people write, made safe to show and cut."""
        found = self.keys.get(key, "")
        if not isinstance(found, str) or (pattern is not None and not pattern.fullmatch(found)):
            raise ValueError(f"{key} is not what it should be")
        return found if pattern is not None else people_text(found)

    def number(self, key: str) -> float:
        """A number; there must be one."""
        found = self.keys.get(key)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ValueError(f"{key} is no number")
        return float(found)

    def moment(self, key: str) -> float:
        """Unix time in seconds; there must be one, of which a date can be made."""
        found = self.number(key)
        if not 0 <= found <= LAST_MOMENT:
            raise ValueError(f"{key} is no Unix time in seconds")
        return found

    def flag(self, key: str) -> bool:
        """True or False; absent means False."""
        found = self.keys.get(key, False)
        if not isinstance(found, bool):
            raise ValueError(f"{key} is neither true nor false")
        return found

    def objects(self, key: str, most: int) -> list[ForeignObject]:
        """A list of objects."""
        found = self.keys.get(key, [])
        if not isinstance(found, list) or len(found) > most:
            raise ValueError(f"{key} is no list of at most {most} objects")
        return [ForeignObject.of(each) for each in found]
