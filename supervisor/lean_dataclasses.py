"""Makes `dataclasses` compile less: for the daemon's 350 of them that was a tenth of the start, and 1 MiB.

The library writes the source of each method of each dataclass and compiles it. What prints an instance,
and what refuses to change a frozen one, needs no source of its own: here these are closures over the names
of the fields, with the same words. Applies to the Python versions that have the functions replaced here
(3.11, 3.12); later ones compile all methods of a class at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from reprlib import recursive_repr
from typing import Any

_Fields = Sequence["dataclasses.Field[Any]"]


def _repr_fn(fields: _Fields, _globals: dict[str, Any]) -> Callable[[Any], str]:
    names = [field.name for field in fields]

    @recursive_repr()
    def __repr__(self: Any) -> str:
        shown = ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _frozen_get_del_attr(
    cls: type[Any], fields: _Fields, _globals: dict[str, Any]
) -> tuple[Callable[[Any, str, Any], None], Callable[[Any, str], None]]:
    names = frozenset(field.name for field in fields)

    def __setattr__(self: Any, name: str, value: object) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return __setattr__, __delattr__


def compile_less() -> None:
    """For all dataclasses that are defined from now on."""
    for made in (_repr_fn, _frozen_get_del_attr):
        if hasattr(dataclasses, made.__name__):
            setattr(dataclasses, made.__name__, made)
