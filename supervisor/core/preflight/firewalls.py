"""Preflight checks: third-party firewall rules (Docker, ufw, firewalld) that drop packets of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from supervisor.core.netfilter.values import OURS, Consequence, FilterChain, Firewall
from supervisor.core.network.lanes import FIRST_LANE, LAST_LANE
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.crossing import Hit, cases, hits
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, info, ok, perhaps, problem, warning
from tunnels.networks import IPNetwork

_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # chains of iptables
_MAX_NAMED = 8  # tunnels, or networks of one, that a sentence names
_MARKED_PRIORITY = -150  # priority in prerouting from which on packets and flows carry our marks
_WHAT: Mapping[tuple[str, bool], str] = MappingProxyType(
    {
        ("forwarded", False): "forwarded packets",
        ("forwarded", True): "answers to forwarded packets",
        ("proxied", False): "connections that are redirected to a proxy",
        ("proxied", True): "a proxy's answers",
        ("probe", False): "this host's probes",
        ("probe", True): "answers to this host's probes",
        ("gateway", False): "this host's packets to remote gateways",
        ("gateway", True): "answers of remote gateways",
    }
)


def firewalls(facts: HostFacts) -> Iterator[Finding]:
    """Each rule and each chain policy that drops packets of ours."""
    if facts.legacy_tables:
        yield perhaps(
            "firewall",
            "iptables-legacy has a filter table, which cannot be judged from here",
            "iptables-legacy -S   # policy and rules must let forwarded packets through",
        )
    if facts.kernel is None:
        yield info(
            "firewall",
            "third-party firewall rules cannot be seen without CAP_NET_ADMIN",
            "sudo facilitator doctor",
        )
        return
    firewall = facts.kernel.firewall
    found = stopped(hits(firewall, facts.context, cases(facts.context)))
    for dropping in found:
        yield _finding(dropping, firewall, facts)
    closed = [dropping.base for dropping in found]
    opened = [
        c
        for c in firewall.base
        if c not in closed and any(rule.ours for each in _reached(firewall, c) for rule in each.rules)
    ]
    for chain in opened:
        yield ok("firewall", f"{chain} accepts facilitator's packets by a rule marked {OURS}")
    if not found and not opened:
        yield ok("firewall", "no third-party firewall drops packets of the tunnels")


@dataclass(frozen=True, slots=True)
class DroppingRule:
    """One rule or chain policy, with all packets of ours that it drops."""

    hits: tuple[Hit, ...]

    @property
    def base(self) -> FilterChain:
        """The chain at which the packets came in."""
        return self.hits[0].stop.base

    @property
    def kinds(self) -> tuple[tuple[str, bool], ...]:
        """Kinds of packets, and whether their answers are meant. Answers are left out if the packets are
        dropped.
        """
        found = dict.fromkeys((hit.case.what, hit.answers) for hit in self.hits)
        return tuple((what, answers) for what, answers in found if not answers or (what, False) not in found)

    @property
    def whole(self) -> bool:
        """Does it drop all packets of some destination, and not only those of some addresses?"""
        return any(hit.whole for hit in self.hits)


def stopped(found: Iterable[Hit]) -> list[DroppingRule]:
    """The hits, grouped by the rule that drops."""
    groups: dict[object, list[Hit]] = {}
    for hit in found:
        stop = hit.stop
        groups.setdefault(
            (stop.base.family, stop.base.table, stop.base.name, stop.chain, stop.how, stop.handle), []
        ).append(hit)
    return [DroppingRule(tuple(each)) for each in groups.values()]


def _finding(dropping: DroppingRule, firewall: Firewall, facts: HostFacts) -> Finding:
    text, hint = sentence(dropping, firewall, facts.context.plan), hints(dropping, firewall, facts)
    return problem("firewall", text, hint) if dropping.whole else warning("firewall", text, hint)


def sentence(dropping: DroppingRule, firewall: Firewall, plan: NetworkPlan) -> str:
    """What drops which packets, and which tunnels that stops."""
    what = " and ".join(_WHAT[kind] for kind in dropping.kinds)
    by_default = dropping.hits[0].stop.handle is None or any(hit.stop.exceptions for hit in dropping.hits)
    accepted = " unless a rule of its own accepts them" if by_default else ""
    part = "" if dropping.whole else "some "
    return (
        f"{_owner(dropping.base, firewall)} drops {part}{what}{accepted} ({place(dropping, firewall)}); this "
        f"stops {_tunnels(dropping, plan)}"
    )


def place(dropping: DroppingRule, firewall: Firewall) -> str:
    """Where: `table ip filter, chain FORWARD: policy drop`."""
    stop = dropping.hits[0].stop
    if stop.handle is None:
        return f"{stop.base}: {stop.how}"
    (chain,) = (each for each in _reached(firewall, stop.base) if each.name == stop.chain)
    last = chain.rules[-1]
    if (
        chain.name == stop.base.name
        and last.handle == stop.handle
        and all(isinstance(each, Consequence) for each in last.expressions)
    ):
        return f"{stop.base}: its last rule is {stop.how}"
    return (
        f"table {chain.family} {chain.table}, chain {chain.name}: rule with handle {stop.handle}: {stop.how}"
    )


def _reached(firewall: Firewall, base: FilterChain) -> list[FilterChain]:
    names = firewall.reach(base)
    return [
        each
        for each in firewall.chains
        if (each.family, each.table) == (base.family, base.table) and each.name in names
    ]


def _tunnels(dropping: DroppingRule, plan: NetworkPlan) -> str:
    """Names of the tunnels, with the destinations if not all are affected."""
    networks: dict[str, dict[IPNetwork, None]] = {}
    for hit in dropping.hits:
        for aim in hit.case.aims:
            networks.setdefault(aim.lane.tunnel, {})[aim.network] = None
    numbers = {lane.number: lane.tunnel for lane in plan.lanes}
    sizes: dict[str, int] = {}
    for carry in (
        plan.carries if any(hit.case.what in ("forwarded", "proxied") for hit in dropping.hits) else ()
    ):
        sizes[numbers.get(carry.lane, "")] = sizes.get(numbers.get(carry.lane, ""), 0) + 1
    return _listed(
        [
            name if len(of) >= sizes.get(name, 0) else f"{name} ({_listed(list(map(str, of)))})"
            for name, of in networks.items()
        ]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (
        f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    )


# --- hints
# ----------------------------------------------------------------------------------------------------------


def hints(dropping: DroppingRule, firewall: Firewall, facts: HostFacts) -> str:
    """The commands that let these packets through, also after a reboot."""
    base = dropping.base
    if base.table == "firewalld" and all(
        what in ("forwarded", "proxied") and base.hook in ("forward", "input") for what, _ in dropping.kinds
    ):
        return _firewalld(facts)
    if base.family in ("ip", "ip6") and base.name in _BUILT_IN:
        into, keep = _iptables(base, firewall)
        tool = "iptables" if base.family == "ip" else "ip6tables"
        table = "" if base.table == "filter" else f" -t {base.table}"
        done = [
            f"{tool}{table} -I {into} {_selection(dropping, kind, True)} -m comment --comment {OURS} -j ACCEPT"
            for kind in dropping.kinds
        ]
        return f"{' && '.join(dict.fromkeys(done))}   # {keep}"
    insert = f"nft insert rule {base.family} {base.table} {base.name}"
    done = [
        f"{insert} {_selection(dropping, kind, False)} counter accept comment {OURS}"
        for kind in dropping.kinds
    ]
    return f"{' && '.join(dict.fromkeys(done))}   # and the same in /etc/nftables.conf"


def _owner(base: FilterChain, firewall: Firewall) -> str:
    if base.table == "firewalld":
        return "firewalld"
    if base.family not in ("ip", "ip6") or base.name not in _BUILT_IN:
        return "a firewall of this host"
    reach = firewall.reach(base)
    if any(name.startswith(("ufw-", "ufw6-")) for name in reach):
        return "ufw"
    return "Docker" if base.hook == "forward" and "DOCKER-USER" in reach else "iptables"


def _iptables(base: FilterChain, firewall: Firewall) -> tuple[str, str]:
    """The chain that a rule belongs into, and how to make it persistent."""
    ufw = f"{'ufw' if base.family == 'ip' else 'ufw6'}-before-{base.hook}"
    reach = firewall.reach(base)
    if base.table == "filter" and ufw in reach:
        return (
            ufw,
            f"and the same with -A, above COMMIT in "
            f"/etc/ufw/{'before' if base.family == 'ip' else 'before6'}.rules",
        )
    if base.hook == "forward" and "DOCKER-USER" in reach:
        return "DOCKER-USER", "at each boot, after docker.service"
    return base.name, "then: netfilter-persistent save"


def _firewalld(facts: HostFacts) -> str:
    zone = f"firewall-cmd --permanent --zone={OURS}"
    sources = " && ".join(f"{zone} --add-source={network}" for network in facts.requirements.staff)
    opened = (
        f"firewall-cmd --permanent --new-zone={OURS} && {zone} --set-target=ACCEPT && {sources} && "
        f"firewall-cmd --reload"
    )
    return f"{opened}   # staff may then also reach this host's own ports"


def _selection(dropping: DroppingRule, kind: tuple[str, bool], iptables: bool) -> str:
    """The match for these packets, in the syntax of iptables or nft."""
    what, answers = kind
    base, (mark, mask) = dropping.base, mark_and_mask()
    unmarked = base.hook == "ingress" or (base.hook == "prerouting" and base.priority < _MARKED_PRIORITY)
    if what in ("forwarded", "proxied") and not unmarked:
        return f"-m connmark --mark {mark:#x}/{mask:#x}" if iptables else f"ct mark {FIRST_LANE}-{LAST_LANE}"
    if what == "probe" and not answers:
        return f"-m mark --mark {mark:#x}/{mask:#x}" if iptables else f"meta mark {FIRST_LANE}-{LAST_LANE}"
    if answers and base.hook == "input":
        return "-m conntrack --ctstate ESTABLISHED,RELATED" if iptables else "ct state established,related"
    return _by_address(dropping, kind, iptables)


def _by_address(dropping: DroppingRule, kind: tuple[str, bool], iptables: bool) -> str:
    what, answers = kind
    mine = [hit for hit in dropping.hits if (hit.case.what, hit.answers) == kind]
    staff = what in ("forwarded", "proxied") and not answers
    networks = dict.fromkeys(
        n for hit in mine for n in (hit.case.staff if staff else [aim.real for aim in hit.case.aims])
    )
    which = "s" if staff or answers else "d"
    if iptables:
        return f"-{which} {','.join(map(str, networks))}"
    protocol = "ip" if mine[0].case.version == 4 else "ip6"
    return f"{protocol} {which}addr '{{ {', '.join(map(str, networks))} }}'"


def mark_and_mask() -> tuple[int, int]:
    """The narrowest mark/mask that matches every mark of ours."""
    bits = (FIRST_LANE ^ LAST_LANE).bit_length()
    mask = 0xFFFF_FFFF >> bits << bits
    return FIRST_LANE & mask, mask
