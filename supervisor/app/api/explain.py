"""Gathers the evidence for `facilitator why`: the engine's snapshot and plan, and what the kernel holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from supervisor.core.diagnosis.answer import document, explain, resolve
from supervisor.core.diagnosis.query import (
    Evidence,
    KernelView,
    Match,
    PacketPath,
    PacketQuery,
    RouteDecision,
    packet_path,
)
from supervisor.core.identity.view import IdentityView
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight.facts import HostFacts
from supervisor.core.views.documents import WhyDocument
from supervisor.engine import Engine
from supervisor.kernel.counters import LinkBytes, refused_packets
from supervisor.kernel.inspect.packet_path import Inspector, forwarding, inspector, listening, refused
from supervisor.kernel.network import KernelNetwork
from supervisor.kernel.route.table import RouteTable
from supervisor.reports.history.last_failures import LastFailures
from tunnels.networks import IPAddress, IPNetwork

_SETTLE_SECONDS = 0.5  # for the kernel to follow the plan that the answer is about


@dataclass(frozen=True, slots=True)
class Explainer:
    """Answers questions about packets. `segments`: staff.segments of the configuration in effect; `look`:
    facts about other programs' rules in the kernel.
    """

    wall_offset: float
    engine: Engine
    network: KernelNetwork
    deaths: LastFailures
    segments: Callable[[], Mapping[str, Sequence[IPNetwork]]]
    look: Callable[[], Awaitable[HostFacts]]
    people: Callable[[], IdentityView | None] = lambda: None

    async def answer(self, question: PacketQuery) -> WhyDocument:
        """What would become of the packet now. Waits for the kernel to follow the plan first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self.network.settled()
        snapshot, plan = self.engine.snapshot, self.engine.plan
        found = resolve(snapshot, plan, question.address)
        path = packet_path(snapshot, plan, found) if isinstance(found, Match) else None
        facts = Evidence(
            question,
            snapshot,
            plan,
            await self._kernel(question, plan, path),
            self.wall_offset,
            self.segments(),
            self.deaths.by_tunnel,
            self.people(),
        )
        return document(facts, explain(facts))

    async def _kernel(self, question: PacketQuery, plan: NetworkPlan, path: PacketPath | None) -> KernelView:
        """What the kernel holds; where a part cannot be read, `problem` says why and the rest stays empty."""
        known = KernelView(forwarding=forwarding(question.address.version))
        try:
            if path is not None:
                known = await self._of_lane(known, path)
            async with inspector() as look:
                known = await _routed(look, known, question, plan, path)
            known = replace(known, others=await self.look())
            away = await asyncio.to_thread(refused_packets, plan)
            return replace(known, refused=await refused(), turned_away=away)
        except OSError as error:
            return replace(known, problem=str(error) or "the kernel does not answer")

    async def _of_lane(self, known: KernelView, path: PacketPath) -> KernelView:
        lane = path.lane
        routes = RouteTable()
        try:
            routes.open()
            known = replace(known, host=routes.host(() if lane.device is None else (lane.device,)))
        finally:
            routes.close()
        known = replace(known, layout=await self.network.read())
        if lane.device is not None:
            return replace(known, traffic=LinkBytes()(lane.device))
        return replace(known, listening=None if lane.port is None else listening(lane.port))


async def _routed(
    look: Inspector, known: KernelView, question: PacketQuery, plan: NetworkPlan, path: PacketPath | None
) -> KernelView:
    """With the kernel's routing decision for the packet. Routing comes after a 1:1 mapping, so it is asked
    about the real address; what a proxy takes is not routed onwards.
    """
    sender, back = await _sender(look, question, plan)
    known = replace(known, back=back)
    if path is None:
        return replace(known, onward=await _onward(look, question.address, 0, sender, back))
    if path.lane.device is None:
        return known
    onward = await _onward(look, path.match.real, path.lane.number, sender, back)
    return replace(
        known, onward=onward, addresses=await look.addresses(path.lane.device, question.address.version)
    )


async def _onward(
    look: Inspector, address: IPAddress, mark: int, sender: IPAddress | None, back: RouteDecision | None
) -> RouteDecision:
    """Routing of a packet that arrives on the interface that leads back to its sender; without such an
    interface, of a packet from this host.
    """
    if sender is None or back is None or back.device is None or back.device == "lo":
        return await look.lookup(address, mark=mark)
    return await look.lookup(address, mark=mark, source=sender, device=back.device)


async def _sender(
    look: Inspector, question: PacketQuery, plan: NetworkPlan
) -> tuple[IPAddress | None, RouteDecision | None]:
    """The packet's sender and the route back to it. If the question names none: an address of staff that is
    not one of this host.
    """
    named = question.source
    sender, back = None, None
    for sender in _staff(plan, question.address.version) if named is None else (named,):
        back = await look.lookup(sender)
        if back.device != "lo":
            break
    return sender, back


def _staff(plan: NetworkPlan, version: int) -> tuple[IPAddress, ...]:
    """The first addresses of the first staff network of this IP version."""
    network = next((network for network in plan.staff if network.version == version), None)
    if network is None:
        return ()
    return tuple(network[place] for place in (1, 2, 3) if place < network.num_addresses) or (network[0],)
