"""The process `facilitator-hub sidecar`: constructs the parts; SIGTERM ends it, and no session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from common.sd_notify import SystemdNotifier
from hub.core.sidecar.settings import SidecarSettings
from hub.sidecar.control import serve_control
from hub.sidecar.directory import CONTROL, JOURNAL, DirectoryRefused, SidecarRuns, check_directory, take_lock
from hub.sidecar.heartbeat import heartbeats
from hub.sidecar.journal_file import JournalFile
from hub.sidecar.log import log_json
from hub.sidecar.service import HttpSessionService, ServiceFiles
from hub.sidecar.sidecar import Sidecar

EXIT_RUNS = 75  # EX_TEMPFAIL: another one holds the lock
EXIT_UNUSABLE = 78  # EX_CONFIG: the directory cannot be used
_REQUEST_SECONDS = 5.0  # for an answer of the session service


def run_sidecar(settings: SidecarSettings) -> int:
    """Until SIGTERM or SIGINT; the exit code."""
    directory = settings.management.parent
    try:
        check_directory(directory)
        lock = take_lock(directory)
    except SidecarRuns as error:
        print(f"facilitator-hub: {error}", file=sys.stderr)
        return EXIT_RUNS
    except (DirectoryRefused, OSError) as error:
        print(f"facilitator-hub: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        log_json(sys.stdout)
        asyncio.run(_run(settings, SystemdNotifier()))
    finally:
        os.close(lock)
    return 0


async def _run(settings: SidecarSettings, notifier: SystemdNotifier) -> None:
    os.umask(0o077)
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ended.set)
    files = ServiceFiles(settings.certificate, settings.key, settings.ca)
    service = HttpSessionService(settings.url, files, _REQUEST_SECONDS)
    directory = settings.management.parent
    sidecar = Sidecar(settings, service, JournalFile(directory / JOURNAL))
    control = await serve_control(directory / CONTROL, sidecar)
    parts = (
        sidecar.run(),
        sidecar.outbox.deliver(),
        heartbeats(sidecar, service, settings.heartbeat),
        _told_systemd(sidecar, notifier),
    )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await ended.wait()
            notifier.stopping()
            for task in tasks:
                task.cancel()
    finally:
        control.close()
        await sidecar.close()
        await service.close()


async def _told_systemd(sidecar: Sidecar, notifier: SystemdNotifier) -> None:
    """Ready as soon as we run: a server that is not there yet is no fault of ours. Then the watchdog."""
    notifier.ready("waits for OpenVPN")
    while True:
        known = f"{len(sidecar.machine.clients)} clients" if sidecar.ready.is_set() else "waits for OpenVPN"
        notifier.status(known)
        notifier.watchdog()
        await asyncio.sleep(notifier.watchdog_interval or 10.0)
