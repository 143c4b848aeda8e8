"""The facts that a running daemon gathers repeatedly: those that can change (`host_watch`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from supervisor.app.preflight import addresses, host, resolving, stores
from supervisor.app.preflight.locations import Places
from supervisor.app.preflight.requirements import Running
from supervisor.config.model import Config
from supervisor.core.preflight.facts import (
    Endpoint,
    ForeignListener,
    HostFacts,
    KernelFacts,
    PacketContext,
    Setting,
)
from supervisor.core.preflight.host import CONNTRACK_FULL_RATIO
from supervisor.kernel.inspect import foreign_rules
from supervisor.kernel.nft.foreign_tables import ForeignTableReader

_COUNT, _LIMIT = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"


def everything(running: Running, reader: ForeignTableReader, places: Places | None = None) -> HostFacts:
    """All of these facts; takes some milliseconds."""
    where, plan = places or Places(), running.plan
    policies = host.rules()
    context = PacketContext(
        plan, _targets(running.config), running.peers, host.arrivals(plan.staff), foreign_rules.indexes()
    )
    ways = [device for _, device in context.arrivals]
    tunnels = {lane.device for lane in plan.lanes if lane.up and lane.device is not None}
    facts = HostFacts(
        requirements=running.requirements,
        live=True,
        settings=host.settings(where.sysctls, sorted({*ways, *(tunnels & foreign_rules.not_forwarding())})),
        kernel=_kernel(reader),
        rules=policies,
        routes=host.routes(policies or ()),
        context=context,
        own=addresses.own(running.config, ()),
        endpoints=_gateways(running),
    )
    return at_a_glance(facts, running, where)


def at_a_glance(facts: HostFacts, running: Running, places: Places | None = None) -> HostFacts:
    """The same facts, with those read again that change without a notification; takes less than a
    millisecond.
    """
    where = places or Places()
    settings = host.reread(where.sysctls, facts.settings)
    count, limit = (int(settings[name].value or 0) for name in (_COUNT, _LIMIT))
    if count <= CONNTRACK_FULL_RATIO * limit:  # it changes all the time, and says nothing
        settings[_COUNT] = Setting(None, False)
    needed = {need.path for _, need in facts.requirements.needs}
    return replace(
        facts,
        settings=settings,
        listeners=_listeners(running),
        tun=host.tun(where.tun),
        full=stores.full(running.config),
        synchronised=host.synchronised(),
        absent=frozenset(path for path in needed if not Path(path).exists()),
    )


def _gateways(running: Running) -> tuple[Endpoint, ...]:
    """Of tunnels that should be up and are not: where their gateways are."""
    failing = {name: running.config.tunnels[name] for name in running.unreached}
    with resolving.Resolver(resolving.gateways(failing, running.files)) as resolver:
        return resolver.endpoints()


def _kernel(reader: ForeignTableReader) -> KernelFacts | None:
    try:
        return KernelFacts(reader.read())
    except OSError:
        return None


def _listeners(running: Running) -> tuple[ForeignListener, ...]:
    """Third-party listeners. A proxy of ours that starts, and is not in the plan yet, is known by its
    process.
    """
    if not running.requirements.proxies:
        return ()
    return addresses.listeners(
        running.config, running.pid, [lane.port for lane in running.plan.lanes if lane.port is not None]
    )


def _targets(config: Config) -> tuple[tuple[str, str], ...]:
    return tuple((name, target) for name, tunnel in config.tunnels.items() for target in tunnel.probe.targets)
