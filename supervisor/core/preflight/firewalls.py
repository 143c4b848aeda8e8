"""Judges third-party firewalls: Docker's, ufw's, firewalld's, or somebody's own, as far as they drop
packets of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from supervisor.core.netfilter.values import OURS, Consequence, FilterChain, Firewall
from supervisor.core.network.plan import FIRST_LANE, LAST_LANE, NetworkPlan
from supervisor.core.preflight.crossing import Hit, cases, hits
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, info, ok, perhaps, problem, warning
from tunnels.settings import IPNetwork

_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # chains of iptables
_NAMED = 8  # tunnels, or networks of one, that a sentence names
_MARKED = -150  # priority in prerouting from which on packets and flows carry our marks
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
    """Each rule and each policy that stops packets of ours."""
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
    found = stopped(hits(firewall, facts.around, cases(facts.around)))
    for blow in found:
        yield _finding(blow, firewall, facts)
    closed = [blow.base for blow in found]
    opened = [
        c
        for c in firewall.base
        if c not in closed and any(rule.ours for each in _reached(firewall, c) for rule in each.rules)
    ]
    for chain in opened:
        yield ok("firewall", f"{chain} lets us through by a rule marked {OURS}")
    if not found and not opened:
        yield ok("firewall", "no third-party firewall drops packets of the tunnels")


@dataclass(frozen=True, slots=True)
class Blow:
    """One rule or policy, with everything of ours that it drops."""

    hits: tuple[Hit, ...]

    @property
    def base(self) -> FilterChain:
        """The chain at which the packets came in."""
        return self.hits[0].stop.base

    @property
    def kinds(self) -> tuple[tuple[str, bool], ...]:
        """Which sorts of packets, and whether it is their answers. Where the packets are dropped the
        answers are not worth a word.
        """
        found = dict.fromkeys((hit.case.what, hit.answers) for hit in self.hits)
        return tuple((what, answers) for what, answers in found if not answers or (what, False) not in found)

    @property
    def whole(self) -> bool:
        """It drops all packets of some destination, not only those of some addresses."""
        return any(hit.whole for hit in self.hits)


def stopped(found: Iterable[Hit]) -> list[Blow]:
    """The hits, rule by rule."""
    groups: dict[object, list[Hit]] = {}
    for hit in found:
        stop = hit.stop
        groups.setdefault(
            (stop.base.family, stop.base.table, stop.base.name, stop.chain, stop.how, stop.handle), []
        ).append(hit)
    return [Blow(tuple(each)) for each in groups.values()]


def _finding(blow: Blow, firewall: Firewall, facts: HostFacts) -> Finding:
    text, remedy = sentence(blow, firewall, facts.around.plan), remedies(blow, firewall, facts)
    return problem("firewall", text, remedy) if blow.whole else warning("firewall", text, remedy)


def sentence(blow: Blow, firewall: Firewall, plan: NetworkPlan) -> str:
    """What drops what, and which tunnels are stopped by that."""
    what = " and ".join(_WHAT[kind] for kind in blow.kinds)
    by_default = blow.hits[0].stop.handle is None or any(hit.stop.exceptions for hit in blow.hits)
    accepted = " unless a rule of its own accepts them" if by_default else ""
    part = "" if blow.whole else "some "
    return (
        f"{_owner(blow.base, firewall)} drops {part}{what}{accepted} ({place(blow, firewall)}); this "
        f"stops {_tunnels(blow, plan)}"
    )


def place(blow: Blow, firewall: Firewall) -> str:
    """Where: `table ip filter, chain FORWARD: policy drop`."""
    stop = blow.hits[0].stop
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


def _tunnels(blow: Blow, plan: NetworkPlan) -> str:
    """Their names, with the destinations where not all of them are concerned."""
    networks: dict[str, dict[IPNetwork, None]] = {}
    for hit in blow.hits:
        for aim in hit.case.aims:
            networks.setdefault(aim.lane.tunnel, {})[aim.network] = None
    numbers = {lane.number: lane.tunnel for lane in plan.lanes}
    sizes: dict[str, int] = {}
    for carry in plan.carries if any(hit.case.what in ("forwarded", "proxied") for hit in blow.hits) else ():
        sizes[numbers.get(carry.lane, "")] = sizes.get(numbers.get(carry.lane, ""), 0) + 1
    return _listed(
        [
            name if len(of) >= sizes.get(name, 0) else f"{name} ({_listed(list(map(str, of)))})"
            for name, of in networks.items()
        ]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


# --- remedies
# ----------------------------------------------------------------------------------------------------------


def remedies(blow: Blow, firewall: Firewall, facts: HostFacts) -> str:
    """The commands that let these packets through, and how they last."""
    base = blow.base
    if base.table == "firewalld" and all(
        what in ("forwarded", "proxied") and base.hook in ("forward", "input") for what, _ in blow.kinds
    ):
        return _firewalld(facts)
    if base.family in ("ip", "ip6") and base.name in _BUILT_IN:
        into, keep = _iptables(base, firewall)
        tool = "iptables" if base.family == "ip" else "ip6tables"
        table = "" if base.table == "filter" else f" -t {base.table}"
        done = [
            f"{tool}{table} -I {into} {_selection(blow, kind, True)} -m comment --comment {OURS} -j ACCEPT"
            for kind in blow.kinds
        ]
        return f"{' && '.join(dict.fromkeys(done))}   # {keep}"
    insert = f"nft insert rule {base.family} {base.table} {base.name}"
    done = [f"{insert} {_selection(blow, kind, False)} counter accept comment {OURS}" for kind in blow.kinds]
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
    """Into which chain a rule belongs, and how it lasts."""
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
    sources = " && ".join(f"{zone} --add-source={network}" for network in facts.demand.staff)
    opened = (
        f"firewall-cmd --permanent --new-zone={OURS} && {zone} --set-target=ACCEPT && {sources} && "
        f"firewall-cmd --reload"
    )
    return f"{opened}   # staff may then also reach this host's own ports"


def _selection(blow: Blow, kind: tuple[str, bool], iptables: bool) -> str:
    """Which packets to let through, in the words of iptables or nft."""
    what, answers = kind
    base, (mark, mask) = blow.base, mark_and_mask()
    unmarked = base.hook == "ingress" or (base.hook == "prerouting" and base.priority < _MARKED)
    if what in ("forwarded", "proxied") and not unmarked:
        return f"-m connmark --mark {mark:#x}/{mask:#x}" if iptables else f"ct mark {FIRST_LANE}-{LAST_LANE}"
    if what == "probe" and not answers:
        return f"-m mark --mark {mark:#x}/{mask:#x}" if iptables else f"meta mark {FIRST_LANE}-{LAST_LANE}"
    if answers and base.hook == "input":
        return "-m conntrack --ctstate ESTABLISHED,RELATED" if iptables else "ct state established,related"
    return _by_address(blow, kind, iptables)


def _by_address(blow: Blow, kind: tuple[str, bool], iptables: bool) -> str:
    what, answers = kind
    mine = [hit for hit in blow.hits if (hit.case.what, hit.answers) == kind]
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
