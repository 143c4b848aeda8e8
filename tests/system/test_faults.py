"""The code of one kind raises, wherever the daemon calls it: the other tunnels go on, also after an
adoption, and it is said once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import REPOSITORY
from tests.lab.wait import eventually
from tests.system.faulty import ENTRIES, FATAL

pytestmark = pytest.mark.root


class FaultyDaemon(LabDaemon):
    """The daemon that knows the faulty kind."""

    def start(self, within: float = 15.0, ready: int | None = 200) -> None:
        """Start it and wait until it is ready."""
        argv = (sys.executable, "-m", "tests.system.faulty", str(self.config_file))
        with self.log.open("w") as log:
            self._process = self.namespace.popen(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        eventually(lambda: self._ready(ready or 200), within, "it is ready")

    def cleanup(self) -> int:
        """The command does not know the kind: what is left is removed with the configuration of the
        others.
        """
        self.config_file.write_text(self.plain)
        return super().cleanup()

    plain = ""

    def faults(self) -> Counter[tuple[str, str]]:
        """The log's lines about faults, by part and place in the code."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return Counter((line["part"], line["at"]) for line in lines if "internal error" in line["event"])


@pytest.fixture
def faulty(lab: Lab, config: Config, tmp_path: Path) -> Iterator[FaultyDaemon]:
    tunnels = {}
    for number, entry in enumerate(ENTRIES):
        where = tmp_path / entry
        where.write_text(entry)
        tunnels[f"no-{entry}"] = {
            "kind": "faulty",
            "destinations": [f"10.99.{number}.0/24"],
            "where": str(where),
            # whether two sessions may run is asked when a planned reconnect is due
            "reconnect": {
                "planned": {"every": "10s", "before": "4s"} if entry == "allows-parallel" else {"every": "1d"}
            },
            "probe": {
                "targets": [f"tcp://10.99.{number}.1:80"] if entry == "inner-probe" else []
            },  # who is probed is asked for it
        }
    daemon = FaultyDaemon(lab.network["facilitator"], lab.directory, config)
    daemon.plain = daemon.config_file.read_text()
    daemon.configure({**config, "tunnels": {**config["tunnels"], **tunnels}})
    with daemon:
        yield daemon


def test_a_kind_that_raises_anywhere_fails_alone(faulty: FaultyDaemon) -> None:
    came_up = [f"no-{entry}" for entry in ENTRIES if entry not in FATAL]
    well(faulty, *came_up)
    reloaded = faulty.cli("reload")
    assert reloaded.returncode == 0, reloaded.stderr
    faulty.kill9()
    faulty.start()
    well(faulty, *came_up)


def well(daemon: FaultyDaemon, *came_up: str) -> None:
    """The others work, the faults are told, counted and shown, each kind of fault once."""
    for name in ("acme-dc", "own-cloud"):
        daemon.wait_for(name, phase="up", health="healthy")
    for name in came_up:
        daemon.wait_for(name, phase="up")
    eventually(lambda: len(daemon.faults()) >= len(ENTRIES), 20, f"each fault is told: {daemon.faults()}")
    assert set(daemon.faults().values()) == {1}, "and only once"
    assert {part for part, _ in daemon.faults()} == {"kind:faulty"}
    assert daemon.metric("facilitator_internal_errors_total", part="kind:faulty") >= len(ENTRIES)
    assert "internal-error:kind:faulty" in [condition["name"] for condition in daemon.status()["conditions"]]
    assert daemon.metric("facilitator_tunnel_up", tunnel="acme-dc") == 1
