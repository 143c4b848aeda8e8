"""YAML text -> a tree of nodes with their positions in the file.

Built from the parser's events and not by PyYAML's composer, which recurses in C, accepts duplicate keys and
follows aliases without a limit. An error ends the reading only if the rest cannot be understood.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import yaml
from yaml import events as ye

from common.configuration.problems import KeyPath, Position, Report
from common.configuration.yaml_scalars import Reading, read
from common.configuration.yaml_syntax import syntax_error

MAX_BYTES = 1_000_000  # of a file
MAX_DEPTH = 30  # levels of nesting
MAX_ALIASED = 20_000  # values that come in through aliases

_UNREADABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STRING_TAGS = (None, "!", "tag:yaml.org,2002:str")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class Scalar:
    """A scalar: one word or text."""

    position: Position
    text: str
    reading: Reading
    size: int = 1  # values in it, itself included, aliases followed
    depth: int = 0  # levels of nesting in it

    def plain(self) -> object:
        """Its value."""
        return self.reading.value


@dataclass(slots=True, eq=False)
class Listing:
    """A list."""

    position: Position
    items: list[Node] = field(default_factory=list)
    size: int = 1
    depth: int = 1

    def plain(self) -> object:
        """Its value."""
        return [item.plain() for item in self.items]


@dataclass(slots=True, eq=False)
class Group:
    """A mapping: its entries, and the positions of their keys."""

    position: Position
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Position] = field(default_factory=dict)
    size: int = 1
    depth: int = 1

    def plain(self) -> dict[str, object]:
        """Its value."""
        return {key: node.plain() for key, node in self.entries.items()}

    def put(self, key: str, node: Node, position: Position) -> None:
        """Add an entry whose key stands at `position`."""
        self.entries[key] = node
        self.keys[key] = position


Node = Scalar | Listing | Group


class Unreadable(Exception):
    """The rest of the file cannot be understood."""

    def __init__(self, position: Position, where: KeyPath, text: str) -> None:
        super().__init__(text)
        self.position, self.where, self.text = position, where, text


def load(text: str, report: Report, loader: type = _LOADER) -> Group | None:
    """The file's top group; None: there is none, and the report has an error."""
    try:
        return _load(text.removeprefix("\ufeff"), report, loader)
    except Unreadable as error:
        report.error(error.position, error.where, error.text)
    return None


def _load(text: str, report: Report, loader: type) -> Group:
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise Unreadable(Position(1, 1), (), f"the file is larger than {MAX_BYTES // 1_000_000} MB")
    bad = _UNREADABLE.search(text)
    if bad is not None:
        what = f"this is not readable text (character U+{ord(bad[0]):04X}); save the file as UTF-8"
        raise Unreadable(_position_at(text, bad.start()), (), what)
    root = _root(text, report, loader)
    if root is None:
        raise Unreadable(Position(1, 1), (), "the file is empty; see config.example.yaml for how it begins")
    if not isinstance(root, Group):
        raise Unreadable(
            root.position, (), "the file must be a mapping with keys such as staff: and tunnels:"
        )
    return root


def _position_at(text: str, index: int) -> Position:
    before = text[:index].splitlines(keepends=True) or [""]
    if before[-1].endswith(("\n", "\r")):
        before.append("")
    return Position(len(before), len(before[-1]) + 1)


def _root(text: str, report: Report, loader: type) -> Node | None:
    try:
        return _Builder(report).build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        position, sentence = syntax_error(text, error)
        _apply_limits(text[: error.problem_mark.index] if error.problem_mark is not None else "", loader)
        raise Unreadable(position, (), sentence) from None
    except yaml.YAMLError:
        raise Unreadable(Position(1, 1), (), "not YAML") from None


def _apply_limits(text: str, loader: type) -> None:
    """Raise Unreadable if the part that could be parsed exceeds our own limits: each version of the parser
    has limits of its own.
    """
    with contextlib.suppress(yaml.YAMLError):
        _Builder(Report("")).build(yaml.parse(text, Loader=loader))


# --- the tree
# ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A list or mapping that is not complete yet."""

    node: Listing | Group
    where: KeyPath
    anchor: str | None
    key: tuple[str, Position] | None = None  # of the entry whose value comes next
    skip: bool = False  # that key is not usable: its value is read and dropped


