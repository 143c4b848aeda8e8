"""openconnect tunnels in the whole daemon: killed, thrown out, in the dark, refused, asked for codes,
stopped for good.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import statistics
from collections.abc import Callable, Iterator

import pytest

from tests.lab import CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.ocserv import TOTP, USER, OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD
from tests.lab.wait import NOISE, PATIENCE, eventually
from tests.system.ipsec import below, carries, in_the_dark, tunnel

pytestmark = pytest.mark.root

NAME = "acme-office"


@contextlib.contextmanager
def serving(lab: Lab, auth: str) -> Iterator[OcservServer]:
    """The customer's ocserv, running."""
    directory = lab.directory / f"oc-{auth}"
    directory.mkdir(exist_ok=True)
    server = OcservServer(lab.network["customer"], directory, Authority(directory), CUSTOMER, auth)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[OcservServer]:
    with serving(lab, "password") as server:
        yield server


@pytest.fixture
def config(lab: Lab, config: Config, server: OcservServer) -> Config:
    server.throw_out()  # it takes one session, and one that ended in silence stays until its dead-peer timeout
    return {**config, "tunnels": {NAME: office(lab, server)}}


def office(lab: Lab, server: OcservServer, **login: object) -> dict[str, object]:
    """A tunnel to this server."""
    lab.set_secret("office-password", f"{PASSWORD}\n")
    account = {
        "username": USER,
        "password": {"file": str(lab.directory / "office-password")},
        "pause": "50ms",
        **login,
    }
    return tunnel("openconnect", server=str(CUSTOMER), server_certificate=server.pin, login=account)


def lost(lab: Lab, daemon: LabDaemon, server: OcservServer, fault: Callable[[], object]) -> float:
    """Seconds without traffic because of a fault that ends the session. None is lost when a request was
    answered late, but answered.
    """
    daemon.wait_for(NAME, phase="up", health="healthy")
    sessions = server.sessions
    outage = lab.outage(DATACENTRE_WEB, fault, until=daemon.replaced(NAME))
    assert server.sessions > sessions
    return outage.seconds


@pytest.mark.timed
def test_its_life(lab: Lab, daemon: LabDaemon, server: OcservServer) -> None:
    carries(lab, daemon, NAME)
    logins = server.logins
    kills = []
    for word in ("openconnect", "tunnels.kinds.openconnect.driver", "openconnect"):
        (victim,) = below(daemon, word)
        kills.append(lost(lab, daemon, server, functools.partial(os.kill, victim, signal.SIGKILL)))
        daemon.wait_for(NAME, phase="up", health="healthy")
    print("client killed, outages in seconds:", *(f"{seconds:.2f}" for seconds in kills))
    assert statistics.median(kills) <= 1.0 * NOISE
    assert server.logins == logins  # with the cookie that was kept
    ended = lost(lab, daemon, server, server.throw_out)
    print(f"session ended by the server, outage in seconds: {ended:.2f}")
    assert ended <= 2.0 * NOISE
    assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel=NAME, reason="peer-closed") == 1
    assert server.logins == logins + 1


def test_silence_is_noticed_and_healed_without_a_login(
    lab: Lab, daemon: LabDaemon, server: OcservServer
) -> None:
    carries(lab, daemon, NAME)
    in_the_dark(lab, daemon, NAME)
    daemon.wait_for(NAME, PATIENCE, phase="up", health="healthy")
    carries(lab, daemon, NAME)


def test_a_stopped_tunnel_logs_off_and_a_restarted_daemon_logs_in(
    lab: Lab, daemon: LabDaemon, server: OcservServer
) -> None:
    farewells, logins = server.said("received BYE packet"), server.logins
    assert daemon.cli("stop", NAME).returncode == 0
    daemon.wait_for(NAME, phase="stopped")
    eventually(
        lambda: server.said("received BYE packet") > farewells, PATIENCE, "the server hears the farewell"
    )
    assert daemon.cli("start", NAME).returncode == 0
    carries(lab, daemon, NAME)
    assert server.logins == logins + 1


def test_a_wrong_password_is_tried_three_times_and_a_right_one_taken(
    lab: Lab, config: Config, server: OcservServer
) -> None:
    lab.set_secret("office-password", "wrong\n")
    before = server.logins
    with lab.daemon(config) as daemon:
        error = daemon.wait_for(NAME, PATIENCE, phase="failed", reason="auth")["last_error"]
        assert "the server refused the login" in error
        assert server.logins - before == 3
        lab.set_secret("office-password", f"{PASSWORD}\n")
        carries(lab, daemon, NAME)
        assert server.logins - before == 4
    assert daemon.leftovers() == {}


def test_codes_come_from_the_seed_and_a_short_break_needs_none(
    lab: Lab, config: Config, server: OcservServer
) -> None:
    server.kill()
    lab.set_secret("office-seed", f"{TOTP}\n")
    try:
        with serving(lab, "code") as codes:
            acme = office(lab, codes, totp={"file": str(lab.directory / "office-seed")})
            with lab.daemon({**config, "tunnels": {NAME: acme}}) as daemon:
                carries(lab, daemon, NAME)
                (victim,) = below(daemon, "openconnect")
                os.kill(victim, signal.SIGKILL)
                eventually(lambda: codes.sessions == 2, PATIENCE, "a session with the cookie")
                carries(lab, daemon, NAME)
                assert codes.logins == 1
            assert daemon.leftovers() == {}
    finally:
        server.start()
