"""Commands without a daemon: compare the kernel with a configuration (`facilitator plan`), and remove
everything of ours (`facilitator cleanup`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor import disk, early_close
from supervisor.app.directories import lock, refused, tidy
from supervisor.app.first_plan import first_plan
from supervisor.app.names import end_process
from supervisor.app.stores.changed_sysctls import ChangedSysctls
from supervisor.app.stores.fleet_orders import FleetOrderFile
from supervisor.app.stores.state_store import forget
from supervisor.clients import hooks
from supervisor.clients.cgroup import ClientGroup
from supervisor.clients.process_journal import Journal
from supervisor.clients.sweep import sweep
from supervisor.config import Config
from supervisor.core.fleet.orders import demands
from supervisor.core.network.changes import diff
from supervisor.core.network.layout import HostFeatures, Layout
from supervisor.core.network.wanted import wanted
from supervisor.core.views.documents import PlanDocument
from supervisor.core.views.status_json import plan_document
from supervisor.kernel.errors import KernelError
from supervisor.kernel.maintenance import cleanup, preview, remove_devices
from tunnels.networks import IPAddress
from tunnels.registry import KINDS


async def clean(runtime_dir: Path, state_dir: Path, name: str, keep: bool = False) -> list[str]:
    """End leftover processes, put back the host's settings, and take everything of ours out of the kernel;
    one line each. CannotStart: a daemon runs.

    `name`: the facilitator's. `keep`: the kernel's part stays. Without clients it leads nowhere, so the
    destinations are closed, as `on_exit: keep` wants it.
    """
    locked = lock(runtime_dir) if runtime_dir.is_dir() else None
    try:
        lines: list[str] = []
        if locked is not None:
            lines += tidy(runtime_dir)
            ended = await sweep(Journal(runtime_dir))
            lines += [f"ended process {pid} of {tunnel}" for tunnel, pid in ended]
            if await end_process(runtime_dir):
                lines.append("ended the name service")
            ClientGroup(name).remove()
        with _explained():
            if not keep:
                lines += await cleanup(ChangedSysctls(state_dir))
                early_close.forget(state_dir)
            lines += [f"removed interface {name}" for name in await remove_devices()]
        disk.make_way(runtime_dir / disk.CONTROL_SOCKET)
        forget(runtime_dir)
        hooks.forget(runtime_dir)
        return lines
    finally:
        if locked is not None:
            os.close(locked)


async def compare_with_kernel(config: Config) -> PlanDocument:
    """What the configuration wants while no tunnel is up, and how the kernel differs. CannotStart: it
    cannot be read.
    """
    denied: tuple[IPAddress, ...] = ()
    if config.fleet is not None and config.fleet.lock is not None:
        followed = FleetOrderFile(config.facilitator.state_dir).orders
        denied = demands(followed, config.facilitator.name or "").denied
    plan = first_plan(config, KINDS, denied=denied)
    with _explained():
        changes = await preview(plan)
    return plan_document(
        plan,
        [str(change.item) for change in diff(Layout(), wanted(plan, HostFeatures()))],
        [str(change) for change in changes],
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except KernelError as error:
        raise refused(error) from error
