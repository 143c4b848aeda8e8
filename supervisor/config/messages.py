"""Turns the errors of pydantic into messages about the file: what is wrong, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from supervisor.config.locations import find, find_key, group_of, model_at
from supervisor.config.problems import KeyPath, Report
from supervisor.config.yaml_document import Group, Listing, Node, Scalar
from tunnels.settings import Settings

_NO_HINTS: Mapping[str, str] = MappingProxyType({})
_WANTED: Mapping[str, str] = MappingProxyType(
    {
        "string": "a text",
        "path": "a text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "tuple": "a list",
        "list": "a list",
        "frozen": "a list",
        "set": "a list",
        "model": "a group of settings",
        "dict": "a group of settings",
        "mapping": "a group of settings",
    }
)
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
    misspelt = {
        _meant(details["loc"], model, hints) for details in found if details["type"] == "extra_forbidden"
    }
    for details in found:
        if details["type"] == "too_short" and _has_wrong_entries(details["loc"], found):
            continue  # pydantic counts only the entries that are right
        where = (*prefix, *details["loc"])
        if details["type"] == "extra_forbidden":
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


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar; None: no one is."""
    by_spelling = {name.lower().replace("-", "_"): name for name in sorted(known)}
    close = get_close_matches(word.lower().replace("-", "_"), by_spelling, 1, 0.6)
    return by_spelling[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean WORD?)` if a known word is similar, else an empty text."""
    word_meant = closest(word, known)
    return f" (did you mean {word_meant}?)" if word_meant is not None else ""


def unknown_key(key: str, model: type[Settings] | None, hints: Mapping[str, str] = _NO_HINTS) -> str:
    """The message about a key that the model does not have."""
    if key in hints:
        return f"unknown key ({hints[key]})"
    if model is None:
        return "unknown key"
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    inside = [name for name, field in known.items() if _holds(group_of(field.annotation), key)]
    if inside:
        return f"unknown key (did you mean {inside[0]}.{key}?)"
    listed = f"; known here: {', '.join(sorted(known))}" if len(known) <= _MAX_LISTED_KEYS else ""
    return f"unknown key{did_you_mean(key, known) or listed}"


def _meant(where: KeyPath, model: type[Settings], hints: Mapping[str, str]) -> KeyPath | None:
    """The path that an unknown key was probably meant to be."""
    group, key = model_at(model, where[:-1]), str(where[-1])
    word = closest(key, group.model_fields) if group is not None and key not in hints else None
    return (*where[:-1], word) if word is not None else None


def _holds(group: type[Settings] | None, key: str) -> bool:
    return group is not None and key in group.model_fields


def _missing(key: str, model: type[Settings] | None) -> str:
    field = model.model_fields.get(key) if model is not None else None
    return f"{key} is missing" + (f": {field.description}" if field is not None and field.description else "")


# --- values
# ----------------------------------------------------------------------------------------------------------


def explain(details: ErrorDetails, node: Node) -> str:
    """The message about the value at this node."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_secret":
        return details["msg"]
    if kind in ("value_error", "assertion_error"):
        return _with_reading(str(context.get("error", details["msg"])), node)
    if kind in ("literal_error", "enum"):
        return _choice(context["expected"], node)
    wanted = (
        _WANTED.get(kind.split("_")[0])
        if kind.endswith(("_type", "_parsing", "_from_float", "_of", "_attributes_type"))
        else None
    )
    if wanted is not None:
        return _wrong_type(wanted, node)
    return _limit(kind, context, node) or f"this value is not accepted ({kind.replace('_', ' ')})"


def _with_reading(text: str, node: Node) -> str:
    """A validator's message, with the text of the file instead of what YAML has read."""
    if (
        not isinstance(node, Scalar)
        or isinstance(node.reading.value, str)
        or node.reading.taken_for in (None, "a number")
    ):
        return text
    advice = text.partition("; ")[2] or text
    return (
        f"has no value; {advice}"
        if node.reading.value is None
        else f"{node.text} is read as {node.reading.taken_for} by YAML; {advice}"
    )


def _wrong_type(wanted: str, node: Node) -> str:
    if isinstance(node, Listing | Group):
        return (
            f"{wanted} is wanted here, not {'a list' if isinstance(node, Listing) else 'a group of settings'}"
        )
    if node.reading.value is None:
        return f"has no value; {wanted} is wanted"
    if wanted == "a list":
        return f"a list is wanted; write [{node.text}]"
    if isinstance(node.reading.value, str):
        return f"{wanted} is wanted here, not the text {node.text!r}"
    if wanted == "a text":
        return f'{node.text} is read as {node.reading.taken_for} by YAML; quote it: "{node.text}"'
    return f"{wanted} is wanted here; {node.text} is read as {node.reading.taken_for} by YAML"


def _choice(expected: str, node: Node) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    if not isinstance(node, Scalar) or not isinstance(node.reading.value, str):
        return _wrong_type(f"one of {', '.join(choices)}", node)
    return f"{node.text!r} is none of {', '.join(choices)}{did_you_mean(node.text, choices)}"


def _limit(kind: str, context: Mapping[str, Any], node: Node) -> str | None:
    match kind:
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return f"must be more than {context['gt']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "string_pattern_mismatch":
            return (
                f"{node.text if isinstance(node, Scalar) else 'this'} does not have the form "
                f"{context['pattern']}"
            )
        case _:
            return None
