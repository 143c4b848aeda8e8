"""Keeping the kernel to the plan: devices that come and go, programs that interfere, and the beginning and
end of it all.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from common.netlink import attribute
from common.rtnetlink import ALIAS
from supervisor.core.events import DeviceLost, Noticed
from supervisor.core.network.layout import Layout
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.kernel.errors import Occupied
from supervisor.kernel.maintenance import cleanup, preview, remove_devices
from supervisor.kernel.network import KernelNetwork
from supervisor.kernel.nft.table import Nftables
from supervisor.kernel.notifications import EVERYTHING, KernelPart, Notifications
from supervisor.kernel.route.table import RouteTable
from tests.kernel.lab import DOWN, MANY, PLAN, KernelUnderTest, kernel, until
from tests.netns import Namespace
from tunnels.kinds.wireguard import device as wireguard_device

pytestmark = pytest.mark.root
TUNNEL_ROUTES = (
    "+ route 0.0.0.0/0 dev t-acme table 173001 metric 100",
    "+ route ::/0 dev t-acme table 173001 metric 100",
)


async def run(netns: Namespace, command: str) -> None:
    process = await asyncio.create_subprocess_exec(*netns.argv(*command.split()))
    assert await process.wait() == 0, command


async def make_device(netns: Namespace, mtu: int = 1400) -> None:
    await run(netns, "ip tuntap add t-acme mode tun")
    await run(netns, f"ip link set t-acme mtu {mtu} up")


def show(netns: Namespace, what: str) -> str:
    return netns.run(*what.split()).stdout


def leftovers(netns: Namespace) -> str:
    routes = "".join(show(netns, f"ip {family} route show table all proto 173") for family in ("-4", "-6"))
    rules = "".join(
        line
        for family in ("-4", "-6")
        for line in show(netns, f"ip {family} rule").splitlines()
        if "proto 173" in line
    )
    return routes + rules + show(netns, "nft list tables")


# --- devices
# ----------------------------------------------------------------------------------------------------------


def routes(held: KernelUnderTest) -> tuple[int, int]:
    """Wanted and installed, of the tunnel with a device."""
    found = held.network.route_counts["acme"]
    return found.wanted, found.installed


async def test_the_route_follows_its_device(netns: Namespace) -> None:
    async with kernel(PLAN) as held:
        assert routes(held) == (6, 5)
        assert "dev t-acme" not in show(netns, "ip route show table 173001")
        await make_device(netns)
        await until(lambda: "dev t-acme" in show(netns, "ip route show table 173001"))
        await held.in_place()
        await until(lambda: routes(held)[0] == routes(held)[1])
        wanted, installed = routes(held)
        assert held.lost == []

        await run(
            netns, "ip link set t-acme down"
        )  # it is brought up again, and the route that went with it is put back
        await until(lambda: held.network.repairs["device"])
        await until(lambda: routes(held) == (wanted, installed))
        assert "UP" in show(netns, "ip -br link show t-acme")
        await held.in_place()
        assert held.lost == []

        await run(netns, "ip link del t-acme")
        await until(lambda: held.lost)
        assert held.lost == [DeviceLost("acme", device="t-acme")]


async def test_a_device_that_was_never_wanted_up_is_not_missed(netns: Namespace) -> None:
    await make_device(netns)
    async with kernel(DOWN) as held:
        await run(netns, "ip link del t-acme")
        await held.network.settled()
        await held.in_place()
        assert held.lost == []


async def test_up_is_a_matter_of_milliseconds(netns: Namespace) -> None:
    await make_device(netns)
    async with kernel(DOWN) as held:
        took = []
        for plan in (PLAN, DOWN) * 5:
            start = time.perf_counter()
            held.network.set(plan)
            await held.network.settled()
            took.append(time.perf_counter() - start)
        assert sorted(took)[len(took) // 2] < 0.1


async def test_the_clamp_follows_the_device(netns: Namespace) -> None:
    await make_device(netns, mtu=1300)
    async with kernel(PLAN) as held:
        assert '"t-acme" : 1260' in show(netns, "nft list map inet facilitator mss4")
        await run(netns, "ip link set t-acme mtu 1200")
        await until(lambda: '"t-acme" : 1160' in show(netns, "nft list map inet facilitator mss4"))
        await held.in_place()


# --- interference
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("route", "ip route flush proto 173"),
        ("route", "ip -6 route flush proto 173"),
        ("route", "ip route flush table 173001"),
        ("route", "ip route del unreachable 10.77.0.0/24 metric 20000"),
        ("route", "ip route add blackhole 10.66.0.0/24 proto 173"),
        ("rule", "ip rule del fwmark 173001"),
        ("rule", "ip -6 rule del fwmark 173001"),
        ("rule", "ip rule add fwmark 7 lookup 7 protocol 173"),
    ],
)
async def test_what_others_change_is_put_right(netns: Namespace, what: str, command: str) -> None:
    await make_device(netns)
    async with kernel(PLAN) as held:
        await run(netns, command)
        await until(lambda: held.network.repairs[what])
        await held.in_place()
        assert held.network.repairs["table"] == 0
        assert {text for text, _ in held.notes} == {"repairing what was changed from outside"}


@pytest.mark.parametrize(
    "command", [*(f"del priority {place}" for place in (99, 100, 101, 173, 174, 176)), "flush protocol 173"]
)
async def test_rules_among_many_lanes_are_put_right(netns: Namespace, command: str) -> None:
    async with kernel(MANY) as held:
        for family in ("-4", "-6"):
            await run(netns, f"ip {family} rule {command}")
        await until(lambda: held.network.repairs["rule"] >= 2)
        await held.in_place()
        listed = show(netns, "ip rule").replace("/0xffffffff", "").splitlines()
        jumps = [line for line in listed if line.split(":")[0] in ("99", "100", "174")]
        assert jumps == [  # none is [unresolved]
            "99:\tfrom all fwmark 0x20000000/0x20000000 goto 176 proto 173",
            "100:\tfrom all fwmark 0 goto 173 proto 173",
            "174:\tfrom all iif lo goto 176 proto 173",
        ]
        await held.holds(PLAN)
        assert show(netns, "ip rule").count("fwmark") == len(PLAN.lanes)
        await held.network.close(keep=False)
    assert leftovers(netns) == ""


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("table", "delete table inet facilitator"),
        ("table", "flush ruleset"),
        ("table", "flush chain inet facilitator forward"),
        ("table", "insert rule inet facilitator forward accept"),
        ("element", "delete element inet facilitator lanes { 173001 . t-acme }"),
        ("element", "flush set inet facilitator destinations4"),
        ("element", "add element inet facilitator up { 173777 }"),
    ],
)
async def test_a_table_without_an_owner_is_put_right(netns: Namespace, what: str, command: str) -> None:
    """On a kernel before 6.9 anybody may change it."""
    async with kernel(PLAN, table_flags=0) as held:
        await run(netns, f"nft {command}")
        await until(lambda: held.network.repairs[what])
        await held.in_place()
        assert [(text, details.get("by")) for text, details in held.notes] == [
            ("repairing what was changed from outside", "nft")
        ]


async def test_a_table_with_an_owner_cannot_be_changed(netns: Namespace) -> None:
    async with kernel(PLAN) as held:
        for command in ("delete table inet facilitator", "flush chain inet facilitator forward"):
            assert netns.run("nft", command, check=False).returncode != 0
        await run(netns, "nft flush ruleset")
        await held.in_place()
        assert held.network.repairs["table"] == 0


async def test_our_own_changes_are_no_repairs(netns: Namespace) -> None:
    await make_device(netns)
    async with kernel(DOWN) as held:
        for plan in (PLAN, DOWN, replace(PLAN, carries=PLAN.carries[:2]), PLAN, NetworkPlan(), PLAN):
            await held.holds(plan)
        assert {what: count for what, count in held.network.repairs.items() if count} == {}
        assert held.notes == []


async def test_a_fight_is_slowed_down_and_told_once(netns: Namespace) -> None:
    async with kernel(PLAN) as held:
        fight = asyncio.create_task(_flush_for_ever(netns))
        await until(lambda: held.network.conditions)
        assert (
            "another program keeps changing facilitator's kernel state"
            in held.network.conditions["kernel:fight"]
        )
        fight.cancel()
        await asyncio.gather(fight, return_exceptions=True)
        await held.in_place()
        await until(lambda: not held.network.conditions)
        assert len([text for text, _ in held.notes if "slowed down" in text]) == 1
        assert held.posted == [Noticed(""), Noticed("")]


async def _flush_for_ever(netns: Namespace) -> None:
    while True:
        await run(netns, "ip route flush proto 173")


async def test_a_foreign_route_in_our_place_is_left_alone_and_told_once(netns: Namespace) -> None:
    netns.run(*["ip", "route", "add", "prohibit", "10.77.0.0/24", "metric", "20000", "proto", "static"])
    async with kernel(PLAN) as held:
        await run(
            netns, "ip route add blackhole 10.66.0.0/24 proto 173"
        )  # something to do, so that it tries again
        await until(lambda: held.network.repairs["route"])
        assert "prohibit 10.77.0.0/24 proto static metric 20000" in show(netns, "ip route")
        told = [text for text, _ in held.notes if "stands in the place" in text]
        assert told == [
            "another program's entry stands in the place of: route 10.77.0.0/24 unreachable metric 20000"
        ]
        await run(netns, "ip route del prohibit 10.77.0.0/24 metric 20000")
        await until(lambda: "unreachable 10.77.0.0/24" in show(netns, "ip route"))


async def test_hundreds_of_routes_come_back(netns: Namespace) -> None:
    networks = [ip_network(f"10.{i // 256}.{i % 256}.0/25") for i in range(300)]
    plan = NetworkPlan(
        (),
        (Lane("acme", 173001, "t-acme", False),),
        tuple(Carry(network, 173001, network) for network in networks),
    )
    async with kernel(plan) as held:
        await run(netns, "ip route flush proto 173")
        await until(lambda: routes(held)[0] == routes(held)[1])
        await held.in_place()


async def test_after_lost_notifications_everything_is_read(netns: Namespace) -> None:
    heard: list[frozenset[KernelPart]] = []
    hints = Notifications(heard.append, lambda: (), buffer=4096)
    hints.open()
    netns.run(
        "ip",
        "-batch",
        "-",
        input="".join(f"route add unreachable 10.1.{i % 256}.0/24 metric {i} proto 5\n" for i in range(500)),
    )
    await until(lambda: heard)
    assert heard == [EVERYTHING]
    await run(netns, "ip route add unreachable 10.2.0.0/24 proto 173")  # the socket goes on working
    await until(lambda: heard[1:])
    assert heard[1:] == [frozenset({KernelPart.ROUTES})]
    hints.close()


async def test_the_changes_of_others_about_others_are_told_apart(netns: Namespace) -> None:
    """Routes of others in the main table are none of our business; what packets of ours may meet is, and
    is nothing to repair.
    """
    heard: list[frozenset[KernelPart]] = []
    told: list[int] = []
    hints = Notifications(heard.append, lambda: (), lambda: told.append(1))
    hints.open()
    await run(netns, "ip route add unreachable 10.1.0.0/24 proto static")
    await run(netns, "ip rule add fwmark 7 lookup 7")
    await until(lambda: heard)
    assert (heard, len(told)) == ([frozenset({KernelPart.RULES})], 1)
    for command in (
        "nft add table inet other",
        "ip route add blackhole 10.1.0.0/24 table 7",
        "nft delete table inet other",
    ):
        told.clear()
        await run(netns, command)
        await until(lambda: told)
    assert heard == [frozenset({KernelPart.RULES})]
    assert hints.take_author() == ""
    hints.close()


async def test_what_others_change_is_told_and_not_repaired(netns: Namespace) -> None:
    told: list[float] = []
    await make_device(netns)
    async with kernel(PLAN, changed=lambda: told.append(0.0)) as held:
        await held.network.settled()
        told.clear()
        held.network.set(DOWN)  # our own doing
        await held.network.settled()
        assert told == []
        await run(netns, "nft add table inet other")
        await until(lambda: told)
        assert held.network.repairs["table"] == 0


def test_a_change_of_our_table_counts_when_its_author_is_known() -> None:
    """The end of a transaction names the program; on a busy machine it comes any time after the changes."""
    new_rule, new_generation = 0x0A06, 0x0A0F
    ours, others = (bytes(4) + attribute(1, name) for name in (b"facilitator\0", b"filter\0"))
    by = {name: bytes(4) + attribute(3, name + b"\0") for name in (b"nft", b"dockerd")}
    hints = Notifications(_nobody, lambda: ())
    heard = [
        hints.nftables(kind, body)
        for kind, body in (
            (new_rule, others),
            (new_generation, by[b"dockerd"]),
            (new_rule, ours),
            (new_rule, others),
            (new_generation, by[b"nft"]),
            (new_rule, others),
            (new_generation, by[b"dockerd"]),
        )
    ]
    assert heard == [
        KernelPart.OTHERS,
        None,
        None,
        KernelPart.OTHERS,
        KernelPart.TABLE,
        KernelPart.OTHERS,
        None,
    ]
    assert [hints.take_author(), hints.take_author()] == ["nft", ""]


# --- settings
# ----------------------------------------------------------------------------------------------------------


def setting(name: str) -> str:
    return Path(f"/proc/sys/net/{name}").read_text().strip()


async def test_the_host_is_opened_last_and_kept_open(netns: Namespace) -> None:
    # A new namespace has the IPv4 settings of the host.
    settings = ("ip_forward=0", "conf.all.rp_filter=1", "conf.default.rp_filter=0")
    netns.run("sysctl", "-qw", *(f"net.ipv4.{each}" for each in settings))
    netns.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "other")
    await make_device(netns)
    assert setting("ipv4/ip_forward") == "0"
    async with kernel(PLAN) as held:
        assert setting("ipv4/ip_forward") == "1"
        assert setting("ipv6/conf/all/forwarding") == "1"
        values = {
            device: setting(f"ipv4/conf/{device}/rp_filter") for device in ("all", "default", "lan", "t-acme")
        }
        assert values == {"all": "0", "default": "1", "lan": "1", "t-acme": "0"}
        assert setting("ipv6/conf/lan/accept_ra") == "2"
        assert setting("ipv4/ping_group_range").split() == ["0", "0"]
        # udev runs systemd-sysctl on each new device, a moment later
        await run(netns, "sysctl -qw net.ipv4.conf.t-acme.rp_filter=2")
        await until(lambda: setting("ipv4/conf/t-acme/rp_filter") == "0")
        await held.network.settled()
        assert held.network.repairs["sysctl"] == 0
        assert held.notes == []
        for count, (name, theirs, ours) in enumerate(
            (
                ("ipv4/ip_forward", 0, 1),
                ("ipv6/conf/all/forwarding", 0, 1),
                ("ipv4/conf/all/rp_filter", 1, 0),
                ("ipv4/ip_forward", 0, 1),
            ),
            1,
        ):
            await run(netns, f"sysctl -qw net.{name.replace('/', '.')}={theirs}")
            await until(lambda count=count: held.network.repairs["sysctl"] == count)
            assert setting(name) == str(ours)
        assert [details["changes"] for _, details in held.notes] == [
            ["net.ipv4.ip_forward 0 -> 1"],
            ["net.ipv6.conf.all.forwarding 0 -> 1"],
            ["net.ipv4.conf.all.rp_filter 1 -> 0"],
        ]


# --- beginning and end
# -------------------------------------------------------------------------------------------------------


async def test_a_second_daemon_is_told_whose_table_it_is(netns: Namespace) -> None:
    async with kernel(PLAN) as held:
        before = leftovers(netns)
        with pytest.raises(Occupied, match="belongs to another running process"):
            await KernelNetwork(_nobody, _nobody).start(replace(PLAN, lanes=()))
        with pytest.raises(Occupied, match="belongs to another running process"):
            await cleanup()
        assert leftovers(netns) == before
        assert sum(held.network.repairs.values()) == 0, "the first one had nothing to put back"


async def test_what_an_earlier_run_left_is_taken_over(netns: Namespace) -> None:
    await make_device(netns)
    more = replace(PLAN, lanes=(*PLAN.lanes, Lane("old", 173009, "t-old", False)))
    async with kernel(more):
        pass
    assert "173009" in leftovers(netns)
    async with kernel(PLAN) as held:
        await held.in_place()
        assert "173009" not in leftovers(netns)
        assert held.notes == []


async def test_close_keeps_or_removes(netns: Namespace) -> None:
    await make_device(netns)
    async with kernel(PLAN) as held:
        await held.network.close(keep=True)
        assert await read() != Layout()
    assert "facilitator" in leftovers(netns)
    async with kernel(PLAN) as held:
        await held.network.close(keep=False)
    assert leftovers(netns) == ""
    assert await read() == Layout()


@pytest.mark.parametrize("table_flags", [6, 0])
async def test_cleanup_removes_everything_and_says_what(netns: Namespace, table_flags: int) -> None:
    await make_device(netns)
    async with kernel(PLAN, table_flags=table_flags):
        pass
    netns.run(*["ip", "route", "add", "10.66.0.0/24", "dev", "t-acme", "proto", "173"])
    netns.run(*["ip", "rule", "add", "to", "10.66.0.0/24", "lookup", "66", "protocol", "173"])
    removed = await cleanup()
    assert "removed table inet facilitator" in removed
    assert "removed route 10.66.0.0/24 dev t-acme metric 0" in removed
    assert leftovers(netns) == ""
    assert await cleanup() == ()


async def test_cleanup_removes_devices_that_killed_clients_left_and_no_others(netns: Namespace) -> None:
    """Of the kind that every kernel has; `kind` is wireguard otherwise, which nobody but us marks so."""
    for name, alias in (("wg-acme", ALIAS), ("wg-own", "somebody's"), ("wg-none", "")):
        netns.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
        netns.run("ip", "link", "set", name, "alias", alias)
    assert await remove_devices() == ()
    assert await remove_devices(("veth",)) == ("wg-acme",)
    assert {name for _, name in socket.if_nameindex()} == {"lo", "wg-own", "p-wg-own", "wg-none", "p-wg-none"}
    assert await remove_devices(("veth",)) == ()
    assert ALIAS == wireguard_device.ALIAS


async def test_preview_says_what_would_change(netns: Namespace) -> None:
    await make_device(netns)
    assert [str(change) for change in await preview(PLAN)][-4:-2] == list(TUNNEL_ROUTES)
    async with kernel(PLAN):
        assert await preview(PLAN) == ()
        assert "- element up 173001" in [str(change) for change in await preview(DOWN)]


async def read() -> Layout:
    routes, nftables = RouteTable(), Nftables()
    routes.open()
    nftables.open()
    state = await nftables.read()
    layout = Layout(await routes.routes((4, 6)), await routes.rules((4, 6)), state.intact, state.elements)
    routes.close()
    nftables.close()
    return layout


def _nobody(*_: object) -> None:
    pass
