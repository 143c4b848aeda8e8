"""What YAML 1.1 reads in an unquoted word.

YAML 1.1 reads `no`, `10:30`, `010` and `2026-01-01` as a boolean, the number 630, the number 8 and a date.
Numbers that a person would read differently are refused (`Misread`); for the others the reading is kept for
error messages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

_PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_TAG = "tag:yaml.org,2002:"
_MAX_NUMBER_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Misread:
    """A word that YAML reads differently than a person would. Valid for no setting."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Reading:
    """The value of an unquoted word, and what YAML takes it for, in words (None: a text)."""

    value: object
    taken_for: str | None = None


def read(text: str) -> Reading:
    """What YAML reads in this unquoted word."""
    tag = str(Resolver().resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)  # type: ignore[no-untyped-call]
    match tag:
        case "null":
            return Reading(None, "nothing")
        case "bool":
            value = SafeConstructor.bool_values[text.lower()]
            said = str(value).lower()
            return Reading(value, "a boolean" if text == said else f"the boolean {said}")
        case "int":
            return _number(text)
        case "float":
            return _float(text)
        case "timestamp":
            return Reading(Misread(text), "a date")
        case _:
            return Reading(text)


def _number(text: str) -> Reading:
    if _PLAIN_NUMBER.fullmatch(text):
        return Reading(int(text), "a number")
    return Reading(Misread(text), _as_yaml_says(SafeConstructor.construct_yaml_int, text))


def _float(text: str) -> Reading:
    return Reading(Misread(text), _as_yaml_says(SafeConstructor.construct_yaml_float, text))


def _as_yaml_says(construct: object, text: str) -> str:
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return "a number"
    try:
        value = construct(SafeConstructor(), yaml.ScalarNode(f"{_TAG}int", text))  # type: ignore[operator]
    except (ValueError, OverflowError):
        return "a number"
    return f"the number {value}"
