"""Takeover after a crash or an upgrade (adoption): what the earlier daemon knew, and which clients still run.

recall, living -> Inheritance -> plan (the kernel stays as it is) -> take_up (clients) -> engine.adopt; what
is left over is ended
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from supervisor.app.stores.state_store import Recalled, Stored, ends_by, recall
from supervisor.app.stores.upgrade_document import HandoverDocument
from supervisor.clients.adoption import FoundClient, living
from supervisor.clients.input_watcher import InputWatcher
from supervisor.clients.launch import SpawnError
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.processes import boot_id
from supervisor.clients.runner import Runner
from supervisor.config import Config
from supervisor.config.difference import fingerprint
from supervisor.core.session.record import PreviousRun, Spent
from supervisor.core.state import Phase, Session, SessionState, TunnelState


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What an earlier daemon has left of the tunnels that are configured. `close` it."""

    stored: Mapping[str, Stored] = field(default_factory=dict)
    found: Sequence[FoundClient] = ()  # clients of exactly the sessions that are stored
    kept: frozenset[str] = frozenset()  # slots whose next session need not log in
    ends_by: float | None = None  # see `state_store.ends_by`
    spent: Mapping[str, Spent] = field(default_factory=dict)  # by tunnel: of records that are not understood

    def close(self) -> None:
        """Let go of the processes; who took one up has a hold of its own."""
        for each in self.found:
            os.close(each.pidfd)

    @property
    def memory(self) -> PreviousRun:
        """As far as it can be known before a client was taken up."""
        records = {name: each.record for name, each in self.stored.items()}
        return PreviousRun(
            records, frozenset(map(_key, self.found)), self.kept, ends_by=self.ends_by, spent=self.spent
        )

    @property
    def sessions(self) -> dict[str, tuple[Session, ...]]:
        """For the history: tunnels that go on as they were, and their sessions."""
        states = {name: each.record.state for name, each in self.stored.items()}
        return {
            name: tuple(each.session for each in state.sessions)
            for name, state in states.items()
            if state.phase is not Phase.STOPPED
        }

    def changed(self, config: Config) -> frozenset[str]:
        """Tunnels whose clients must start with other settings."""
        return frozenset(
            name for name, each in self.stored.items() if each.settings != fingerprint(config.tunnels[name])
        )

    def outdated(self, watcher: InputWatcher) -> frozenset[str]:
        """Tunnels whose secrets or files are not what they were."""
        return frozenset(name for name, each in self.stored.items() if each.inputs != watcher.digest(name))

    def take_up(self, config: Config, runner: Runner) -> list[JournalEntry]:
        """Go on with the clients, where that is possible: with these."""
        log, taken = structlog.get_logger(), []
        for found in self.found:
            entry = found.entry
            session = _session(self.stored[entry.tunnel].record.state, entry)
            starting = session is not None and session.phase is Phase.STARTING
            try:
                runner.adopt(config.tunnels[entry.tunnel], found, starting=starting)
            except SpawnError as error:
                log.warning(
                    "a client of an earlier daemon cannot be gone on with",
                    tunnel=entry.tunnel,
                    pid=entry.pid,
                    text=error.text,
                )
            else:
                taken.append(entry)
                log.info("adopted", tunnel=entry.tunnel, pid=entry.pid, session=entry.id)
        return taken


def inherit(config: Config, runtime_dir: Path, given: HandoverDocument | None = None) -> Inheritance:
    """Look at what an earlier daemon has left, or has `given` to us. Nothing is touched."""
    boot = boot_id()
    known = recall(runtime_dir, boot) if given is None else Recalled(given.tunnels)
    stored = {name: each for name, each in known.stored.items() if name in config.tunnels}
    entries = Journal(runtime_dir).load().values()
    found = living(
        entry
        for entry in entries
        if entry.tunnel in stored and _session(stored[entry.tunnel].record.state, entry) is not None
    )
    for each in found:
        stored[each.entry.tunnel] = _completed(stored[each.entry.tunnel], each.entry)
    kept = frozenset[str]() if given is None else frozenset(given.kept)
    return Inheritance(stored, found, kept, ends_by(runtime_dir, boot), known.spent)


def _key(found: FoundClient) -> tuple[str, int]:
    return found.entry.tunnel, found.entry.session


def _session(state: TunnelState, entry: JournalEntry) -> SessionState | None:
    return next((each for each in state.sessions if each.session.number == entry.session), None)


def _completed(stored: Stored, entry: JournalEntry) -> Stored:
    """A client that had just been started may be in the journal and not in the state."""
    state = _with_client(stored.record.state, entry)
    return replace(stored, record=replace(stored.record, state=state))


def _with_client(state: TunnelState, entry: JournalEntry) -> TunnelState:
    active, standby = (
        None if each is None else _identified(each, entry) for each in (state.active, state.standby)
    )
    return replace(state, active=active, standby=standby)


def _identified(session: SessionState, entry: JournalEntry) -> SessionState:
    facts = session.session
    if facts.number != entry.session:
        return session
    known = replace(facts, id=entry.id, pid=entry.pid, device=entry.device, port=entry.port)
    return replace(session, session=known)
