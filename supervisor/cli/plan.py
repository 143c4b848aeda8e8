"""`facilitator plan` as text: the desired state grouped by kind of object, then how the kernel differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from supervisor.cli.output import paint

if TYPE_CHECKING:
    from supervisor.core.views.documents import PlanDocument

_COLOURS = {"+": "green", "-": "red"}


def plan_text(answer: PlanDocument) -> Iterator[str]:
    """`lanes` (number -> tunnel), `wanted` and `changes` (one item a line) as text, in pieces."""
    for number, line in enumerate(_plan_lines(answer)):
        yield from ("\n", line) if number else (line,)


def _plan_lines(answer: PlanDocument) -> Iterator[str]:
    wanted: Sequence[str] = answer["wanted"]
    changes: Sequence[str] = answer["changes"]
    lanes: Mapping[str, str] = answer.get("lanes", {})
    yield from (
        *_group(
            "tunnels: packet mark, connection mark and routing table",
            (f"{number} {name}" for number, name in lanes.items()),
        ),
        *_group("routes", sorted(_of(wanted, "route"), key=_table)),
        *_group("policy rules", map(_rule, _of(wanted, "rule"))),
        *(f"{line}\n" for line in wanted if line.startswith("table ")),
        *_group("elements of its sets and maps", _of(wanted, "element")),
        *_difference(changes),
    )


def _of(lines: Iterable[str], word: str) -> Iterator[str]:
    return (line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} "))


def _table(route: str) -> int:
    """The main table first, then each lane's."""
    words = route.split()
    return int(words[words.index("table") + 1]) if "table" in words else 0


def _rule(rule: str) -> str:
    return f"IPv6 {rule.removeprefix('-6 ')}" if rule.startswith("-6 ") else f"IPv4 {rule}"


def _group(title: str, lines: Iterable[str]) -> Iterator[str]:
    """A titled group, its first words aligned as a column."""
    rows = [line.partition(" ") for line in lines]
    if not rows:
        return
    width = max(len(first) for first, _, _ in rows)
    yield title
    yield from (f"  {first:{width}}  {rest}".rstrip() for first, _, rest in rows)
    yield ""


def _difference(changes: Sequence[str]) -> Iterator[str]:
    if not changes:
        yield "the kernel holds exactly this: nothing to change"
        return
    counts = {
        "add": sum(line.startswith("+") for line in changes),
        "remove": sum(line.startswith("-") for line in changes),
    }
    yield f"to change: {', '.join(f'{count} to {verb}' for verb, count in counts.items() if count)}"
    yield from (paint(f"  {line}", _COLOURS.get(line[:1])) for line in changes)
