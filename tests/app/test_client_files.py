"""Files of a running tunnel that become bad: who is told, and what is not ended for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from supervisor.app.api.daemon_api import RunningDaemonAPI
from supervisor.app.files import Files
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.watchers.client_files import ClientFiles
from supervisor.config.validation import validated
from supervisor.core.events import Event, InputsChanged, Noticed
from supervisor.core.faults import Faults
from supervisor.core.state import Phase
from supervisor.core.views.status_json import DaemonIdentity
from tests.fakes import Habits, World
from tests.simulation.test_worlds import tunnel
from tunnels.base import Tunnel
from tunnels.kinds.openvpn.kind import OpenVPN
from tunnels.registry import KINDS

PEM = "-----BEGIN {0}-----\nA\n-----END {0}-----\n"
BLOCKS = "".join(
    f"<{name}>\n{PEM.format(label)}</{name}>\n"
    for name, label in (("ca", "CERTIFICATE"), ("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"))
)
GOOD, BAD = f"client\nremote 192.0.2.1 1194\n{BLOCKS}", "client\n\nremote 192.0.2.1:1194\n"
SAID = ":3: remote has the server in another form than OpenVPN reads; write it as: remote 192.0.2.1 1194"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "acme.ovpn"
    path.write_text(GOOD)
    return path


def settings(profile: Path, name: str = "acme") -> Tunnel:
    return validated(OpenVPN, {"name": name, "destinations": ["10.77.0.0/24"], "config": profile})


@pytest.fixture
def world() -> World:
    """The tunnel acme is up."""
    world = World({"acme": tunnel()}, Habits())
    world.run(until=10.0)
    assert world.engine.snapshot.tunnels["acme"][1].phase is Phase.UP
    return world


@pytest.fixture
def watched(world: World, profile: Path) -> tuple[ClientFiles, list[Event]]:
    posted: list[Event] = []
    files = Files(profile.parent, lambda _: None, {})
    made = ClientFiles(KINDS, files, world.engine, posted.append, Faults(time.monotonic))
    made.set({"acme": settings(profile)})
    return made, posted


def test_a_bad_file_of_a_tunnel_that_is_up_is_a_condition_until_it_is_good_again(
    watched: tuple[ClientFiles, list[Event]], profile: Path
) -> None:
    files, posted = watched
    assert (files.conditions, posted) == ({}, [])
    profile.write_text(BAD)
    assert files.changed(InputsChanged("acme")) == InputsChanged("acme", usable=False)
    ((name, condition),) = files.conditions.items()
    assert (name, condition.tunnel) == ("files:acme", "acme")
    assert condition.text == f"tunnel acme is up and could not be started again: {profile}{SAID}"
    assert posted == [Noticed("")]
    profile.write_text(GOOD)
    assert files.changed(InputsChanged("acme")) == InputsChanged("acme", usable=True)
    assert files.conditions == {}
    profile.unlink()
    files.changed(InputsChanged("acme"))
    assert "No such file" in files.conditions["files:acme"].text


def test_a_tunnel_that_is_not_up_has_an_incident_of_its_own(profile: Path) -> None:
    world = World({"acme": tunnel()}, Habits(connects_in=lambda: None))
    files = ClientFiles(
        KINDS, Files(profile.parent, lambda _: None, {}), world.engine, lambda _: None, Faults(time.monotonic)
    )
    profile.write_text(BAD)
    files.set({"acme": settings(profile)})
    assert files.problems == {"acme": f"{profile}{SAID}"}
    assert files.conditions == {}


def test_at_a_reload_only_new_and_changed_tunnels_are_read(world: World, profile: Path) -> None:
    read: list[str] = []

    class CountedReads(Files):
        def inputs(self, kind: Any, tunnel: Tunnel) -> dict[str, bytes]:
            read.append(tunnel.name)
            return super().inputs(kind, tunnel)

    files = ClientFiles(
        KINDS,
        CountedReads(profile.parent, lambda _: None, {}),
        world.engine,
        lambda _: None,
        Faults(time.monotonic),
    )
    many = {f"t{number}": settings(profile, f"t{number}") for number in range(200)}
    files.set(many)
    assert len(read) == 200
    files.set(many | {"new": settings(profile, "new")})
    assert read[200:] == ["new"]


async def restarted(world: World, tmp_path: Path, files: ClientFiles, *, force: bool) -> str:
    needed = {
        "identity": DaemonIdentity("test", "0", 1, 0.0, 0.0),
        "inbox": world.inbox,
        "engine": world.engine,
        "stopped_tunnels": StoppedTunnels(tmp_path),
        "network": world.network,
        "file_problem": files.look,
        "people": lambda: None,
    }
    api = RunningDaemonAPI(**dict.fromkeys(field.name for field in fields(RunningDaemonAPI)) | needed)
    waiting = asyncio.create_task(api.command("acme", "restart", 60.0, force=force))
    await asyncio.sleep(0)
    world.run(until=world.now + 10.0)
    return (await waiting)["reason"]


async def test_restart_does_not_end_a_good_session_for_a_bad_file(
    world: World, watched: tuple[ClientFiles, list[Event]], profile: Path, tmp_path: Path
) -> None:
    session = world.engine.snapshot.tunnels["acme"][1].session.number
    profile.write_text(BAD)
    with pytest.raises(PermissionError, match="acme is up and could not start again: .*acme.ovpn:3: remote"):
        await restarted(world, tmp_path, watched[0], force=False)
    assert world.engine.snapshot.tunnels["acme"][1].session.number == session
    await restarted(world, tmp_path, watched[0], force=True)
    assert world.engine.snapshot.tunnels["acme"][1].session.number == session + 1


async def test_a_good_file_is_restarted_without_asking(
    world: World, watched: tuple[ClientFiles, list[Event]], tmp_path: Path
) -> None:
    session = world.engine.snapshot.tunnels["acme"][1].session.number
    await restarted(world, tmp_path, watched[0], force=False)
    assert world.engine.snapshot.tunnels["acme"][1].session.number == session + 1


async def test_a_session_is_not_reconnected_for_a_file_that_cannot_be_used() -> None:
    """With `login.reconnect_on_change` it is, for one that can."""
    wanted = {"acme": tunnel(login={"reconnect_on_change": True})}
    for usable, sessions in ((False, 1), (True, 2)):
        world = World(wanted, Habits())
        world.run(until=10.0)
        world.post(InputsChanged("acme", usable=usable))
        world.run(until=1000.0)
        assert world.engine.snapshot.tunnels["acme"][1].session.number == sessions, usable
