"""A daemon starts whatever has taken the names of its files, and says so once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app.test_disk import OBSTACLES
from tests.lab import Lab
from tests.lab.config import Config

pytestmark = pytest.mark.root

STATE = ("codes.json", "held.json", "second-sessions.json", "history.db", "facilitator.db")
RUNTIME = (
    "lock",
    "control.sock",
    "control.key",
    "journal/own-cloud.json",
    "tunnels/own-cloud.json",
    "orders/end.json",
    "clients/own-cloud/output.log",
    "clients/own-cloud/output.log.1",
    "clients/own-cloud/output.read",
    "clients/own-cloud/notify.sock",
    "clients/acme-dc/management.sock",
)
DRAFTS = (
    "state/held.json.new",
    "run/tunnels/own-cloud.json.new",
    "run/journal/own-cloud.json.new",
    "run/control.key.new",
)
NOT_SAID = {
    "lock",
    "control.key",
    "control.sock",
    "notify.sock",
    "management.sock",
}  # they are made anew in any case


def zeroes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make", [*OBSTACLES.values(), zeroes, device], ids=[*OBSTACLES, "a huge file", "a device"]
)
def test_it_starts_among_them(lab: Lab, config: Config, make: Callable[[Path], object]) -> None:
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        daemon.signal(signal.SIGKILL)
        daemon.ended()
        places = _obstructed(daemon.directory, make)
        daemon.start()
        daemon.wait_well()
        said = _said(daemon.log)
        assert len(said) == len(set(said))
        assert not [place for place in places if not any(str(place) in text for text in said)]
        daemon.stop()
        daemon.start()
        daemon.wait_well()
        assert _said(daemon.log) == said, "once"


def _said(log: Path) -> list[str]:
    return [
        json.loads(line)["text"]
        for line in log.read_text().splitlines()
        if "not a file of facilitator's" in line
    ]


def _obstructed(directory: Path, make: Callable[[Path], object]) -> list[Path]:
    """Put something else in place of every file; of which of them the log must say so."""
    runtime = directory / "run"
    (runtime / "orders").mkdir()
    places = [*(directory / "state" / name for name in STATE), *(runtime / name for name in RUNTIME)]
    if make is zeroes:  # only what is read as a whole has a bound that is looked at before
        places = [place for place in places if place.parent.name in ("journal", "tunnels", "orders")]
    for place in places:
        for old in (place, *(place.with_name(place.name + suffix) for suffix in ("-wal", "-shm"))):
            old.unlink(missing_ok=True)
        make(place)
    for draft in DRAFTS:
        make(directory / draft)
    return [place for place in places if place.name not in NOT_SAID]
