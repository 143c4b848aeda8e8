"""The nftables table `inet facilitator`; in the words of `nft`: tests/kernel/facilitator.nft.

Its sets, chains and rules are constant; only elements change. A test proves that both are the same.

The way of a packet, in the order in which its rules see it (prefixes of the rules say which packets they are
about):

    prerouting       a flow from staff to a destination enters a lane; each packet of it, on the way there,
    gets the lane's packet mark
      back             what comes out of a tunnel belongs to a flow of that very lane, or is dropped
      enter            the flow gets its connection mark, if the gate lets it in; TCP into a lane that is
      declared down is reset
      fresh            a lane that drains takes no new flow
      gate             who may not enter is rejected at once, and counted
      unknown          TCP that another member of the fleet knows gets the mark of that member's lane
      handed           what came from another member belongs to a flow of ours, or is answered by a reset
    prerouting_nat   a proxy's lane: the connection is redirected to its port;   output_nat: the same for our
    own marked probes
                     a 1:1 mapping: the destination becomes the real one
    (route)          the packet mark selects the lane's table
    input            nobody connects to a proxy's port directly
      proxied          only a redirected connection reaches a proxy's port, and only a transparent socket: no
      unprivileged user can have one
      crowd            a source that holds its share of a proxy's connections gets no more; TCP is reset, and
      counted
    forward          MSS clamp (clamp); what carries a lane's mark or goes to a destination leaves by the
    lane's device or not at all; to another member without a mark, so that the packets around it (VXLAN)
    do not follow it
    output           an exclusive client without a lease sends nothing
                     the same for the host itself: only its probes, which carry a lane's mark, may leave by a
    tunnel's device
    postrouting      source NAT: the address that the remote gateway assigned exists here and nowhere else
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.network.lanes import (
    FIRST_LANE,
    HOST_FLAG,
    LAST_LANE,
    LAST_MEMBER,
    NOBODY,
    SHARES,
    share_set,
)
from supervisor.core.network.rules import RETURN_FLAG
from supervisor.kernel.nft import expressions as ex
from supervisor.kernel.nft.sets import PERMITTED, Set, all_sets

TABLE = "facilitator"
FIRST_PORT = 17300  # local ports of proxies; nobody can connect to them directly
LAST_PORT = 18299


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain with policy accept: what is not ours passes. Without a hook it is one that others jump
    to.
    """

    name: str
    type: str
    hook: str
    priority: int
    rules: tuple[ex.Clause, ...]

    @classmethod
    def part(cls, name: str, rules: Iterator[ex.Clause]) -> Chain:
        """One that others jump to."""
        return cls(name, "", "", 0, tuple(rules))


def _ours(load: ex.Clause) -> ex.Clause:
    """What is loaded is the mark of a lane."""
    return (*load, *ex.between(FIRST_LANE, LAST_LANE))


def _of_member(load: ex.Clause) -> ex.Clause:
    """What is loaded is the mark of a lane to another member."""
    return (*load, *ex.between(NOBODY, LAST_MEMBER))


def _join(*clauses: ex.Clause) -> ex.Clause:
    return tuple(expression for clause in clauses for expression in clause)


def _back() -> Iterator[ex.Clause]:
    """A remote gateway can send any packet out of its tunnel: only what belongs to a flow of that lane
    passes, ICMP errors about one too.

    Packets that are new, invalid or untracked (router advertisements) carry no mark and end here.
    """
    own = _join(ex.ct_mark_and_iifname(), ex.within("own"))
    yield _join(own, ex.meta("mark"), ex.with_bit(RETURN_FLAG), ex.set_meta_mark(), ex.accept())
    # Of interfaces with a link layer; it concerns nothing but that interface.
    yield _join(ex.neighbour_discovery(), ex.accept())
    yield _join(ex.counter(), ex.drop())


