"""Judges what stands in the way of packets: foreign firewalls and policy rules, and addresses that collide with destinations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from types import MappingProxyType

from supervisor.core.fitness.facts import Chain, Endpoint, Facts, Own, PolicyRule
from supervisor.core.fitness.finding import Finding, info, ok, problem, warning
from supervisor.core.network import FIRST_LANE, LAST_LANE
from supervisor.core.rules import PRIORITY
from tunnels.settings import IPAddress, IPNetwork

WORD = "facilitator"            # in the comment of a foreign rule, or the name of a chain, that lets our packets through
_FAMILIES: Mapping[str, frozenset[int]] = MappingProxyType({"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})})

# --- firewalls ---------------------------------------------------------------------------------------------------------------------


def firewalls(facts: Facts) -> Iterator[Finding]:
    """Foreign chains that end by dropping: docker's, ufw's, firewalld's, or somebody's own."""
    if facts.legacy_tables:
        yield warning("firewall", "iptables-legacy has a filter table, which cannot be judged from here",
                      "iptables-legacy -S   # policy and rules must let forwarded packets through")
    if facts.kernel is None:
        yield info("firewall", "foreign firewall rules cannot be seen without CAP_NET_ADMIN", "sudo facilitator doctor")
        return
    relevant = [chain for chain in facts.kernel.chains if _concerns(chain, facts)]
    for chain in relevant:
        yield ok("firewall", f"{_place(chain)} lets us through by a rule marked {WORD}") if chain.admits else _closed(chain, facts)
    if not relevant:
        yield ok("firewall", "no foreign firewall drops what it does not know")


def _concerns(chain: Chain, facts: Facts) -> bool:
    """Packets for a device are forwarded; connections for a proxy are redirected to this host itself."""
    users = facts.demand.devices if chain.hook == "forward" else facts.demand.proxies
    return bool(users) and bool(_FAMILIES[chain.family] & facts.demand.versions)


def _place(chain: Chain) -> str:
    return f"table {chain.family} {chain.table}, chain {chain.name}"


def _closed(chain: Chain, facts: Facts) -> Finding:
    owner, remedy = _docker_or_ufw(chain) or _firewalld(chain, facts) or _somebody(chain)
    what = "forwarded packets" if chain.hook == "forward" else "connections that are redirected to a proxy"
    names = ", ".join(facts.demand.devices if chain.hook == "forward" else facts.demand.proxies)
    text = f"{owner} drops {what} unless a rule of its own accepts them ({_place(chain)}: {chain.how}); this stops {names}"
    return problem("firewall", text, remedy)


def _docker_or_ufw(chain: Chain) -> tuple[str, str] | None:
    """Chains of iptables, which understands no range of marks."""
    if chain.table != "filter" or chain.name not in ("FORWARD", "INPUT"):
        return None
    tool, ufw = ("iptables", "ufw") if chain.family == "ip" else ("ip6tables", "ufw6")
    into, owner, keep = chain.name, "iptables", "then: netfilter-persistent save"
    if f"{ufw}-before-{chain.hook}" in chain.reach:
        files = "before.rules" if ufw == "ufw" else "before6.rules"
        into, owner = f"{ufw}-before-{chain.hook}", "ufw"
        keep = f"and the same with -A, above COMMIT in /etc/ufw/{files}"
    elif chain.hook == "forward" and "DOCKER-USER" in chain.reach:
        into, owner, keep = "DOCKER-USER", "Docker", "at each boot, after docker.service"
    mark, mask = mark_and_mask()
    match = f"-m connmark --mark {mark:#x}/{mask:#x} -m comment --comment {WORD}"
    return owner, f"{tool} -I {into} {match} -j ACCEPT   # {keep}"


def _firewalld(chain: Chain, facts: Facts) -> tuple[str, str] | None:
    if chain.table != "firewalld":
        return None
    zone = f"firewall-cmd --permanent --zone={WORD}"
    sources = " && ".join(f"{zone} --add-source={network}" for network in facts.demand.staff)
    opened = f"firewall-cmd --permanent --new-zone={WORD} && {zone} --set-target=ACCEPT && {sources} && firewall-cmd --reload"
    return "firewalld", f"{opened}   # staff may then also reach this host's own ports"


def _somebody(chain: Chain) -> tuple[str, str]:
    rule = f"nft insert rule {chain.family} {chain.table} {chain.name} ct mark {FIRST_LANE}-{LAST_LANE} counter accept comment {WORD}"
    return "a firewall of this host", f"{rule}   # and the same rule in /etc/nftables.conf"


def mark_and_mask() -> tuple[int, int]:
    """The narrowest mark/mask that matches every mark of ours."""
    bits = (FIRST_LANE ^ LAST_LANE).bit_length()
    mask = 0xFFFF_FFFF >> bits << bits
    return FIRST_LANE & mask, mask


# --- policy rules ------------------------------------------------------------------------------------------------------------------


def rules(facts: Facts) -> Iterator[Finding]:
    """Foreign rules that look at our packets before ours do."""
    if facts.rules is None:
        yield info("routing rules", "policy rules cannot be read", "ip rule")
        return
    if not facts.demand.devices:
        return
    found = [rule for rule in facts.rules if rule.version in facts.demand.versions and _first(rule) and catches(rule)]
    yield from map(_rule, found)
    if not found:
        yield ok("routing rules", f"no foreign policy rule catches our packets before ours does (priority {PRIORITY})")


def _first(rule: PolicyRule) -> bool:
    return rule.priority <= PRIORITY and rule.text != "lookup local"


def catches(rule: PolicyRule) -> bool:
    """May the rule match a packet with a mark of ours?"""
    matched = [lane & rule.mask == rule.mark & rule.mask for lane in range(FIRST_LANE, LAST_LANE + 1)]
    if rule.inverted:
        return rule.narrow or not all(matched)
    return any(matched)


def _rule(rule: PolicyRule) -> Finding:
    command = f"ip -{rule.version} rule"
    text = f"the foreign rule `{rule.priority}: {rule.text}` stands before ours (priority {PRIORITY}) and "
    if rule.narrow:
        return warning("routing rules", text + "may lead some of our packets elsewhere",
                       f"{command} show pref {rule.priority}   # have its maker give it a priority above {PRIORITY}")
    move = f"{command} add pref {1000 + rule.priority} {rule.text} && {command} del pref {rule.priority}"
    return problem("routing rules", text + "leads our packets elsewhere", f"{move}   # and so wherever it is made at boot")


# --- addresses ---------------------------------------------------------------------------------------------------------------------


def endpoints(facts: Facts) -> Iterator[Finding]:
    """Can the far sides be found, and reached from outside of every tunnel?"""
    for endpoint in facts.endpoints:
        inside = list(_inside(endpoint, facts))
        yield from inside
        if endpoint.error is not None:
            text = f"{endpoint.what}: {endpoint.name}: {endpoint.error}"
            yield problem("endpoints", text, f"getent ahosts {endpoint.name}; cat /etc/resolv.conf")
        elif not inside:
            yield ok("endpoints", f"{endpoint.what}: {_named(endpoint.name, *endpoint.addresses)}")


def _inside(endpoint: Endpoint, facts: Facts) -> Iterator[Finding]:
    for address in endpoint.addresses:
        for tunnel, network in facts.demand.destinations:
            if address in network:
                text = f"{endpoint.what}: {_named(endpoint.name, address)} lies inside {network}, a destination of {tunnel}: " \
                       "nothing leaves for it but through that tunnel, so it can never be reached"
                yield problem("endpoints", text, _without(network, Own(ip_network(address), endpoint.name)))


def _named(name: str, *addresses: IPAddress) -> str:
    known = ", ".join(map(str, addresses))
    return name if name == known else f"{name} ({known})"


def addresses(facts: Facts) -> Iterator[Finding]:
    """Does a destination take away what this host itself lives by?"""
    found = [finding for own in facts.own for tunnel, network in facts.demand.destinations for finding in _collision(own, tunnel, network)]
    yield from found
    if not found:
        yield ok("addresses", "no destination covers this host's own networks, gateways or name servers")


def _collision(own: Own, tunnel: str, network: IPNetwork) -> Iterator[Finding]:
    if own.network.version != network.version or not own.network.overlaps(network):
        return
    if own.network.prefixlen >= network.prefixlen:
        text = f"{network}, a destination of {tunnel}, covers {own.what} ({_short(own.network)}): this host itself could no longer reach it"
        yield problem("addresses", text, _without(network, own))
    else:
        text = f"{network}, a destination of {tunnel}, lies inside {own.what} ({own.network}): neighbours with such addresses are cut off"
        yield warning("addresses", text, f"destinations: [{{network: {network}, presented_as: ANOTHER-NETWORK/{network.prefixlen}}}]")


def _short(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


_MANY = 8


def _without(network: IPNetwork, own: Own) -> str:
    """How to configure the destination so that it leaves something out."""
    steps = own.network.prefixlen - network.prefixlen
    if not 0 < steps <= _MANY:
        return f"destinations: [{{network: {network}, presented_as: ANOTHER-NETWORK/{network.prefixlen}}}]   # or narrower networks"
    rest = sorted(network.address_exclude(own.network))     # type: ignore[arg-type]
    return f"destinations: [{', '.join(map(str, rest))}]   # {network} without {own.network}"


# --- cloud -------------------------------------------------------------------------------------------------------------------------

_SWITCHES: Mapping[str, str] = MappingProxyType({
    "amazon": "aws ec2 modify-instance-attribute --no-source-dest-check --instance-id INSTANCE",
    "google": "the instance must have been made with: gcloud compute instances create ... --can-ip-forward",
    "microsoft": "az network nic update --ip-forwarding true --resource-group GROUP --name NIC",
    "openstack": "openstack port set --allowed-address ip-address=STAFF-NETWORK PORT",
})


def cloud(facts: Facts) -> Iterator[Finding]:
    """What no program on the host can see."""
    made = facts.cloud or ""
    switch = next((text for maker, text in _SWITCHES.items() if maker in made.lower()), None)
    where = f"this machine is made by {made}: its" if switch else "in a cloud, the network's"
    text = f"{where} source/destination check must be off for this machine, else no packet of the staff arrives (not visible from here)"
    yield info("cloud", text, switch or "AWS: " + _SWITCHES["amazon"])
