"""Asks members, lock engine and the cloud, as the daemon would."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from supervisor.app.files import Files
from supervisor.app.lock_engine import client_tls, lock_service
from supervisor.config import Config
from supervisor.config.fleet import FleetSettings
from supervisor.core.fleet.lease import call_budget
from supervisor.core.preflight.fleet_facts import EngineAnswer, FleetFacts
from supervisor.fleet.examining import etcd_nodes, examined
from supervisor.fleet.member_api import examined_member

_AWS_SECONDS = 20.0


def fleet(config: Config, files: Files) -> FleetFacts | None:
    """What they answer, within a few seconds; None: there is no fleet."""
    settings, name = config.fleet, config.facilitator.name or ""
    if settings is None:
        return None
    locks = any(tunnel.exclusive for tunnel in config.tunnels.values())
    return asyncio.run(_asked(settings, name, files, locks=locks))


async def _asked(fleet: FleetSettings, name: str, files: Files, *, locks: bool) -> FleetFacts:
    urls = {member: each.api for member, each in fleet.members.items() if member != name}
    async with asyncio.TaskGroup() as asking:
        members = [
            asking.create_task(examined_member(member, url, lambda: client_tls(fleet.tls)))
            for member, url in urls.items()
        ]
        engine = asking.create_task(_engine(fleet, name, files, locks=locks))
        routes = asking.create_task(asyncio.to_thread(_routes, fleet))
    return FleetFacts(tuple(task.result() for task in members), engine.result(), routes.result())


async def _engine(fleet: FleetSettings, name: str, files: Files, *, locks: bool) -> EngineAnswer | None:
    if fleet.lock is None:
        return None
    service = lock_service(fleet.lock, name, files)
    try:
        found = await examined(service, fleet.name, name, locks=locks)
    finally:
        await service.close()
    if (etcd := fleet.lock.etcd) is None:
        return found
    nodes = await etcd_nodes(etcd.endpoints, lambda: client_tls(etcd.tls), call_budget(etcd.ttl))
    return EngineAnswer(found.name, found.away, found.denied, found.seconds, found.ttl, nodes)


def _routes(fleet: FleetSettings) -> tuple[str, ...] | None:
    if (aws := fleet.announce.aws) is None:
        return None
    keys = ("interface", "endpoint", "region")
    settings = {"tables": aws.route_tables, **{key: getattr(aws, key) for key in keys}}
    argv = (sys.executable, "-I", "-m", "supervisor.fleet.aws_program", "--dry-run")
    try:
        done = subprocess.run(
            argv, input=json.dumps(settings), capture_output=True, text=True, timeout=_AWS_SECONDS, check=True
        )
        return tuple(json.loads(done.stdout)["problems"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
        return (f"the EC2 API could not be asked: {error}",)
