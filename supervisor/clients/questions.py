"""What a client asks: a one-time code comes from the tunnel's seed, where it has one; everything else
waits for a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.clients.totp import Codes
from supervisor.core.events import ClientSaid, Delayed, Event
from tunnels.base import Failed, Question, Reason, Wanted

SOON = 60.0  # seconds: a session that is up for long may well be asked again


@dataclass(slots=True)
class Questions:
    """The questions of one session. `give` brings an answer to its client, if that still runs."""

    tunnel: str
    session: int
    seed: bytes | None = field(repr=False)
    codes: Codes
    post: Callable[[Event], None]
    give: Callable[[str, int, str], None]
    given: float | None = None  # when (loop time) a code of the seed was given

    def ask(self, question: Question) -> None:
        """Answer it, or post it for a person. A question that soon comes again means that the code was
        refused: no further one is burnt.
        """
        if question.wanted is not Wanted.CODE or self.seed is None:
            self.post(ClientSaid(self.tunnel, self.session, question))
        elif self.given is not None and asyncio.get_running_loop().time() < self.given + SOON:
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
            self.given = loop.time() + booking.wait
            self.post(Delayed(self.tunnel, self.session, booking.wait))
            loop.call_later(booking.wait, self.give, self.tunnel, self.session, booking.code)

    def _fail(self, reason: Reason, text: str) -> None:
        self.post(ClientSaid(self.tunnel, self.session, Failed(reason, text)))
