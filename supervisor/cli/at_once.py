"""Requests about several tunnels at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

AnswerT = TypeVar("AnswerT")


def at_once(ask: Callable[[str], AnswerT], names: Sequence[str], most: int | None = None) -> list[AnswerT]:
    """What `ask` returns for each name, in their order; at most so many threads ask at a time. When all are
    done, the first exception of one is raised, an exit of the program too. Ctrl-C waits for none of them.
    """
    futures: list[Future[AnswerT]] = [Future() for _ in names]
    waiting: queue.SimpleQueue[tuple[str, Future[AnswerT]]] = queue.SimpleQueue()
    for pair in zip(names, futures, strict=True):
        waiting.put(pair)

    def work() -> None:
        while True:
            try:
                name, future = waiting.get_nowait()
            except queue.Empty:
                return
            _settle(future, ask, name)

    for _ in range(len(names) if most is None else min(most, len(names))):
        threading.Thread(target=work, daemon=True).start()
    wait(futures)
    return [future.result() for future in futures]


def _settle(future: Future[AnswerT], ask: Callable[[str], AnswerT], name: str) -> None:
    try:
        future.set_result(ask(name))
    except (Exception, SystemExit) as error:  # it exits where a request fails
        future.set_exception(error)
