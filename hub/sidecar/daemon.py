"""The process `facilitator-hub sidecar`: constructs the parts; SIGTERM ends it, and no session."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from cryptography import x509

from common.sd_notify import SystemdNotifier
from hub.config.sidecar import SidecarSettings
from hub.sidecar.control import serve_control
from hub.sidecar.directory import CONTROL, JOURNAL, DirectoryRefused, SidecarRuns, check_directory, take_lock
from hub.sidecar.heartbeat import heartbeats
from hub.sidecar.journal_file import JournalFile
from hub.sidecar.service import HttpServiceLink, ServiceFiles
from hub.sidecar.sidecar import Sidecar

EXIT_RUNS = 75  # EX_TEMPFAIL: another one holds the lock
EXIT_UNUSABLE = 78  # EX_CONFIG: the directory cannot be used
_REQUEST_SECONDS = 5.0  # for an answer of the session service


def run_sidecar(settings: SidecarSettings) -> int:
    """Until SIGTERM or SIGINT; the exit code."""
    directory = settings.management.parent
    try:
        check_directory(directory)
        node = node_name(settings)
        lock = take_lock(directory)
    except SidecarRuns as error:
        print(f"facilitator-hub: {error}", file=sys.stderr)
        return EXIT_RUNS
    except (DirectoryRefused, OSError, ValueError) as error:
        print(f"facilitator-hub: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        asyncio.run(_run(settings, node, SystemdNotifier()))
    finally:
        os.close(lock)
    return 0


def node_name(settings: SidecarSettings) -> str:
    """The name by which the session service knows this server: the CN of our certificate, and a name after it
    where one certificate serves several. OSError, ValueError: the certificate cannot be used.
    """
    path = settings.sessions.tls.certificate
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if not names:
        raise ValueError(f"{path}: its subject has no CN; the service knows a sidecar by that name")
    name = str(names[0].value)
    return f"{name}:{settings.server}" if settings.server else name


async def _run(settings: SidecarSettings, node: str, notifier: SystemdNotifier) -> None:
    os.umask(0o077)
    ended = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, ended.set)
    tls = settings.sessions.tls
    service = HttpServiceLink(
        settings.sessions.url, ServiceFiles(tls.certificate, tls.key, tls.ca), _REQUEST_SECONDS
    )
    directory = settings.management.parent
    sidecar = Sidecar(settings, node, service, JournalFile(directory / JOURNAL))
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
