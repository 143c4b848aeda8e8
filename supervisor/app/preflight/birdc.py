"""Asks BIRD, through birdc, what it makes of the table that is announced."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from supervisor.app.preflight.host import ANSWER_TIMEOUT_SECONDS
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.announcing import networks, sessions
from supervisor.core.preflight.facts import BgpSession, BirdFacts, TableRoute
from supervisor.kernel.inspect import foreign_rules
from supervisor.kernel.route.messages import PROTOCOL

_LEARNED = "show route table all where defined(krt_source) && krt_source = 173"
_NEIGHBOUR = re.compile(r"Neighbor address:\s+(\S+)")
_BFD = re.compile(r"^(\S+)\s+\S+\s+(Up|Down|Init|AdminDown)\s", re.MULTILINE)


def bird(plan: NetworkPlan, sockets: Sequence[Path]) -> BirdFacts | None:
    """What BIRD says; None: nothing is announced. `sockets`: where that of its control may be."""
    if plan.announced_in is None:
        return None
    found = _routes(plan.announced_in)
    standing = tuple(route for route in found if route.protocol == PROTOCOL)
    foreign = tuple(route for route in found if route.protocol != PROTOCOL)
    if shutil.which("birdc") is None:
        return BirdFacts(standing, foreign, missing="birdc is not installed")
    where = next((path for path in sockets if path.exists()), None)
    if where is None:
        return BirdFacts(standing, foreign, error=f"there is no {sockets[0]}")
    try:
        return BirdFacts(standing, foreign, None, networks(_ask(where, _LEARNED)), _sessions(where))
    except (OSError, subprocess.SubprocessError) as error:
        return BirdFacts(standing, foreign, error=str(error))


def _routes(table: int) -> tuple[TableRoute, ...]:
    try:
        return foreign_rules.table_routes(((4, table), (6, table)))
    except OSError:
        return ()


def _sessions(socket: Path) -> tuple[BgpSession, ...]:
    found = sessions(_ask(socket, "show protocols"))
    up = {address: state == "Up" for address, state in _BFD.findall(_ask(socket, "show bfd sessions"))}
    return tuple(_session(socket, up, *each) for each in found)


def _session(socket: Path, bfd: dict[str, bool], name: str, state: str, text: str) -> BgpSession:
    neighbour = _NEIGHBOUR.search(_ask(socket, f"show protocols all {name}"))
    address = "" if neighbour is None else neighbour.group(1)
    established = state == "up" and "Established" in text
    exported = networks(_ask(socket, f"show route table all export {name}")) if established else frozenset()
    return BgpSession(name, 6 if ":" in address else 4, established, text, bfd.get(address), exported)


def _ask(socket: Path, command: str) -> str:
    done = subprocess.run(
        ["birdc", "-r", "-s", str(socket), *command.split()],
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise OSError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout
