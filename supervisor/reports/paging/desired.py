"""From verdicts to unsent messages: what each incident should be, written to the outbox before it is sent.

verdicts -> `DesiredIncidents.apply` -> `incident.reconcile` -> `Outbox.put`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.humanize import iso
from supervisor.core.session.reason_pages import runbook_url
from supervisor.core.session.reasons import must_be_cured
from supervisor.reports.paging.channel import UNREADABLE_KEY, Channel
from supervisor.reports.paging.incident import Incident, RemoteState, after_key_change, dedup_key, reconcile
from supervisor.reports.paging.outbox import Outbox
from supervisor.reports.paging.routing import PagingConfig

MAX_LINES = 20  # of a client's output, in an incident
MAX_MEMBERS_WITH_LINES = 3  # tunnels of a group whose last lines are quoted


class DesiredIncidents:
    """Keeps the outbox as the verdicts say. Not thread-safe: only for the pager's thread."""

    def __init__(self, channel: Channel, outbox: Outbox) -> None:
        self._channel = channel
        self._outbox = outbox
        self._unrouted: set[str] = set()  # firing, and logged as having no receiver
        self._log = structlog.get_logger()

    def apply(self, alerts: Mapping[str, Alert], paging: PagingConfig) -> None:
        """Open, close or leave each incident; one that is not named any more is closed."""
        named = {dedup_key(paging.facilitator, tunnel) for tunnel in alerts}
        for incident in self._outbox:
            if incident.dedup_key not in named:
                self._close(incident, "it is gone, or its tunnel is not configured any more")
        for alert in alerts.values():
            if alert.verdict is Verdict.FIRING:
                self._open(alert, paging)
            elif alert.verdict is Verdict.CLEAR:
                self._unrouted.discard(alert.tunnel)
                known = self._outbox.get(dedup_key(paging.facilitator, alert.tunnel))
                if known is not None:
                    self._close(known, "its tunnel is well, or was stopped")

    def _open(self, alert: Alert, paging: PagingConfig) -> None:
        # All members of a group have the same routing key.
        routed_as = alert.members[0] if alert.members else alert.tunnel
        location = self._channel.notifier.location(paging, routed_as)
        if location is None:
            self._log_unrouted(alert, paging)
            return
        key = dedup_key(paging.facilitator, alert.tunnel)
        before = self._outbox.get(key) or Incident(key, alert.tunnel, location, self._channel.wall)
        routed = replace(before, location=location) if before.remote is RemoteState.CLOSED else before
        self._put(
            before,
            reconcile(
                self._with_current_key(routed),
                True,
                lambda _: self._compose(alert, paging),
                self._channel.wall,
                alert.reason,
                must_be_cured(alert.reason),
            ),
        )
        if not before.wanted:
            self._log.error("incident", tunnel=alert.tunnel, dedup_key=key, text=alert.summary)

    def _close(self, incident: Incident, why: str) -> None:
        key, wall = incident.dedup_key, self._channel.wall
        self._put(
            incident,
            reconcile(
                incident, False, lambda _: self._channel.notifier.resolve(key, incident.since, wall), wall
            ),
        )
        if incident.wanted:
            self._log.info("incident resolved", tunnel=incident.tunnel, dedup_key=key, text=why)

    def _put(self, before: Incident, after: Incident) -> None:
        if after != before:
            self._outbox.put(after, self._channel.now)

    def _log_unrouted(self, alert: Alert, paging: PagingConfig) -> None:
        """Once per firing alert, if there should be a receiver for it."""
        if alert.tunnel in self._unrouted or not self._channel.notifier.required(paging):
            return
        self._unrouted.add(alert.tunnel)
        self._log.error(
            "an incident pages nobody: PagerDuty is not configured", tunnel=alert.tunnel, text=alert.summary
        )

    def _with_current_key(self, incident: Incident) -> Incident:
        """An incident whose routing key was refused is triggered again once another key is stored there."""
        if not incident.refused_fingerprint:
            return incident
        try:
            return after_key_change(incident, self._channel.keys.current(incident.location).fingerprint)
        except UNREADABLE_KEY:
            return incident

    def _compose(self, alert: Alert, paging: PagingConfig) -> str:
        """The body of the trigger, secrets masked."""
        mask = self._channel.mask
        wall_offset = self._channel.wall - self._channel.now
        moments = {name: iso(moment + wall_offset) for name, moment in alert.moments.items()}
        page = runbook_url(paging.runbooks, alert.reason)
        links = {"runbook_url": page or "", "status_page": paging.page_of(_tunnel_of(alert))}
        more = moments | {name: link for name, link in links.items() if link}
        details = {name: mask(text) for name, text in (dict(alert.details) | more).items()}
        shown = replace(alert, summary=mask(alert.summary), details=details)
        lines = [mask(line) for line in self._last_lines(alert)]
        return self._channel.notifier.trigger(paging.facilitator, shown, alert.since + wall_offset, lines)

    def _last_lines(self, alert: Alert) -> Sequence[str]:
        """The client's last lines; of a group, some of the first members' lines."""
        last_lines = self._channel.hooks.last_lines
        if not alert.members:
            return last_lines(alert.tunnel)[-MAX_LINES:]
        each = MAX_LINES // MAX_MEMBERS_WITH_LINES
        quoted = alert.members[:MAX_MEMBERS_WITH_LINES]
        return [f"{tunnel}: {line}" for tunnel in quoted for line in last_lines(tunnel)[-each:]]


def _tunnel_of(alert: Alert) -> str:
    """The one tunnel that the alert is about; "": several, or none."""
    return alert.members[0] if len(alert.members) == 1 else alert.details.get("tunnel", "")
