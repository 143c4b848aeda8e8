"""Which packets of ours a third-party firewall drops: every kind of packet is walked through its chains.

    Case (packets of some lanes, staff, destinations) -> a packet at each hook -> core.netfilter.walk -> Hit

A case stands for many packets at first. If a rule matches only some of them, the case is divided: by lane,
destination and staff network. Only TCP is considered; for probes, what they send.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from urllib.parse import urlsplit

from supervisor.core.netfilter.values import Bits, FilterChain, Firewall, SymbolicPacket, Truth
from supervisor.core.netfilter.walk import Stop, walk
from supervisor.core.network.lanes import HOST_FLAG
from supervisor.core.network.plan import Carry, Lane, NetworkPlan
from supervisor.core.network.rules import RETURN_FLAG
from supervisor.core.preflight.facts import PacketContext
from tunnels.networks import IPNetwork

MAX_WALKS = 4000  # through chains in one check; what is not known then is not reported
_MAX_PARTS = 16  # into which many destinations are divided at once
ADDRESSES = frozenset({"staff", "destination"})
_FAMILIES: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {4: ("ip", "inet", "netdev"), 6: ("ip6", "inet", "netdev")}
)
_CONNTRACK, _MARKING, _MAPPING = (
    -200,
    -150,
    -100,
)  # priorities in prerouting: flows are known, marks are set, addresses are mapped
_TCP, _ICMP, _ICMP6 = 6, 1, 58
_CLIENT_PORT = 40_000  # an ordinary one
_SYN, _SYN_ACK = 0x02, 0x12
_NEW, _ESTABLISHED = 8, 2  # states of connection tracking, as nft numbers them
_UNTRACKED_STATE = 1  # what a packet without a flow has: "invalid"


@dataclass(frozen=True, slots=True)
class Aim:
    """Where packets of a lane go."""

    lane: Lane
    network: IPNetwork  # as it is addressed
    real: IPNetwork  # what it is at the remote site
    scheme: str = "tcp"  # of a probe
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Packets that may meet the same rules. `what`: forwarded, proxied, probe or gateway."""

    what: str
    version: int
    aims: tuple[Aim, ...]
    staff: tuple[IPNetwork, ...] = ()
    one_lane: bool = False

    def parts(self, open: frozenset[str]) -> tuple[Case, ...]:
        """Smaller cases, divided by one of the `open` properties; none if it cannot be divided."""
        if "lane" in open and not self.one_lane:
            return tuple(
                replace(self, aims=tuple(aims), one_lane=True) for aims in _by_lane(self.aims).values()
            )
        if "destination" in open and len(self.aims) > 1:
            size = -(-len(self.aims) // _MAX_PARTS)
            slices = (self.aims[start : start + size] for start in range(0, len(self.aims), size))
            return tuple(
                replace(self, aims=aims, one_lane=self.one_lane or len(aims) == 1) for aims in slices
            )
        if "staff" in open and len(self.staff) > 1:
            return tuple(replace(self, staff=(network,)) for network in self.staff)
        return ()

    @property
    def tunnels(self) -> frozenset[str]:
        """Names of the tunnels."""
        return frozenset(aim.lane.tunnel for aim in self.aims)

    def lanes(self) -> list[Lane]:
        """The lanes of the packets."""
        return (
            [self.aims[0].lane] if self.one_lane else [aims[0].lane for aims in _by_lane(self.aims).values()]
        )


def _by_lane(aims: Iterable[Aim]) -> dict[int, list[Aim]]:
    found: dict[int, list[Aim]] = {}
    for aim in aims:
        found.setdefault(aim.lane.number, []).append(aim)
    return found


@dataclass(frozen=True, slots=True)
class Hit:
    """Packets that are dropped: the whole case, or some of it."""

    case: Case
    stop: Stop
    answers: bool  # of the answers to them

    @property
    def whole(self) -> bool:
        """All packets of the case are dropped."""
        return self.stop.truth is Truth.YES


def cases(context: PacketContext) -> Iterator[Case]:
    """Every kind of packet that a tunnel needs: forwarded, proxied, probes, its own to the gateway."""
    plan, lanes = context.plan, {lane.number: lane for lane in context.plan.lanes}
    probed = [aim for name, target in context.targets for aim in _probes(plan, name, target)]
    for version in (4, 6):
        staff = tuple(network for network in plan.staff if network.version == version)
        carried = sorted(
            (carry for carry in plan.carries if carry.network.version == version and carry.lane in lanes),
            key=_place,
        )
        aims = [Aim(lanes[carry.lane], carry.network, carry.real) for carry in carried]
        for what, proxied in (("forwarded", False), ("proxied", True)):
            if found := tuple(aim for aim in aims if (aim.lane.device is None) is proxied and staff):
                yield Case(what, version, found, staff)
        if found := tuple(aim for aim in probed if aim.real.version == version):
            yield Case("probe", version, found)
        gates = (
            Aim(lane, ip_network(peer), ip_network(peer))
            for name, peer in context.peers
            for lane in _lanes_of(plan, name)
        )
        if found := tuple(aim for aim in gates if aim.real.version == version):
            yield Case("gateway", version, found)


def _place(carry: Carry) -> int:
    """Neighbouring networks are checked together."""
    return int(carry.real.network_address)


def _lanes_of(plan: NetworkPlan, tunnel: str) -> Iterator[Lane]:
    return (lane for lane in plan.lanes if lane.tunnel == tunnel)


def _probes(plan: NetworkPlan, tunnel: str, target: str) -> Iterator[Aim]:
    """Probes through an interface; those through a proxy stay on this host."""
    split = urlsplit(target)
    network = ip_network(ip_address(split.hostname or ""))
    port = None if split.scheme == "icmp" else split.port or 80
    return (
        Aim(lane, network, network, split.scheme, port)
        for lane in _lanes_of(plan, tunnel)
        if lane.device is not None
    )


def hits(firewall: Firewall, context: PacketContext, asked: Iterable[Case]) -> Iterator[Hit]:
    """Which of these packets, and of the answers to them, are dropped."""
    search = _FirewallWalk(firewall, context)
    for case in asked:
        for base in firewall.base:
            if base.family in _FAMILIES[case.version]:
                for answers in (False, True):
                    yield from search.hits(base, case, answers)


class _FirewallWalk:
    """Walks cases through a firewall, at most MAX_WALKS times."""

    def __init__(self, firewall: Firewall, context: PacketContext) -> None:
        self._firewall, self._around, self._left = firewall, context, MAX_WALKS

    def hits(self, base: FilterChain, case: Case, answers: bool) -> Iterator[Hit]:
        packet = _PacketBuilder(self._around, case, base, answers, case.lanes()).packet()
        if packet is None:
            return
        self._left -= 1
        found = walk(self._firewall, base, packet)
        if found.stops and (parts := case.parts(found.open)):
            for part in parts if self._left > 0 else ():
                yield from self.hits(base, part, answers)
            return
        for stop in found.stops:
            if _matters(case, stop):
                yield Hit(case, stop, answers)


def _matters(case: Case, stop: Stop) -> bool:
    """The drop is certain, for all packets or for some addresses. A gateway's port is unknown: there it
    counts only if no rule accepts any packet.
    """
    certain = stop.truth is Truth.YES or stop.open <= ADDRESSES
    return certain and not (case.what == "gateway" and (stop.exceptions or stop.truth is not Truth.YES))


# --- packets
# ----------------------------------------------------------------------------------------------------------

_HOOKS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {  # of requests, of answers
        "forwarded": (
            ("ingress", "prerouting", "forward", "postrouting"),
            ("ingress", "prerouting", "forward", "postrouting"),
        ),
        "proxied": (("ingress", "prerouting", "input"), ("output", "postrouting")),
        "probe": (("output", "postrouting"), ("ingress", "prerouting", "input")),
        "gateway": (("output", "postrouting"), ("prerouting", "input")),
    }
)


