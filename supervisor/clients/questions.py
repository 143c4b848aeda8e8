"""Questions of a client: a one-time code is computed from the tunnel's seed if it has one; everything else
waits for an operator. A code that no client was given is free for the next login.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.clients.totp import Booking, Codes
from supervisor.core.events import ClientSaid, Delayed, Event
from tunnels.base import Failed, Question, Reason, Wanted

AGAIN_SECONDS = 60.0  # later, a session that is up may well be asked again (rekeying)


@dataclass(slots=True)
class Questions:
    """The questions of one session. `give(tunnel, session, text)` sends an answer to its client, if that
    still runs.
    """

    tunnel: str
    session: int
    seed: bytes | None = field(repr=False)
    codes: Codes
    post: Callable[[Event], None]
    give: Callable[[str, int, str], None]
    given: float | None = None  # event loop time at which a code from the seed was given
    booking: Booking | None = None  # the code that waits for its time step
    timer: asyncio.TimerHandle | None = None

    def ask(self, question: Question) -> None:
        """Answer the question, or post it for an operator. A second question for a code within AGAIN_SECONDS
        means that the first code was refused, so no further one is used.
        """
        if question.wanted is not Wanted.CODE or self.seed is None:
            self.post(ClientSaid(self.tunnel, self.session, question))
        elif self.given is not None and asyncio.get_running_loop().time() < self.given + AGAIN_SECONDS:
            self._fail(
                Reason.AUTH,
                "the far side did not take the one-time code; is the seed right, and the clock of this host?",
            )
        else:
            self._answer(self.seed)

    def _answer(self, seed: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            booking = self.codes.book(seed)
        except ValueError as error:
            self._fail(Reason.MISSING_INPUT, str(error))
        except OSError as error:
            self._fail(Reason.LOCAL, f"the use of a one-time code cannot be written down: {error.strerror}")
        else:
            self.given, self.booking = loop.time() + booking.wait, booking
            self.post(Delayed(self.tunnel, self.session, booking.wait))
            self.timer = loop.call_later(booking.wait, self._give, seed, booking)

    def _give(self, seed: bytes, booking: Booking) -> None:
        """Its time step has begun, unless the clock was set meanwhile: then another code is the right one."""
        self.booking = None
        if self.codes.current(booking):
            self.give(self.tunnel, self.session, booking.code)
        else:
            self._answer(seed)

    def close(self) -> None:
        """The client is asked nothing more."""
        booking, self.booking = self.booking, None
        if self.timer is not None:
            self.timer.cancel()
        if booking is not None:
            with contextlib.suppress(OSError):  # the code is lost, no more
                self.codes.give_back(booking)

    def _fail(self, reason: Reason, text: str) -> None:
        self.post(ClientSaid(self.tunnel, self.session, Failed(reason, text)))