def _prerouting() -> Iterator[ex.Clause]:
    yield _join(ex.meta("iifname"), ex.within("tunnels"), ex.jump("back"))
    yield _join(ex.meta("iifname"), ex.within("arriving"), ex.jump("handed"))
    for v in (4, 6):
        # On a shared subnet the interface says nothing; but what a member hands over passed no router.
        shared = _join(ex.meta("iifname"), ex.within("shared"), ex.from_the_link(v), ex.tcp())
        staff = _join(ex.source(v), ex.within(f"staff{v}"))
        yield _join(shared, staff, ex.destination(v), ex.within(f"destinations{v}"), ex.jump("handed"))
    # Almost all packets are of flows that are on their way already: the first two rules are for them.
    yield _join(ex.ct_direction("reply"), ex.accept())
    yield _join(ex.ct("mark"), ex.within("up"), ex.set_meta_mark(), ex.accept())
    yield _join(_of_member(ex.ct("mark")), ex.tcp(), ex.reset())  # that member is gone
    for v in (4, 6):
        yield _join(
            ex.ct_direction("original"),
            ex.ct_state("new"),
            ex.not_a_tcp_syn(),
            ex.source(v),
            ex.within(f"staff{v}"),
            ex.from_where_it_is_routed(),
            ex.destination(v),
            ex.mapped(f"previous{v}"),
            ex.set_meta_mark(),
            ex.jump("unknown"),
        )
    for v in (4, 6):
        # A flow without a lane enters the one that carries its destination; so does a flow whose lane is down
        # (failover).
        # Its source must be routed to where it came from: nobody on the side of the uplink can pose as staff.
        yield _join(
            ex.ct_direction("original"),
            ex.source(v),
            ex.within(f"staff{v}"),
            ex.from_where_it_is_routed(),
            ex.destination(v),
            ex.mapped(f"carry{v}"),
            ex.set_meta_mark(),
            ex.jump("enter"),
        )
    yield _join(ex.ct_direction("original"), _ours(ex.ct("mark")), ex.ct("mark"), ex.set_meta_mark())
    for v in (4, 6):
        # Counts what entered no lane for that reason: routes refuse it. `why` says so.
        yield _join(
            ex.without_ct_mark(),
            ex.source(v),
            ex.within(f"staff{v}"),
            ex.destination(v),
            ex.within(f"destinations{v}"),
            ex.from_where_it_is_routed(so=False),
            ex.counter(),
        )


def _unknown() -> Iterator[ex.Clause]:
    """TCP that this host has never seen, and whose destination another member carried before."""
    yield _join(ex.meta("mark"), ex.within("up"), ex.set_ct_mark(), ex.accept())
    yield _join(ex.tcp(), ex.counter(), ex.reset())  # nobody can carry it on: say so at once


def _handed() -> Iterator[ex.Clause]:
    """From another member: one hop and no further, and nothing but packets of TCP connections that are known
    here. Echo requests show the other member that this lane works.
    """
    yield _join(ex.tcp(), ex.ct("mark"), ex.within("refusing"), ex.reset())
    known = _join(ex.tcp(), ex.ct_direction("original"), _ours(ex.ct("mark")))
    yield _join(known, ex.ct("mark"), ex.set_meta_mark(), ex.accept())
    for v in (4, 6):
        yield _join(ex.echo_request(v), ex.to_this_host(), ex.accept())
    for v in (4, 6):
        yield _join(ex.tcp(), ex.source(v), ex.within(f"staff{v}"), ex.counter(), ex.reset())
    yield _join(ex.counter(), ex.drop())


def _enter() -> Iterator[ex.Clause]:
    """Only what enters a lane comes here, so this costs nothing for flows that are on their way."""
    yield ex.jump("gate")
    yield _join(ex.tcp(), ex.meta("mark"), ex.within("refusing"), ex.reset())
    # A flow keeps the source address of its first packet. Until the daemon has removed its entry, it must not
    # go through another lane.
    yield _join(_ours(ex.ct("mark")), ex.ct_mark_and_mark(), ex.outside("unmoved"), ex.counter(), ex.drop())
    yield _join(ex.meta("mark"), ex.within("draining"), ex.jump("fresh"))
    # Counts each flow once: its next packet has its mark.
    yield _join(ex.meta("mark"), ex.within("up"), ex.within("flows"))
    yield _join(ex.meta("mark"), ex.set_ct_mark())


