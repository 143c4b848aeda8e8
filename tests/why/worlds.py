"""Facts about two customers with the same real network, one common destination and a proxy, as if somebody
had just asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from supervisor.core.diagnosis.answer import Explanation, explain, resolve
from supervisor.core.diagnosis.query import (
    Evidence,
    KernelView,
    Match,
    RouteDecision,
    packet_path,
    parse_query,
)
from supervisor.core.network.failover import choose
from supervisor.core.network.lanes import FIRST_LANE
from supervisor.core.network.layout import Device, HostFeatures
from supervisor.core.network.plan import Lane, NetworkPlan, assign_lanes, desired
from supervisor.core.network.wanted import wanted
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Drain, Failure, Health, Phase, Session, TunnelState, Want
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import Reason
from tunnels.settings import Probe, Reconnect, Tunnel

NOW = 20_000.0
STAFF = (ip_network("10.8.0.0/16"), ip_network("fd00:8::/32"))
SEGMENTS = {"engineers": (ip_network("10.8.1.0/24"),), "support": (ip_network("10.8.2.0/24"),)}
TIMED_OUT = Failure(Reason.NETWORK, "connection to 203.0.113.2 timed out", NOW - 125)


def tunnel(name: str, *destinations: Any, **options: Any) -> Tunnel:
    probe = Probe(targets=("icmp://10.77.0.1",))
    return configured(
        Tunnel, name=name, kind="openvpn", destinations=destinations, **{"probe": probe, **options}
    )


TUNNELS = (
    tunnel(
        "acme", "10.77.0.0/24", "fd00:77::/64", {"network": "10.0.0.0/16", "presented_as": "100.64.0.0/16"}
    ),
    tunnel(
        "beta",
        {"network": "10.0.0.0/16", "presented_as": "100.65.0.0/16"},
        allow=("engineers", {"segment": "support", "ports": ["tcp/443"]}),
    ),
    tunnel("main", "10.50.0.0/16", priority=100, reconnect=configured(Reconnect, stable_after="1m")),
    tunnel("spare", "10.50.0.0/16", priority=200),
    tunnel("cloud", "10.90.0.0/16"),
)
LANES = assign_lanes([each.name for each in TUNNELS], {})
SESSION = Session(
    3,
    id="5f0c",
    pid=4242,
    device="t-acme",
    port=17300,
    started=NOW - 11_522,
    connected=NOW - 11_521,
    address="10.78.0.2",
    peer="203.0.113.2",
    address6="fd00:78::2",
)
HEALTHY = tunnel_state(
    phase=Phase.UP,
    health=Health.HEALTHY,
    reason=Reason.HEALTHY,
    since=NOW - 11_520,
    well_since=NOW - 11_520,
    session=SESSION,
    healthy_since=NOW - 11_520,
    last_rtt=0.0123,
)
STATES: Mapping[str, TunnelState] = {
    "unproven": but(HEALTHY, health=Health.UNKNOWN, since=NOW - 2, healthy_since=None, last_rtt=None),
    "ipv4-only": but(HEALTHY, session=replace(SESSION, address6=None)),
    "unaddressed": but(HEALTHY, session=replace(SESSION, address=None, address6=None, on_interface=True)),
    "unassigned": but(HEALTHY, session=replace(SESSION, address=None, address6=None)),
    "back": but(HEALTHY, well_since=NOW - 20),
    "backoff": tunnel_state(
        phase=Phase.BACKOFF,
        well_since=NOW - 125,
        since=NOW - 5,
        deadline=NOW + 7,
        failure=TIMED_OUT,
        session=SESSION,
    ),
    "dropped": tunnel_state(
        phase=Phase.BACKOFF,
        well_since=NOW - 4,
        since=NOW - 4,
        deadline=NOW + 1,
        failure=TIMED_OUT,
        session=SESSION,
    ),
    "alone": but(
        HEALTHY,
        health=Health.UNHEALTHY,
        reason=Reason.DESTINATION,
        since=NOW - 60,
        well_since=NOW - 60,
        misses=30,
        failure=Failure(Reason.DESTINATION, "the tunnel works, but nothing answers", NOW - 60),
    ),
    "narrow": but(HEALTHY, session=replace(SESSION, agreed=(ip_network("10.77.0.0/28"),))),
    "bad": but(HEALTHY, degraded="9 of 24 probe rounds unanswered"),
    "starting": tunnel_state(
        phase=Phase.STARTING,
        well_since=NOW - 125,
        since=NOW - 1,
        failure=TIMED_OUT,
        session=Session(4, pid=4300),
    ),
    "failed": tunnel_state(
        phase=Phase.FAILED, well_since=NOW - 9, failure=Failure(Reason.AUTH, "AUTH_FAILED", NOW - 9)
    ),
    "draining": but(HEALTHY, drain=Drain(Reason.STOPPED, NOW + 3600, 2, 12.0)),
    "stopped": tunnel_state(
        want=Want.DOWN, phase=Phase.STOPPED, reason=Reason.STOPPED, since=NOW - 60, well_since=NOW - 60
    ),
}
OTHER_WAY = RouteDecision("vpc", "10.60.0.1", 254)


def facts(
    address: str,
    source: str | None = None,
    port: int | None = None,
    carriers: Mapping[str, str] | None = None,
    **states: str,
) -> Evidence:
    """Everything is as it should be, apart from the named tunnels: `facts("10.77.0.10", acme="backoff")`."""
    snapshot = Snapshot(
        {
            each.name: (each, STATES[states[each.name]] if each.name in states else HEALTHY)
            for each in TUNNELS
        },
        NOW,
    )
    before = {ip_network(network): name for network, name in (carriers or {}).items()}
    plan = desired(STAFF, LANES, {"cloud": 480}, snapshot, choose(before, snapshot)[0])
    asked = parse_query(address, source, port)
    found = resolve(snapshot, plan, asked.address)
    if not isinstance(found, Match):
        return Evidence(
            asked,
            snapshot,
            plan,
            KernelView(onward=RouteDecision("uplink", "198.51.100.1", 254), back=OTHER_WAY),
            0.0,
            SEGMENTS,
        )
    lane = packet_path(snapshot, plan, found).lane
    failures: Mapping[str, Sequence[Failure]] = {
        lane.tunnel: (TIMED_OUT, replace(TIMED_OUT, text="again", at=NOW - 60))
    }
    return Evidence(asked, snapshot, plan, kernel(plan, lane), 0.0, SEGMENTS, failures)


def kernel(plan: NetworkPlan, lane: Lane) -> KernelView:
    """A kernel that follows the plan."""
    devices = {lane.device: Device(7, 1400, True, True)} if lane.device is not None and lane.up else {}
    host = HostFeatures({"lo": Device(1, 65536, True, True), **devices})
    onward = RouteDecision(error="nowhere: unreachable")
    if lane.device is None:
        onward = None
    elif lane.up:
        onward = RouteDecision(lane.device, None, lane.number)
    return KernelView(
        host=host,
        layout=wanted(plan, host),
        forwarding=True,
        onward=onward,
        back=OTHER_WAY,
        addresses=("10.78.0.2",) if devices else (),
        listening=lane.device is None,
        traffic=(4_200_000, 999) if devices else None,
        refused={"forward": 3, "input": 0},
    )


def asked(given: Evidence, **kernel_as_it_is: Any) -> Explanation:
    """The answer, with some of the kernel's facts replaced."""
    return explain(replace(given, kernel=replace(given.kernel, **kernel_as_it_is)))


__all__ = ["FIRST_LANE", "LANES", "NOW", "asked", "facts"]
