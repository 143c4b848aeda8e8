"""The incidents in memory, and their copy on disk that may be late: memory is the truth while the daemon
lives, disk when it died.

Without a usable disk incidents are still opened and resolved; what a crash would lose then is said by a
metric and a log line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from supervisor.reports.paging.incident import Incident, IncidentMessage, There, recovered
from supervisor.reports.paging.store import Letter, Store
from supervisor.reports.sqlite import Damaged

LETTERS = 10  # dead letters that are shown


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What `facilitator alerts` and the metrics show."""

    incidents: tuple[Incident, ...] = ()
    usable: bool = True  # the store on disk
    last_error: str = ""  # when which message was not taken, and why
    letters: tuple[Letter, ...] = ()  # the latest that were refused for good, the newest first

    @property
    def pending(self) -> int:
        """Messages that are not taken yet."""
        return sum(incident.message is not None for incident in self.incidents)

    @property
    def oldest(self) -> float | None:
        """Unix time at which the oldest of them was written."""
        return min((i.message.created for i in self.incidents if i.message is not None), default=None)


def left_open(store: Store) -> frozenset[str]:
    """The names of what an earlier run left open; none, where the disk cannot be read (the log says so
    later).
    """
    try:
        return frozenset(incident.tunnel for incident in store.load() if incident.wanted)
    except (sqlite3.Error, OSError):
        return frozenset()
    finally:
        store.close()


class Outbox:
    """Every incident that is not finished, by dedup key. One thread only."""

    def __init__(self, store: Store, heal_interval: float) -> None:
        """`heal_interval` in seconds: between attempts to bring a lagging disk up to date."""
        self._store = store
        self._heal_interval = heal_interval
        self._incidents: dict[str, Incident] = {}
        self._loaded = False
        self._heal_at = 0.0  # monotonic seconds
        self._log = structlog.get_logger()
        self.letters: list[Letter] = []
        self.usable = True  # the disk has what memory has

    def __iter__(self) -> Iterator[Incident]:
        return iter(list(self._incidents.values()))

    def get(self, dedup_key: str) -> Incident | None:
        """The incident under this key."""
        return self._incidents.get(dedup_key)

    @property
    def heal_at(self) -> float | None:
        """Monotonic moment at which `heal` should be called; None: no need."""
        return None if self.usable and self._loaded else self._heal_at

    def heal(self, now: float) -> bool:
        """Bring disk and memory together, when it is due; True when incidents of an earlier run were
        found.
        """
        if self.heal_at is None or now < self._heal_at:
            return False
        try:
            found = [] if self._loaded else self._store.load()
            merged = {**self._incidents, **{mine.dedup_key: mine for mine in map(self._merge, found)}}
            self._store.replace(merged.values())
            self.letters = self._store.letters(LETTERS)
        except (sqlite3.Error, OSError) as error:
            self._trouble(error, now)
            return False
        self._incidents = merged
        self._loaded = True
        if not self.usable:
            self._log.info("incident store is usable again", path=str(self._store.path))
        self.usable = True
        return bool(found)

    def put(self, incident: Incident, now: float) -> None:
        """Remember the incident, on disk before this returns when the disk can be used."""
        if incident.finished:
            self._incidents.pop(incident.dedup_key, None)
        else:
            self._incidents[incident.dedup_key] = incident
        if not (self.usable and self._loaded):
            return
        try:
            self._store.save(incident)
        except (sqlite3.Error, OSError) as error:
            self._trouble(error, now)

    def delay(self, incident: Incident, due: float) -> None:
        """Do not send its message before `due` (monotonic seconds). Not kept on disk: a restart tries at
        once.
        """
        if incident.message is not None:
            self._incidents[incident.dedup_key] = replace(
                incident, message=replace(incident.message, due=due)
            )

    def bury(self, incident: Incident, error: str, now: float) -> None:
        """Keep its message as a dead letter."""
        if not self.usable:
            return
        try:
            self._store.bury(incident, error)
            self.letters = self._store.letters(LETTERS)
        except (sqlite3.Error, OSError) as trouble:
            self._trouble(trouble, now)

    def waiting(self) -> list[tuple[Incident, IncidentMessage]]:
        """The incidents with an unsent message, the next one to send first."""
        pairs = [(i, i.message) for i in self._incidents.values() if i.message is not None]
        return sorted(pairs, key=lambda pair: (pair[1].due, pair[1].created))

    def close(self) -> None:
        """Let go of the disk."""
        self._store.close()

    def _merge(self, found: Incident) -> Incident:
        """What an earlier run left, unless this run has begun the same incident meanwhile: then only doubt
        is added.
        """
        mine = self._incidents.get(found.dedup_key)
        if mine is None:
            return recovered(found)
        if mine.there is There.CLOSED:
            return replace(mine, there=There.UNKNOWN, fingerprint=mine.fingerprint or found.fingerprint)
        return mine

    def _trouble(self, error: Exception, now: float) -> None:
        self._heal_at = (
            now if isinstance(error, Damaged) else now + self._heal_interval
        )  # a damaged file is out of the way already
        if self.usable:
            self._log.error(
                "incident store is unusable, incidents are sent from memory",
                path=str(self._store.path),
                error=str(error),
            )
        self.usable = False
