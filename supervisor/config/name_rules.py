"""Rules about `names:`: which domains may be asked behind which tunnel, and which servers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from common.configuration.locations import find_key
from common.configuration.problems import Report
from common.configuration.yaml_document import Group
from supervisor.config.model import NameService
from tunnels.settings import Tunnel

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

Where = tuple[str | int, ...]


def check_names(root: Group, service: NameService | None, tunnels: Sequence[Tunnel], report: Report) -> None:
    """Report all violations. `tunnels`: the valid ones."""
    named = [tunnel for tunnel in tunnels if tunnel.names is not None]
    for where, text in (*_domains(named), *_servers(named)):
        report.error(find_key(root, where).position, where, text)
    if named and service is None:
        where = ("tunnels", named[0].name, "names")
        report.warning(
            find_key(root, where).position, where, "nobody is answered; add names: {listen: [ADDRESS:53]}"
        )
    if service is not None and not named:
        place = find_key(root, ("names",))
        report.warning(place.position, ("names",), "no tunnel has names: there is nothing to ask for")


def _domains(tunnels: Sequence[Tunnel]) -> Iterator[tuple[Where, str]]:
    owners: dict[str, Tunnel] = {}
    for tunnel in tunnels:
        assert tunnel.names is not None
        for index, domain in enumerate(tunnel.names.domains):
            where = ("tunnels", tunnel.name, "names", "domains", index)
            if _is_public_suffix(domain):
                yield (
                    where,
                    f"{domain} is a public suffix, below which everybody has names; name the customer's",
                )
            if (owner := owners.get(domain)) is tunnel:
                yield where, f"{domain} stands here twice"
            elif owner is None:
                owners[domain] = tunnel
            elif not _shared(owner, tunnel):
                yield where, f"{domain} is also a domain of {owner.name}: a name belongs to one customer"
    yield from _nested(owners)


def _nested(owners: dict[str, Tunnel]) -> Iterator[tuple[Where, str]]:
    for domain, tunnel in owners.items():
        labels = domain.split(".")
        above = (".".join(labels[start:]) for start in range(1, len(labels)))
        other = next((parent for parent in above if parent in owners), None)
        if other is not None and owners[other] is not tunnel and not _shared(owners[other], tunnel):
            assert tunnel.names is not None
            where = ("tunnels", tunnel.name, "names", "domains", tunnel.names.domains.index(domain))
            yield where, f"{domain} lies in {other} of {owners[other].name}: a name belongs to one customer"


def _shared(one: Tunnel, other: Tunnel) -> bool:
    """Two tunnels to one customer: they reach the same destination, in the order of their priority."""
    return bool({each.staff_side for each in one.destinations} & {e.staff_side for e in other.destinations})


def _servers(tunnels: Sequence[Tunnel]) -> Iterator[tuple[Where, str]]:
    for tunnel in tunnels:
        assert tunnel.names is not None
        for index, address in enumerate(tunnel.names.addresses):
            if not any(address in each.network for each in tunnel.destinations):
                where = ("tunnels", tunnel.name, "names", "servers", index)
                yield where, f"{address} lies in no destination of {tunnel.name}, so it cannot be asked there"


def _is_public_suffix(domain: str) -> bool:
    """As the Public Suffix List says, without the suffixes that companies have registered for themselves."""
    return _public_suffixes().is_public(domain)


@cache
def _public_suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)
