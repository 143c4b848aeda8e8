"""Asks the members' own HTTP servers for their status: all that can be known of a fleet without a lock
engine.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.core.fleet.member_status import MemberStatus, read_status_document
from supervisor.core.fleet.values import ForeignObject
from supervisor.core.fleet.view import FleetSight
from supervisor.core.preflight.fleet_facts import MemberAnswer
from supervisor.fleet.lock_service import LockServiceAway, beside_the_loop
from supervisor.http_connections import MAX_ANSWER_BYTES, HttpAnswer, HttpConnections, HttpRequest

ANSWER_SECONDS = 2.0  # of one member


async def asked_status(url: str, tls: Callable[[], ssl.SSLContext | None], seconds: float) -> bytes:
    """The document of a member's HTTP server. LockServiceAway: there is none within so many seconds."""
    return (await _asked(url, tls, seconds)).body


async def examined_member(
    member: str, url: str | None, tls: Callable[[], ssl.SSLContext | None]
) -> MemberAnswer:
    """How a member answers, for `facilitator doctor`."""
    if url is None:
        return MemberAnswer(member, url)
    began = time.time()
    try:
        answer = await _asked(url, tls, ANSWER_SECONDS)
        said = ForeignObject.read(answer.body.decode("utf-8", "replace"), MAX_ANSWER_BYTES)
        name, version = said.text("facilitator"), said.text("version")[:40]
    except (LockServiceAway, ValueError) as error:
        return MemberAnswer(member, url, str(error))
    middle = (began + time.time()) / 2
    return MemberAnswer(member, url, "", name, version, _ahead(answer.headers.get("date", ""), middle))


def _ahead(date: str, now: float) -> float | None:
    """By how much the header Date is ahead, which has whole seconds."""
    from email.utils import parsedate_to_datetime  # the daemon does without

    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now
    except (ValueError, OverflowError):
        return None


async def _asked(url: str, tls: Callable[[], ssl.SSLContext | None], seconds: float) -> HttpAnswer:
    http = HttpConnections([url.rstrip("/")], tls, seconds)
    try:
        answer = await http.ask(HttpRequest("GET", "/api/v1/status"))
    finally:
        await http.close()
    if answer.status != 200:
        raise LockServiceAway(f"{url} answers with status {answer.status}: {answer.text}")
    return answer


@dataclass(frozen=True, slots=True)
class MemberApis:
    """The members' HTTP servers, by the names of the members; None: the configuration names none."""

    urls: Mapping[str, str | None]
    tls: Callable[[], ssl.SSLContext | None]

    async def sight(self) -> FleetSight:
        """What the members say, all asked at once."""
        answers = await asyncio.gather(*map(self._ask, self.urls.values()))
        found = dict(zip(self.urls, answers, strict=True))
        return FleetSight(
            {name: answer for name, answer in found.items() if isinstance(answer, MemberStatus)},
            unknown={name: answer for name, answer in found.items() if isinstance(answer, str)},
            source="members",
        )

    async def _ask(self, url: str | None) -> MemberStatus | str:
        """Its status, or the sentence why there is none."""
        if url is None:
            return "fleet.members names no api of it, so it cannot be asked"
        try:
            body = await asked_status(url, self.tls, ANSWER_SECONDS)
            return await beside_the_loop(body, lambda: read_status_document(body.decode("utf-8", "replace")))
        except (LockServiceAway, ValueError) as error:
            return str(error)
