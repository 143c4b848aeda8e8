"""The incidents in memory, and their copy on disk, which may lag: memory is authoritative while the daemon
runs, the disk after it died.

Without a usable disk incidents are still opened and resolved; a metric and a log line then say that a crash
would lose what is unsent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from supervisor.reports.paging.incident import Incident, IncidentMessage, RemoteState, after_crash
from supervisor.reports.paging.store import DeadLetter, Store
from supervisor.reports.sqlite import Damaged

MAX_SHOWN_DEAD_LETTERS = 10  # in `facilitator alerts`


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What `facilitator alerts` and the metrics show."""

    incidents: tuple[Incident, ...] = ()
    usable: bool = True  # the store on disk
    last_error: str = ""  # time, message and reason of the last attempt that was not accepted
    dead_letters: tuple[DeadLetter, ...] = ()  # the latest messages that were rejected, newest first

    @property
    def pending(self) -> int:
        """Messages that have not been accepted yet."""
        return sum(incident.message is not None for incident in self.incidents)

    @property
    def oldest(self) -> float | None:
        """Unix time at which the oldest pending message was created."""
        return min((i.message.created for i in self.incidents if i.message is not None), default=None)


def open_incidents(store: Store) -> frozenset[str]:
    """The names of the incidents that an earlier run left open; empty if the disk cannot be read (`Outbox`
    logs that later).
    """
    try:
        return frozenset(incident.tunnel for incident in store.load() if incident.wanted)
    except (sqlite3.Error, OSError):
        return frozenset()
    finally:
        store.close()


class Outbox:
    """Every incident that is not finished, by dedup key. Not thread-safe: only for the pager's thread."""

    def __init__(self, store: Store, resync_seconds: float) -> None:
        """`resync_seconds`: between attempts to bring a lagging disk up to date."""
        self._store = store
        self._resync_seconds = resync_seconds
        self._incidents: dict[str, Incident] = {}
        self._loaded = False
        self._resync_at = 0.0  # monotonic seconds
        self._log = structlog.get_logger()
        self.dead_letters: list[DeadLetter] = []
        self.usable = True  # the disk has what memory has

    def __iter__(self) -> Iterator[Incident]:
        return iter(list(self._incidents.values()))

    def get(self, dedup_key: str) -> Incident | None:
        """The incident under this key."""
        return self._incidents.get(dedup_key)

    @property
    def resync_at(self) -> float | None:
        """Monotonic moment at which `resync` should be called; None: memory and disk agree."""
        return None if self.usable and self._loaded else self._resync_at

    def resync(self, now: float) -> bool:
        """Load what an earlier run left and write what the disk lacks, if it is time to; True if incidents of
        an earlier run were found.
        """
        if self.resync_at is None or now < self._resync_at:
            return False
        try:
            found = [] if self._loaded else self._store.load()
            merged = {**self._incidents, **{mine.dedup_key: mine for mine in map(self._merge, found)}}
            self._store.replace_all(merged.values())
            self.dead_letters = self._store.dead_letters(MAX_SHOWN_DEAD_LETTERS)
        except (sqlite3.Error, OSError) as error:
            self._disk_failed(error, now)
            return False
        self._incidents = merged
        self._loaded = True
        if not self.usable:
            self._log.info("incident store is usable again", path=str(self._store.path))
        self.usable = True
        return bool(found)

    def put(self, incident: Incident, now: float) -> None:
        """Remember the incident; if the disk is usable it is there before this returns."""
        if incident.finished:
            self._incidents.pop(incident.dedup_key, None)
        else:
            self._incidents[incident.dedup_key] = incident
        if not (self.usable and self._loaded):
            return
        try:
            self._store.save(incident)
        except (sqlite3.Error, OSError) as error:
            self._disk_failed(error, now)

    def postpone(self, incident: Incident, due: float) -> None:
        """Do not send its message before `due` (monotonic seconds). In memory only: a restarted daemon tries
        at once.
        """
        if incident.message is not None:
            self._incidents[incident.dedup_key] = replace(
                incident, message=replace(incident.message, due=due)
            )

    def add_dead_letter(self, incident: Incident, error: str, now: float) -> None:
        """Keep the incident's message, which was rejected permanently."""
        if not self.usable:
            return
        try:
            self._store.add_dead_letter(incident, error)
            self.dead_letters = self._store.dead_letters(MAX_SHOWN_DEAD_LETTERS)
        except (sqlite3.Error, OSError) as disk_error:
            self._disk_failed(disk_error, now)

    def unsent(self) -> list[tuple[Incident, IncidentMessage]]:
        """The incidents with an unsent message, the next one to send first."""
        pairs = [(i, i.message) for i in self._incidents.values() if i.message is not None]
        return sorted(pairs, key=lambda pair: (pair[1].due, pair[1].created))

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def _merge(self, found: Incident) -> Incident:
        """An incident of an earlier run; if this run has begun the same one meanwhile, its remote state is
        unknown now.
        """
        mine = self._incidents.get(found.dedup_key)
        if mine is None:
            return after_crash(found)
        if mine.remote is RemoteState.CLOSED:
            return replace(
                mine, remote=RemoteState.UNKNOWN, fingerprint=mine.fingerprint or found.fingerprint
            )
        return mine

    def _disk_failed(self, error: Exception, now: float) -> None:
        renamed = isinstance(error, Damaged)  # a corrupt file is out of the way already
        self._resync_at = now if renamed else now + self._resync_seconds
        if self.usable:
            self._log.error(
                "incident store is unusable, incidents are sent from memory",
                path=str(self._store.path),
                error=str(error),
            )
        self.usable = False
