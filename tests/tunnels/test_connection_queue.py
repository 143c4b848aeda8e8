"""Whose connection goes first when the remote end of sshuttle is heard again after a silence."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tunnels.kinds.sshuttle.connection_queue import BATCH, SILENT_SECONDS, ConnectionQueue


class ClientDesk:
    """Connections of clients over loopback, and what became of them. Time stands still until it is told."""

    def __init__(self) -> None:
        self.now, self.pings = 1000.0, 0
        self.carried: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.held = ConnectionQueue(self._ping, lambda: self.now)

    def _ping(self) -> None:
        self.pings += 1

    def comes(self, name: str, probe: bool = False) -> socket.socket:
        """A client connects; its end of the connection."""
        client = socket.create_connection(self._listener.getsockname())
        accepted, _ = self._listener.accept()
        self._sockets += [client, accepted]
        self.held.offer(accepted, lambda: self.carried.append(name), probe)
        return client

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def desk() -> Iterator[ClientDesk]:
    made = ClientDesk()
    yield made
    made.close()


def test_who_comes_is_carried_at_once_while_the_remote_end_answers(desk: ClientDesk) -> None:
    for second in range(10):
        desk.comes(str(second))
        desk.now += 10 * SILENT_SECONDS
        desk.held.heard()
    assert desk.carried == [str(second) for second in range(10)]
    assert desk.pings == 0


def test_an_idle_end_is_asked_once_and_nobody_waits_for_its_answer(desk: ClientDesk) -> None:
    desk.now += 3600.0
    desk.comes("a")
    desk.now += SILENT_SECONDS
    desk.comes("b")
    assert (desk.carried, desk.pings) == (["a", "b"], 1)
    desk.held.heard()
    desk.now += SILENT_SECONDS
    desk.comes("c")
    assert (desk.carried, desk.pings) == (["a", "b", "c"], 1)


def silent(desk: ClientDesk) -> None:
    """It does not answer a question."""
    desk.now += 2 * SILENT_SECONDS
    desk.comes("asks")
    desk.now += 2 * SILENT_SECONDS
    desk.carried.clear()


@pytest.mark.parametrize("how", ["closes", "closes its half", "resets"])
def test_after_a_silence_those_that_still_wait_go_first(desk: ClientDesk, how: str) -> None:
    silent(desk)
    gone = [desk.comes(f"gone {number}") for number in range(BATCH + 1)]
    desk.comes("waits")
    for client in gone:
        if how == "closes its half":
            client.shutdown(socket.SHUT_WR)
        elif how == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        else:
            client.close()
    desk.comes("waits too")
    assert desk.carried == []
    desk.held.heard()
    desk.comes("comes then")
    first = ["waits", "waits too", *(f"gone {number}" for number in range(BATCH)), "comes then"]
    assert desk.carried == first
    assert desk.pings == 2, "it is asked, so that the others follow its answer"
    desk.held.heard()
    assert desk.carried == [*first, f"gone {BATCH}"]
    desk.held.heard()
    assert len(desk.carried) == len(first) + 1


def test_probes_that_have_given_up_are_closed(desk: ClientDesk) -> None:
    silent(desk)
    for number in range(5):
        desk.comes(f"probe {number}", probe=True).close()
        desk.comes(f"gone {number}").close()
    desk.comes("probe 5", probe=True)
    desk.held.heard()
    assert desk.carried == ["probe 5", *(f"gone {number}" for number in range(5))]
