"""`facilitator status TUNNEL`: what is known of one tunnel, below its row of the table."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from supervisor.control.client import ControlClient, Refused
from supervisor.core.humanize import byte_size

if TYPE_CHECKING:
    from supervisor.core.views.documents import HistoryDocument, SessionEntry, TransitionRecord, TunnelStatus

EVENTS = 5
LOG_LINES = 5
_BYTES = re.compile(r'facilitator_tunnel_(receive|transmit)_bytes_total\{tunnel="([^"]+)"\} (\S+)')


class Traffic(NamedTuple):
    """Bytes through a tunnel since the daemon has counted them."""

    received: int = 0
    sent: int = 0


class Detail(NamedTuple):
    """What is asked for beside the status."""

    events: list[TransitionRecord]
    lines: list[str]
    traffic: Traffic | None


def traffic_of(client: ControlClient) -> dict[str, Traffic]:
    """The bytes of every tunnel, from the daemon's metrics."""
    found: dict[str, Traffic] = {}
    for line in client.lines("/metrics", 10.0):
        if match := _BYTES.match(line):
            before, count = found.get(match[2], Traffic()), int(float(match[3]))
            received = match[1] == "receive"
            found[match[2]] = before._replace(received=count) if received else before._replace(sent=count)
    return found


def detail_of(client: ControlClient, tunnel: str) -> Detail:
    """Ask the daemon; what it does not know is left out."""
    events: list[TransitionRecord] = []
    lines: list[str] = []
    traffic: Mapping[str, Traffic] = {}
    with contextlib.suppress(Refused, KeyError):
        history: HistoryDocument = client.get(f"/api/v1/history?tunnel={tunnel}&limit={EVENTS}")
        events = history["transitions"][:EVENTS]
    with contextlib.suppress(Refused):
        lines = list(client.lines(f"/api/v1/tunnels/{tunnel}/logs?lines={LOG_LINES}", 10.0))
    with contextlib.suppress(Refused):
        traffic = traffic_of(client)
    return Detail(events, lines, traffic.get(tunnel))


def detail_lines(entry: TunnelStatus, known: Detail) -> Iterator[Text]:
    """A line each; headings are bold."""
    rows = [*_rows(entry, known.traffic)]
    width = max(len(name) for name, _ in rows)
    yield Text()
    for name, value in rows:
        yield Text(f"{name:{width}}  ", "bold").append(value, "")
    if known.events:
        yield Text("\nlast events", "bold")
        for event in known.events:
            yield Text(
                f"  {event['at']}  {event['before']} -> {event['after']}, {event['health']}: {event['reason']}"
                + (f": {event['text']}" if event["text"] else "")
            )
    if known.lines:
        yield Text("\nlast log lines", "bold")
        yield from (Text(f"  {line}") for line in known.lines)


def _rows(entry: TunnelStatus, traffic: Traffic | None) -> Iterator[tuple[str, str]]:
    if entry.get("description"):
        yield "description", entry["description"]
    yield "destinations", ", ".join(entry.get("destinations", ()))
    yield "remote gateway", entry.get("endpoint", "unknown")
    session = entry["session"]
    if session is None:
        yield "session", "none"
    else:
        yield from _of_session(session)
    if traffic is not None:
        yield "traffic", f"{byte_size(traffic.received)} received, {byte_size(traffic.sent)} sent"
    if (planned := entry.get("planned_reconnect")) is not None:
        yield "planned reconnect", planned
    waits = _waits_for(entry)
    if waits is not None:
        yield "waits for", waits
    if entry["last_error"]:
        yield "last error", entry["last_error"]


def _of_session(session: SessionEntry) -> Iterator[tuple[str, str]]:
    process = "" if session["pid"] is None else f", process {session['pid']}"
    yield "session", f"{session['id']} since {session['started']}{process}"
    if session["device"] is not None:
        yield "interface", session["device"]
    if (port := session.get("port")) is not None:
        yield "proxy port", str(port)
    if session["address"] is not None:
        peer = "" if session["peer"] is None else f", peer {session['peer']}"
        yield "address", f"{session['address']}{peer}"
    if (mtu := session.get("path_mtu")) is not None:
        yield "path MTU", f"{mtu} bytes"


def _waits_for(entry: TunnelStatus) -> str | None:
    """What has to happen before it goes on; None: it waits for nothing."""
    lock = entry.get("lock")
    if entry["asks"] is not None:
        return f"an answer to: {entry['asks']['text']}"
    if (code_at := entry.get("waits_for_code")) is not None:
        return f"the next one-time password, at {code_at}"
    if lock is not None and lock["text"] is not None:
        return lock["text"]
    if entry["next_attempt"] is not None:
        return f"the next attempt, at {entry['next_attempt']}"
    return {
        "starting": "its client to connect and log in",
        "stopping": "its client to end",
        "stopped": "facilitator start" if entry["want"] == "down" else "",
    }.get(entry["phase"]) or None
