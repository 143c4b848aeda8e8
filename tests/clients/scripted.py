"""A VPN kind whose client is whatever program a test writes down, and the pieces to run it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from supervisor.clients.runner import Runner
from supervisor.clients.spawner import ClientSources
from supervisor.core.events import Event, Exited
from tests.settings import configured
from tunnels.base import (
    AnyKind,
    Carrier,
    Connected,
    Dialogue,
    Failed,
    Input,
    Keep,
    Kind,
    Launch,
    LineSource,
    Observation,
    Placement,
    Question,
    Reason,
    Say,
    Secret,
    Tunnel,
    Wanted,
    inputs_of,
)

EventT = TypeVar("EventT", bound=Event)


class Scripted(Tunnel):
    """Runs `argv`; `{python}`, `{directory}` and `{port}` in it are filled in."""

    argv: tuple[str, ...]
    management: bool = False
    notify: bool = False
    secret: str | None = None


class ScriptedDialogue:
    """Understands a toy language; `boom` breaks its promise not to raise."""

    def __init__(self, inputs: Mapping[str, bytes]) -> None:
        self._password = inputs.get("password", b"").decode()

    def receive(self, source: LineSource, line: str) -> Iterable[Say | Observation]:
        if line == "boom":
            raise RuntimeError(f"boom {self._password}")
        if source is LineSource.MANAGEMENT and line == "":
            return [Say("hello")]
        if source is LineSource.MANAGEMENT and line == ">PASSWORD":
            return [Say(f"password {self._password}", secret=True)]
        if line.startswith("keep "):
            return [Keep(line.removeprefix("keep "))]
        if line.startswith("ask "):
            wanted, text = line.removeprefix("ask ").split(" ", 1)
            return [Question(Wanted(wanted), text)]
        if line in ("up", "READY=1"):
            return [Connected(address="10.0.0.2")]
        if line.startswith("fail "):
            return [Failed(Reason.AUTH, line.removeprefix("fail "))]
        return []

    def answer(self, text: str) -> Iterable[Say | Observation]:
        return [Say(f"answer {text}", secret=True)]


def _inputs(tunnel: Scripted) -> tuple[Input, ...]:
    return () if tunnel.secret is None else (Input("password", Secret(file=tunnel.secret)),)


def _launch(tunnel: Scripted, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    if "refuse" in tunnel.argv:
        raise ValueError("line 3: refuse is not an option")
    values = {"{python}": place.python, "{directory}": str(place.directory), "{port}": str(place.port)}
    argv = tuple(
        re.sub(r"\{(python|directory|port)\}", lambda match: values[match[0]], word) for word in tunnel.argv
    )
    management = place.directory / "management.sock" if tunnel.management else None
    everything = (Path("/"),)  # what is tested here is not the sandbox
    return Launch(argv, {"COLOUR": "green"}, dict(inputs), management, tunnel.notify, writes=everything)


def _dialogue(tunnel: Scripted, inputs: Mapping[str, bytes]) -> Dialogue:
    return ScriptedDialogue(inputs)


def kind(carrier: Carrier = Carrier.DEVICE, binaries: tuple[str, ...] = ()) -> Kind[Scripted]:
    return Kind("scripted", Scripted, carrier, _inputs, _launch, _dialogue, binaries)


def tunnel(*argv: str, name: str = "acme", **options: Any) -> Scripted:
    return configured(
        Scripted, name=name, kind="scripted", destinations=("10.0.0.0/24",), argv=argv, **options
    )


def shell(script: str, name: str = "acme", **options: Any) -> Scripted:
    return tunnel("/bin/sh", "-c", script, name=name, **options)


class RunnerBench:
    """A runner, its inbox, and what it logged."""

    def __init__(self, runtime_dir: Path, **sources: Any) -> None:
        self.secrets: dict[str, bytes] = {}
        self.inbox: asyncio.Queue[Event] = asyncio.Queue()
        self.logged: list[tuple[str, str]] = []
        self.runtime_dir = runtime_dir
        self.runner = Runner(
            runtime_dir,
            ClientSources(**{"kinds": {"scripted": kind()}, "read_inputs": self._inputs, **sources}),
            self.inbox.put_nowait,
            on_line=lambda name, text: self.logged.append((name, text)),
        )

    async def __aenter__(self) -> RunnerBench:
        self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for name, session in self.runner.running:
            self.runner.kill(name, session)
            while (name, session) in self.runner.running:
                await self.inbox.get()
        await self.runner.close()

    def _inputs(self, kind: AnyKind, tunnel: Tunnel) -> dict[str, bytes]:
        return {item.name: self._read(item) for item in inputs_of(kind, tunnel)}

    def _read(self, item: Input) -> bytes:
        assert isinstance(item.where, Secret)
        if item.where.file not in self.secrets:
            raise ValueError(
                f"{item.where.file} is neither in $CREDENTIALS_DIRECTORY nor beside the configuration"
            )
        return self.secrets[item.where.file]

    async def next(self, wanted: type[EventT], within: float = 60.0) -> EventT:
        """The next event, which must be a `wanted`."""
        event = await asyncio.wait_for(self.inbox.get(), within)
        assert isinstance(event, wanted), event
        return event

    async def ended(self) -> Exited:
        """The next event, which must be the end of a client, without its last line."""
        return replace(await self.next(Exited), said=None)

    def lines(self) -> list[str]:
        return [text for _, text in self.logged]

    def directory(self, name: str = "acme") -> Path:
        return self.runtime_dir / "clients" / name


async def until(condition: Callable[[], bool], within: float = 60.0) -> None:
    """Wait for something of which nobody tells us."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tagged(runtime_dir: Path) -> list[int]:
    """Every process that carries the tag of this runtime_dir."""
    needle = f"FACILITATOR_CLIENT={runtime_dir.resolve()}/".encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and needle in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def zombies() -> list[int]:
    """Dead children of ours that nobody reaped."""
    me = str(os.getpid())
    found = []
    for name in os.listdir("/proc"):
        try:
            fields = (
                Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split() if name.isdecimal() else []
            )
        except OSError:
            continue
        if fields[:2] == ["Z", me]:
            found.append(int(name))
    return found
