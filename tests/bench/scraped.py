"""What the daemon has to do with a scrape, with a thousand running clients: `python -m tests.bench.scraped
STATE LAG TUNNELS`.

All of it is the daemon's own: the server, the rendering, the reading of processes, devices and availability.
Only the engine is missing: so many tunnels would take it a minute to start. STATE is a directory; LAG is a
file of eight bytes: the worst delay of the event loop since somebody wrote zeros there, as a double in
seconds. Prints a line when it serves.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from supervisor.app.traffic_readers import SLOTS, LaneMeter
from supervisor.clients.processes import boot_id
from supervisor.clients.usage import usage_of
from supervisor.control.api import HTTPApi
from supervisor.core.network.changes import Change, Op
from supervisor.core.network.lanes import FIRST_LANE, lane_of
from supervisor.core.network.layout import Element, Table
from supervisor.core.network.wanted import RouteCounts
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Health, Phase, Session
from supervisor.kernel.counters import LinkBytes
from supervisor.kernel.nft.table import Nftables
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from supervisor.reports.paging.outbox import OutboxStatus
from tests.settings import configured
from tests.states import tunnel_state
from tunnels.base import Reason
from tunnels.settings import Tunnel

PORT = 9464
DELAY = struct.Struct("d")
_LOOK = 0.002  # seconds between two looks at the clock
_DEATHS = 5  # of each tunnel
_DEATH = (  # from, to, why, seconds after its beginning
    (Phase.UP, Phase.BACKOFF, Reason.PEER_TIMEOUT, 0.0),
    (Phase.BACKOFF, Phase.STARTING, Reason.RETRY, 1.0),
    (Phase.STARTING, Phase.UP, Reason.CONNECTED, 3.0),
)


@dataclass
class Scraped:
    """The part of the daemon that `/metrics` asks."""

    measured: Metrics
    snapshot: Snapshot

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """As the daemon does it."""
        return await asyncio.to_thread(self.measured.render, self.snapshot, accept)


def world(state: Path, children: list[subprocess.Popen[bytes]]) -> Scraped:
    """A tunnel for each child, all of them up and with a past."""
    names = [f"tunnel-{number}" for number in range(len(children))]
    pids = {name: child.pid for name, child in zip(names, children, strict=True)}
    history = History(Archive(state, "0"), HistorySources(boot_id()))
    history.start()
    lanes = {name: FIRST_LANE + number for number, name in enumerate(names)}
    metrics = Metrics(
        "0",
        time.time() - time.monotonic(),
        ScrapeSources(
            LinkBytes(),
            lambda name, session: usage_of(pids[name]),
            lambda: dict.fromkeys(names, RouteCounts(2, 2)),
            lambda: {"route": 1},
            OutboxStatus,
            certificates=lambda: dict.fromkeys(names, 2e9),
            availability=history.ratios,
            history_usable=lambda: history.usable,
            carried=LaneMeter(lambda name, slot: lane_of(lanes[name], slot)),
        ),
    )
    now = time.monotonic()
    up = tunnel_state(
        phase=Phase.UP,
        health=Health.HEALTHY,
        last_rtt=0.0123,
        session=Session(1, device="lo", started=now, connected=now, path_mtu=1400),
    )
    tunnels = {
        name: (configured(Tunnel, name=name, kind="openvpn", destinations=("10.77.0.0/24",)), up)
        for name in names
    }
    snapshot = Snapshot(tunnels, now)
    for name in names:
        for number in range(_DEATHS):
            at = now - 600.0 * (_DEATHS - number)
            for before, after, reason, later in _DEATH:
                change = Transition(name, number, before, after, Health.UNKNOWN, reason, "", at + later, 1.5)
                metrics.record(change, snapshot)
                history.record(change, snapshot)
    while (
        history.read(None, 0).problem is not None
    ):  # all of that is on disk: no daemon has so much to write while it is scraped
        pass
    return Scraped(metrics, snapshot)


async def watch(path: Path) -> None:
    """For ever: keep the loop's worst delay in the file."""
    path.write_bytes(bytes(DELAY.size))
    with path.open("r+b") as file:
        worst = mmap.mmap(file.fileno(), DELAY.size)
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LOOK
        await asyncio.sleep(_LOOK)
        DELAY.pack_into(worst, 0, max(loop.time() - due, DELAY.unpack_from(worst)[0]))


async def serve(scraped: Scraped, lag: Path) -> None:
    """Until the process is ended."""
    table = Nftables()
    table.open()
    marks = [
        lane_of(FIRST_LANE + number, slot)
        for number in range(len(scraped.snapshot.tunnels))
        for slot in SLOTS
    ]
    await table.commit(
        [Change(Op.ADD, Table()), *(Change(Op.ADD, Element("flows", (mark,))) for mark in marks)]
    )
    runner = web.AppRunner(HTTPApi(cast(Any, scraped)).public(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT).start()
    lag.write_bytes(bytes(DELAY.size))
    print("serving", flush=True)
    await watch(lag)


if __name__ == "__main__":
    clients = [
        subprocess.Popen(["sleep", "infinity"], stdin=subprocess.DEVNULL) for _ in range(int(sys.argv[3]))
    ]
    scraped = world(Path(sys.argv[1]), clients)
    gc.freeze()  # as the daemon does when it has started
    asyncio.run(serve(scraped, Path(sys.argv[2])))
