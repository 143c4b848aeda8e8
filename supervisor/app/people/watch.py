"""Follows the source of identity that the configuration names, and keeps the identity book.

source (`supervisor.identity`) -> IdentityBook -> audit, why, status
                                               -> `changed`: `supervisor.app.people.access`
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import structlog

from supervisor.app.lock_engine import client_tls
from supervisor.config.hub import IdentitySettings
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed
from supervisor.core.identity.book import BookReading, Holding, IdentityBook
from supervisor.core.identity.staff_routes import StaffRoute, compared
from supervisor.core.identity.view import IdentityView, ordered_out, present
from supervisor.identity.openvpn_status import OpenVpnServers
from supervisor.identity.pritunl import PritunlSource
from supervisor.identity.sessions import WAIT_SECONDS, SessionBookSource
from supervisor.identity.source import IdentityAway, IdentitySource
from supervisor.ticks import until_tick
from tunnels.networks import IPAddress, IPNetwork

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 15.0  # after a source has not answered
AWAY_AFTER_SECONDS = 60.0  # for which it may be away before people are told
EXPELLED_SECONDS = 3600.0  # for which an address is let in nowhere after its session was ended by an order
_TELLINGS = 8  # how often those who follow are told of the book's age, within `stale_after`
_MOST_ROUTES = 5  # of which the condition tells
_LOOK_SECONDS = 1.0  # between two looks at the book's age


class PeopleWatch:
    """Watcher (`supervisor.outputs`). All methods but `person` are for the event loop's thread."""

    def __init__(self, secret: Callable[..., str], post: Callable[[Event], None]) -> None:
        self._secret, self._post = secret, post
        self._log = structlog.get_logger()
        self._settings: IdentitySettings | None = None
        self._staff: tuple[IPNetwork, ...] = ()
        self._carried: Mapping[IPNetwork, str] = MappingProxyType({})
        self._configured = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None  # called when the book has changed, or its age counts
        self._told = float("-inf")  # monotonic seconds
        self._forget()

    def _forget(self) -> None:
        self._book = IdentityBook()
        self._heard: float | None = None  # monotonic seconds
        self._was_stale = True
        self._problem: str | None = None
        self._skipped = 0
        self._routes: tuple[StaffRoute, ...] = ()  # that the source names

    def set(
        self,
        hub: IdentitySettings | None,
        staff: tuple[IPNetwork, ...],
        carried: Mapping[IPNetwork, str] = MappingProxyType({}),
    ) -> None:
        """Follow this source from now on; None: none. `staff`: no other address is believed to be a
        person's. `carried`: destinations as users address them, with their tunnels.
        """
        self._carried = carried
        if (hub, staff) == (self._settings, self._staff):
            return
        self._settings, self._staff = hub, staff
        self._configured.set()
        if hub is None:
            self._forget()
        self._tell()

    # --- what is known

    def person(self, address: bytes, moment: float) -> Holding | None:
        """Who had this address then (Unix time), as far as that is known; in any thread."""
        return self._book.at(address, moment)

    def latest(self) -> list[Holding]:
        """The newest session of each address."""
        return list(self._book.latest())

    def known(self) -> Mapping[IPAddress, Holding] | None:
        """Who has which address; None: no source is named."""
        return None if self._settings is None else present(self._book.latest())

    @property
    def expelled(self) -> tuple[IPAddress, ...]:
        """The addresses whose sessions were ended by an order lately."""
        return ordered_out(self._book.latest(), self._book.confirmed - EXPELLED_SECONDS)

    @property
    def configured(self) -> bool:
        """A source is named."""
        return self._settings is not None

    @property
    def age(self) -> float | None:
        """Seconds since the source was last heard of; None: never."""
        return None if self._heard is None else time.monotonic() - self._heard

    @property
    def lasts_until(self) -> float:
        """Monotonic moment until which rules by person may be open."""
        if self._settings is None or self._heard is None:
            return float("-inf")
        return self._heard + self._settings.stale_after

    @property
    def stale(self) -> bool:
        """The source was not heard of for longer than stale_after in the configuration."""
        return time.monotonic() >= self.lasts_until

    @property
    def view(self) -> IdentityView | None:
        """What is known now; None: no source is named."""
        if self._settings is None:
            return None
        return IdentityView(
            self._settings.source,
            present(self._book.latest()),
            self.age,
            self.stale,
            self._problem,
            frozenset(self.expelled),
            self._skipped,
        )

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """The source is away; rules by person are closed."""
        routes = {} if (found := self._of_routes()) is None else {"hub-routes": found}
        if self._settings is None or self._problem is None:
            return routes
        about = f"hub: {self._problem}"
        if self._was_stale and self._heard is not None:
            text = f"{about}; rules by person are closed, rules by network are not affected"
            return {"hub-stale": Condition(text, "error", "facilitator status"), **routes}
        text = f"{about}; people who connect now are not known, and those who left are not cut off"
        away = Condition(text, "warning", "facilitator status", after=AWAY_AFTER_SECONDS)
        return {"hub-away": away, **routes}

    @property
    def route_problems(self) -> tuple[str, ...]:
        """Where the profiles of staff and the destinations do not fit, a sentence each."""
        if self._settings is None:
            return ()
        own = tuple(StaffRoute("of hub.routes", network) for network in self._settings.routes)
        return tuple(compared(self._routes or own, self._carried, self._staff))

    def _of_routes(self) -> Condition | None:
        found = self.route_problems
        if not found:
            return None
        more = f"; and {len(found) - _MOST_ROUTES} more" if len(found) > _MOST_ROUTES else ""
        text = f"routes of the staff VPN: {'; '.join(found[:_MOST_ROUTES])}{more}"
        return Condition(text, "warning", "facilitator fleet status", pages=False)

    # --- the tasks

    async def run(self) -> None:
        """Follow the source that is named, whichever that is."""
        while True:
            self._configured.clear()
            settings = self._settings
            configured = asyncio.create_task(self._configured.wait())
            following = None if settings is None else asyncio.create_task(self._follow(settings))
            try:
                await asyncio.wait(
                    {configured, *(() if following is None else (following,))},
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                configured.cancel()
                if following is not None:
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=not following.done())

    async def watch_age(self) -> None:
        """Say when the book has become stale."""
        while True:
            await until_tick(_LOOK_SECONDS)
            if self._settings is None:
                continue
            if self.stale != self._was_stale:
                self._judge_age()
            elif time.monotonic() - self._told >= self._settings.stale_after / _TELLINGS:
                self._tell()

    def _judge_age(self) -> None:
        self._was_stale = self.stale
        self._post(Noticed(""))
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        self.changed()

    async def _follow(self, settings: IdentitySettings) -> None:
        source = self._source(settings)
        book = IdentityBook(source.relied)  # replaces that of an earlier source with the first answer
        after, wait, pause = 0, 0.0, FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    reading = await source.read(after, wait)
                except IdentityAway as error:
                    self._away(str(error))
                    await asyncio.sleep(pause)
                    wait, pause = 0.0, min(LONGEST_PAUSE_SECONDS, pause * 2)
                    continue
                pause = FIRST_PAUSE_SECONDS
                self._book = book
                self._routes = source.routes
                self._take(reading)
                # What has changed is asked for at once once more: that says that we have it, and whether
                # it is all.
                after, wait = reading.revision, WAIT_SECONDS if reading.whole else 0.0
        finally:
            await source.close()

    def _take(self, reading: BookReading) -> None:
        self._heard = time.monotonic()
        news = bool(reading.complete or reading.holdings) or self._was_stale
        self._book.apply(reading)
        self._skipped = reading.skipped if reading.complete or reading.skipped else self._skipped
        if self._problem is not None:
            self._log.info("the hub answers again", source=self._settings and self._settings.source)
            self._problem = None
            self._post(Noticed(""))
        if self._was_stale:
            self._judge_age()
        elif news:
            self._tell()

    def _away(self, problem: str) -> None:
        if self._problem is None:
            self._log.warning("the hub does not answer", problem=problem)
            self._problem = problem
            self._post(Noticed(""))
        self._problem = problem

    def _source(self, settings: IdentitySettings) -> IdentitySource:
        if settings.source == "pritunl":
            assert settings.url is not None, "checked with the configuration"
            login = partial(self._pritunl_login, settings)
            tls = partial(client_tls, settings.tls)
            return PritunlSource(settings.url, tls, login, settings.interval, self._accepted)
        if settings.source == "openvpn-status":
            return OpenVpnServers(settings.servers, settings.groups, settings.interval, self._accepted)
        assert settings.url is not None, "checked with the configuration"
        return SessionBookSource(settings.url, lambda: client_tls(settings.tls), self._accepted)

    def _pritunl_login(self, settings: IdentitySettings) -> tuple[str, str]:
        return self._secret(settings.token), self._secret(settings.secret)

    def _accepted(self, address: IPAddress) -> bool:
        return any(address in network for network in self._staff)
