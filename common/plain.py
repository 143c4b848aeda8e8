"""Dataclasses as plain values (what `json` reads and writes), and back: `plain` and `from_plain`.

A reader takes exactly what a writer of today writes, but for what `complete` says: nothing is converted, a
key that is not known is an error. Types: dataclasses, named tuples, enums by value, texts, numbers, paths, IP
addresses and networks, tuples, mappings by text, literals, unions of them, and
`Any` for what is plain already. A type is looked at when its
first value is read or written, because that takes up to a millisecond.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Callable, Mapping
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Convert = Callable[[Any], Any]
_SCALARS = (str, int, float, bool, type(None))
_AS_TEXT = (Path, IPv4Address, IPv6Address, IPv4Network, IPv6Network)


class NotPlain(ValueError):
    """A plain value that is not one of its type. `where`: the path of keys to what is wrong, as text."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = ""

    def below(self, key: str) -> NotPlain:
        """The same, seen from the value that holds the wrong one under this key."""
        self.where = f"{key}.{self.where}" if self.where else key
        return self


UNKNOWN, MISSING, WRONG = "is unknown", "is missing", "is not what it should be"


def plain(value: object, *, sparse: bool = False) -> Any:
    """The value of a dataclass as a plain one. `sparse`: without fields that have their default."""
    of: Any = type(value)
    return _writer(of, sparse)(value)


def from_plain(of: type[T], raw: Any, *, complete: bool = True) -> T:
    """The value. `complete`: no field may be missing; else those that are have their defaults. NotPlain."""
    group: Any = of
    value: T = _reader(group, complete)(raw)
    return value


def hints(of: type) -> Mapping[str, Any]:
    """The types of the fields, with their annotations."""
    return _hints(of)


@cache
def _hints(of: type) -> Mapping[str, Any]:
    return get_type_hints(of, include_extras=True)


# --- writing
# ------------------------------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _value(value: enum.Enum) -> Any:
    return value.value


@cache
def _writer(of: Any, sparse: bool) -> Convert:
    origin, arguments = get_origin(of), get_args(of)
    if origin is Annotated:
        return _writer(arguments[0], sparse)
    if origin in (Union, types.UnionType):
        return _union_writer(tuple(each for each in arguments if each is not type(None)), sparse)
    if origin is tuple:
        return _list_writer(_writer(arguments[0], sparse))
    if issubclass_of(origin, Mapping):
        return _mapping_writer(_writer(arguments[1], sparse))
    return _simple_writer(of, sparse)


def _simple_writer(of: Any, sparse: bool) -> Convert:
    if issubclass_of(of, enum.Enum):
        return _value
    if issubclass_of(of, _AS_TEXT):
        return str
    if issubclass_of(of, tuple):
        return _named_tuple_writer(of, sparse)
    return _group_writer(of, sparse) if dataclasses.is_dataclass(of) else _same


def issubclass_of(of: Any, classes: Any) -> bool:
    """Is it a class at all, and one of these?"""
    return isinstance(of, type) and issubclass(of, classes)


def _union_writer(choices: tuple[Any, ...], sparse: bool) -> Convert:
    """All of them are written in the same way, or none needs to be converted."""
    writers = {_writer(each, sparse) for each in choices}
    if len(writers) > 1:
        raise TypeError(f"indistinguishable: {choices}")
    return _optional(writers.pop())


def _optional(write: Convert) -> Convert:
    def written(value: Any) -> Any:
        return None if value is None else write(value)

    return _same if write is _same else written


def _list_writer(write: Convert) -> Convert:
    return list if write is _same else lambda values: [write(each) for each in values]


def _named_tuple_writer(of: Any, sparse: bool) -> Convert:
    writers = [_writer(_hints(of)[name], sparse) for name in of._fields]
    return lambda value: [write(item) for write, item in zip(writers, value, strict=True)]


def _mapping_writer(write: Convert) -> Convert:
    return dict if write is _same else lambda values: {key: write(each) for key, each in values.items()}


