"""`make demo` and `make fleet` without a terminal: they end well, and Ctrl-C leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
DEMO = (sys.executable, "-m", "tests.lab.demo")
FLEET = (sys.executable, "-m", "tests.lab.fleet_demo")


def _traces(pid: int) -> list[str]:
    """Namespaces and directories of the demo with this process id."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if name.startswith(f"fct-{pid}-")] + [
        str(p) for p in Path(tempfile.gettempdir()).glob(f"fct-{pid}-*")
    ]


def test_the_demo_heals_everything_unattended() -> None:
    demo = subprocess.Popen(DEMO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    out, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, out
    assert "All healed." in out
    assert _traces(demo.pid) == []


@pytest.mark.timed
def test_two_facilitators_act_as_one_unattended() -> None:
    demo = subprocess.Popen(FLEET, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    out, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, out
    assert "All moved as it should." in out
    assert _traces(demo.pid) == []


def test_an_interrupted_demo_leaves_nothing() -> None:
    demo = subprocess.Popen(DEMO, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert demo.stdout is not None
    while "kill -9 the openvpn" not in demo.stdout.readline():
        assert demo.poll() is None
    assert _traces(demo.pid) != []
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert _traces(demo.pid) == []
