"""Metrics of the service (prefix `facilitator_hub_`), and a line in the log for each decision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hub.core import api

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class HubMetrics:
    """Used from the event loop only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._decisions = Counter(
            "facilitator_hub_logins",
            "Logins by decision and reason",
            ["decision", "reason"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "facilitator_hub_login_seconds", "Time of a decision", buckets=_SECONDS, registry=self._registry
        )
        self._sessions = Gauge("facilitator_hub_sessions", "Open sessions", ["node"], registry=self._registry)
        self._silent = Gauge(
            "facilitator_hub_node_silent", "1: no heartbeat for three times its interval", ["node"],
            registry=self._registry,
        )  # fmt: skip
        self._database = Gauge("facilitator_hub_database_up", "1: it answers", registry=self._registry)
        self._people = Gauge("facilitator_hub_people", "People in the file", registry=self._registry)
        self._files = Gauge(
            "facilitator_hub_files_valid", "0: a changed file is wrong, the earlier one is in effect", ["file"],
            registry=self._registry,
        )  # fmt: skip
        self._log = structlog.get_logger()

    def decisions(self) -> AbstractContextManager[object]:
        """Measures a decision."""
        return self._seconds.time()

    def decided(self, node: str, person: str | None, answer: api.LoginAnswer) -> None:
        """Count and log a decision. Links and states of challenges are secret, and not logged."""
        reason = str(answer.reason) if isinstance(answer, api.Denied) else ""
        self._decisions.labels(answer.decision, reason).inc()
        address = str(answer.address) if isinstance(answer, api.Allowed) else None
        self._log.info(
            "login", decision=answer.decision, reason=reason or None, node=node, person=person,
            session=answer.session, address=address,
        )  # fmt: skip

    def nodes(self, found: api.NodeList | None) -> None:
        """What the database says; None: it does not answer."""
        self._database.set(0 if found is None else 1)
        for node in found.nodes if found is not None else ():
            self._sessions.labels(node.node).set(node.sessions)
            self._silent.labels(node.node).set(node.silent)

    def people(self, count: int) -> None:
        """How many people there are."""
        self._people.set(count)

    def file(self, name: str, valid: bool) -> None:
        """A file was read."""
        self._files.labels(name).set(valid)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
