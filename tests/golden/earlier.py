"""What this version writes, as version 0.1.0 and its successor (formats 0 and 1) would have written it: for
tests that replace the daemon by a later one. The reader is `supervisor.core.session.record_formats`.
"""

from __future__ import annotations

from typing import Any

SESSION = {
    **{name: name for name in ("phase", "reason", "since", "deadline", "health", "failure", "asking")},
    **{name: name for name in ("outdated", "reconnect_by")},
    **{"resumable": "kept", "recovery": "rung"},
}
LIVENESS = {
    **{name: name for name in ("misses", "recent", "degraded", "full", "healthy_since", "last_rtt")},
    **{"rounds_without_traffic": "silence", "rounds_without_reply": "unheard"},
    **{"gave_up_on_hearsay": "doubted"},
}
RETRY = {
    name: name
    for name in ("attempts", "refusals", "suspicions", "login_after", "turn", "remote", "proven", "failure")
} | {"resumable": "kept", "recovery": "rung", "gave_up_on_hearsay": "doubted"}
TUNNEL = {
    name: name for name in ("want", "well_since", "drain", "endpoint", "reconnects", "known", "planned")
}
IDLE = {name: name for name in ("phase", "reason", "since", "deadline")}


def record(raw: dict[str, Any]) -> None:
    """Change the record of a tunnel (`runtime_dir/tunnels/NAME.json`) in place, without a format."""
    state = raw["record"]["state"]
    flat = _renamed(state["retry"], RETRY) | _renamed(state, TUNNEL)
    if state["active"] is None:
        flat |= _renamed(state["idle"], IDLE) | {"session": _seated(state["last"])}
    else:
        flat |= _session(state["active"])
    standby = None if state["standby"] is None else _session(state["standby"])
    if standby is not None:
        standby |= {"drain": state["standby"]["drain"], "single": True, "other": None}
    flat |= {"other": standby, "single": standby is not None, "numbered": state["next_number"] - 1}
    raw["record"]["state"] = flat
    raw.pop("format", None)


def journal(raw: dict[str, Any]) -> None:
    """Change an entry of the journal (`runtime_dir/journal/NAME.json`) in place, without a format."""
    raw["seat"] = raw.pop("slot")
    raw.pop("format", None)


def _session(state: dict[str, Any]) -> dict[str, Any]:
    flat = _renamed(state, SESSION) | _renamed(state["liveness"], LIVENESS)
    return flat | {"session": _seated(state["session"])}


def _seated(session: dict[str, Any]) -> dict[str, Any]:
    return {("seat" if name == "slot" else name): value for name, value in session.items()}


def _renamed(raw: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {old: raw[new] for new, old in names.items()}
