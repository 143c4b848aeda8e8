"""The journal that a sidecar leaves for its successor: lines of JSON, folded into what is known. Pure.

Each line is a whole fact; the last one about a thing counts. A line that a crash has cut off is left out, and
so is everything of an earlier run of the server: client ids start over with each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hub.core.api import EndReason
from hub.core.sidecar.clients import ClientPhase, Report, ReportEnd, ReportUp, ServerClient
from hub.core.sidecar.machine import NodeDrain


@dataclass(frozen=True, slots=True)
class ServerRun:
    """One run of the OpenVPN server: client ids are unique within it."""

    id: str  # ours, random
    pid: int


@dataclass(frozen=True, slots=True)
class UnsentReport:
    """Something that the service is to be told, and of which run of the server."""

    number: int
    run: str
    report: Report


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a journal says."""

    run: ServerRun | None = None
    clients: dict[int, ServerClient] = field(default_factory=dict)
    drain: NodeDrain | None = None
    unsent: dict[int, UnsentReport] = field(default_factory=dict)


def run_line(run: ServerRun) -> str:
    """The server was started: clients of earlier runs are gone."""
    return _line("run", {"id": run.id, "pid": run.pid})


def client_line(client: ServerClient) -> str:
    """A client is, or has changed."""
    return _line("client", asdict(client))


def gone_line(cid: int) -> str:
    """A client is no more."""
    return _line("gone", cid)


def drain_line(drain: NodeDrain) -> str:
    """The server drains."""
    return _line("drain", {"deadline": drain.deadline})


def report_line(unsent: UnsentReport) -> str:
    """The service is to be told this."""
    kind = "up" if isinstance(unsent.report, ReportUp) else "ended"
    return _line(kind, {"number": unsent.number, "run": unsent.run, **asdict(unsent.report)})


def told_line(number: int) -> str:
    """The service has accepted a report."""
    return _line("told", number)


def read_journal(lines: Iterable[str]) -> JournalContent:
    """What the lines say together; lines that are not understood are left out."""
    content = JournalContent()
    for line in lines:
        try:
            ((kind, value),) = json.loads(line).items()
            content = _with(content, kind, value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return content


def journal_lines(content: JournalContent) -> Iterator[str]:
    """The shortest journal that says the same."""
    if content.run is not None:
        yield run_line(content.run)
    if content.drain is not None:
        yield drain_line(content.drain)
    yield from map(client_line, content.clients.values())
    yield from map(report_line, content.unsent.values())


def _with(content: JournalContent, kind: str, value: Any) -> JournalContent:
    match kind:
        case "run":
            run = ServerRun(str(value["id"]), int(value["pid"]))
            return replace(content, run=run, clients={}, drain=None)
        case "client":
            client = _client(value)
            content.clients[client.cid] = client
        case "gone":
            content.clients.pop(int(value), None)
        case "drain":
            deadline = value["deadline"]
            return replace(content, drain=NodeDrain(None if deadline is None else float(deadline)))
        case "up" | "ended":
            number = int(value["number"])
            content.unsent[number] = UnsentReport(number, str(value["run"]), _report(kind, value))
        case "told":
            content.unsent.pop(int(value), None)
    return content


def _client(value: Any) -> ServerClient:
    return ServerClient(
        cid=int(value["cid"]),
        kid=int(value["kid"]),
        person=str(value["person"]),
        digest=str(value["digest"]),
        real=str(value["real"]),
        flags=int(value["flags"]),
        session=str(value["session"]),
        address=str(value["address"]),
        netmask=str(value["netmask"]),
        phase=ClientPhase(value["phase"]),
        ending=None if value["ending"] is None else EndReason(value["ending"]),
    )


def _report(kind: str, value: Any) -> Report:
    if kind == "up":
        return ReportUp(str(value["session"]), str(value["address"]))
    reason = EndReason(value["reason"])
    return ReportEnd(str(value["session"]), reason, int(value["received"]), int(value["sent"]))


def _line(kind: str, value: object) -> str:
    return json.dumps({kind: value}, separators=(",", ":"))
