"""What is wrong with a value, in a sentence about the file: errors of pydantic, and misspelt words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from pydantic_core import ErrorDetails

from common.configuration.yaml_document import Group, Listing, Node, Scalar

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
        "dataclass": "a group of settings",
        "model": "a group of settings",
        "dict": "a group of settings",
        "mapping": "a group of settings",
    }
)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar; None: no one is."""
    by_spelling = {name.lower().replace("-", "_"): name for name in sorted(known)}
    close = get_close_matches(word.lower().replace("-", "_"), by_spelling, 1, 0.6)
    return by_spelling[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean WORD?)` if a known word is similar, else an empty text."""
    word_meant = closest(word, known)
    return f" (did you mean {word_meant}?)" if word_meant is not None else ""


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
        return f"{wanted} is expected here, not {'a list' if isinstance(node, Listing) else 'a group of settings'}"
    if node.reading.value is None:
        return f"has no value; {wanted} is expected"
    if wanted == "a list":
        return f"a list is expected; write [{node.text}]"
    if isinstance(node.reading.value, str):
        return f"{wanted} is expected here, not the text {node.text!r}"
    if wanted == "a text":
        return f'{node.text} is read as {node.reading.taken_for} by YAML; quote it: "{node.text}"'
    return f"{wanted} is expected here; {node.text} is read as {node.reading.taken_for} by YAML"


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