@dataclass(frozen=True, slots=True)
class _PacketBuilder:
    """Builds the symbolic packet that a base chain sees of a case."""

    context: PacketContext
    case: Case
    base: FilterChain
    answers: bool
    lanes: Sequence[Lane]

    def packet(self) -> SymbolicPacket | None:
        """None: the packet does not pass this chain."""
        hook, coming, leaving = self.base.hook, self._coming(), self._leaving()
        if hook not in _HOOKS[self.case.what][self.answers]:
            return None
        if self.base.devices and not any(
            _named(device).value == coming.value for device in self.base.devices
        ):
            return None
        before_routing = hook in ("ingress", "prerouting")
        source, target = (self._far(), self._near()) if self.answers else (self._near(), self._far())
        protocol, nothing = self._protocol(), Bits.exactly(bytes(16))
        fields = {
            "nfproto": Bits.exactly(bytes([2 if self.case.version == 4 else 10])),
            "protocol": Bits.exactly(b"\x08\x00" if self.case.version == 4 else b"\x86\xdd"),
            "pkttype": Bits.exactly(b"\0"),
            "l4proto": protocol,
            "iifname": nothing if hook in ("output", "postrouting") and self._own else coming,
            "oifname": nothing if before_routing or hook == "input" else leaving,
            "mark": self._mark(),
            "reverse path": self._reverse_path(),
            **self._flow(),
        }
        fields |= {
            short: self._index(fields[name], name) for short, name in (("iif", "iifname"), ("oif", "oifname"))
        }
        return SymbolicPacket(
            self.case.version,
            fields,
            _header(self.case.version, source, target, protocol),
            self._transport(),
            source.about,
            target.about,
        )

    @property
    def _own(self) -> bool:
        """Is it a packet that this host itself sends?"""
        return self.case.what in ("probe", "gateway") or (self.case.what == "proxied" and self.answers)

    def _device(self) -> Bits:
        """The tunnels' interface; for a gateway the uplink, which is unknown."""
        if self.case.what in ("gateway", "proxied"):
            return Bits.unknown(16)
        return Bits.common([_named(lane.device or "", "lane") for lane in self.lanes], 16, "lane")

    def _staff_device(self) -> Bits:
        names = [
            device
            for network, device in self.context.arrivals
            if any(network.overlaps(each) for each in self.case.staff)
        ]
        return Bits.common([_named(name, "staff") for name in names], 16, "staff" if names else "other")

    def _coming(self) -> Bits:
        return self._device() if self.answers or not self.case.staff else self._staff_device()

    def _leaving(self) -> Bits:
        return self._staff_device() if self.answers and self.case.staff else self._device()

    def _index(self, name: Bits, about: str) -> Bits:
        if not any(name.value) and all(known == 0xFF for known in name.known):
            return Bits.exactly(bytes(4))
        known = self.context.indexes.get(name.value.rstrip(b"\0").decode(errors="replace"))
        whole = all(each == 0xFF for each in name.known)
        return (
            Bits.exactly(known.to_bytes(4, sys.byteorder), name.about)
            if known and whole
            else Bits.unknown(4, name.about)
        )

    def _near(self) -> Bits:
        """The staff's address; unknown for what this host sends, and for answers before NAT is reversed."""
        masked = (
            self.answers and self.base.hook in ("ingress", "prerouting") and self.base.priority < _MAPPING
        )
        networks = () if masked else self.case.staff
        return _addresses(self.case.version, networks, "staff" if networks else "other")

    def _far(self) -> Bits:
        """The destination's address. A proxy's packets go to this host itself."""
        hook, what = self.base.hook, self.case.what
        if what == "proxied" and hook in ("input", "output", "postrouting"):
            return _addresses(self.case.version, (), "other")
        mapped = self.answers or hook not in ("ingress", "prerouting") or self.base.priority >= _MAPPING
        return _addresses(
            self.case.version, [aim.real if mapped else aim.network for aim in self.case.aims], "destination"
        )

    @property
    def _early(self) -> str:
        """What is unknown yet in a chain before routing: the flow, or the mark; "": nothing."""
        if self.base.hook == "ingress" or (
            self.base.hook == "prerouting" and self.base.priority < _CONNTRACK
        ):
            return "flow"
        return "mark" if self.base.hook == "prerouting" and self.base.priority < _MARKING else ""

    def _lane_mark(self, flag: int = 0) -> Bits:
        return Bits.common(
            [Bits.exactly((lane.number | flag).to_bytes(4, sys.byteorder), "lane") for lane in self.lanes],
            4,
            "lane",
        )

    def _mark(self) -> Bits:
        if self.answers and not self._early and self.case.what in ("forwarded", "probe"):
            return _native(RETURN_FLAG)
        unmarked = self.answers or self._early or self.case.what == "gateway"
        return Bits.exactly(bytes(4)) if unmarked else self._lane_mark()

    def _flow(self) -> dict[str, Bits]:
        if self._early == "flow":
            return {"ct state": _native(_UNTRACKED_STATE)}
        state = _native(_ESTABLISHED if self.answers else _NEW)
        return {
            "ct state": state,
            "ct direction": Bits.exactly(bytes([self.answers])),
            "ct mark": self._flow_mark(),
        }

    def _flow_mark(self) -> Bits:
        """A probe's flow gets its mark in our output chain: before or after the third party's chain."""
        if self.case.what in ("forwarded", "proxied") and (self.answers or not self._early):
            return self._lane_mark()
        if self.case.what == "probe":
            return self._lane_mark(HOST_FLAG) if self.answers else Bits.unknown(4)
        return Bits.exactly(bytes(4))

    def _reverse_path(self) -> Bits:
        """Would the main table route answers out by the interface of arrival? Not those of destinations."""
        if self.case.what in ("forwarded", "probe") and self.answers:
            return Bits.exactly(b"\0")
        return Bits.exactly(b"\1") if self.case.staff and not self.answers else Bits.unknown(1)

    def _protocol(self) -> Bits:
        if self.case.what == "gateway":
            return Bits.unknown(1)
        icmp = _ICMP if self.case.version == 4 else _ICMP6
        numbers = {icmp if aim.scheme == "icmp" else _TCP for aim in self.case.aims}
        return Bits.common(
            [Bits.exactly(bytes([number]), "destination") for number in numbers], 1, "destination"
        )

    def _transport(self) -> Bits:
        """Ports, and the flags of TCP."""
        protocol = self._protocol()
        if protocol.known != b"\xff" or protocol.value[0] != _TCP:
            return Bits.unknown(20, "destination" if len(self.case.aims) > 1 else "other")
        ports = [
            Bits.unknown(2) if port is None else Bits.exactly(port.to_bytes(2))
            for port in set(map(self._port, self.case.aims))
        ]
        near, far = Bits.exactly(_CLIENT_PORT.to_bytes(2)), Bits.common(ports, 2, "other")
        flags = Bits.exactly(bytes([_SYN_ACK if self.answers else _SYN]))
        made = _joined(
            *((far, near) if self.answers else (near, far)), Bits.unknown(9), flags, Bits.unknown(6)
        )
        return replace(made, about="destination") if len(ports) > 1 else made

    def _port(self, aim: Aim) -> int | None:
        redirected = self.case.what == "proxied" and self.base.hook in ("input", "output", "postrouting")
        return aim.lane.port if redirected else aim.port


def _native(number: int) -> Bits:
    return Bits.exactly(number.to_bytes(4, sys.byteorder))


def _named(device: str, about: str = "other") -> Bits:
    return Bits.exactly(device.encode()[:16].ljust(16, b"\0"), about)


def _addresses(version: int, networks: Sequence[IPNetwork], about: str) -> Bits:
    return Bits.common([Bits.of(network, about) for network in networks], 4 if version == 4 else 16, about)


def _joined(*parts: Bits) -> Bits:
    return Bits(b"".join(part.value for part in parts), b"".join(part.known for part in parts))


def _header(version: int, source: Bits, target: Bits, protocol: Bits) -> Bits:
    if version == 4:
        return _joined(Bits.exactly(b"\x45"), Bits.unknown(8), protocol, Bits.unknown(2), source, target)
    return _joined(Bits(b"\x60", b"\xf0"), Bits.unknown(5), protocol, Bits.unknown(1), source, target)
