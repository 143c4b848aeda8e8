"""`facilitator try`: one session of one tunnel, driven by the engine and clients of the daemon, without
routes, rules, pages and history. What it makes lies in a directory of its own, and goes with it.

Probes run in a throw-away network namespace: the client's interface moves there once it is up, so that this
host gets neither address nor route. Kinds whose client needs its interface where it is are not probed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

from supervisor.app.files import Files
from supervisor.clients import processes
from supervisor.clients.runner import Runner
from supervisor.clients.spawner import ClientSources
from supervisor.clients.syscalls import own_network
from supervisor.clients.totp import Codes
from supervisor.config.model import Config
from supervisor.core.conditions import Condition
from supervisor.core.events import Asked, ClientSaid, Event
from supervisor.core.network.compose import Scope
from supervisor.core.network.flow_counting import FlowJob
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.session.jobs import ProbeJob
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Phase
from supervisor.core.trial import TrialStage, TrialStep, TrialSteps
from supervisor.engine import Engine
from supervisor.inbox import Inbox
from supervisor.kernel.trial_namespace import move, settle
from supervisor.outputs import Outputs
from supervisor.probes.targets import ProbePath, probe
from supervisor.reports.log.redact import Secrets
from tunnels.base import AnyKind, Carrier, Connected, Failed, Reason
from tunnels.settings import Tunnel

NEVER_SECONDS = 3600.0  # no second login follows within this time: the trial is over long before
STOP_SECONDS = 15.0  # for the client to log off


class _NoNetwork:
    """Nothing of the kernel is changed."""

    conditions: Mapping[str, str] = MappingProxyType({})

    def set(self, plan: NetworkPlan) -> None:
        """See `outputs.Network`."""


class _NoJobs:
    """No prober and no counter."""

    conditions: Mapping[str, Condition] = MappingProxyType({})

    def set(self, jobs: Mapping[str, ProbeJob] | Mapping[int, FlowJob]) -> None:
        """See `outputs.Prober`, `outputs.FlowCounter`."""


class _LastTransition:
    """Whether the session is up or over."""

    def __init__(self) -> None:
        self.settled: asyncio.Future[Transition] = asyncio.get_running_loop().create_future()

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """See `outputs.Recorder`."""
        over = transition.after in (Phase.UP, Phase.BACKOFF, Phase.FAILED, Phase.STOPPED)
        if over and transition.before is not transition.after and not self.settled.done():
            self.settled.set_result(transition)


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """What a trial needs."""

    tunnel: Tunnel
    kind: AnyKind
    config: Config
    directory: Path  # beside which secrets and files lie
    show: Callable[[TrialStep], None]


async def run_trial(about: TrialInputs) -> bool:
    """Make one login and log off again; each step is shown as it is done. True: all of them went well."""
    os.umask(0o077)
    _end_in_order()
    processes.reset_sigchld()
    processes.become_subreaper()
    processes.forbid_core_dumps()
    with tempfile.TemporaryDirectory(prefix="facilitator-try-", dir=_volatile()) as directory:
        trial = _Trial(about, Path(directory))
        try:
            return await trial.run()
        finally:
            await trial.end()


def _end_in_order() -> None:
    """When it is ended, or its terminal goes away, the client logs off first: it would go on by itself."""
    loop, trial = asyncio.get_running_loop(), asyncio.current_task()
    if trial is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: trial.cancelling() or trial.cancel())


def _volatile() -> str | None:
    """A directory in memory."""
    return "/run" if os.access("/run", os.W_OK) else None


class _Trial:
    """One login."""

    def __init__(self, about: TrialInputs, directory: Path) -> None:
        tunnel = about.tunnel
        self._about, self._secrets, self._inbox = about, Secrets(), Inbox()
        files = Files(about.directory, self._secrets.add)
        self._tunnel = _once(tunnel, about.kind)
        self._kinds = {tunnel.kind: about.kind}
        login = tunnel.login
        now = time.monotonic()
        self._steps = TrialSteps(login.password is not None, login.totp is not None, now)
        codes = about.config.facilitator.state_dir / "codes.json"
        self._runner = Runner(
            directory,
            ClientSources(self._kinds, files.inputs),
            self._post,
            on_line=self._on_line,
            codes=Codes(codes if codes.parent.is_dir() else directory / "codes.json"),
        )
        self._recorder = _LastTransition()
        nothing = _NoJobs()
        outputs = Outputs(self._runner, _NoNetwork(), nothing, nothing, (), (self._recorder,))
        self._engine = Engine(
            self._inbox, outputs, self._kinds, clock=time.monotonic, chance=random.SystemRandom().random
        )
        self._turning: asyncio.Task[None] | None = None
        self._connected: Connected | None = None
        self._failure: Failed | None = None

    async def run(self) -> bool:
        """True: the session came up, and a probe target answered where one could be asked."""
        if not await self._resolve():
            return False
        self._runner.start()
        self._turning = asyncio.create_task(self._engine.run())
        self._engine.configure(Scope("try", ()), {self._tunnel.name: self._tunnel}, held=())
        settled = await self._recorder.settled
        if settled.after is not Phase.UP:
            failure = self._failure or Failed(settled.reason, settled.text)
            self._about.show(self._steps.ended(failure, time.monotonic()))
            return False
        return await self._probe()

    async def end(self) -> None:
        """Log off, and leave nothing."""
        if self._turning is not None:
            self._inbox.post(Asked(self._tunnel.name, reason=Reason.STOPPED))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._engine.wait_for(
                        lambda snapshot: not self._runner.running and _stopped(snapshot)
                    )
            for tunnel, session in self._runner.running:
                self._runner.kill(tunnel, session)
            self._turning.cancel()
            await asyncio.gather(self._turning, return_exceptions=True)
            await self._runner.close()

    # --- before and during the login

    async def _resolve(self) -> bool:
        """The name of the gateway, where the settings name one; a profile's is the client's to resolve."""
        named = gateway(self._about.tunnel, self._about.kind)
        if named is None:
            return True
        host, port = named
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            failure = Failed(Reason.DNS, f"{host} cannot be resolved: {why}")
            self._about.show(self._steps.ended(failure, time.monotonic()))
            return False
        address = str(found[0][4][0]) if found else ""
        self._tell(self._steps.reached(TrialStage.NAME, time.monotonic(), f"{host}: {address}"))
        return True

    def _post(self, event: Event) -> None:
        if isinstance(event, ClientSaid):
            if isinstance(event.what, Connected):
                self._connected = event.what
            elif isinstance(event.what, Failed):
                self._failure = self._failure or event.what
            self._tell(self._steps.saw(event.what, time.monotonic()))
        self._inbox.post(event)

    def _on_line(self, tunnel: str, text: str) -> None:
        self._tell(self._steps.saw_line(text, time.monotonic()))

    def _tell(self, steps: Iterator[TrialStep]) -> None:
        for step in steps:
            self._about.show(step)

    # --- when it is up

    async def _probe(self) -> bool:
        """Whether a target answered, or none could be asked."""
        targets, kind = self._tunnel.probe.targets, self._about.kind
        if not targets:
            self._note("no probe targets are configured: whether packets pass is not known")
            return True
        if kind.carrier is not Carrier.DEVICE or not kind.interface_moves:
            self._note(
                f"not asked: a session of kind {kind.name} cannot be probed without routes on this host"
            )
            return True
        snapshot = self._engine.snapshot
        device = snapshot.tunnels[self._tunnel.name][1].session.device
        connected = self._connected
        if device is None or connected is None:
            return True
        try:
            answers = await _probe_apart(device, connected, targets, self._tunnel.probe.timeout)
        except OSError as error:
            self._note(f"not asked: the interface cannot be moved: {error.strerror}", ok=False)
            return False
        for target, seconds in answers.items():
            ok = seconds is not None
            text = (
                f"{target} answered" if ok else f"{target} does not answer: wrong destination, or it is down"
            )
            self._about.show(TrialStep(TrialStage.PROBE, ok, seconds or self._tunnel.probe.timeout, text))
        return any(seconds is not None for seconds in answers.values())

    def _note(self, text: str, *, ok: bool = True) -> None:
        self._about.show(TrialStep(TrialStage.PROBE, ok, 0.0, text))


def gateway(tunnel: Tunnel, kind: AnyKind) -> tuple[str, int] | None:
    """Host and port that the settings name; None: only the customer's file does."""
    host, port = kind.endpoint(tunnel), kind.tcp_port(tunnel)
    return None if host is None or port is None else (host, port)


