"""Dataclasses of the daemon say and refuse what all others do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHOW = """
import sys
from dataclasses import dataclass, field, replace
from typing import Any

def attempt(act, *about):
    try:
        return act(*about)
    except Exception as error:
        return type(error), str(error)

def shown():
    @dataclass(frozen=True, slots=True)
    class Point:
        x: int = 1
        name: str = field(default="a'b", repr=False)
        parts: Any = ()

    @dataclass(frozen=True)
    class Place(Point):
        inside: Any = None

    @dataclass
    class Loose:
        inside: Any = None

    loose = Loose()
    loose.inside = [loose]
    point, place = Point(), Place(2, inside=Point(3))
    yield from map(repr, (point, place, loose, replace(point, x=5)))
    yield point == Point(), hash(point) == hash(Point()), point == Point(2)
    for about in (point, place):
        yield attempt(setattr, about, "x", 2), attempt(delattr, about, "x"), attempt(setattr, about, "y", 2)
    yield attempt(setattr, loose, "inside", 2), loose

    class Child(Place):
        pass

    child = Child()
    yield attempt(setattr, child, "x", 2), attempt(setattr, child, "more", 2)

usual = list(map(str, shown()))
from supervisor.lean_dataclasses import compile_less
compile_less()
@dataclass(frozen=True)
class Late:
    x: int
assert sys.version_info >= (3, 13) or "lean_dataclasses" in Late.__setattr__.__code__.co_filename
assert usual == list(map(str, shown())), (usual, list(map(str, shown())))
print(len(usual))
"""


def test_they_behave_as_usual() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "9\n"), done.stderr
