"""The status page and its events over real tunnels."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.daemon import HTTP_PORT
from tests.lab.wait import PATIENCE, eventually

pytestmark = pytest.mark.root


@contextlib.contextmanager
def events(daemon: LabDaemon) -> Iterator[Iterator[dict[str, Any]]]:
    """What `/api/v1/events` tells, from the snapshot on."""
    connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=PATIENCE)
    with daemon.namespace.entered(), contextlib.closing(connection):
        connection.request("GET", "/api/v1/events")
        reply = connection.getresponse()
        assert reply.status == 200
        yield (json.loads(line.removeprefix(b"data: ")) for line in reply if line.startswith(b"data: "))


def test_the_page_shows_real_tunnels_and_the_stream_tells_of_a_death(lab: Lab, daemon: LabDaemon) -> None:
    page = eventually(lambda: _with_measures(daemon), 20, "latency and throughput are known")
    assert f"2 of 2 up · {daemon.status()['facilitator']}" in page
    session = daemon.tunnel("acme-dc")["session"]
    assert session["device"] in page
    with events(daemon) as told:
        snapshot = next(told)
        assert snapshot["tunnels"]["acme-dc"]["session"]["id"] == session["id"]
        assert snapshot["tunnels"]["acme-dc"]["availability"]["last_day"][-1] is not None
        assert snapshot["measures"]["acme-dc"]["rtts"]
        os.kill(session["pid"], signal.SIGKILL)
        death = next(
            entry for change in told if (entry := change["tunnels"].get("acme-dc")) and entry["deaths"]
        )
        assert death["deaths"][0]["reason"] == "killed"
    daemon.wait_well()
    page = daemon.get("/")[1]
    assert "last 1 session end<" in page
    assert "client ended by signal 9" in page


def _with_measures(daemon: LabDaemon) -> str | None:
    status, page = daemon.get("/")
    assert status == 200
    return page if "B/s" in page and 'aria-label="Latency over' in page else None
