"""What a command that waits for a tunnel is told, while the tunnel's fate is decided by somebody else."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from supervisor.app.api.daemon_api import RunningDaemonAPI
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.core.events import Asked
from supervisor.core.network.compose import Scope
from supervisor.core.views.status_json import DaemonIdentity
from tests.fakes import Habits, World
from tests.simulation.test_worlds import tunnel
from tunnels.base import Reason


@pytest.fixture
def world() -> World:
    """A tunnel that never connects."""
    return World({"acme": tunnel()}, Habits(connects_in=lambda: None))


@pytest.fixture
def api(world: World, tmp_path) -> RunningDaemonAPI:
    return made(world, tmp_path)


def made(world: World, tmp_path) -> RunningDaemonAPI:
    needed = {
        "identity": DaemonIdentity("test", "0", 1, 0.0, 0.0),
        "inbox": world.inbox,
        "engine": world.engine,
        "stopped_tunnels": StoppedTunnels(tmp_path),
        "network": world.network,
        "people": lambda: None,
    }
    return RunningDaemonAPI(**dict.fromkeys(field.name for field in fields(RunningDaemonAPI)) | needed)


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
async def test_a_removed_tunnel_ends_the_waiting_and_not_the_daemon(
    world: World, api: RunningDaemonAPI, verb: str
) -> None:
    waiting = asyncio.create_task(api.command("acme", verb, 60.0))
    await asyncio.sleep(0)
    world.engine.configure(Scope("sim", ()), {}, held=())
    world.run(until=5.0)
    with pytest.raises(LookupError, match="acme was taken out of the configuration meanwhile"):
        await waiting


async def test_a_start_is_over_when_somebody_else_stops_the_tunnel(
    world: World, api: RunningDaemonAPI
) -> None:
    waiting = asyncio.create_task(api.command("acme", "start", 60.0))
    await asyncio.sleep(0)
    world.run(until=1.0)
    world.post(Asked("acme", reason=Reason.STOPPED))
    world.run(until=5.0)
    assert (await waiting)["phase"] == "stopped"


async def test_a_drain_of_a_tunnel_answers_with_what_is_left(tmp_path) -> None:
    world = World({"acme": tunnel()}, Habits(flows=lambda name, now: 2))
    world.run(until=10.0)
    waiting = asyncio.create_task(made(world, tmp_path).command("acme", "stop", 60.0, drain=True))
    await asyncio.sleep(0)
    world.run(until=11.0)
    answer = await waiting
    assert (answer["phase"], answer["want"], answer["drain"]["flows_left"]) == ("up", "up", 2)
    assert StoppedTunnels(tmp_path).names == {"acme"}, "a daemon that starts now leaves it down"
