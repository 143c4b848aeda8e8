"""Every way in which a customer's OpenVPN server lets us in, through the whole daemon; and every way in
which it throws us out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pyotp
import pytest

from tests.lab import DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config, only
from tests.lab.servers import ServerLogin
from tests.lab.traffic import OutageMeter
from tests.lab.wait import eventually

pytestmark = pytest.mark.root

QUESTION = "Enter your code"


def tunnel(lab: Lab, login: ServerLogin, place: int = 0, *, totp: bool = False) -> dict[str, Any]:
    """A tunnel to the server with this login; staff reach the data centre through it at 100.64.PLACE.0/24."""
    server, files = lab.login_server(login), lab.directory / f"acme-{login.value}"
    settings: dict[str, Any] = {"username": "svc-facilitator", "password": {"file": f"{files}-password"}}
    server.change_seed(seed := pyotp.random_base32())  # nobody has used a code of it
    if totp:
        lab.set_secret(f"{files.name}-seed", f"{seed}\n")
        settings["totp"] = {"file": f"{files}-seed"}
    if login is ServerLogin.APPENDED:
        settings["append_code"] = True
    return {
        "kind": "openvpn",
        "destinations": [{"network": "10.77.0.0/24", "presented_as": f"100.64.{place}.0/24"}],
        "config": f"{files}.ovpn",
        "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
        "login": settings,
    }


def web(place: int = 0) -> IPv4Address:
    """Where staff find the data centre's web server through a tunnel."""
    return IPv4Address(f"100.64.{place}.10")


@contextlib.contextmanager
def running(lab: Lab, config: Config, **tunnels: dict[str, Any]) -> Iterator[LabDaemon]:
    """A facilitator with these tunnels, which leaves nothing behind."""
    daemon = lab.daemon({**config, "tunnels": tunnels})
    with daemon:
        yield daemon
    assert daemon.leftovers() == {}


def asked(daemon: LabDaemon, name: str) -> str:
    """What a tunnel asks, as soon as it does."""
    return str(eventually(lambda: daemon.tunnel(name)["asks"], 20, f"{name} asks")["text"])


def test_every_login_lets_us_in(lab: Lab, config: Config) -> None:
    ways = (ServerLogin.STATIC, ServerLogin.DYNAMIC, ServerLogin.APPENDED, ServerLogin.TOKEN)
    servers = {login: lab.login_server(login) for login in (*ways, ServerLogin.APPROVAL)}
    tunnels = {login.value: tunnel(lab, login, place, totp=True) for place, login in enumerate(ways)}
    with running(lab, config, **tunnels, approval=tunnel(lab, ServerLogin.APPROVAL, 9)) as daemon:
        assert asked(daemon, "approval") == "Approve it on your phone"
        with servers[ServerLogin.APPROVAL].approved():
            daemon.wait_for("approval", phase="up", health="healthy", asks=None)
        for place, login in enumerate(ways):
            daemon.wait_for(login.value, phase="up", health="healthy")
            assert lab.request(f"http://{web(place)}/").status == 200
            assert servers[login].attempts[-1] == "accepted"


def test_a_person_gives_the_code(lab: Lab, config: Config) -> None:
    static, dynamic = lab.login_server(ServerLogin.STATIC), lab.login_server(ServerLogin.DYNAMIC)
    before = len(dynamic.attempts)
    tunnels = {"static": tunnel(lab, ServerLogin.STATIC, 0), "dynamic": tunnel(lab, ServerLogin.DYNAMIC, 1)}
    with running(lab, config, **tunnels) as daemon:
        assert asked(daemon, "dynamic") == QUESTION
        assert daemon.cli("answer", "dynamic", typed="000000\n").returncode == 1
        eventually(
            lambda: daemon.metric("facilitator_tunnel_login_failures_total", tunnel="dynamic") == 1,
            20,
            "a wrong code counts once",
        )
        for name, server in (("static", static), ("dynamic", dynamic)):
            assert asked(daemon, name) == QUESTION
            assert daemon.cli("answer", name, typed=f"{server.code}\n").returncode == 0
            assert daemon.wait_for(name, phase="up", health="healthy")["asks"] is None
        assert lab.request(f"http://{web(1)}/").status == 200
        assert dynamic.attempts[before:] == ["asked", "refused", "asked", "accepted"]


