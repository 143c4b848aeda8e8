"""Regular expressions of the product: none takes long for a line, however hostile that is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Iterator, Mapping
from re import _constants, _parser  # type: ignore[attr-defined]    # the one way to look into a pattern
from types import ModuleType
from typing import Any

import pytest

import common
import hub
import supervisor
import tunnels
from supervisor.clients.lines import MAX_LINE_CHARS
from tunnels.failure_patterns import MAX_MATCHED_CHARS

LIMIT = 0.05  # seconds
HANDED_ON = {"_PROMPT": "fullmatch"}  # tunnels/drivers/terminal_prompts.py
NOT_RUN = {"supervisor.__main__"}


def patterns() -> dict[str, tuple[re.Pattern[str], frozenset[str]]]:
    """Every compiled pattern that a module of ours holds, by where it is."""
    found = {}
    for package in (common, hub, supervisor, tunnels):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name not in NOT_RUN:
                module = importlib.import_module(info.name)
                for name, value in list(vars(module).items()):
                    found.update(
                        {
                            f"{info.name}.{name}:{each.pattern[:40]}": (each, _uses(module, name))
                            for each in _held(value, 4)
                        }
                    )
    return found


def _uses(module: ModuleType, name: str) -> frozenset[str]:
    """How the module uses a pattern of this name, or whoever it hands it to."""
    found = frozenset(
        re.findall(
            rf"\b{name}\.(search|match|fullmatch|sub|finditer|findall|split)\(", inspect.getsource(module)
        )
    )
    return found or frozenset({HANDED_ON.get(name, "search")})


def _held(value: Any, depth: int) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        yield value
    elif depth and isinstance(value, Mapping):
        yield from (each for inner in value.values() for each in _held(inner, depth - 1))
    elif depth and isinstance(value, tuple | list | frozenset | set):
        yield from (each for inner in value for each in _held(inner, depth - 1))


def hostile(pattern: re.Pattern[str], length: int) -> Iterator[str]:
    """Lines that make a pattern look at much: its own words again and again, and letters that its
    repetitions take.
    """
    words = [
        *_words(_parser.parse(pattern.pattern)),
        *"a0 :/%[(\t",
        '"',
        "'",
        "a ",
        "0.",
        "\x1b[",
        "\\",
        "x,",
    ]
    for word in dict.fromkeys(word for word in words if word):
        yield (word * length)[:length]
        yield (word + "a" * length)[:length]
        yield (word + " " * length)[:length]
        yield (f"{word}a " * length)[:length]
        yield ("a" * (length // 2) + word * length)[:length]


def _words(items: Any) -> Iterator[str]:
    """Runs of literal letters anywhere in it."""
    run = ""
    for kind, argument in items:
        if kind is _constants.LITERAL:
            run += chr(argument)
            continue
        yield run
        run = ""
        for inner in _inside(argument):
            yield from _words(inner)
    yield run


def _inside(argument: Any) -> Iterator[Any]:
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from _inside(each)


ALL = patterns()


def test_they_are_found() -> None:
    assert len(ALL) > 150
    assert any(name.startswith("tunnels.kinds.openconnect.kind._LINES") for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_it_takes_no_time(name: str) -> None:
    pattern, uses = ALL[name]
    explains = (
        re.search(r"\.(?:_?[A-Z]*LINES|FATAL|HINT|STATE|_REFUSAL|_OURS|_\w+_REFUSED):", name) is not None
    )
    for line in hostile(pattern, MAX_MATCHED_CHARS if explains else MAX_LINE_CHARS):
        if (spent := _seconds(pattern, uses, line)) > LIMIT:  # the machine is shared
            spent = min(spent, *(_seconds(pattern, uses, line) for _ in range(4)))
        assert spent < LIMIT, f"{spent:.3f} s for {line[:60]!r}"


def _seconds(pattern: re.Pattern[str], uses: frozenset[str], line: str) -> float:
    since = time.perf_counter()
    for use in uses:
        if use == "sub":
            pattern.sub("", line)
        elif use == "finditer":
            list(pattern.finditer(line))
        else:
            getattr(pattern, use)(line)
    return time.perf_counter() - since
