"""A killed daemon's records, read by another version: those of an earlier one are gone on from, an unknown
one begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.golden import earlier
from tests.lab import LabDaemon

pytestmark = pytest.mark.root


def rewrite(daemon: LabDaemon, shelf: str, change: Callable[[Any], None], name: str = "*") -> None:
    for path in (daemon.runtime_dir / shelf).glob(f"{name}.json"):
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))


def test_records_of_version_0_1_0_are_gone_on_from(daemon: LabDaemon) -> None:
    """They had no formats, and one flat state for a tunnel and its session."""
    before = daemon.sessions()
    daemon.kill9()
    rewrite(daemon, "tunnels", earlier.record)
    rewrite(daemon, "journal", earlier.journal)
    daemon.start()
    daemon.wait_well()
    assert daemon.sessions() == before
    assert "not understood" not in daemon.log.read_text()


def test_a_record_that_is_not_understood_costs_its_own_session_only_and_is_said(daemon: LabDaemon) -> None:
    before = daemon.sessions()
    daemon.kill9()
    rewrite(
        daemon,
        "tunnels",
        lambda raw: raw["record"]["state"].update(wish=raw["record"]["state"].pop("want")),
        "acme-dc",
    )
    daemon.start()
    daemon.wait_well()
    after = daemon.sessions()
    assert after["own-cloud"] == before["own-cloud"]
    assert after["acme-dc"] != before["acme-dc"]
    assert len(daemon.client_pids("openvpn")) == 1
    said = [json.loads(line) for line in daemon.log.read_text().splitlines() if "not understood" in line]
    assert [(line["tunnel"], line["why"]) for line in said] == [
        ("acme-dc", "record.state.wish is unknown to this version")
    ]