def _group_writer(of: Any, sparse: bool) -> Convert:
    fields = dataclasses.fields(of)
    writers = [(each.name, _writer(_hints(of)[each.name], sparse)) for each in fields]
    if not sparse:
        return lambda value: {name: write(getattr(value, name)) for name, write in writers}
    defaults = {each.name: default_of(each) for each in fields}
    return lambda value: {
        name: write(found)
        for name, write in writers
        if (found := getattr(value, name)) != defaults[name] or defaults[name] is dataclasses.MISSING
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; `dataclasses.MISSING`: it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


# --- reading
# ------------------------------------------------------------------------------------------------------------


@cache
def _reader(of: Any, complete: bool) -> Convert:
    origin, arguments = get_origin(of), get_args(of)
    if origin is Annotated:
        return _reader(arguments[0], complete)
    if origin in (Union, types.UnionType):
        return _union_reader([_reader(each, complete) for each in arguments])
    if origin is tuple:
        return _tuple_reader(arguments, complete)
    if issubclass_of(origin, Mapping):
        return _mapping_reader(_reader(arguments[1], complete))
    return _literal_reader(arguments) if origin is Literal else _simple_reader(of, complete)


def _simple_reader(of: Any, complete: bool) -> Convert:
    if of is Any:
        return _same
    if of in _SCALARS:
        return _number if of is float else _scalar_reader(of)
    if issubclass_of(of, (enum.Enum, *_AS_TEXT)):
        return _text_reader(of, int if issubclass_of(of, int) else str)
    if issubclass_of(of, tuple):
        return _named_tuple_reader(of, complete)
    if dataclasses.is_dataclass(of):
        return _group_reader(of, complete)
    raise TypeError(f"no plain value is known for {of}")


def _number(raw: Any) -> float:
    if type(raw) is not float and type(raw) is not int:
        raise NotPlain(WRONG)
    return float(raw)


def _scalar_reader(of: type) -> Convert:
    def read(raw: Any) -> Any:
        if type(raw) is not of:
            raise NotPlain(WRONG)
        return raw

    return read


def _text_reader(of: Callable[[Any], Any], raw_type: type) -> Convert:
    def read(raw: Any) -> Any:
        if type(raw) is not raw_type:
            raise NotPlain(WRONG)
        try:
            return of(raw)
        except ValueError:
            raise NotPlain(WRONG) from None

    return read


def _literal_reader(choices: tuple[Any, ...]) -> Convert:
    def read(raw: Any) -> Any:
        if not any(raw == each and type(raw) is type(each) for each in choices):
            raise NotPlain(WRONG)
        return raw

    return read


def _union_reader(readers: list[Convert]) -> Convert:
    """The first that takes it. What is wrong is said by the last one that is not for None."""

    def read(raw: Any) -> Any:
        problem = NotPlain(WRONG)
        for each in readers:
            try:
                return each(raw)
            except NotPlain as found:
                problem = found if found.where else problem
        raise problem

    return read


def _items(raw: Any, read: Convert) -> list[Any]:
    if type(raw) is not list:
        raise NotPlain(WRONG)
    done: list[Any] = []
    try:
        done.extend(map(read, raw))
    except NotPlain as problem:
        raise problem.below(str(len(done))) from None
    return done


def _tuple_reader(arguments: tuple[Any, ...], complete: bool) -> Convert:
    assert arguments[1:] == (...,) or len(set(arguments)) == 1, arguments
    read = _reader(arguments[0], complete)
    length = None if arguments[1:] == (...,) else len(arguments)

    def read_all(raw: Any) -> Any:
        done = tuple(_items(raw, read))
        if length not in (None, len(done)):
            raise NotPlain(WRONG)
        return done

    return read_all


def _named_tuple_reader(of: Any, complete: bool) -> Convert:
    readers = [_reader(_hints(of)[name], complete) for name in of._fields]

    def read(raw: Any) -> Any:
        if type(raw) is not list or len(raw) != len(readers):
            raise NotPlain(WRONG)
        return of(*(each(item) for each, item in zip(readers, raw, strict=True)))

    return read


def _mapping_reader(read: Convert) -> Convert:
    def read_all(raw: Any) -> Any:
        if type(raw) is not dict:
            raise NotPlain(WRONG)
        done = {}
        for key, item in raw.items():
            try:
                done[key] = read(item)
            except NotPlain as problem:
                raise problem.below(key) from None
        return done

    return read_all


def _group_reader(of: Any, complete: bool) -> Convert:
    fields = {each.name: each for each in dataclasses.fields(of)}
    readers = {name: _reader(_hints(of)[name], complete) for name in fields}
    needed = [name for name, each in fields.items() if complete or default_of(each) is dataclasses.MISSING]

    def read(raw: Any) -> Any:
        if type(raw) is not dict:
            raise NotPlain(WRONG)
        values = {}
        for name, item in raw.items():
            if name not in readers:
                raise NotPlain(UNKNOWN).below(name)
            try:
                values[name] = readers[name](item)
            except NotPlain as problem:
                raise problem.below(name) from None
        for name in needed:
            if name not in values:
                raise NotPlain(MISSING).below(name)
        return of(**values)

    return read