def _fresh() -> Iterator[ex.Clause]:
    """What has a mark was in a lane before. A TCP connection is new only at its SYN: its entry may have
    gone with the tunnel's device.
    """
    yield _join(_ours(ex.ct("mark")), ex.leave())
    yield _join(ex.tcp_syn(), ex.reset())
    yield _join(ex.tcp(), ex.leave())
    yield ex.reject()


def _gate() -> Iterator[ex.Clause]:
    """Without an element for the lane everybody passes, but for sources that are denied."""
    for v in (4, 6):
        denied = _join(ex.source(v), ex.within(f"denied{v}"))
        yield _join(ex.tcp(), denied, ex.counter(), ex.reset())
        yield _join(denied, ex.counter(), ex.reject())
    for v in (4, 6):
        yield _join(ex.mark_source_and_port(v), ex.within(f"allowed{v}"), ex.leave())
    for v in (4, 6):  # by person: elements that end by themselves when nobody renews them
        yield _join(ex.mark_and_source(v, intervals=False), ex.within(f"people{v}"), ex.leave())
        yield _join(ex.mark_source_and_port(v, intervals=False), ex.within(f"people_ports{v}"), ex.leave())
    for v in (4, 6):
        refused = _join(ex.mark_and_source(v), ex.within(f"refused{v}"))
        yield _join(ex.tcp(), refused, ex.reset())
        yield _join(refused, ex.reject())


def _nat() -> Iterator[ex.Clause]:
    yield _join(ex.tcp(), ex.meta("mark"), ex.mapped("ports"), ex.redirect())
    for v in (4, 6):
        yield _join(ex.mark_and_destination(v), ex.mapped(f"real{v}"), ex.dnat_prefix(v))


def _input() -> Iterator[ex.Clause]:
    for v in (4, 6):
        # VXLAN has no authentication: at least it must come from a member's address.
        vxlan = _join(ex.udp_dport(), ex.within("handover"))
        yield _join(vxlan, ex.source(v), ex.outside(f"members{v}"), ex.counter(), ex.drop())
    yield _join(ex.ct_direction("reply"), ex.accept())
    yield _join(ex.ct("mark"), ex.within("sent"))  # counts: what staff send to a proxy
    yield _join(ex.tcp_dport(FIRST_PORT, LAST_PORT), ex.jump("proxied"))
    yield _join(ex.ct_status_dnat(), ex.accept())
    # What a proxy does not take (not TCP) must not end at a service of this host.
    yield _join(_ours(ex.meta("mark")), ex.counter(), ex.reject())


def _proxied() -> Iterator[ex.Clause]:
    """Every packet to a proxy's port comes here: the kernel must not hand one to whoever took the port
    when the proxy died.

    Packets of all states, because a SYN, or the last ACK of a handshake with a SYN cookie, can belong to a
    connection that is known.
    """
    redirected = ex.ct_status_dnat()
    yield _join(redirected, ex.ct_state("new"), ex.jump("crowd"))
    yield _join(redirected, ex.socket_transparent(), ex.accept())
    yield _join(ex.tcp(), redirected, ex.counter(), ex.reset())
    yield _join(ex.counter(), ex.drop())


def _crowd() -> Iterator[ex.Clause]:
    for share in SHARES:
        for v in (4, 6):
            over = ex.more_than(share, f"held{v}", v)
            yield _join(ex.load_tcp_dport(), ex.within(share_set(share)), over, ex.counter(), ex.reset())


def _clamp() -> Iterator[ex.Clause]:
    for v in (4, 6):
        for name in ("oifname", "iifname"):
            yield _join(ex.family(v), ex.meta(name), ex.mapped(f"mss{v}"), ex.set_maxseg())


def _forward() -> Iterator[ex.Clause]:
    yield _join(ex.tcp_syn(), ex.jump("clamp"))
    yield _join(ex.ct_direction("reply"), ex.meta("oifname"), ex.outside("tunnels"), ex.accept())
    yield _join(ex.mark_and_oifname(), ex.within("lanes"), ex.accept())
    for v in (4, 6):
        yield _join(ex.mark_and_oifname(), ex.within("hops"), ex.set_link_ttl(v))
    # The packets around it inherit its mark, and would be led here again.
    yield _join(ex.mark_and_oifname(), ex.within("hops"), ex.clear_mark(), ex.accept())
    yield _join(ex.meta("oifname"), ex.within("arriving"), ex.counter(), ex.drop())
    # Whatever the routes say: into a tunnel goes what carries its lane's mark, and nothing else.
    yield _join(ex.meta("oifname"), ex.within("tunnels"), ex.counter(), ex.drop())
    # Everything below would leave unencrypted. After a 1:1 mapping the mark is the only sign of that.
    yield _join(_ours(ex.ct("mark")), ex.counter(), ex.reject())
    for v in (4, 6):
        yield _join(ex.destination(v), ex.within(f"destinations{v}"), ex.counter(), ex.reject())


