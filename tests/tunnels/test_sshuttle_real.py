"""The kind sshuttle with the real program, a real sshd, and a few redirect rules in the place of the
daemon's.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshuttle

from tests.bench.cost import cpu_seconds
from tests.echo import echoes
from tests.tunnels.driver import ClientRun, wait_for
from tests.tunnels.scenarios import SSHUTTLE, SshScenario
from tests.tunnels.ssh_lab import BASTION, FACILITATOR, SITE, SITE6, SshLab
from tunnels.base import Failed
from tunnels.kinds.sshuttle.kind import PROGRAM
from tunnels.kinds.sshuttle.listener import ProxyListener

pytestmark = pytest.mark.root

_AUDIT = """
import os, sys
def _late(event, arguments):
    if event in ("import", "open") and os.geteuid() != 0:
        os.write(2, f"late {event}: {arguments[0]!r}\\n".encode())
sys.addaudithook(_late)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[SshLab]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # one test runs the client as another user
        made = SshLab(Path(name))
        try:
            yield made
        finally:
            made.close()


def carrying(lab: SshLab) -> Iterator[ClientRun]:
    run = lab.run()
    try:
        run.connected()
        yield run
    finally:
        run.stop()


@pytest.fixture(scope="module")
def standing(lab: SshLab) -> Iterator[ClientRun]:
    """One for all tests that leave it as it is."""
    yield from carrying(lab)


@pytest.fixture
def up(lab: SshLab) -> Iterator[ClientRun]:
    """One that a test may end."""
    yield from carrying(lab)


def children(run: ClientRun) -> list[int]:
    return [
        int(pid)
        for pid in Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    ]


def status(pid: int) -> dict[str, str]:
    return dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )


@pytest.mark.parametrize("scenario", [s for s in SSHUTTLE if not s.slow], ids=lambda scenario: scenario.name)
def test_scenario(lab: SshLab, scenario: SshScenario) -> None:
    run = scenario.play(lab)
    last = run.observations[-1]
    assert (last.reason if isinstance(last, Failed) else None) is scenario.reason, "\n".join(run.transcript)


def test_it_carries_what_is_redirected_to_it(lab: SshLab, standing: ClientRun) -> None:
    assert standing.observations[-1].peer == BASTION  # type: ignore[union-attr]
    lab.redirect(standing.port)
    assert lab.fetch(SITE) == lab.fetch(SITE6) == "hello from the remote host\n"


def test_much_data_arrives_unchanged(lab: SshLab, standing: ClientRun) -> None:
    lab.redirect(standing.port)
    data = random.Random(4).randbytes(4 << 20)
    with lab.connection() as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        with connection.makefile("rb") as echoed:
            assert echoed.read(len(data)) == data
        sender.join()


def test_a_mapped_network_is_reached_under_both_addresses(lab: SshLab) -> None:
    run = lab.run(destinations=[{"network": "10.90.0.0/16", "presented_as": "100.90.0.0/16"}])
    try:
        run.connected()
        lab.redirect(run.port)
        assert lab.fetch("100.90.0.10") == lab.fetch(SITE) == "hello from the remote host\n"
    finally:
        run.stop()


def test_a_connection_that_nobody_redirected_does_not_end_it(lab: SshLab, standing: ClientRun) -> None:
    """Without an entry in conntrack the kernel does not know its original destination."""
    lab.facilitator.run("nft", "flush ruleset")
    for address in ("10.91.0.2", "[fd00:91::2]"):
        lab.hub.run("curl", "-sS", "-m", "2", f"http://{address}:{standing.port}/", check=False)
    lab.redirect(standing.port)
    assert lab.fetch() == "hello from the remote host\n"


@pytest.mark.parametrize("who", ["itself", "its ssh"])
def test_it_has_no_rights(standing: ClientRun, who: str) -> None:
    found = status(standing.process.pid if who == "itself" else children(standing)[0])
    assert {found[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert found["NoNewPrivs"] == "1"
    assert "0" not in found["Uid"].split()
    assert "0" not in found["Gid"].split()
    assert found["Groups"].strip() == ""


def test_its_limits(standing: ClientRun) -> None:
    limits = Path(f"/proc/{standing.process.pid}/limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [
        ["1024", "1024"]
    ]
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")] == [
        ["0", "0"]
    ]
    for pid in (standing.process.pid, *children(standing)):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max data size")] == [
            [str(512 << 20)] * 2
        ]


def test_no_secret_is_to_be_seen(standing: ClientRun) -> None:
    for pid in (standing.process.pid, *children(standing)):
        for name in ("cmdline", "environ"):
            assert "PRIVATE KEY" not in Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def test_an_idle_one_goes_soon_after_its_ssh(up: ClientRun) -> None:
    os.kill(children(up)[0], 9)
    assert up.process.wait(60) != 0


def test_the_signal_to_end_ends_it_at_once(up: ClientRun) -> None:
    [ssh] = children(up)
    assert up.stop() == -15
    wait_for(lambda: not Path(f"/proc/{ssh}").exists() or status(ssh)["State"].startswith("Z"))


@pytest.mark.parametrize("shared", [False, True])
def test_nobody_else_takes_the_port_of_a_door(lab: SshLab, shared: bool) -> None:
    """Before it opens, while it is open, and after it was shut."""
    with lab.facilitator.entered():
        door = ProxyListener(17999, shared)
        for change in (lambda: None, door.open, door.shut, door.open, door.shut):
            change()
            assert rival_binds(lab, 17999) == []
        door.forget()
        assert rival_binds(lab, 17999)


