"""From the path of a setting to its location in the file, and to the model that describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from supervisor.config.problems import KeyPath, Position
from supervisor.config.yaml_document import Group, Listing, Node, Scalar
from tunnels.settings import Settings


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


def group_of(annotation: Any) -> type[Settings] | None:
    """The group of settings in a field of this type: itself, optional or in a list; None: there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(group_of, get_args(annotation))), None)


def model_at(model: type[Settings], where: KeyPath) -> type[Settings] | None:
    """The group of settings at this path; None: something without fixed keys."""
    current: type[Settings] | None = model
    for step in where:
        if isinstance(step, int) or current is None:
            continue
        field = current.model_fields.get(step)
        current = group_of(field.annotation) if field is not None else None
    return current
