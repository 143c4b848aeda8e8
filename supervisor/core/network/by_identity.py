"""Values as keys by what they are, not by what they hold: the hash of ten thousand networks costs more
than what is remembered for them.
"""

from __future__ import annotations

from typing import Generic, TypeVar

ValueT = TypeVar("ValueT")


class ByIdentity(Generic[ValueT]):
    """A value that is compared by identity. It lives as long as what is remembered under it."""

    __slots__ = ("value",)

    def __init__(self, value: ValueT) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
