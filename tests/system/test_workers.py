"""sshuttle with two workers in the whole daemon: what the end of one costs."""

from __future__ import annotations

import functools
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests import echo
from tests.lab import CLOUD_WEB, Lab, LabDaemon
from tests.lab.config import Config, only
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root

PORT = 7007
EACH = 4  # connections of each worker


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _doors(daemon: LabDaemon) -> list[int]:
    """Who accepts connections for the tunnel (IPv4): the workers' pids, and the launcher's with each."""
    lines = daemon.namespace.run("ss", "-4Hltnp").stdout.splitlines()
    return [
        _parent(ssh)
        for ssh in daemon.client_pids("ssh")
        if any(f"pid={_parent(ssh)}," in line for line in lines)
    ]


def _carrier(daemon: LabDaemon, workers: list[int], connection: socket.socket) -> int:
    """The worker that carries this connection."""
    found = daemon.namespace.run(
        "ss", "-Htnp", "state", "established", "dport", f"= :{connection.getsockname()[1]}"
    ).stdout
    return next(worker for worker in workers if f"pid={worker}," in found)


@pytest.mark.timed
def test_a_killed_ssh_of_one_of_two_workers_costs_its_connections_only(lab: Lab, config: Config) -> None:
    config = only(config, "own-cloud")
    config["tunnels"]["own-cloud"]["workers"] = 2
    with echo.serving(lab.network["cloud"], PORT), lab.daemon(config) as daemon:
        daemon.wait_well()
        workers = eventually(
            lambda: found if len(found := _doors(daemon)) == 2 else None, 10, "both workers serve"
        )
        carried: dict[int, list[socket.socket]] = {worker: [] for worker in workers}
        while any(len(each) < EACH for each in carried.values()):
            connection = echo.connection(lab.network["laptop"], str(CLOUD_WEB), PORT)
            by_it = carried[_carrier(daemon, workers, connection)]
            if len(by_it) < EACH:
                by_it.append(connection)
            else:
                connection.close()

        victim, *_ = daemon.client_pids("ssh")
        gone = _parent(victim)
        [stays] = set(workers) - {gone}
        since = time.monotonic()
        outage = lab.outage(CLOUD_WEB, functools.partial(os.kill, victim, signal.SIGKILL))
        print("new connections:", outage)
        assert outage.seconds <= 0.5 * NOISE
        assert all(map(echo.echoes, carried[stays]))
        assert not any(map(echo.echoes, carried[gone]))

        again = eventually(
            lambda: found if len(found := _doors(daemon)) == 2 else None,
            3 * NOISE,
            "both workers serve again",
        )
        took = time.monotonic() - since
        print(f"both serve again after {took:.2f} s")
        assert stays in again
        assert all(map(echo.echoes, carried[stays]))
        assert daemon.tunnel("own-cloud")["phase"] == "up"
        assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel="own-cloud") == 0
        for connection in sum(carried.values(), []):
            connection.close()
    assert daemon.leftovers() == {}
