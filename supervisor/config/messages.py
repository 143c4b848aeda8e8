"""Turns the errors of pydantic into messages about the file: what is wrong, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.configuration.explanations import closest, did_you_mean, explain
from common.configuration.locations import find, find_key
from common.configuration.problems import KeyPath, Report
from common.configuration.yaml_document import Group
from common.settings import Settings, settings_of
from supervisor.config.locations import group_of, model_at

_NO_HINTS: Mapping[str, str] = MappingProxyType({})
_UNKNOWN = "unexpected_keyword_argument"  # a key that the group does not have
_MAX_LISTED_KEYS = 24  # up to this number all known keys are listed if none is similar to an unknown one


def report_invalid(
    error: ValidationError,
    model: type[Settings],
    root: Group,
    prefix: KeyPath,
    report: Report,
    hints: Mapping[str, str] = _NO_HINTS,
    partial: bool = False,
) -> None:
    """Report each error.

    `prefix`: path of the model's data; `hints`: explanations of unknown keys; `partial`: nothing is required.
    """
    found = error.errors(include_url=False, include_input=False)
    misspelt = {_meant(details["loc"], model, hints) for details in found if details["type"] == _UNKNOWN}
    for details in found:
        if details["type"] == "too_short" and _has_wrong_entries(details["loc"], found):
            continue  # pydantic counts only the entries that are right
        where = (*prefix, *details["loc"])
        if details["type"] == _UNKNOWN:
            place = find_key(root, where)
            report.error(
                place.position,
                place.where,
                unknown_key(str(where[-1]), model_at(model, details["loc"][:-1]), hints),
            )
        elif details["type"] == "missing":
            if partial or details["loc"] in misspelt:
                continue
            place = find(root, where[:-1])
            report.error(
                place.position, place.where, _missing(str(where[-1]), model_at(model, details["loc"][:-1]))
            )
        else:
            place = find(root, where)
            report.error(place.position, place.where, explain(details, place.node))


def _has_wrong_entries(where: KeyPath, found: Iterable[ErrorDetails]) -> bool:
    return any(len(other["loc"]) > len(where) and other["loc"][: len(where)] == where for other in found)


# --- keys
# ----------------------------------------------------------------------------------------------------------


def unknown_key(key: str, model: type[Settings] | None, hints: Mapping[str, str] = _NO_HINTS) -> str:
    """The message about a key that the model does not have."""
    if key in hints:
        return f"unknown key ({hints[key]})"
    if model is None:
        return "unknown key"
    known = settings_of(model)
    inside = [name for name, field in known.items() if _holds(group_of(field.annotation), key)]
    if inside:
        return f"unknown key (did you mean {inside[0]}.{key}?)"
    listed = f"; known here: {', '.join(sorted(known))}" if len(known) <= _MAX_LISTED_KEYS else ""
    return f"unknown key{did_you_mean(key, known) or listed}"


def _meant(where: KeyPath, model: type[Settings], hints: Mapping[str, str]) -> KeyPath | None:
    """The path that an unknown key was probably meant to be."""
    group, key = model_at(model, where[:-1]), str(where[-1])
    word = closest(key, settings_of(group)) if group is not None and key not in hints else None
    return (*where[:-1], word) if word is not None else None


def _holds(group: type[Settings] | None, key: str) -> bool:
    return group is not None and key in settings_of(group)


def _missing(key: str, model: type[Settings] | None) -> str:
    field = settings_of(model).get(key) if model is not None else None
    return f"{key} is missing" + (f": {field.description}" if field is not None and field.description else "")
