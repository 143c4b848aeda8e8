"""Questions of a client: a one-time code is computed from the tunnel's seed if it has one; everything else
waits for an operator. A code that no client was given is free for the next login.

OpenVPN passes no packets while it waits for a code. So one is booked before a session renegotiates: another
login with the same seed waits instead, which interrupts nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.clients.totp import Booking, Codes
from supervisor.core.events import ClientSaid, Delayed, Event
from tunnels.base import Failed, Question, Reason, Wanted

AGAIN_SECONDS = 60.0  # later, a login may well ask again
RENEGOTIATED_SECONDS = 10.0  # the same for a session that is up: the server has taken its codes so far
# Shares of the key's age at the last renegotiation, between which the next one is expected: OpenVPN's server
# begins at 90 to 100 % of its reneg-sec (openvpn(8)).
EARLIEST_SHARE, LATEST_SHARE = 0.85, 1.25


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
    # by tunnel: seconds after a code at which its server wanted the next one (the age of OpenVPN's key)
    ages: dict[str, float]
    given: float | None = None  # event loop time at which a code from the seed was given
    booking: Booking | None = None  # the code that waits for its time step, or for a renegotiation
    timer: asyncio.TimerHandle | None = None
    accepted: bool = False  # the session has come up

    def ask(self, question: Question) -> None:
        """Answer the question, or post it for an operator. A second question for a code so soon means that
        the first code was refused, so no further one is used.
        """
        again = RENEGOTIATED_SECONDS if self.accepted else AGAIN_SECONDS
        if question.wanted is not Wanted.CODE or self.seed is None:
            self.post(ClientSaid(self.tunnel, self.session, question))
        elif self.given is not None and asyncio.get_running_loop().time() < self.given + again:
            self._fail(
                Reason.AUTH,
                "the remote gateway rejected the one-time password; check the TOTP seed and this host's clock",
            )
        else:
            if self.accepted and self.given is not None:
                self.ages[self.tunnel] = asyncio.get_running_loop().time() - self.given
            self._answer(self.seed)

    def _answer(self, seed: bytes) -> None:
        loop, held = asyncio.get_running_loop(), self._released()
        wait = None if held is None else self.codes.wait(held)
        try:
            booking = self.codes.book(seed) if held is None or wait is None else held
        except ValueError as error:
            self._fail(Reason.MISSING_INPUT, str(error))
        except OSError as error:
            self._fail(Reason.LOCAL, f"the use of a one-time password cannot be recorded: {error.strerror}")
        else:
            wait = booking.wait if wait is None else wait
            self.given, self.booking = loop.time() + wait, booking
            self.post(Delayed(self.tunnel, self.session, wait))
            self.timer = loop.call_later(wait, self._give, seed, booking)

    def _give(self, seed: bytes, booking: Booking) -> None:
        """Its time step has begun, unless the clock was set meanwhile: then another code is the right one."""
        self.booking = None
        if self.codes.wait(booking) != 0.0:
            self._answer(seed)
            return
        self.give(self.tunnel, self.session, booking.code)
        if (age := self.ages.get(self.tunnel)) is not None:
            loop = asyncio.get_running_loop()
            until = loop.time() + LATEST_SHARE * age
            self.timer = loop.call_later(EARLIEST_SHARE * age, self._hold, seed, until)

    def _hold(self, seed: bytes, until: float) -> None:
        """The server is about to renegotiate: book a code for that, and another when this one is too old."""
        loop, _ = asyncio.get_running_loop(), self._released()
        if loop.time() >= until:
            return
        with contextlib.suppress(ValueError, OSError):  # told when the server asks
            self.booking = self.codes.book(seed)
            self.timer = loop.call_later(
                self.booking.wait + 2 * self.booking.interval, self._hold, seed, until
            )

    def _released(self) -> Booking | None:
        """The code that was booked and not given to the client, which is not booked any more."""
        if self.timer is not None:
            self.timer.cancel()
        booking, self.booking, self.timer = self.booking, None, None
        return booking

    def accept(self) -> None:
        """The server has let the client in."""
        self.accepted = True

    def close(self) -> None:
        """The client is asked nothing more."""
        if (booking := self._released()) is not None:
            with contextlib.suppress(OSError):  # the code is lost, no more
                self.codes.give_back(booking)

    def _fail(self, reason: Reason, text: str) -> None:
        self.post(ClientSaid(self.tunnel, self.session, Failed(reason, text)))
