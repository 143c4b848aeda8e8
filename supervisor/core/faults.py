"""Faults of the daemon itself: contained in the part that has them, so that everything else goes on.

    a part raises -> logged once per kind of fault, counted, condition `internal-error:PART`
    it works again, and `VISIBLE_SECONDS` have passed -> the condition is gone

Parts are called `recorder:Metrics`, `tunnel:acme-dc`, `kind:openvpn` and so on, in the log, in the metric and
in the condition alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ParamSpec, TypeVar

from supervisor.core.conditions import Condition

NAME = "internal-error"
VISIBLE_SECONDS = 300.0  # for which the condition of a part that works again stays
_TRACE_LINES = 4  # of the traceback that distinguish one kind of fault from another
LOG_AGAIN_SECONDS = 3600.0  # after which the same fault is logged once more

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
Tell = Callable[[str, str, BaseException], None]  # the part, where in the code, and the error


@dataclass(slots=True)
class _LastFault:
    """The last fault of a part."""

    error: str  # its type: the text of an error may hold a secret
    at: float  # monotonic seconds
    works: bool = False  # the part has worked since


class Faults:
    """Runs parts that may fail, and knows which did. For one thread; `counts` may be read by any thread."""

    def __init__(
        self,
        clock: Callable[[], float],
        tell: Tell = lambda part, place, error: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` gives monotonic seconds. `tell` is for the log; `changed` is called when a condition
        comes, or goes.
        """
        self._clock, self._tell, self._changed = clock, tell, changed
        self._last: dict[str, _LastFault] = {}
        self._told: dict[tuple[str, str, str], float] = {}
        self.counts: Mapping[str, int] = MappingProxyType({})  # faults by part; replaced as a whole

    @contextlib.contextmanager
    def contained(self, part: str) -> Iterator[None]:
        """A context in which an exception of a part ends the block, and nothing else."""
        try:
            yield
        except Exception as error:
            self.note(part, error)
        else:
            self.worked(part)

    def run(self, part: str, act: Callable[P, object], *about: P.args, **more: P.kwargs) -> bool:
        """Call a part; False: it failed."""
        with self.contained(part):
            act(*about, **more)
            return True
        return False

    def ask(
        self, part: str, otherwise: U, question: Callable[P, T], *about: P.args, **more: P.kwargs
    ) -> T | U:
        """The answer of a part; `otherwise` if it fails."""
        with self.contained(part):
            return question(*about, **more)
        return otherwise

    def note(self, part: str, error: BaseException) -> None:
        """Count and log a fault of this part."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        now, kind, place = self._clock(), type(error).__name__, _place(error)
        self.counts = MappingProxyType({**self.counts, part: self.counts.get(part, 0) + 1})
        if now >= self._told.get((part, kind, place), float("-inf")) + LOG_AGAIN_SECONDS:
            self._told[part, kind, place] = now
            self._tell(part, place, error)
        fresh = part not in self._last
        self._last[part] = _LastFault(kind, now)
        if fresh:
            self._changed()

    def worked(self, part: str) -> None:
        """The part has worked."""
        trouble = self._last.get(part)
        if trouble is not None and not trouble.works:
            trouble.works = True
            if self._clock() >= trouble.at + VISIBLE_SECONDS:
                self._changed()

    def forget(self, part: str) -> None:
        """The part does not exist any more."""
        self._last.pop(part, None)

    @property
    def conditions(self) -> dict[str, Condition]:
        """The conditions of parts that fail, or did until a while ago, by name."""
        now = self._clock()
        self._last = {
            part: each
            for part, each in self._last.items()
            if not each.works or now < each.at + VISIBLE_SECONDS
        }
        return {f"{NAME}:{part}": _condition(part, each) for part, each in self._last.items()}

    @property
    def due(self) -> float | None:
        """The next moment (monotonic seconds) at which a condition may go away by itself."""
        now = self._clock()
        return min(
            (each.at + VISIBLE_SECONDS for each in self._last.values() if each.at + VISIBLE_SECONDS > now),
            default=None,
        )


def _condition(part: str, trouble: _LastFault) -> Condition:
    text = (
        f"a part of the daemon fails: {part} ({trouble.error}); the other parts continue, and the log has "
        f"the details"
    )
    return Condition(text, "error", "journalctl -u facilitator -g 'internal error'")


def _place(error: BaseException) -> str:
    """The innermost lines of code, as FILE:LINE, the last one first."""
    trace, lines = error.__traceback__, list[str]()
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(lines[-_TRACE_LINES:]))
