"""Planned reconnects through real tunnels: a second session takes the place of the first one under
traffic.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from tests.lab import Lab
from tests.lab.config import Config, only
from tests.lab.daemon import LabDaemon
from tests.lab.network import CLOUD_WEB, CUSTOMER, DATACENTRE_WEB
from tests.lab.ocserv import USER, OcservServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, OpenVpnServer
from tests.lab.traffic import Flood, Streams
from tests.lab.wait import PATIENCE, eventually
from tests.system.ipsec import tunnel

pytestmark = pytest.mark.root
SOON = {
    "every": "60s",
    "before": "54s",
}  # it begins within the first six seconds, and the old session may live for a minute
LATE = {"every": "10s", "before": "4s"}


@pytest.fixture(scope="module")
def twofold(lab: Lab) -> Iterator[OpenVpnServer]:
    """A server that lets an account have several sessions."""
    server = OpenVpnServer(
        lab.network["customer"], lab.directory, lab.openvpn.authority, number=12, options=("duplicate-cn",)
    )
    server.start()
    (lab.directory / "acme-twofold.ovpn").write_text(server.client_config(str(CUSTOMER)))
    yield server
    server.kill()


def planned(whole: Config, tunnel: str, when: dict[str, str], **settings: object) -> Config:
    chosen = only(whole, tunnel)
    chosen["tunnels"][tunnel] |= {
        "reconnect": {**whole["defaults"]["reconnect"], "planned": when},
        **settings,
    }
    return chosen


def streaming(lab: Lab, address: IPv4Address) -> Streams:
    return Streams(lab.network["laptop"], address)


def other(daemon: LabDaemon, tunnel: str) -> dict[str, object] | None:
    found: dict[str, object] | None = daemon.tunnel(tunnel)["other_session"]
    return found


def alone(daemon: LabDaemon, tunnel: str) -> bool:
    return other(daemon, tunnel) is None


def told(flood: Flood, streams: Streams) -> str:
    return (
        f"datagrams: {flood.sent - flood.echoed} of {flood.sent} lost; "
        f"streams: {streams.broken} broken, longest gap {streams.gap:.3f} s, {streams.echoed} of "
        f"{streams.sent} lines"
    )


@contextlib.contextmanager
def two_sessions(lab: Lab, daemon: LabDaemon) -> Iterator[None]:
    """The block begins when another session carries, under traffic. The first one ends with its flows, of
    which nothing is lost.
    """
    replaced = daemon.replaced("acme-dc")
    with lab.flood(DATACENTRE_WEB, rate=100) as flood, streaming(lab, DATACENTRE_WEB) as streams:
        eventually(replaced, 20, "another session carries")
        yield
    print(told(flood, streams))
    eventually(lambda: alone(daemon, "acme-dc"), 20, "the first one ends when its flows are over")
    assert flood.echoed >= flood.sent
    assert (streams.broken, streams.echoed) == (0, streams.sent)


def test_both_sessions_live_until_the_flows_of_the_first_are_over(
    lab: Lab, config: Config, twofold: OpenVpnServer
) -> None:
    settings = planned(config, "acme-dc", SOON, config=str(lab.directory / "acme-twofold.ovpn"))
    with lab.daemon(settings) as daemon:
        daemon.wait_well()
        with two_sessions(lab, daemon):
            leaving = other(daemon, "acme-dc")
            assert leaving is not None
            assert leaving["role"] == "leaving"
            eventually(
                lambda: daemon.tunnel("acme-dc")["second_session"] == "allowed",
                20,
                "it is learned that both live",
            )
            assert len(daemon.client_pids("openvpn")) == 2
        assert len(daemon.client_pids("openvpn")) == 1
        assert daemon.metric("facilitator_tunnel_reconnects_total", tunnel="acme-dc", reason="planned") >= 1
    assert daemon.leftovers() == {}


def taken_over(lab: Lab, config: Config) -> tuple[Flood, Streams]:
    """The first reconnect, which finds out that the remote gateway gives the second session the first one's
    address.
    """
    with lab.daemon(planned(config, "acme-dc", SOON)) as daemon:
        daemon.wait_well()
        before, replaced = daemon.tunnel("acme-dc")["session"], daemon.replaced("acme-dc")
        with lab.flood(DATACENTRE_WEB, rate=100) as flood, streaming(lab, DATACENTRE_WEB) as streams:
            eventually(replaced, 20, "another session carries")
            eventually(lambda: alone(daemon, "acme-dc"), 20, "the first one is gone")
            daemon.wait_for("acme-dc", 20, health="healthy", second_session="replaces")
        print(told(flood, streams))
        after = daemon.tunnel("acme-dc")["session"]
        assert (after["address"], after["device"]) == (before["address"], "t-acme-dc~")
    return flood, streams


def in_place(lab: Lab, config: Config) -> tuple[Flood, Streams]:
    """A reconnect after the remote gateway is known to do that."""
    daemon = lab.daemon(planned(config, "acme-dc", SOON))
    (daemon.directory / "state").mkdir(mode=0o700)
    (daemon.directory / "state" / "second-sessions.json").write_text('{"acme-dc": "replaces"}')
    with daemon:
        daemon.wait_well()
        before = daemon.tunnel("acme-dc")["session"]["pid"]
        with lab.flood(DATACENTRE_WEB, rate=100) as flood, streaming(lab, DATACENTRE_WEB) as streams:
            eventually(
                lambda: daemon.metric("facilitator_tunnel_recoveries_total", rung="in-place") >= 1,
                20,
                "it reconnects in place",
            )
            daemon.wait_for("acme-dc", 20, health="healthy", reason="connected")
        print(told(flood, streams))
        assert daemon.tunnel("acme-dc")["session"]["pid"] == before
    return flood, streams


WAYS = (taken_over, in_place)


@pytest.mark.parametrize("way", WAYS)
def test_where_one_session_is_allowed_no_stream_breaks(
    lab: Lab, config: Config, way: Callable[[Lab, Config], tuple[Flood, Streams]]
) -> None:
    flood, streams = way(lab, config)
    assert streams.broken == 0
    assert flood.sent - flood.echoed < 50, (
        "half a second, on a machine on which everything waits for everything"
    )


@pytest.mark.timed
@pytest.mark.parametrize("way", WAYS)
def test_where_one_session_is_allowed_two_datagrams_are_lost(
    lab: Lab, config: Config, way: Callable[[Lab, Config], tuple[Flood, Streams]]
) -> None:
    """Also where that has to be found out, and the old session is dead from before the client says that
    the new one is up.

    One of some: what a busy machine adds is not what is asked about.
    """
    floods = (way(lab, config)[0] for _ in range(6))
    assert any(flood.sent - flood.echoed <= 2 for flood in floods)


def repeated_syns(lab: Lab) -> int:
    """How often a connection of staff was tried a second time, because the first attempt was not answered
    by the kernel at once.
    """
    return int(lab.network["laptop"].run("nstat", "-asz", "TcpExtTCPSynRetrans").stdout.split()[2])


@pytest.mark.timed  # a SYN that waits longer than a second is sent again, however busy the machine is
def test_a_proxy_is_replaced_by_one_on_another_port(lab: Lab, config: Config) -> None:
    """No request is lost: each is answered, however long that takes on a busy machine, and none had to
    knock twice.
    """
    config["defaults"]["probe"]["timeout"] = "5s"
    with lab.daemon(planned(config, "own-cloud", SOON)) as daemon:
        daemon.wait_well()
        replaced, before = daemon.replaced("own-cloud"), repeated_syns(lab)
        with streaming(lab, CLOUD_WEB) as streams, lab.poller(CLOUD_WEB, patience=PATIENCE) as poller:
            poller.wait_settled(10)
            eventually(replaced, 30, "another session carries")
            eventually(
                lambda: daemon.tunnel("own-cloud")["second_session"] == "allowed",
                20,
                "it is learned that both live",
            )
            poller.wait_settled(10)
        assert streams.broken == 0
        eventually(lambda: alone(daemon, "own-cloud"), 30, "the first one ends when its connections are over")
        assert len(daemon.client_pids("sshuttle")) == 1
    assert (poller.outage(0.0).failed, repeated_syns(lab) - before) == (0, 0)


def test_what_was_learned_outlives_the_daemon(lab: Lab, config: Config) -> None:
    daemon = lab.daemon(planned(config, "acme-dc", LATE))
    with daemon:
        daemon.wait_well()
        daemon.wait_for("acme-dc", 30, second_session="replaces")
    with daemon:
        assert daemon.tunnel("acme-dc")["second_session"] == "replaces"


def test_a_crash_between_the_two_ends_neither(lab: Lab, config: Config, twofold: OpenVpnServer) -> None:
    settings = planned(config, "acme-dc", SOON, config=str(lab.directory / "acme-twofold.ovpn"))
    with lab.daemon(settings) as daemon:
        daemon.wait_well()
        with two_sessions(lab, daemon):
            clients = set(daemon.client_pids("openvpn"))
            daemon.kill9()
            daemon.start()
            daemon.wait_for("acme-dc", 20, phase="up", health="healthy")
            leaving = other(daemon, "acme-dc")
            assert leaving is not None
            assert (
                set(daemon.client_pids("openvpn"))
                == clients
                == {leaving["pid"], daemon.tunnel("acme-dc")["session"]["pid"]}
            )
    assert daemon.leftovers() == {}


def test_the_age_at_which_sessions_end_is_learned_from_the_history(lab: Lab, config: Config) -> None:
    """Nobody announces it: the server's administrator throws the client out after four seconds, five
    times.
    """
    age = 4.0
    daemon = lab.daemon(only(config, "acme-dc"))
    with daemon:
        daemon.wait_well()
        for _ in range(5):
            replaced = daemon.replaced("acme-dc")
            connected = daemon.metric("facilitator_tunnel_connected_timestamp_seconds", tunnel="acme-dc")
            time.sleep(max(0.0, connected + age - time.time()))
            lab.openvpn.disconnect()
            eventually(replaced, 20, "the next session begins")
            daemon.wait_for("acme-dc", 20, health="healthy")
        assert daemon.tunnel("acme-dc")["learned_limit_seconds"] == pytest.approx(age, rel=0.05)
    with daemon:
        assert daemon.tunnel("acme-dc")["learned_limit_seconds"] == pytest.approx(age, rel=0.05)
        daemon.wait_well()
        assert daemon.tunnel("acme-dc")["planned_reconnect"] is not None


@contextlib.contextmanager
def office(lab: Lab, config: Config, same_clients: int, **options: object) -> Iterator[LabDaemon]:
    """A daemon with a tunnel to an ocserv that lets so many clients of one account in."""
    directory = lab.directory / f"planned-{same_clients}-{len(options)}"
    directory.mkdir()
    server = OcservServer(
        lab.network["customer"],
        directory,
        Authority(directory),
        CUSTOMER,
        **{"max-same-clients": same_clients, **options},
    )
    server.start()
    lab.set_secret("office-password", f"{PASSWORD}\n")
    login = {"username": USER, "password": {"file": str(lab.directory / "office-password")}}
    tunnels = {
        "office": tunnel("openconnect", server=str(CUSTOMER), server_certificate=server.pin, login=login)
    }
    if not options:
        tunnels["office"]["reconnect"] = {**config["defaults"]["reconnect"], "planned": SOON}
    try:
        with lab.daemon({**config, "tunnels": tunnels}) as daemon:
            daemon.wait_well()
            yield daemon
    finally:
        server.kill()


def test_openconnect_with_a_second_session(lab: Lab, config: Config) -> None:
    with office(lab, config, 2) as daemon:
        replaced = daemon.replaced("office")
        with lab.flood(DATACENTRE_WEB, rate=100) as flood, streaming(lab, DATACENTRE_WEB) as streams:
            eventually(replaced, 20, "another session carries")
            daemon.wait_for("office", 20, second_session="allowed")
        print(told(flood, streams))
        eventually(lambda: alone(daemon, "office"), 20, "the first one ends when its flows are over")
    assert flood.echoed >= flood.sent
    assert streams.broken == 0


def test_openconnect_without_a_second_session_reconnects_at_a_quiet_moment(lab: Lab, config: Config) -> None:
    with office(lab, config, 1) as daemon:
        replaced = daemon.replaced("office")
        daemon.wait_for("office", 20, second_session="refused")
        assert not replaced()
        eventually(replaced, 40, "it reconnects")
        daemon.wait_for("office", 20, health="healthy")
        assert daemon.metric("facilitator_tunnel_reconnects_total", reason="planned") == 1


def test_a_limit_that_the_server_announces_is_met(lab: Lab, config: Config) -> None:
    with office(lab, config, 2, **{"session-timeout": 20}) as daemon:
        replaced = daemon.replaced("office")
        with lab.flood(DATACENTRE_WEB, rate=100) as flood:
            eventually(replaced, 30, "another session carries")
            eventually(lambda: alone(daemon, "office"), 30, "the first one ends with its time")
        assert daemon.metric("facilitator_tunnel_reconnects_total", reason="planned") >= 1
    assert flood.echoed >= flood.sent
