"""Facts about the service manager: the loaded systemd unit, or what can be seen of Nomad."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from supervisor.app.preflight.account import PROPERTIES, account
from supervisor.app.preflight.host import ANSWER_TIMEOUT_SECONDS
from supervisor.app.preflight.locations import Places
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.launch import PATH
from supervisor.control import nomad
from supervisor.core.preflight.facts import ClosedUnit, Service, Unit
from supervisor.core.preflight.service import CLOSED_UNIT

UNIT = "facilitator.service"
_PROPERTIES = ("LoadState", "Type", "KillMode", "TimeoutStopUSec", "Restart", "RuntimeDirectoryPreserve")
_MAX_KILL_TIMEOUT = re.compile(r'^\s*max_kill_timeout\s*=\s*"([^"]*)"', re.MULTILINE)
_WATCHDOG = re.compile(r"^WatchdogSec=(\S*)$", re.MULTILINE)
_CREDENTIAL = re.compile(r"^LoadCredential(?:Encrypted)?=([^:\s]+):(/\S+)$", re.MULTILINE)


def service(variables: Mapping[str, str], places: Places) -> Service:
    """The service manager of the daemon with this environment."""
    task = nomad.task(variables)
    if task is None:
        return Service(unit=_unit(places), closed=_closed_unit(places))
    problem = _task_api(task, variables)
    return Service(
        nomad=True,
        closed=_closed_unit(places),
        max_kill_timeout=_max_kill_timeout(places.nomad),
        task_api=None if problem is None else problem.text,
        task_api_remedy="" if problem is None else problem.remedy,
        client_group=_client_group(),
    )


def _task_api(task: nomad.Task, variables: Mapping[str, str]) -> nomad.NotAnswered | None:
    """Asked once, for at most a second. An event loop may run in this thread, so another one asks."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(nomad.may_ask(task, variables))).result()


def _client_group() -> str | None:
    """Tried with a group of another name, so that nothing of a running daemon's is touched."""
    group = ClientGroup(f"doctor-{os.getpid()}")
    group.make()
    group.remove()
    return group.unavailable


def _max_kill_timeout(directory: Path) -> str | None:
    """`max_kill_timeout` of the agent's configuration; "": not set; None: cannot be read."""
    try:
        texts = [
            path.read_text(errors="replace")
            for path in sorted(directory.iterdir())
            if path.suffix in (".hcl", ".json")
        ]
    except OSError:
        return None
    return (
        next((match[1] for text in texts if (match := _MAX_KILL_TIMEOUT.search(text))), "") if texts else None
    )


def _closed_unit(places: Places) -> ClosedUnit | None:
    """Nomad's task sees the host's systemd as well."""
    if not places.systemd.is_dir():
        return None
    unit = _shown(
        CLOSED_UNIT, ("LoadState", "UnitFileState", "ActiveState", "ExecMainExitTimestampMonotonic")
    )
    if unit is None:
        return None
    network = _shown("network-pre.target", ("ActiveEnterTimestampMonotonic",)) or {}
    return ClosedUnit(
        unit.get("LoadState") == "loaded",
        unit.get("UnitFileState") == "enabled",
        _moment(unit.get("ExecMainExitTimestampMonotonic")),
        _moment(network.get("ActiveEnterTimestampMonotonic")),
        unit.get("ActiveState") == "failed",
    )


def _moment(microseconds: str | None) -> float | None:
    """Seconds since the boot; None: it was not yet."""
    return (
        int(microseconds) / 1e6 if microseconds and microseconds.isdecimal() and int(microseconds) else None
    )


def _shown(unit: str, properties: Sequence[str]) -> dict[str, str] | None:
    """Properties of a unit; None: systemd does not answer."""
    shown = _systemctl("show", unit, f"--property={','.join(properties)}")
    return None if shown is None else dict(line.partition("=")[::2] for line in shown.splitlines())


def _unit(places: Places) -> Unit | None:
    if not places.systemd.is_dir():
        return None
    values = _shown(UNIT, (*_PROPERTIES, *PROPERTIES)) or {}
    if values.get("LoadState") != "loaded":
        return None
    text = (
        _systemctl("cat", UNIT) or ""
    )  # with its drop-ins: systemctl shows neither of these two while the unit does not run
    return Unit(
        type=values.get("Type", ""),
        kill_mode=values.get("KillMode", ""),
        stop_timeout=values.get("TimeoutStopUSec", ""),
        restart=values.get("Restart", ""),
        watchdog=["", *_WATCHDOG.findall(text)][-1],
        preserved=values.get("RuntimeDirectoryPreserve", ""),
        bus=places.bus.is_socket(),
        credentials=tuple((name, path) for name, path in _CREDENTIAL.findall(text)),
        account=account(values),
    )


def _systemctl(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("systemctl", *arguments),
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=True,
            env={"PATH": PATH},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
