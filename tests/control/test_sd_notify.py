"""The service manager's side is a real datagram socket."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sd_notify import SystemdNotifier


class Manager:
    """Listens as systemd does."""

    def __init__(self, address: str) -> None:
        self.variable = address.replace("\0", "@")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(5)

    def heard(self) -> list[str]:
        """The fields of the next datagram."""
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    listener = Manager(
        str(tmp_path / "notify") if request.param == "path" else f"\0facilitator-{secrets.token_hex(8)}"
    )
    yield listener
    listener.close()


def test_each_message_is_what_sd_notify_says(manager: Manager) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": manager.variable})

    assert notifier.ready("2 tunnels")
    assert manager.heard() == ["READY=1", "STATUS=2 tunnels"]
    assert notifier.status("1 of 2 up")
    assert manager.heard() == ["STATUS=1 of 2 up"]
    assert notifier.stopping()
    assert manager.heard() == ["STOPPING=1"]
    assert notifier.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.extend_timeout(2.5)
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=2500000"]


def test_reload_carries_the_monotonic_clock(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert SystemdNotifier({"NOTIFY_SOCKET": manager.variable}).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    reloading, clock = manager.heard()
    assert reloading == "RELOADING=1"
    name, _, usec = clock.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= after


def test_children_do_not_inherit_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    SystemdNotifier()

    child = subprocess.run(
        [sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True, check=True
    )
    assert "PATH" in child.stdout.split()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(child.stdout.split())


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": str(os.getpid())}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-3"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval: float | None) -> None:
    assert SystemdNotifier(environ).watchdog_interval == interval
    assert environ == {}


@pytest.mark.parametrize(
    "address", ["", "/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", "relative", "/" + "x" * 200]
)
def test_a_missing_or_broken_socket_is_no_error(address: str) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    assert not notifier.ready("up")
    assert not notifier.watchdog()


def test_a_manager_that_does_not_read_cannot_hold_us(manager: Manager) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": manager.variable})
    while notifier.status("filling the queue"):
        pass
    begun = time.monotonic()
    assert not notifier.watchdog()
    assert time.monotonic() - begun < 20


def test_a_manager_that_went_away_is_no_error(manager: Manager) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": manager.variable})
    manager.close()
    assert not notifier.watchdog()


@given(text=st.text(alphabet=st.characters(), max_size=5000) | st.just("\ud800\n" * 3000))
def test_a_status_is_always_one_readable_field(text: str) -> None:
    manager = Manager(f"\0facilitator-{secrets.token_hex(8)}")
    try:
        assert SystemdNotifier({"NOTIFY_SOCKET": manager.variable}).ready(text)
        ready, status = manager.heard()
    finally:
        manager.close()
    assert ready == "READY=1"
    assert status.startswith("STATUS=")
    assert status.isprintable()
