"""From the path of a setting to its location in the file."""

from __future__ import annotations

from dataclasses import dataclass

from common.configuration.problems import KeyPath, Position
from common.configuration.yaml_document import Group, Listing, Node, Scalar


@dataclass(frozen=True, slots=True)
class Location:
    """The deepest part of a path that exists in the file."""

    position: Position
    where: KeyPath
    node: Node


def find(root: Group, where: KeyPath) -> Location:
    """The location of a setting: of a scalar or a list's entry its own start, of a group or list that of its
    key.
    """
    place = Location(root.position, (), root)
    for depth, step in enumerate(where, start=1):
        below = _below(place.node, step)
        if below is None:
            break
        place = Location(below[0], where[:depth], below[1])
    return place


def find_key(root: Group, where: KeyPath) -> Location:
    """The location of this entry's key."""
    place = find(root, where)
    parent = find(root, where[:-1]).node
    if place.where == where and isinstance(parent, Group):
        return Location(parent.keys[str(where[-1])], where, place.node)
    return place


def _below(node: Node, step: str | int) -> tuple[Position, Node] | None:
    if isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
        return node.items[step].position, node.items[step]
    if isinstance(node, Group) and step in node.entries:
        below = node.entries[str(step)]
        return (below.position if isinstance(below, Scalar) and below.text else node.keys[str(step)]), below
    return None
