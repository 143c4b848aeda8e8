"""`facilitator why`: whether routers are told to send this destination here."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.diagnosis.checks import Check, CheckStatus
from supervisor.core.diagnosis.query import Evidence, PacketPath
from supervisor.core.fleet.announcements import MEANINGS, works
from supervisor.core.humanize import duration, iso


def announcement(evidence: Evidence, path: PacketPath) -> Iterator[Check]:
    """With which metric, since when, and what that means. No check without `fleet.announce.bgp`."""
    plan, network = evidence.plan, path.match.carry.network
    if plan.announced_in is None:
        return
    told = next((each for each in plan.announced if each.network == network), None)
    if told is None:
        text = f"routers are not told of {network}: {path.tunnel.name} is stopped"
        yield Check("announced", text, CheckStatus.WARNING)
        return
    since = iso(evidence.wall_offset + told.since)
    lasted = duration(max(0.0, evidence.snapshot.now - told.since))
    yield Check(
        "announced",
        f"announced with metric {told.metric} since {since}, for {lasted}: {MEANINGS[told.offer]}",
        CheckStatus.OK if works(told) else CheckStatus.WARNING,
    )
