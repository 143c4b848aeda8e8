"""A VPN kind whose code is contained: an exception that it must not raise is a fault of that kind, and ends
nothing else.

Questions get the answer that does least. What cannot be answered for it (`examine`, `launch`, `dialogue`,
what a dialogue makes of a line) raises on, and fails the one client that it is about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from supervisor.core.faults import Faults
from tunnels.base import AnyKind, Dialogue, FileFinding, LineSource, Observation, Say, Tunnel

T = TypeVar("T")


def guarded(kind: AnyKind, faults: Faults) -> AnyKind:
    """The same kind, contained."""
    part = f"kind:{kind.name}"

    def asked(question: Callable[..., T], otherwise: T) -> Callable[..., T]:
        return functools.partial(faults.ask, part, otherwise, question)

    def told(make: Callable[..., T]) -> Callable[..., T]:
        return functools.partial(
            _told, faults, part, ValueError, make
        )  # its way to say that the inputs cannot be used

    def certificates(tunnel: Tunnel, inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
        try:
            return kind.certificates(tunnel, inputs)
        except ValueError:  # the tunnel's own start says what is wrong with its inputs
            return ()

    def dialogue(*about: Any) -> Dialogue:
        return _Contained(told(kind.dialogue)(*about), functools.partial(_told, faults, part, ()))

    def examine(tunnel: Tunnel, inputs: Mapping[str, bytes]) -> tuple[FileFinding, ...]:
        return tuple(kind.examine(tunnel, inputs))  # a generator would fail later

    return replace(
        kind,
        inputs=asked(kind.inputs, ()),
        allows_parallel=asked(kind.allows_parallel, False),
        endpoint=asked(kind.endpoint, None),
        tcp_port=asked(kind.tcp_port, None),
        inner_probe=asked(kind.inner_probe, None),
        certificates=asked(certificates, ()),
        referenced_inputs=told(kind.referenced_inputs),
        examine=told(examine),
        launch=told(kind.launch),
        dialogue=dialogue,
    )


def _told(
    faults: Faults, part: str, words: type[Exception] | tuple[()], act: Callable[..., T], *about: Any
) -> T:
    """Let the kind act. What it raises is noted, unless it is how the kind is to say something, and raised
    on.
    """
    try:
        done = act(*about)
    except Exception as error:
        if not isinstance(error, words):
            faults.note(part, error)
        raise
    faults.worked(part)
    return done


@dataclass(frozen=True, slots=True)
class _Contained:
    """A dialogue whose faults are known. What it makes of a line is taken here: a generator would fail
    later.
    """

    dialogue: Dialogue
    told: Callable[..., Iterable[Say | Observation]]

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        return self.told(lambda: list(self.dialogue.receive(source, line)))

    def answer(self, text: str) -> Iterable[Say | Observation]:
        return self.told(lambda: list(self.dialogue.answer(text)))
