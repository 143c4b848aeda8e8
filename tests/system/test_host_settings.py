"""What a daemon leaves of the host's own settings, and what it does without its HTTP port; real daemons."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.kernel.test_settings import every_setting
from tests.lab.daemon import HTTP_PORT, LabDaemon
from tests.lab.wait import eventually
from tests.why.test_plan import not_started

pytestmark = pytest.mark.root


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LabDaemon]:
    with not_started(tmp_path) as daemon:
        yield daemon


def crash_and_cleanup(daemon: LabDaemon) -> str:
    daemon.kill9()
    return daemon.cli("cleanup").stdout


def ordinary_end(daemon: LabDaemon) -> str:
    daemon.stop()
    return daemon.log.read_text()


@pytest.mark.parametrize("end", [crash_and_cleanup, ordinary_end])
def test_the_host_has_its_own_settings_again(daemon: LabDaemon, end: Callable[[LabDaemon], str]) -> None:
    """Also after a restart in between. (The lab's `on_exit` is `remove`.)"""
    daemon.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.all.rp_filter=1")
    before = settings(daemon)
    daemon.start()
    daemon.kill9()
    daemon.start()
    eventually(lambda: settings(daemon)["ipv4/ip_forward"] == "1", 10, "the host forwards")
    assert "put back net.ipv4.ip_forward = 0 (was 1)" in end(daemon)
    assert settings(daemon) == before


def test_with_on_exit_keep_the_host_stays_as_it_is_until_cleanup(daemon: LabDaemon) -> None:
    daemon.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    before = settings(daemon)
    daemon.config_file.write_text(
        yaml.safe_dump({**yaml.safe_load(daemon.config_file.read_text()), "on_exit": "keep"})
    )
    daemon.start()
    eventually(lambda: settings(daemon)["ipv4/ip_forward"] == "1", 10, "the host forwards")
    daemon.stop()
    assert settings(daemon)["ipv4/ip_forward"] == "1"
    assert daemon.cleanup() == 0
    assert settings(daemon) == before


def settings(daemon: LabDaemon) -> dict[str, str]:
    with daemon.namespace.entered():
        return every_setting()


def test_a_busy_http_port_does_not_keep_the_daemon_from_its_work(daemon: LabDaemon) -> None:
    """The port is free later: then it listens, and the condition is gone."""
    with daemon.namespace.entered():
        other = socket.create_server(("127.0.0.1", HTTP_PORT))
    with other:
        daemon.start(ready=None)
        eventually(lambda: daemon.cli("health").returncode == 0, 20, "it works")
        shown = daemon.cli("status").stdout
        assert "http-not-listening" in shown
        assert f"cannot listen on 127.0.0.1:{HTTP_PORT}" in shown
    daemon.wait_ready(20)
    eventually(lambda: "http-not-listening" not in daemon.cli("status").stdout, 10, "the condition is gone")
