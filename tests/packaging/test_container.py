"""The machinery itself, proven with a service of a few lines that uses our own `SystemdNotifier`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import common.sd_notify
from tests import netns
from tests.lab.wait import eventually
from tests.packaging import container
from tests.packaging.container import machine

pytestmark = pytest.mark.nspawn

_SERVICE = """
import os, signal, time
from sd_notify import SystemdNotifier
notifier = SystemdNotifier()
def reload(*_):
    notifier.reloading()
    notifier.ready("read anew")
signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(60))     # gets stuck
left = sorted(set(os.environ) & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
notifier.ready(f"watched every {notifier.watchdog_interval} s, left in the environment: {left}")
while True:
    notifier.watchdog()
    time.sleep(notifier.watchdog_interval)
"""
_UNIT = """
[Service]
Type=notify
ExecStart=/usr/bin/python3 /srv/service.py
ExecReload=/bin/kill -HUP $MAINPID
WatchdogSec=1500ms
"""


def test_a_service_that_speaks_sd_notify(scratch: Path) -> None:
    with machine(scratch, {Path(common.sd_notify.__file__): "/srv/sd_notify.py"}) as vm:
        vm.write("/srv/service.py", _SERVICE)
        vm.write("/etc/systemd/system/tiny.service", _UNIT)
        vm.run("systemctl", "daemon-reload")
        vm.run("systemctl", "start", "tiny")  # returns after READY=1
        assert vm.show("tiny", "ActiveState", "StatusText") == {
            "ActiveState": "active",
            "StatusText": "watched every 0.5 s, left in the environment: []",
        }
        vm.run("systemctl", "reload", "tiny")
        read_anew = {"StatusText": "read anew", "ActiveState": "active"}
        eventually(lambda: vm.show("tiny", "StatusText", "ActiveState") == read_anew, 5, "reloaded")

        vm.run("systemctl", "kill", "--signal=USR1", "tiny")
        bitten = {"ActiveState": "failed", "Result": "watchdog"}
        eventually(lambda: vm.show("tiny", "ActiveState", "Result") == bitten, 10, "the watchdog bites")
        assert "tun" in vm.run("ls", "/dev/net").stdout


def test_two_machines_at_once_and_nothing_of_them_stays(scratch: Path) -> None:
    (scratch / "a").mkdir()
    (scratch / "b").mkdir()
    with machine(scratch / "a") as a, machine(scratch / "b") as b:
        a.write("/srv/mark", "only in a")
        assert a.run("cat", "/srv/mark").stdout == "only in a"
        assert b.run("ls", "/srv").stdout == ""
        assert {"process", "cgroup", "mount", "namespace"} - _traces(b.name, scratch) == {
            "mount"
        }  # its mounts are its own affair
    assert not _traces(a.name, scratch)
    assert not _traces(b.name, scratch)


def test_a_killed_test_run_leaves_nothing(scratch: Path) -> None:
    program = f"""
from pathlib import Path
from tests.packaging.container import Machine
print(Machine(Path({str(scratch)!r})).name, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        name = run.stdout.readline().strip()
        assert "process" in _traces(name, scratch)
        run.kill()
    container.sweep()
    netns.sweep()
    assert not _traces(name, scratch)


def _traces(name: str, scratch: Path) -> set[str]:
    """What there is of a machine on the host."""
    found = {
        "process": any(f"--machine={name}" in line for line in _command_lines()),
        "cgroup": any(name in groups for _, groups, _ in os.walk("/sys/fs/cgroup")),
        "mount": str(scratch) in Path("/proc/self/mounts").read_text(),
        "namespace": Path(f"/run/netns/{name}").exists(),
    }
    return {what for what, there in found.items() if there}


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_text(errors="replace")
