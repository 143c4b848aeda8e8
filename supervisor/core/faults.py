"""Faults of the daemon itself: contained in the part that has them, so that everything else goes on.

    a part raises -> told once per kind of fault, counted, condition `internal-error:PART`
    it works again, and a while has passed -> the condition is gone

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
STAYS = 300.0  # seconds for which a part that works again is still called faulty
_LINES = 4  # of code that tell one kind of fault from another
TOLD_AGAIN = 3600.0  # seconds after which the same fault is told once more

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
Tell = Callable[[str, str, BaseException], None]  # the part, where in the code, and the error


@dataclass(slots=True)
class _Trouble:
    """The last fault of a part."""

    error: str  # its type: the text of an error may hold a secret
    at: float  # monotonic seconds
    works: bool = False  # the part has worked since


class Faults:
    """Runs what may fail, and knows what did. From one thread; `counts` may be read by any."""

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
        self._troubles: dict[str, _Trouble] = {}
        self._told: dict[tuple[str, str, str], float] = {}
        self.counts: Mapping[str, int] = MappingProxyType({})  # faults by part; replaced as a whole

    @contextlib.contextmanager
    def contained(self, part: str) -> Iterator[None]:
        """What a part raises in the block ends the block, and nothing else."""
        try:
            yield
        except Exception as error:
            self.note(part, error)
        else:
            self.worked(part)

    def run(self, part: str, act: Callable[P, object], *about: P.args, **more: P.kwargs) -> bool:
        """Let a part act; False: it failed."""
        with self.contained(part):
            act(*about, **more)
            return True
        return False

    def ask(
        self, part: str, otherwise: U, question: Callable[P, T], *about: P.args, **more: P.kwargs
    ) -> T | U:
        """What a part answers; `otherwise` when it fails."""
        with self.contained(part):
            return question(*about, **more)
        return otherwise

    def note(self, part: str, error: BaseException) -> None:
        """A part has failed."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        now, kind, place = self._clock(), type(error).__name__, _place(error)
        self.counts = MappingProxyType({**self.counts, part: self.counts.get(part, 0) + 1})
        if now >= self._told.get((part, kind, place), float("-inf")) + TOLD_AGAIN:
            self._told[part, kind, place] = now
            self._tell(part, place, error)
        fresh = part not in self._troubles
        self._troubles[part] = _Trouble(kind, now)
        if fresh:
            self._changed()

    def worked(self, part: str) -> None:
        """A part has done what it should."""
        trouble = self._troubles.get(part)
        if trouble is not None and not trouble.works:
            trouble.works = True
            if self._clock() >= trouble.at + STAYS:
                self._changed()

    def forget(self, part: str) -> None:
        """There is no such part any more."""
        self._troubles.pop(part, None)

    @property
    def conditions(self) -> dict[str, Condition]:
        """The parts that fail, or did until a while ago."""
        now = self._clock()
        self._troubles = {
            part: each for part, each in self._troubles.items() if not each.works or now < each.at + STAYS
        }
        return {f"{NAME}:{part}": _condition(part, each) for part, each in self._troubles.items()}

    @property
    def due(self) -> float | None:
        """The next moment (monotonic seconds) at which a condition may go away by itself."""
        now = self._clock()
        return min(
            (each.at + STAYS for each in self._troubles.values() if each.at + STAYS > now), default=None
        )


def _condition(part: str, trouble: _Trouble) -> Condition:
    text = (
        f"a part of the daemon fails: {part} ({trouble.error}); the other parts go on, and the log has "
        f"the details"
    )
    return Condition(text, "error", "journalctl -u facilitator -g 'internal error'")


def _place(error: BaseException) -> str:
    """The innermost lines of code, as FILE:LINE, the last one first."""
    trace, lines = error.__traceback__, list[str]()
    while trace is not None:
        lines.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(lines[-_LINES:]))
