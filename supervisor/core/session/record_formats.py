"""Records of tunnels in the formats of earlier versions, as JSON of today's (`core.session.record`).

Formats 0 and 1 had one flat state for the tunnel and its active session, and a second one in it, `other`, for
the session beside it. What this version does not know stays where it was, so that the reader reports it.
"""

from __future__ import annotations

from typing import Any

NESTED_SINCE = 2  # the format that has `active`, `standby`, `idle` and `retry`

_LIVENESS = {
    "misses": "misses",
    "silence": "rounds_without_traffic",
    "unheard": "rounds_without_reply",
    "doubted": "gave_up_on_hearsay",
    "recent": "recent",
    "healthy_since": "healthy_since",
    "last_rtt": "last_rtt",
    "degraded": "degraded",
    "full": "full",
}
_SESSION = {
    "session": "session",
    "phase": "phase",
    "reason": "reason",
    "since": "since",
    "deadline": "deadline",
    "health": "health",
    "failure": "failure",
    "asking": "asking",
    "kept": "resumable",
    "outdated": "outdated",
    "reconnect_by": "reconnect_by",
    "rung": "recovery",
}
_RETRY = {
    "attempts": "attempts",
    "refusals": "refusals",
    "suspicions": "suspicions",
    "login_after": "login_after",
    "turn": "turn",
    "remote": "remote",
    "proven": "proven",
}
_RETRY_TOO = {  # of the last session, where none is active
    "failure": "failure",
    "kept": "resumable",
    "rung": "recovery",
    "doubted": "gave_up_on_hearsay",
}
_IDLE = {"phase": "phase", "reason": "reason", "since": "since", "deadline": "deadline"}
_ONCE = ("other", "numbered", "single")
_OF_TUNNEL = ("want", "well_since", "drain", "endpoint", "reconnects", "known", "planned")
_RUNNING = ("starting", "up", "stopping")


def upgraded(record: Any) -> Any:
    """A record of format 0 or 1 as one of today's; what is no record is returned as it is."""
    if not isinstance(record, dict) or not isinstance(record.get("state"), dict):
        return record
    return {**record, "state": _tunnel(record["state"])}


def _tunnel(old: dict[str, Any]) -> dict[str, Any]:
    other, known = old.get("other"), {*_ONCE, *_SESSION, *_LIVENESS, *_RETRY, *_RETRY_TOO, *_IDLE}
    state: dict[str, Any] = {name: value for name, value in old.items() if name not in known}
    state["retry"] = _taken(old, _RETRY)
    if old.get("phase") in _RUNNING:
        state["active"] = _session(old)
    else:
        state["idle"] = _taken(old, _IDLE)
        state["last"] = _slotted(old.get("session"))
        state["retry"] |= _taken(old, _RETRY_TOO)
    state["standby"] = _standby(other, state)
    sessions = [each.get("session") for each in (old, other) if isinstance(each, dict)]
    numbers = [old.get("numbered"), *(each.get("number") for each in sessions if isinstance(each, dict))]
    state["next_number"] = 1 + max([number for number in numbers if type(number) is int], default=0)
    return state


def _standby(other: Any, state: dict[str, Any]) -> Any:
    """The session beside the active one. One that only waited for its turn is begun when that has come."""
    if not isinstance(other, dict):
        return other
    if other.get("phase") in _RUNNING:
        known = {*_ONCE, *_OF_TUNNEL, *_SESSION, *_LIVENESS, *_RETRY}
        unknown = {name: value for name, value in other.items() if name not in known}
        return {**_session(other), "drain": other.get("drain"), **unknown}
    if state.get("planned") is None:
        state["planned"] = other.get("deadline")
    return None


def _session(old: dict[str, Any]) -> dict[str, Any]:
    made = _taken(old, _SESSION)
    return {**made, "session": _slotted(made.get("session")), "liveness": _taken(old, _LIVENESS)}


def _slotted(session: Any) -> Any:
    if not isinstance(session, dict) or "seat" not in session:
        return session
    return {**{name: value for name, value in session.items() if name != "seat"}, "slot": session["seat"]}


def _taken(old: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {new: old[name] for name, new in names.items() if name in old}