def _once(tunnel: Tunnel, kind: AnyKind) -> Tunnel:
    """The tunnel with one login, and an interface of another name than the daemon's."""
    reconnect = replace(
        tunnel.reconnect, first=NEVER_SECONDS, max=NEVER_SECONDS, unreachable=NEVER_SECONDS, planned=None
    )
    login = replace(tunnel.login, max_attempts=1)
    device = f"try{os.getpid()}" if "device" in kind.uses(tunnel) else tunnel.device
    return replace(tunnel, reconnect=reconnect, login=login, device=device, exclusive=False)


def _stopped(snapshot: Snapshot) -> bool:
    return all(
        state.phase in (Phase.STOPPED, Phase.FAILED, Phase.BACKOFF) for _, state in snapshot.tunnels.values()
    )


async def _probe_apart(
    device: str, connected: Connected, targets: tuple[str, ...], timeout: float
) -> dict[str, float | None]:
    """Seconds until each target answered, asked in a network namespace of a thread of its own."""
    there: Future[int] = Future()
    moved, done = threading.Event(), threading.Event()
    result: Future[dict[str, float | None]] = Future()
    addresses = [ip_address(each) for each in (connected.address, connected.address6) if each]

    def work() -> None:
        try:
            own_network()
            there.set_result(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            moved.wait(timeout)
            settle(device, addresses, connected.mtu)
            result.set_result(asyncio.run(_ask(device, targets, timeout)))
        except (OSError, ValueError) as error:
            for future in (there, result):
                if not future.done():
                    future.set_exception(error)
        done.wait(timeout)

    thread = threading.Thread(target=work, name="trial", daemon=True)
    thread.start()
    namespace = await asyncio.wrap_future(there)
    try:
        move(device, namespace)
        moved.set()
        return await asyncio.wrap_future(result)
    finally:
        done.set()
        os.close(namespace)


async def _ask(device: str, targets: tuple[str, ...], timeout: float) -> dict[str, float | None]:
    path = ProbePath(device, 0)
    first = [await probe(target, path, timeout) for target in targets]
    again = [
        seconds if seconds is not None else await probe(target, path, timeout)
        for target, seconds in zip(targets, first, strict=True)
    ]
    return dict(zip(targets, again, strict=True))
