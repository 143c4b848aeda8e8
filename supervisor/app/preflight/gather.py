"""Gathers all facts about this host for `supervisor.core.preflight`. What cannot be read is None."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from supervisor.app.files import Files
from supervisor.app.first_plan import first_plan
from supervisor.app.preflight import addresses, birdc, fleet, host, programs, resolving, service, stores
from supervisor.app.preflight.account import acting_as
from supervisor.app.preflight.isolation import isolation
from supervisor.app.preflight.locations import Places
from supervisor.app.preflight.requirements import requirements
from supervisor.app.profiles import Weight, examine
from supervisor.config.model import Config
from supervisor.core.identity.staff_routes import StaffRoute
from supervisor.core.preflight.checklist import run_checks
from supervisor.core.preflight.facts import (
    ClientFileRemark,
    HostFacts,
    PacketContext,
    ProcessFacts,
    Service,
    ServiceAccount,
)
from supervisor.core.preflight.finding import Finding
from supervisor.included import files as files_of
from supervisor.kernel.inspect import foreign_rules
from tunnels.base import AnyKind


def diagnose(
    path: Path,
    config: Config,
    kinds: Mapping[str, AnyKind],
    places: Places | None = None,
    *,
    with_files: bool = True,
) -> tuple[Finding, ...]:
    """Run the preflight checks for the configuration that was read from `path`. Takes seconds at most.
    `with_files`: those of the customers too.
    """
    facts = gather(path, config, kinds, places or Places())
    if with_files:
        files = Files(
            path.resolve().parent,
            lambda _: None,
            host.environment(host.running(config.facilitator.runtime_dir)),
        )
        facts = replace(facts, client_files=tuple(_file_remarks(config, kinds, files)))
    return run_checks(facts)


def _file_remarks(config: Config, kinds: Mapping[str, AnyKind], files: Files) -> Iterator[ClientFileRemark]:
    for remark in examine(config.tunnels, kinds, files):
        if remark.weight is not Weight.READS:
            yield ClientFileRemark(str(remark), fatal=remark.weight is Weight.ERROR)


def gather(path: Path, config: Config, kinds: Mapping[str, AnyKind], places: Places) -> HostFacts:
    """All facts. Names are resolved in the background meanwhile."""
    running = host.running(config.facilitator.runtime_dir)
    process, environment = host.process(running), host.environment(running)
    files = Files(path.resolve().parent, lambda _: None, environment)
    privileged = "CAP_NET_ADMIN" in host.process(None).capabilities
    wanted, runs_it = requirements(config, kinds), service.service(environment, places)
    account = _account(runs_it, process, running)
    if account is not None and not running:
        process = host.of_unit(account)
    credentials = dict(runs_it.unit.credentials if runs_it.unit else ())
    needed = [*(need.path for _, need in wanted.needs), *credentials.values()]
    policies, packets = host.rules(), context(config, kinds)
    devices = dict.fromkeys(device for _, device in packets.arrivals)
    with acting_as(account):
        read = (
            *(stores.configuration(each, account) for each in files_of(path)),
            *stores.secrets(config, kinds, files, privileged, credentials, account),
        )
        written = stores.directories(config, privileged, account)
    with resolving.Resolver(resolving.names(config, files)) as resolver:
        return HostFacts(
            requirements=wanted,
            process=process,
            privileged=privileged,
            tun=host.tun(places.tun),
            absent=frozenset(path for path in needed if not Path(path).exists()),
            programs=programs.installed(config, kinds),
            packages=programs.packages(),
            supervisord=programs.supervisord(),
            settings=host.settings(places.sysctls, devices),
            kernel=host.kernel(),
            isolation=isolation(),
            legacy_tables=host.legacy_tables(),
            rules=policies,
            routes=host.routes(policies or ()),
            context=packets,
            filters=host.reverse_path(places.sysctls, devices),
            synchronised=host.synchronised(),
            own=addresses.own(config, places.resolvers),
            secrets=read,
            directories=written,
            listeners=addresses.listeners(config, running),
            service=runs_it,
            daemon=host.daemon(config.facilitator.runtime_dir, running),
            cloud=host.maker(),
            endpoints=resolver.endpoints(),
            bird=birdc.bird(packets.plan, places.bird),
            fleet=fleet.fleet(config, files),
            staff_routes=tuple(
                StaffRoute("of hub.routes", network) for network in (config.hub.routes if config.hub else ())
            ),
        )


def _account(runs_it: Service, process: ProcessFacts, running: int | None) -> ServiceAccount | None:
    """The unit's, where root asks and no daemon of somebody else runs; None: judge as the user who asks."""
    account = None if runs_it.unit is None else runs_it.unit.account
    if account is None or os.geteuid() != 0 or (running and process.uid != account.uid):
        return None
    return account


def context(config: Config, kinds: Mapping[str, AnyKind]) -> PacketContext:
    """The context of packets under this configuration, with the lanes that a first start would assign."""
    plan = first_plan(config, kinds)
    targets = tuple(
        (name, target) for name, tunnel in config.tunnels.items() for target in tunnel.probe.targets
    )
    return PacketContext(plan, targets, (), host.arrivals(plan.staff), foreign_rules.indexes())
