"""Builds the keeper of locks, as the configuration says, and connects it with the kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from supervisor.app.engine_view import EngineView
from supervisor.app.files import Files
from supervisor.app.fleet.lock_vouchers import LockVouchers
from supervisor.app.lock_engine import client_tls, lock_service
from supervisor.app.stores.held_locks import HeldLockFile
from supervisor.config import Config
from supervisor.core.events import Event
from supervisor.core.fleet.lease import call_budget
from supervisor.core.network.lanes import both_slots
from supervisor.core.network.plan import assign_lanes
from supervisor.fleet.lock_keeper import LockKeeper, LockSources
from supervisor.kernel.network import KernelNetwork


@dataclass(frozen=True, slots=True)
class LockInputs:
    """What the keeper of locks works with."""

    member: str
    boot: str
    engine: EngineView
    files: Files
    network: KernelNetwork
    post: Callable[[Event], None]


class PermittedLanes:
    """Tells the kernel which exclusive clients may send, and until when."""

    def __init__(self, network: KernelNetwork, lane: Callable[[str, int], int | None]) -> None:
        self._network, self._lane = network, lane
        self._refused = ""

    async def permit(self, tunnels: Mapping[str, float]) -> None:
        """Exactly these, by tunnel. What the kernel refuses stays closed, and is logged once."""
        first = {name: self._lane(name, 0) for name in tunnels}
        lanes = {number: tunnels[name] for name, number in first.items() if number is not None}
        refused = ""
        try:
            await self._network.permit(
                {lane: end for number, end in lanes.items() for lane in both_slots(number)}
            )
        except (OSError, TimeoutError) as error:
            refused = str(error)
        if refused and refused != self._refused:
            structlog.get_logger().error("the kernel does not let exclusive clients send", error=refused)
        self._refused = refused


def lock_keeper(config: Config, inputs: LockInputs) -> LockKeeper | None:
    """The keeper; None: no lock engine is configured."""
    fleet = config.fleet
    if fleet is None or fleet.lock is None:
        return None
    file = HeldLockFile(config.facilitator.runtime_dir)

    def note(text: str, about: Mapping[str, object]) -> None:
        structlog.get_logger().info(text, **about)

    service = lock_service(fleet.lock, inputs.member, inputs.files)
    others = {name: each.api for name, each in fleet.members.items() if name != inputs.member}
    sources = LockSources(
        fleet.name,
        inputs.member,
        inputs.boot,
        inputs.post,
        PermittedLanes(inputs.network, inputs.engine.lane).permit,
        note,
        file.keep,
        LockVouchers(others, lambda: client_tls(fleet.tls), call_budget(service.ttl)).vouch,
    )
    return LockKeeper(service, sources)


async def recall_locks(
    keeper: LockKeeper | None, config: Config, network: KernelNetwork, known: Mapping[str, int]
) -> None:
    """Go on from what an earlier daemon has held, before the kernel is set up: the clients that are adopted
    send on. `known`: the lanes of its tunnels.
    """
    if keeper is None:
        return
    permits = await keeper.recall(HeldLockFile(config.facilitator.runtime_dir).load())
    lanes = assign_lanes(list(config.tunnels), known)
    ends = {lanes[name]: end for name, end in permits.items() if name in lanes}
    await network.permit({lane: end for number, end in ends.items() for lane in both_slots(number)})
