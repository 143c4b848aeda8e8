"""The plan is a function of the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType

import pytest

from supervisor.core.network.failover import choose
from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE, NEXT_SLOT, share_of
from supervisor.core.network.plan import Lane, Manner, assign_lanes, desired, next_refusal
from supervisor.core.network.running_flows import taken_over
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Health, Phase, Session, TunnelState, Want
from tests.settings import configured
from tests.states import but, tunnel_state
from tunnels.base import device_name
from tunnels.settings import Tunnel

STAFF = (ip_network("10.8.0.0/16"),)


def tunnel(name: str, *destinations: object, **settings: object) -> Tunnel:
    return configured(Tunnel, name=name, kind="test", destinations=destinations, **settings)


def plan(*pairs: tuple[Tunnel, TunnelState], proxies: Mapping[str, int] = MappingProxyType({})):
    names = [t.name for t, _ in pairs]
    snapshot = Snapshot({t.name: (t, s) for t, s in pairs}, 0.0)
    return desired(STAFF, assign_lanes(names, {}), proxies, snapshot, choose({}, snapshot)[0])


def test_a_lane_outlives_sessions_and_other_tunnels() -> None:
    first = assign_lanes(["a", "b", "c"], {})
    assert first == {"a": FIRST_LANE, "b": FIRST_LANE + 1, "c": FIRST_LANE + 2}
    assert assign_lanes(["c", "d"], first) == {"c": FIRST_LANE + 2, "d": FIRST_LANE}


def test_too_many_tunnels_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 999 tunnels"):
        assign_lanes([f"t{i}" for i in range(LAST_LANE - FIRST_LANE + 2)], {})


def test_destinations_are_carried_whether_or_not_the_tunnel_is_up() -> None:
    down = plan((tunnel("a", "10.77.0.0/24"), TunnelState()))
    up = plan((tunnel("a", "10.77.0.0/24"), tunnel_state(phase=Phase.UP)))
    assert down.carries == up.carries
    assert down.lanes == (Lane("a", FIRST_LANE, "t-a", False, manner=Manner.REFUSE),)
    assert up.lanes == (Lane("a", FIRST_LANE, "t-a", True, manner=Manner.PAUSE),)


def test_a_proxy_has_a_port_while_up_and_no_device() -> None:
    state = tunnel_state(phase=Phase.UP, session=Session(1, port=17301))
    assert plan((tunnel("a", "10.90.0.0/16"), state), proxies={"a": 480}).lanes == (
        Lane("a", FIRST_LANE, None, True, 17301, Manner.PAUSE, share=480),
    )


@pytest.mark.parametrize(
    ("connections", "share"),
    [(0, 0), (479, 0), (480, 480), (1439, 960), (3 * 480, 960), (16 * 480, 7680), (10**6, 7680)],
)
def test_a_share_is_one_that_the_rules_know(connections: int, share: int) -> None:
    assert share_of(connections) == share


PROBED = {"probe": {"targets": ["icmp://10.77.0.1"]}}


@pytest.mark.parametrize(
    ("state", "now", "manner", "due"),
    [
        (tunnel_state(phase=Phase.BACKOFF, well_since=100.0), 114.9, Manner.PAUSE, 115.0),
        (tunnel_state(phase=Phase.BACKOFF, well_since=100.0), 115.0, Manner.REFUSE, None),
        (tunnel_state(phase=Phase.STARTING, well_since=100.0), 101.0, Manner.PAUSE, 115.0),
        (tunnel_state(phase=Phase.STOPPING, well_since=100.0), 101.0, Manner.PAUSE, 115.0),
        (tunnel_state(phase=Phase.STOPPING, want=Want.DOWN, well_since=100.0), 101.0, Manner.REFUSE, None),
        (tunnel_state(phase=Phase.STOPPED, well_since=100.0), 101.0, Manner.REFUSE, None),
        (tunnel_state(phase=Phase.FAILED, well_since=100.0), 101.0, Manner.REFUSE, None),
        (tunnel_state(phase=Phase.UP, health=Health.HEALTHY, well_since=100.0), 9999.0, Manner.PAUSE, None),
        (tunnel_state(phase=Phase.UP, well_since=100.0), 101.0, Manner.PAUSE, 115.0),  # not proven
        (
            tunnel_state(phase=Phase.UP, well_since=100.0),
            115.0,
            Manner.REFUSE,
            None,
        ),  # matters when its device vanishes
    ],
)
def test_a_tunnel_that_comes_back_soon_pauses_and_one_that_does_not_refuses(
    state: TunnelState, now: float, manner: Manner, due: float | None
) -> None:
    probed = tunnel("a", "10.77.0.0/24", **PROBED)
    snapshot = Snapshot({"a": (probed, state)}, now)
    (lane,) = desired(STAFF, assign_lanes(["a"], {}), {}, snapshot, choose({}, snapshot)[0]).lanes
    assert lane.manner is manner
    assert next_refusal(snapshot) == due


def test_a_mapping_is_carried_under_the_presented_network() -> None:
    (carry,) = plan(
        (tunnel("a", {"network": "10.0.0.0/16", "presented_as": "100.64.0.0/16"}), TunnelState())
    ).carries
    assert (str(carry.network), str(carry.real)) == ("100.64.0.0/16", "10.0.0.0/16")


@pytest.mark.parametrize(
    ("main", "spare", "carrier"),
    [
        (tunnel_state(phase=Phase.UP), tunnel_state(phase=Phase.UP), "main"),
        (tunnel_state(phase=Phase.BACKOFF), tunnel_state(phase=Phase.UP), "spare"),
        (tunnel_state(phase=Phase.UP, health=Health.UNHEALTHY), tunnel_state(phase=Phase.UP), "spare"),
        (TunnelState(), TunnelState(), "main"),
    ],
)
def test_the_well_tunnel_with_the_lowest_priority_carries(
    main: TunnelState, spare: TunnelState, carrier: str
) -> None:
    result = plan(
        (tunnel("spare", "10.77.0.0/24", priority=200), spare),
        (tunnel("main", "10.77.0.0/24", priority=100), main),
    )
    assert [c.lane for c in result.carries] == [
        next(lane.number for lane in result.lanes if lane.tunnel == carrier)
    ]


def test_device_names_fit_the_kernel_and_differ() -> None:
    names = [device_name(tunnel(f"customer-frankfurt-{i}", "10.0.0.0/24")) for i in range(100)]
    assert len(set(names)) == 100
    assert all(len(n) <= 15 and n.startswith("t-") for n in names)
    assert device_name(tunnel("acme-dc", "10.0.0.0/24")) == "t-acme-dc"
    assert device_name(tunnel("acme", "10.0.0.0/24", device="vpn7")) == "vpn7"


def test_the_devices_of_the_second_slots_fit_and_differ_too() -> None:
    given = [tunnel(f"customer-frankfurt-{i}", "10.0.0.0/24") for i in range(50)]
    given += [tunnel(f"t{i}", "10.0.0.0/24", device=f"customers-vpn{i:02}") for i in range(50)]
    names = [device_name(each, slot) for each in given for slot in (0, 1)]
    assert len(set(names)) == 200
    assert max(map(len, names)) <= 15
    assert device_name(tunnel("acme-dc", "10.0.0.0/24"), 1) == "t-acme-dc~"


# --- two sessions
# ----------------------------------------------------------------------------------------------------------

GATED = tunnel("a", "10.77.0.0/24", allow=("engineers",))
FIRST = tunnel_state(phase=Phase.UP, session=Session(1, address="10.78.0.2"))
SECOND = tunnel_state(phase=Phase.UP, session=Session(3, address="10.78.0.2", slot=1))


def test_both_sessions_of_a_tunnel_have_a_lane_and_a_gate_and_one_carries() -> None:
    both = plan((GATED, replace(SECOND, standby=FIRST.active)))
    assert [(lane.number, lane.device, lane.up) for lane in both.lanes] == [
        (FIRST_LANE + NEXT_SLOT, "t-a~", True),
        (FIRST_LANE, "t-a", True),
    ]
    assert {gate.lane for gate in both.gates} == {FIRST_LANE, FIRST_LANE + NEXT_SLOT}
    assert [carry.lane for carry in both.carries] == [FIRST_LANE + NEXT_SLOT]


def test_a_lane_is_taken_over_by_the_other_slot_with_the_same_address() -> None:
    before = plan((GATED, replace(FIRST, standby=but(SECOND, phase=Phase.STARTING).active)))
    after = plan((GATED, replace(SECOND, standby=but(FIRST, phase=Phase.STOPPING).active)))
    assert [lane.number for lane in taken_over(before, after)] == [FIRST_LANE]
    elsewhere = but(SECOND, session=replace(SECOND.session, address="10.78.0.3"))
    assert (
        taken_over(before, plan((GATED, replace(elsewhere, standby=but(FIRST, phase=Phase.STOPPING).active))))
        == ()
    )
    assert taken_over(before, plan((GATED, but(FIRST, phase=Phase.STOPPING)))) == ()
    assert taken_over(before, before) == ()
