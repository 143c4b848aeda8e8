"""`facilitator why` of an address of staff: whose it is, and which tunnels let that person in.

Also the checks about the person behind a packet's sender.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.diagnosis.checks import Check, CheckStatus, allowed_sender
from supervisor.core.diagnosis.query import Evidence
from supervisor.core.humanize import duration
from supervisor.core.identity.view import IdentityView, sentence
from tunnels.networks import IPAddress


def of_staff(evidence: Evidence, address: IPAddress) -> bool:
    """Is the address one that the hub could know?"""
    return evidence.people is not None and any(address in network for network in evidence.plan.staff)


def person(evidence: Evidence, address: IPAddress | None) -> Iterator[Check]:
    """Who has this address, and how old that knowledge is; nothing where no hub is configured."""
    if evidence.people is None or address is None:
        return
    holding = evidence.people.of(address)
    who = f"nobody is known at {address}" if holding is None else f"{address} is {sentence(holding)}"
    yield Check("person", who, CheckStatus.OK if holding is not None else CheckStatus.WARNING)
    if (aged := _age(evidence.people)) is not None:
        yield aged


def access(evidence: Evidence, address: IPAddress) -> Iterator[Check]:
    """Of each tunnel: does it let this sender in."""
    for name, (tunnel, _) in sorted(evidence.snapshot.tunnels.items()):
        text = allowed_sender(evidence, tunnel, address)
        yield Check(name, text)


def verdict(evidence: Evidence, address: IPAddress) -> str:
    """The answer in one sentence."""
    assert evidence.people is not None, "asked only where a hub is configured"
    holding = evidence.people.of(address)
    if holding is not None:
        return f"{address} is {sentence(holding)}"
    return f"{address} is an address of staff.networks; the hub names nobody there"


def _age(view: IdentityView) -> Check | None:
    """A warning where the book is not fresh."""
    if view.problem is None:
        return None
    ago = "never" if view.age is None else f"{duration(view.age)} ago"
    then = "; rules by person are closed" if view.stale else ""
    return Check("hub", f"last heard of {ago}: {view.problem}{then}", CheckStatus.WARNING)
