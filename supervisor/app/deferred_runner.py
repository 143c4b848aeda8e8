"""Make-before-break at the end of a session: its client ends only after the kernel has moved its traffic.

engine -> terminate -> the kernel carries out the latest plan (other tunnel, or closed) -> the client ends
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from supervisor.clients.runner import Runner
from supervisor.core.faults import Faults
from tunnels.settings import Tunnel

SETTLED_WITHIN_SECONDS = 2.0  # how long the kernel may take; the client ends at any rate


class DeferredRunner:
    """The engine's `ClientRunner`: `terminate` waits for the network, all else happens at once."""

    def __init__(
        self, runner: Runner, network_settled: Callable[[str], Awaitable[None]], faults: Faults
    ) -> None:
        """`network_settled` waits until the kernel carries out the latest plan for a tunnel."""
        self._runner, self._settled, self._faults = runner, network_settled, faults
        self._waiting: set[asyncio.Task[None]] = set()

    def spawn(
        self, tunnel: Tunnel, session: int, resume: bool = False, remote: int = 0, slot: int = 0
    ) -> None:
        """See `ClientRunner`."""
        self._runner.spawn(tunnel, session, resume, remote, slot)

    def renew(self, tunnel: str, session: int) -> None:
        """See `ClientRunner`."""
        self._runner.renew(tunnel, session)

    def ask_sign_of_life(self, tunnel: str, session: int) -> None:
        """See `ClientRunner`."""
        self._runner.ask_sign_of_life(tunnel, session)

    def kill(self, tunnel: str, session: int) -> None:
        """See `ClientRunner`."""
        self._runner.kill(tunnel, session)

    @property
    def busy(self) -> bool:
        """See `ClientRunner`."""
        return self._runner.busy

    def terminate(self, tunnel: str, session: int, leave: bool = False) -> None:
        """Terminate the client as soon as the network has settled."""
        task = asyncio.get_running_loop().create_task(self._terminate(tunnel, session, leave))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _terminate(self, tunnel: str, session: int, leave: bool) -> None:
        with self._faults.contained("network"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_WITHIN_SECONDS):
                await self._settled(tunnel)
        self._faults.run("runner", self._runner.terminate, tunnel, session, leave)
