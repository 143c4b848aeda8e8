"""When a session is replaced before the remote gateway ends it: what was announced, configured or learned.

    Session, settings, lengths of earlier sessions -> limit(...) -> due(...), the moment for
    `core.session.handover`

All moments are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supervisor.core.state import Health, Known, Length, Phase, Reach, Second, TunnelState
from tunnels.base import Reason
from tunnels.settings import Planned, Tunnel

DAY_SECONDS = 86_400.0
REMEMBERED_SESSIONS = 12  # sessions whose length is remembered
ENOUGH_SESSIONS = 3  # of these must have ended at the same age
CLOSE = 0.05  # ages that differ by no more than this part are the same
MARGIN_SECONDS = 600.0  # seconds before the limit, where nobody has said how many
SHARE = (
    0.1  # of a session's length: the margin of short ones, and the stretch over which reconnects are spread
)

# Ends that the remote gateway made, or may have: no verdict of this host, and no silence of the network.
_ENDED_THERE = frozenset(
    {Reason.SESSION_EXPIRED, Reason.PEER_CLOSED, Reason.EXITED, Reason.KICKED, Reason.AUTH}
)


def remembered(seconds: Mapping[str, Second], lengths: Mapping[str, tuple[Length, ...]]) -> dict[str, Known]:
    """What was written down about each tunnel's remote gateway."""
    return {
        name: Known(seconds.get(name, Second.UNKNOWN), lengths.get(name, ())) for name in {*seconds, *lengths}
    }


def lengthened(
    known: Known, seconds: float, reason: Reason, endpoint: Reach, health: Health = Health.UNKNOWN
) -> Known:
    """With one more session, which was connected for so long, had this `health` to the end, and ended for
    this reason. While the gateway does not answer (`endpoint`), it has ended nothing.
    """
    there = ended_there(reason, health) and endpoint is not Reach.SILENT
    return replace(known, lengths=(*known.lengths, Length(seconds, there))[-REMEMBERED_SESSIONS:])


def ended_there(reason: str, health: str) -> bool:
    """Do these words say that the remote gateway ended the session, or may have. A session that was dead
    before shows no limit, unless the gateway said so.
    """
    return reason in _ENDED_THERE and (health != Health.UNHEALTHY or reason == Reason.SESSION_EXPIRED)


def learned(lengths: Sequence[Length], shortest: float) -> float | None:
    """The age in seconds at which the remote gateway ends sessions; None: it has shown no such habit.
    Sessions below `shortest` say nothing.

    A limit is what no session outlives: so it is looked for among the longest. Those that ended earlier had
    other reasons, as long as they are not the most.
    """
    told = [length for length in lengths if length.seconds >= shortest]
    ends = sorted((length.seconds for length in told if length.ended_there), reverse=True)
    if not ends:
        return None
    same = [seconds for seconds in ends if seconds >= ends[0] * (1.0 - CLOSE)]
    outlived = max(length.seconds for length in told) > ends[0] * (1.0 + CLOSE)
    if len(same) < ENOUGH_SESSIONS or 2 * len(same) < len(ends) or outlived:
        return None
    return same[len(same) // 2]


def limit(tunnel: Tunnel, state: TunnelState) -> float | None:
    """The moment at which the session that is up will have ended, as far as anybody knows."""
    session, settings = state.session, tunnel.reconnect
    if session.connected is None:
        return None
    ages = (
        None if settings.planned is None else settings.planned.every,
        learned(state.known.lengths, settings.stable_after),
    )
    moments = [session.connected + age for age in ages if age is not None]
    return min(moments if session.expires is None else [*moments, session.expires], default=None)


def due(tunnel: Tunnel, state: TunnelState, jitter: float, utc_offset: float) -> float | None:
    """When a planned reconnect begins; None: never. `jitter` in [0, 1) spreads those of many tunnels.

    `utc_offset` is what turns monotonic seconds into local ones, of which each day has 86,400 from midnight
    on.
    """
    end = limit(tunnel, state)
    if (
        end is None
        or state.phase is not Phase.UP
        or state.session.connected is None
        or state.drain is not None
    ):
        return None
    planned, length = tunnel.reconnect.planned, end - state.session.connected
    margin = _margin(planned, length)
    latest = end - margin
    if planned is not None:
        earliest = state.session.connected + length / 2
        preferred = _in_window(planned, earliest, latest, jitter, utc_offset)
        if preferred is not None:
            return preferred
    return latest - jitter * min(margin, SHARE * length)


def _margin(planned: Planned | None, length: float) -> float:
    """Seconds before the end of a session of this length by which its successor should have begun."""
    if planned is None:
        return min(MARGIN_SECONDS, SHARE * length)
    return planned.before if planned.before < length else length / 2


def _in_window(
    planned: Planned, earliest: float, latest: float, jitter: float, utc_offset: float
) -> float | None:
    """A moment in the last stretch of the preferred time of day between these two."""
    if planned.window is None or latest <= earliest:
        return None
    begin, end = (60.0 * (60 * int(hour[:2]) + int(hour[3:])) for hour in planned.window.split("-"))
    length = (end - begin) % DAY_SECONDS
    opened = latest - (latest + utc_offset - begin) % DAY_SECONDS  # when the window opened for the last time
    start, stop = max(opened, earliest), min(opened + length, latest)
    return stop - jitter * (stop - start) / 2 if start < stop else None
