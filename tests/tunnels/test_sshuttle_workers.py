"""Several workers behind one port, with the real program, a real sshd, and connections that stay open."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.echo import echoes
from tests.tunnels.driver import ClientRun, wait_for
from tests.tunnels.ssh_lab import SSH_PORT, SshLab
from tunnels.base import Connected, Reason

pytestmark = pytest.mark.root

EACH = 4  # connections of each of the two workers


@pytest.fixture(scope="module")
def lab() -> Iterator[SshLab]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = SshLab(Path(name))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def two(lab: SshLab) -> Iterator[ClientRun]:
    """Two workers, both serving."""
    run = lab.run(workers=2)
    try:
        run.connected()
        lab.redirect(run.port)
        wait_for(lambda: doors(lab, run) == 2)
        yield run
    finally:
        run.stop()


def doors(lab: SshLab, run: ClientRun) -> int:
    """How many sockets accept connections on the port (IPv4)."""
    return len(lab.facilitator.run("ss", "-4Hltn", "sport", f"= :{run.port}").stdout.splitlines())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def said(run: ClientRun, text: str) -> None:
    """Wait until the launcher says it."""
    run.pump(lambda: any(text in line for line in run.transcript[-1:]))


class Connections:
    """Connections of a staff machine that stay open, by the worker that carries them."""

    def __init__(self, lab: SshLab, workers: list[int]) -> None:
        self._lab = lab
        self.of: dict[int, list[socket.socket]] = {worker: [] for worker in workers}
        while any(len(each) < EACH for each in self.of.values()):
            connection = lab.connection()
            carried = self.of[self._worker(connection)]
            if len(carried) < EACH:
                carried.append(connection)
            else:
                connection.close()

    def _worker(self, connection: socket.socket) -> int:
        port = connection.getsockname()[1]
        found = self._lab.facilitator.run("ss", "-Htnp", "state", "established", "dport", f"= :{port}").stdout
        workers = [pid for pid in self.of if f"pid={pid}," in found]
        assert len(workers) == 1, f"{list(self.of)}: {found}"
        return workers[0]

    def close(self) -> None:
        for each in self.of.values():
            for connection in each:
                connection.close()


@pytest.mark.parametrize("victim", ["its ssh", "itself"])
def test_the_end_of_one_worker_costs_its_own_connections_only(
    lab: SshLab, two: ClientRun, victim: str
) -> None:
    gone, stays = children(two.process.pid)
    with contextlib.closing(Connections(lab, [gone, stays])) as connections:
        os.kill(children(gone)[0] if victim == "its ssh" else gone, 9)
        said(two, "facilitator: ended with code")
        assert all(map(echoes, connections.of[stays]))
        assert not any(map(echoes, connections.of[gone]))
        assert [lab.fetch() for _ in range(8)] == ["hello from the remote host\n"] * 8
        wait_for(lambda: doors(lab, two) == 2)
        assert all(map(echoes, connections.of[stays]))
    Connections(lab, children(two.process.pid)).close()  # the new one carries too
    assert two.process.poll() is None
    assert [type(o) for o in two.observations] == [Connected]


def test_when_none_serves_it_ends_as_the_last_one_did(lab: SshLab, two: ClientRun) -> None:
    for worker in children(two.process.pid):
        os.kill(children(worker)[0], 9)
    assert two.failed().reason is Reason.PEER_CLOSED
    assert two.process.wait(60) == 99


def test_a_refused_worker_does_not_knock_again_and_again(lab: SshLab, two: ClientRun) -> None:
    authorized = lab.directory / "authorized"
    authorized.rename(lab.directory / "away")
    try:
        os.kill(children(two.process.pid)[0], 9)
        said(two, "the next start is in 3600.0 s")
        assert lab.fetch() == "hello from the remote host\n"
    finally:
        (lab.directory / "away").rename(authorized)


def test_a_wrong_key_is_tried_once(lab: SshLab) -> None:
    log = lab.directory / f"sshd-{SSH_PORT}.log"
    before = len(log.read_text())
    run = lab.run(workers=4, identity="stranger")
    try:
        assert run.failed().reason is Reason.KEY
        assert run.process.wait(60) == 99
    finally:
        run.stop()
    assert log.read_text()[before:].count("Connection closed by authenticating user root") == 1


def test_the_workers_have_no_rights_and_do_not_outlive_the_launcher(two: ClientRun) -> None:
    workers = children(two.process.pid)
    for pid in (two.process.pid, *workers):
        text = Path(f"/proc/{pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in text
        assert "NoNewPrivs:\t1" in text
        assert (
            "PRIVATE KEY"
            not in Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
        )
        assert os.stat(f"/proc/{pid}").st_uid != 0
    family = [*workers, *(ssh for worker in workers for ssh in children(worker))]
    assert len(family) == 4
    two.process.kill()
    wait_for(lambda: not any(map(lives, family)))
