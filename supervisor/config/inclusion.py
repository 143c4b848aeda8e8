"""Adds the tunnels of included files (`include: conf.d/*.yaml`) to those of the main file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.configuration.locations import find, find_key
from common.configuration.problems import Report, later
from common.configuration.sources import SourceFile, include_pattern
from common.configuration.yaml_document import Group, Listing, Node, load

_TUNNELS = "tunnels"


def add_included(
    root: Group, main: str, included: Iterable[SourceFile], directory: Path, report: Report
) -> None:
    """Put the tunnels of each file under `tunnels:` of the main file. `directory`: that of the main file, to
    which their names are relative. Mistakes go into the report.
    """
    _check_pattern(root, main, report)
    lines = main.count("\n") + 1
    for file in included:
        own = Report(str(directory / file.name))
        group = load(file.text, own)
        report.include(own, lines)
        if group is not None:
            _move(group, lines, set())
            _add(root, group, report)
        lines += file.text.count("\n") + 1
    if "include" in root.entries and _TUNNELS not in root.entries:
        root.put(_TUNNELS, Group(root.position), root.position)


def _check_pattern(root: Group, main: str, report: Report) -> None:
    """The daemon finds included files without YAML, by one line: YAML must read the same there."""
    node = root.entries.get("include")
    if node is not None and isinstance(node.plain(), str) and node.plain() != include_pattern(main):
        place = find(root, ("include",))
        report.error(
            place.position, place.where, "must be one line at the left edge, such as include: conf.d/*.yaml"
        )


def _add(root: Group, group: Group, report: Report) -> None:
    for key in group.entries:
        if key != _TUNNELS:
            text = "an included file holds only tunnels:; this belongs into the main file"
            report.error(find_key(group, (key,)).position, (key,), text)
    tunnels = group.entries.get(_TUNNELS)
    if not isinstance(tunnels, Group):
        text = "tunnels is missing: the tunnels of this file, by name"
        report.error(group.position, (), text)
        return
    if _TUNNELS not in root.entries:
        root.put(_TUNNELS, Group(tunnels.position), group.keys[_TUNNELS])
    all_tunnels = root.entries[_TUNNELS]
    if not isinstance(all_tunnels, Group):
        return  # reported with the main file
    for name, node in tunnels.entries.items():
        if name in all_tunnels.entries:
            first = report.line(all_tunnels.keys[name])
            text = f"this tunnel stands here a second time; the first is in {first}"
            report.error(tunnels.keys[name], (_TUNNELS, name), text)
        else:
            all_tunnels.put(name, node, tunnels.keys[name])


def _move(node: Node, lines: int, moved: set[int]) -> None:
    """Move the positions of a tree down by this number of lines; an alias leads to a node a second time."""
    if id(node) in moved:
        return
    moved.add(id(node))
    node.position = later(node.position, lines)
    if isinstance(node, Group):
        node.keys = {key: later(position, lines) for key, position in node.keys.items()}
        for below in node.entries.values():
            _move(below, lines, moved)
    elif isinstance(node, Listing):
        for below in node.items:
            _move(below, lines, moved)
