"""What the values of settings must be, said beside their types: `Annotated[int, Whole(1, 10)]`.

Only the process that reads a configuration checks them, with pydantic (`supervisor.config.validation`), which
nothing here imports before. Each constraint is a group of metadata in the sense of annotated-types: pydantic
iterates over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

JsonSchema = Mapping[str, Any]


class Constraint(ABC):
    """pydantic's annotations are made when it asks for them."""

    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    @abstractmethod
    def __iter__(self) -> Iterator[object]: ...


@dataclass(frozen=True, eq=False)
class ReadBy(Constraint):
    """A text that stands for a value of another type."""

    parse: Callable[[Any], Any]  # ValueError(sentence)
    schema: JsonSchema  # of the text
    write: Callable[[Any], str] = str  # the text from the value

    def __iter__(self) -> Iterator[object]:
        from pydantic import PlainValidator, WithJsonSchema

        yield PlainValidator(self.parse)
        yield WithJsonSchema(dict(self.schema))


@dataclass(frozen=True, eq=False)
class CheckedBy(Constraint):
    """A value that has the right type, and is checked or normalized by this function."""

    check: Callable[[Any], Any]  # ValueError(sentence)
    schema: JsonSchema | None = None

    def __iter__(self) -> Iterator[object]:
        from pydantic import AfterValidator, WithJsonSchema

        yield AfterValidator(self.check)
        if self.schema is not None:
            yield WithJsonSchema(dict(self.schema))


@dataclass(frozen=True, eq=False)
class Whole(Constraint):
    """A whole number from one to another, and not a text of it."""

    least: int
    most: int

    def __iter__(self) -> Iterator[object]:
        from pydantic import Field

        yield from Field(strict=True, ge=self.least, le=self.most).metadata


@dataclass(frozen=True, eq=False)
class Exact(Constraint):
    """No value of another type that could stand for one of this."""

    def __iter__(self) -> Iterator[object]:
        from pydantic import Strict

        yield Strict()


@dataclass(frozen=True, eq=False)
class NotEmpty(Constraint):
    """At least one letter or item."""

    def __iter__(self) -> Iterator[object]:
        from pydantic import Field

        yield from Field(min_length=1).metadata


@dataclass(frozen=True, eq=False)
class Matching(Constraint):
    """A text in which this regular expression finds something."""

    pattern: str

    def __iter__(self) -> Iterator[object]:
        from pydantic import Field

        yield from Field(pattern=self.pattern).metadata
