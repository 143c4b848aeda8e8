"""The sidecar's own socket: an operator of this host drains the server or ends a person's sessions.

One line of JSON each way. The directory keeps everybody else out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hub.core.sidecar.clients import ClientPhase
from hub.sidecar.sidecar import Sidecar

_MAX_LINE_BYTES = 4096
_ANSWER_SECONDS = 10.0


class ControlFailed(Exception):
    """No answer, or a refusal; the message says why."""


async def serve_control(path: Path, sidecar: Sidecar) -> asyncio.Server:
    """Listen. The caller holds the lock of the directory, so a socket that is there is a dead one's."""
    path.unlink(missing_ok=True)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            answer = _answered(sidecar, await reader.readline())
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(converse, path, limit=_MAX_LINE_BYTES)


def ask_sidecar(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the sidecar that runs here. ControlFailed."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(connection.makefile().readline() or "{}")
    except (OSError, ValueError) as error:
        raise ControlFailed(f"no sidecar answers at {path}: {error}") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise ControlFailed(answer["error"] if isinstance(answer, dict) else "an answer that is none")
    return answer


def _answered(sidecar: Sidecar, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        command = _COMMANDS[request["command"]]
        return command(sidecar, request)
    except (ValueError, KeyError, TypeError) as error:
        return {"error": str(error) or type(error).__name__}


def _drain(sidecar: Sidecar, request: Mapping[str, Any]) -> dict[str, Any]:
    timeout = request["timeout"]
    return {"clients": sidecar.begin_drain(None if timeout is None else float(timeout))}


def _end(sidecar: Sidecar, request: Mapping[str, Any]) -> dict[str, Any]:
    return {"ended": sidecar.end_person(str(request["person"]))}


def _status(sidecar: Sidecar, request: Mapping[str, Any]) -> dict[str, Any]:
    clients = sidecar.machine.clients.values()
    return {
        "connected": sidecar.ready.is_set(),
        "boot": sidecar.run_of_server.id if sidecar.run_of_server else None,
        "openvpn": sidecar.version,
        "draining": sidecar.machine.drain is not None,
        "clients": {str(phase): sum(each.phase is phase for each in clients) for phase in ClientPhase},
        "unsent": len(sidecar.outbox.unsent),
    }


_COMMANDS: Mapping[str, Callable[[Sidecar, Mapping[str, Any]], dict[str, Any]]] = {
    "drain": _drain,
    "end": _end,
    "status": _status,
}