def _output() -> Iterator[ex.Clause]:
    yield _join(ex.oifname("lo"), ex.accept())
    # The client of an exclusive tunnel runs with the number of its lane as its group, and sends only while
    # the lock of its account is ours: also when the daemon is dead or frozen.
    yield _join(_ours(ex.meta("skgid")), ex.meta("skgid"), ex.outside(PERMITTED), ex.counter(), ex.drop())
    yield _join(ex.mark_and_oifname(), ex.within("hops"), ex.clear_mark(), ex.accept())
    yield _join(ex.meta("oifname"), ex.within("arriving"), ex.counter(), ex.drop())
    # Counts what a proxy gives back.
    yield _join(ex.ct_direction("reply"), ex.ct("mark"), ex.within("received"))
    # Flows of the host itself carry a mark of their own, so that draining neither counts nor waits for
    # probes.
    yield _join(
        ex.mark_and_oifname(),
        ex.within("lanes"),
        ex.meta("mark"),
        ex.with_bit(HOST_FLAG),
        ex.set_ct_mark(),
        ex.accept(),
    )
    yield _join(ex.neighbour_discovery(), ex.accept())
    yield _join(ex.meta("oifname"), ex.within("tunnels"), ex.counter(), ex.drop())
    yield _join(ex.ct_direction("reply"), ex.accept())
    yield _join(_ours(ex.meta("mark")), ex.counter(), ex.drop())
    for v in (4, 6):
        yield _join(ex.destination(v), ex.within(f"destinations{v}"), ex.counter(), ex.drop())


def _postrouting() -> Iterator[ex.Clause]:
    """A lane without an assigned address of a version takes no packets of it, unless its client has put an
    address on the device.
    """
    entering = _join(ex.mark_and_oifname(), ex.within("lanes"))
    for v in (4, 6):
        yield _join(entering, ex.family(v), ex.meta("mark"), ex.mapped(f"assigned{v}"), ex.snat(v))
    yield _join(entering, ex.meta("mark"), ex.within("masqueraded"), ex.masquerade())
    yield _join(entering, ex.counter(), ex.drop())


def _chains() -> Iterator[Chain]:
    yield Chain.part("gate", _gate())  # a chain stands before those that jump to it
    yield Chain.part("fresh", _fresh())
    yield Chain.part("enter", _enter())
    yield Chain.part("unknown", _unknown())
    yield Chain.part("handed", _handed())
    yield Chain.part("clamp", _clamp())
    yield Chain.part("back", _back())
    yield Chain.part("crowd", _crowd())
    yield Chain.part("proxied", _proxied())
    yield Chain("prerouting", "filter", "prerouting", -150, tuple(_prerouting()))
    yield Chain("prerouting_nat", "nat", "prerouting", -100, tuple(_nat()))
    yield Chain("input", "filter", "input", 0, tuple(_input()))
    yield Chain("forward", "filter", "forward", 0, tuple(_forward()))
    yield Chain("output_nat", "nat", "output", -100, tuple(_nat()))
    yield Chain("output", "filter", "output", 0, tuple(_output()))
    yield Chain("postrouting", "nat", "postrouting", 100, tuple(_postrouting()))


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All of the table that depends on nothing."""

    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]
    comment: str  # of the table: tells this version of the rules from another

    @classmethod
    def build(cls) -> Ruleset:
        """The one ruleset of this version."""
        sets, chains = tuple(all_sets()), tuple(_chains())
        text = json.dumps([repr(sets), repr(chains)])
        return cls(sets, chains, f"rules {hashlib.sha256(text.encode()).hexdigest()[:16]}")