def test_two_tunnels_never_use_a_code_twice(lab: Lab, config: Config) -> None:
    ways, seed = (ServerLogin.STATIC, ServerLogin.APPENDED), pyotp.random_base32()
    tunnels = {login.value: tunnel(lab, login, place, totp=True) for place, login in enumerate(ways)}
    lab.set_secret("acme-appended-seed", f"otpauth://totp/acme:svc?secret={seed}&period=10&issuer=acme\n")
    before = {login: len(lab.login_server(login).codes) for login in ways}
    for login in ways:
        lab.login_server(login).change_seed(seed, period=10)
        tunnels[login.value]["login"]["totp"] = {"file": str(lab.directory / "acme-appended-seed")}
    with running(lab, config, **tunnels) as daemon:
        for login in ways:
            daemon.wait_for(login.value, phase="up", health="healthy")
    (first,), (second,) = (lab.login_server(login).codes[before[login] :] for login in ways)
    assert first != second


def test_a_wrong_seed_waits_for_a_right_one(lab: Lab, config: Config) -> None:
    server = lab.login_server(ServerLogin.APPENDED)
    settings = tunnel(lab, ServerLogin.APPENDED, totp=True)
    server.change_seed(pyotp.random_base32())
    before = len(server.attempts)
    settings["login"]["max_attempts"] = 1  # each attempt takes a time step of thirty seconds
    with running(lab, config, appended=settings) as daemon:
        daemon.wait_for("appended", phase="failed", reason="auth")
        assert server.attempts[before:] == ["refused"]
        fresh = pyotp.random_base32()
        server.change_seed(fresh)
        lab.set_secret("acme-appended-seed", f"{fresh}\n")
        daemon.wait_for("appended", 5, phase="up", health="healthy")


def test_a_kept_session_spares_the_code(lab: Lab, config: Config) -> None:
    server = lab.login_server(ServerLogin.TOKEN)
    with running(lab, config, token=tunnel(lab, ServerLogin.TOKEN)) as daemon:
        asked(daemon, "token")
        daemon.cli("answer", "token", typed=f"{server.code}\n")
        daemon.wait_for("token", phase="up", health="healthy")
        before = len(server.attempts)
        _back_after(lab, daemon, "token", lambda: os.kill(_client(daemon), signal.SIGKILL))
        assert len(server.attempts) == before
        server.kill()
        server.start()  # it has forgotten the token
        server.change_seed(pyotp.random_base32())  # or the code would have to be another one: thirty seconds
        assert asked(daemon, "token") == QUESTION
        daemon.cli("answer", "token", typed=f"{server.code}\n")
        daemon.wait_for("token", phase="up", health="healthy")


def test_a_session_that_is_ended_by_the_server_is_back_soon(lab: Lab, config: Config) -> None:
    server = lab.login_server(ServerLogin.PASSWORD)
    with running(lab, config, password=tunnel(lab, ServerLogin.PASSWORD)) as daemon:
        daemon.wait_for("password", phase="up", health="healthy")
        outage = _back_after(lab, daemon, "password", server.disconnect)
        print("ended by the server:", outage)
        assert (
            daemon.metric("facilitator_tunnel_reconnects_total", tunnel="password", reason="peer-closed") == 1
        )
        server.disconnect("HALT")
        assert "administrator" in daemon.wait_for("password", phase="failed", reason="kicked")["last_error"]


def test_a_session_whose_time_is_over_begins_anew(lab: Lab, config: Config) -> None:
    settings = tunnel(lab, ServerLogin.PASSWORD)
    profile = lab.directory / "acme-limited.ovpn"
    profile.write_text((lab.directory / "acme-password.ovpn").read_text() + "session-timeout 3\n")
    with running(lab, config, password={**settings, "config": str(profile)}) as daemon:
        daemon.wait_for("password", phase="up", health="healthy")
        with lab.poller(web()) as poller:
            eventually(lambda: daemon.tunnel("password")["reconnects"], 20, "its session ends")
            poller.wait_settled(10)
        assert (
            daemon.metric("facilitator_tunnel_reconnects_total", tunnel="password", reason="session-expired")
            == 1
        )


def test_it_reconnects_in_place_when_no_probe_is_answered(lab: Lab, config: Config) -> None:
    with running(lab, config, **only(config, "acme-dc")["tunnels"]) as daemon:
        before = daemon.wait_for("acme-dc", phase="up", health="healthy")["session"]
        renewed = functools.partial(
            daemon.metric, "facilitator_tunnel_recoveries_total", tunnel="acme-dc", rung="in-place"
        )
        print("forgotten by the server:", lab.outage(DATACENTRE_WEB, lab.openvpn.forget, until=renewed))
        after = daemon.wait_for("acme-dc", phase="up", health="healthy")["session"]
        assert (after["id"], after["pid"]) == (before["id"], before["pid"])


def _client(daemon: LabDaemon) -> int:
    (pid,) = daemon.client_pids("openvpn")
    return pid


def _back_after(lab: Lab, daemon: LabDaemon, name: str, fault: Callable[[], object]) -> OutageMeter:
    outage = lab.outage(web(), fault, until=daemon.replaced(name))
    daemon.wait_for(name, phase="up", health="healthy")
    return outage