def test_nobody_else_takes_the_port_of_a_client_with_connections(lab: SshLab, up: ClientRun) -> None:
    lab.redirect(up.port)
    held = lab.hub.popen("bash", "-c", f"exec 3<>/dev/tcp/{SITE}/80; read -r -u 3")
    wait_for(
        lambda: lab.facilitator.run("ss", "-Htn", "state", "established", "sport", f"= :{up.port}").stdout
    )
    try:
        assert rival_binds(lab, up.port) == []
    finally:
        held.kill()
        held.wait()


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """The effective user of this process is not the owner of the sockets."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def rival_binds(lab: SshLab, port: int) -> list[tuple[str, int]]:
    """Which addresses another socket can have on the port, with every option that an unprivileged user may
    set.
    """
    bound = []
    for address in ("0.0.0.0", "127.0.0.1", FACILITATOR, "10.91.0.2", "::", "::1", "fd00:91::2"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for option in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with lab.facilitator.entered(), another_user(), socket.socket(family) as rival:
                if option:
                    rival.setsockopt(socket.SOL_SOCKET, option, 1)
                with contextlib.suppress(OSError):
                    rival.bind((address, port))
                    bound.append((address, option))
    return bound


def test_a_port_that_is_taken(lab: SshLab, standing: ClientRun) -> None:
    second = lab.run(port=standing.port)
    try:
        assert f"cannot listen on port {standing.port}" in second.failed().text
    finally:
        second.stop()


def test_a_burst_of_connections(lab: SshLab, standing: ClientRun) -> None:
    lab.redirect(standing.port)
    urls = f"http://{SITE}/hello?[1-200]"
    done = lab.hub.run(
        "curl",
        "-sS",
        "-m",
        "60",
        "--parallel",
        "--parallel-immediate",
        "--parallel-max",
        "200",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}\\n",
        urls,
    )
    assert done.stdout.split() == ["200"] * 200


def cost(lab: SshLab, run: ClientRun, connection: socket.socket) -> float:
    """CPU seconds of the processes on both sides for a hundred lines and their echoes."""
    far = subprocess.run(
        ["ip", "netns", "pids", lab.bastion.name], capture_output=True, text=True, check=True
    ).stdout.split()
    before = {pid: cpu_seconds(pid) for pid in (run.process.pid, *map(int, far))}
    assert all(echoes(connection) for _ in range(100))
    return sum(cpu_seconds(pid) - then for pid, then in before.items())


def test_connections_that_rest_cost_others_little(lab: SshLab, up: ClientRun) -> None:
    """With the loop of sshuttle itself it was twenty times as much as without them."""
    lab.redirect(up.port)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(lab.connection())
        alone = min(cost(lab, up, one) for _ in range(3))
        for _ in range(200):
            stack.enter_context(lab.connection())
        beside = min(cost(lab, up, one) for _ in range(3))
    print(f"{alone * 10:.2f} ms a line, {beside * 10:.2f} ms beside 200 connections")
    assert beside < 10 * alone


def interpreter(home: Path) -> str:
    """An interpreter of its own with sshuttle, which tells of everything that is opened after the rights
    are gone.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    [packages] = (home / "venv" / "lib").glob("python3*/site-packages")
    subprocess.run(["cp", "-r", *sshuttle.__path__, packages], check=True)
    (packages / "sitecustomize.py").write_text(_AUDIT)
    return str(home / "venv" / "bin" / "python")


def test_nothing_is_opened_after_the_rights_are_gone(lab: SshLab, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    run = lab.run(python=interpreter(tmp_path))
    try:
        run.connected()
        lab.redirect(run.port)
        assert lab.fetch() == "hello from the remote host\n"
    finally:
        run.stop()
    run.to_end()
    assert not [line for line in run.transcript if "late" in line]


def test_a_daemon_that_is_not_root(lab: SshLab) -> None:
    user = (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+net_admin",
        "--ambient-caps=+net_admin",
    )
    if subprocess.run([*user, "test", "-r", PROGRAM]).returncode != 0:
        pytest.skip("the checkout lies where another user cannot read")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        run = lab.run(prefix=user, owner=65534, python=interpreter(Path(name)))
        try:
            run.connected()
            assert status(run.process.pid)["CapEff"].strip("0") == ""
        finally:
            run.stop()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.0.9", "it has no sshuttle.client.FirewallClient, "),
        ("2.1", "2.1; install sshuttle>=1.3.2,<2.1"),
        ("1.3.1", "1.3.1; install"),
    ],
)
def test_a_package_that_is_not_the_known_one(tmp_path: Path, version: str, says: str) -> None:
    package = tmp_path / "sshuttle"
    package.mkdir()
    for name in ("__init__", "client", "cmdline", "helpers", "methods", "sdnotify", "ssh", "ssnet"):
        (package / f"{name}.py").write_text(f'__version__ = "{version}"\n')
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(PROGRAM)!r}, "
        f"run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            code,
            "--port",
            "1",
            "--remote",
            "a@b",
            "--identity",
            "0",
            "--known-hosts",
            "0",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 99
    assert f"facilitator: this version of sshuttle cannot be used: {says}" in done.stderr
