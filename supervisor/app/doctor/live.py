"""The facts that the daemon itself wants again and again: those of doctor's that can change under it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from supervisor.app.demand import Running
from supervisor.app.doctor import addresses, machine
from supervisor.app.doctor.places import Places
from supervisor.config.model import Config
from supervisor.core.fitness.facts import Around, Facts, Kernel, Listener, Setting
from supervisor.core.fitness.machine import FULL
from supervisor.kernel import survey
from supervisor.kernel.firewalls import Reader

_COUNT, _LIMIT = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"


def everything(running: Running, reader: Reader, places: Places | None = None) -> Facts:
    """A full look; some milliseconds."""
    where, plan = places or Places(), running.plan
    policies = machine.rules()
    around = Around(plan, _targets(running.config), running.peers, machine.arrivals(plan.staff), survey.indexes())
    ways = [device for _, device in around.arrivals]
    tunnels = {lane.device for lane in plan.lanes if lane.up and lane.device is not None}
    facts = Facts(
        demand=running.demand, live=True, settings=machine.settings(where.sysctls, sorted({*ways, *(tunnels & survey.not_forwarding())})),
        kernel=_kernel(reader), rules=policies, routes=machine.routes(policies or ()), around=around, own=addresses.own(running.config, ()),
    )
    return at_a_glance(facts, running, where)


def at_a_glance(facts: Facts, running: Running, places: Places | None = None) -> Facts:
    """The same facts, with those looked at again of whose change the kernel says nothing; less than a millisecond."""
    where = places or Places()
    settings = machine.reread(where.sysctls, facts.settings)
    count, limit = (int(settings[name].value or 0) for name in (_COUNT, _LIMIT))
    if count <= FULL * limit:       # it changes all the time, and says nothing
        settings[_COUNT] = Setting(None, False)
    return replace(
        facts, settings=settings, listeners=_listeners(running), tun=machine.tun(where.tun), synchronised=machine.synchronised(),
        absent=frozenset(need.path for _, need in facts.demand.needs if not Path(need.path).exists()),
    )


def _kernel(reader: Reader) -> Kernel | None:
    try:
        return Kernel(reader.read())
    except OSError:
        return None


def _listeners(running: Running) -> tuple[Listener, ...]:
    """A proxy that starts has its port before the plan says so; it is known by its process."""
    if not running.demand.proxies:
        return ()
    return addresses.listeners(running.config, running.pid, [lane.port for lane in running.plan.lanes if lane.port is not None])


def _targets(config: Config) -> tuple[tuple[str, str], ...]:
    return tuple((name, target) for name, tunnel in config.tunnels.items() for target in tunnel.probe.targets)