class _Builder:
    """Folds parser events into a tree."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._open: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: not closed yet
        self._aliased = 0
        self._root: Node | None = None

    def build(self, events: Iterable[ye.Event]) -> Node | None:
        """The root of the one document; None: there is none."""
        for event in events:
            if isinstance(event, ye.DocumentStartEvent) and self._root is not None:
                raise Unreadable(
                    _position_of(event),
                    (),
                    "a second document begins here (---); a configuration is one document",
                )
            if isinstance(event, ye.NodeEvent):
                self._node(event)
            elif isinstance(event, ye.CollectionEndEvent):
                self._close()
        root = self._root
        return None if isinstance(root, Scalar) and root.reading.value is None else root

    def _node(self, event: ye.NodeEvent) -> None:
        if self._expects_key():
            self._key(event)
        elif isinstance(event, ye.AliasEvent):
            self._add(self._alias(event))
        elif isinstance(event, ye.ScalarEvent):
            self._scalar(event)
        else:
            self._begin(event)

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node, Group) and self._open[-1].key is None

    def _where(self) -> KeyPath:
        """The path of the value that comes next."""
        if not self._open:
            return ()
        top = self._open[-1]
        if isinstance(top.node, Listing):
            return (*top.where, len(top.node.items))
        return (*top.where, top.key[0]) if top.key is not None else top.where

    # keys

    def _key(self, event: ye.NodeEvent) -> None:
        top, position = self._open[-1], _position_of(event)
        if not isinstance(event, ye.ScalarEvent):
            raise Unreadable(
                position,
                top.where,
                "a key must be a plain word; quote a text that begins with one of [ { * &",
            )
        top.key, top.skip = (event.value, position), True
        assert isinstance(top.node, Group)
        first = top.node.keys.get(event.value)
        taken_for = read(event.value).taken_for if event.implicit[0] else None
        if event.implicit[0] and event.value == "<<":
            self._report.error(
                position,
                (*top.where, "<<"),
                "merge keys are not supported; what tunnels share goes under defaults:",
            )
        elif first is not None:
            self._report.error(
                position,
                self._where(),
                f"this key stands here a second time; the first is in line {first.line}",
            )
        elif taken_for is not None:
            self._report.error(
                position,
                self._where(),
                f'{event.value or "the key"} is read as {taken_for} by YAML; quote it: "{event.value}"',
            )
        else:
            top.skip = False

    # values

    def _scalar(self, event: ye.ScalarEvent) -> None:
        position = _position_of(event)
        if event.tag not in _STRING_TAGS:
            self._bad_tag(position)
        bad = _UNREADABLE.search(
            event.value
        )  # an escape such as \0 brings in what the text itself may not hold
        if bad is not None:
            self._report.error(
                position,
                self._where(),
                f"holds the character U+{ord(bad[0]):04X}, which is not readable text",
            )
        reading = read(event.value) if event.implicit[0] else Reading(event.value)
        node = Scalar(position, event.value, reading)
        self._remember(event.anchor, node)
        self._add(node)

    def _begin(self, event: ye.NodeEvent) -> None:
        position, where = _position_of(event), self._where()
        self._limit_depth(position, 1)
        if not getattr(event, "implicit", True):
            self._bad_tag(position)
        self._remember(event.anchor, None)
        node = Group(position) if isinstance(event, ye.MappingStartEvent) else Listing(position)
        self._open.append(_Open(node, where, event.anchor))

    def _close(self) -> None:
        done = self._open.pop()
        self._remember(done.anchor, done.node)
        self._add(done.node)

    def _add(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        top = self._open[-1]
        top.node.size += node.size
        top.node.depth = max(top.node.depth, 1 + node.depth)
        if isinstance(top.node, Listing):
            top.node.items.append(node)
            return
        assert top.key is not None
        if not top.skip:
            top.node.put(top.key[0], node, top.key[1])
        top.key, top.skip = None, False

    def _remember(self, anchor: str | None, node: Node | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _alias(self, event: ye.AliasEvent) -> Node:
        """What the alias stands for. Texts never repeat its name: it may be a secret that begins with a
        star.
        """
        position = _position_of(event)
        if event.anchor not in self._anchors:
            raise Unreadable(
                position,
                self._where(),
                "an alias without an anchor; a text that begins with * must be quoted",
            )
        node = self._anchors[event.anchor]
        if node is None:
            raise Unreadable(position, self._where(), "an alias inside of what it stands for")
        self._aliased += node.size
        if self._aliased > MAX_ALIASED:
            raise Unreadable(position, self._where(), f"aliases bring in more than {MAX_ALIASED} values")
        self._limit_depth(position, node.depth)
        return node

    def _limit_depth(self, position: Position, more: int) -> None:
        if len(self._open) + more > MAX_DEPTH:
            raise Unreadable(position, self._where()[:3], f"nested deeper than {MAX_DEPTH} levels")

    def _bad_tag(self, position: Position) -> None:
        self._report.error(
            position, self._where(), "tags are not supported; a text that begins with ! must be quoted"
        )


def _position_of(event: ye.Event) -> Position:
    start = event.start_mark
    return Position(start.line + 1, start.column + 1) if start is not None else Position(1, 1)
