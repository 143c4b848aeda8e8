"""`facilitator-hub sessions`: builds the service from its settings, serves until it is asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import structlog

from common.sd_notify import SystemdNotifier
from common.tls import ServerTls
from hub.config.model import SessionsSettings, database_path
from hub.service import files
from hub.service.approvals import Notifier
from hub.service.database import Connection, Database, Unavailable
from hub.service.files import HubSecrets
from hub.service.http import HubApi
from hub.service.local import LocalPages
from hub.service.login_pages import CALLBACK, LoginPages, Provider
from hub.service.logins import Ask
from hub.service.metrics import HubMetrics
from hub.service.service import SessionService
from hub.service.serving import HubServers
from hub.service.sqlite import SqliteConnection
from hub.service.staff_files import StaffFiles

_FILES_SECONDS = 0.25
_OVERDUE_SECONDS = 1.0
_PEOPLE_SECONDS = 10.0  # days end, and blocks; changes of the file are applied at once
_OTHERS_SECONDS = 0.1  # how often it is looked what other processes have written
_FORGET_SECONDS = 3600.0
# A login goes from the event loop to the writer's thread and back. With Python's 5 ms, each way may wait so
# long for a thread that compares thousands of sessions.
_SWITCH_SECONDS = 0.0005

Work = Coroutine[Any, Any, None]


class AlreadyRunning(Exception):
    """Another process has the database."""


@contextlib.contextmanager
def locked(database: str) -> Iterator[None]:
    """A database in a file is one process's. AlreadyRunning, OSError."""
    path = database_path(database)
    if path is None:
        yield
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another session service uses {path}") from None
        yield


def connector(database: str) -> Callable[[bool], Connection]:
    """Opens connections to the configured database."""
    path = database_path(database)
    if path is not None:
        return lambda writing: SqliteConnection(path, writing)
    from hub.service.postgresql import PostgresqlConnection  # needs an extra package

    return lambda writing: PostgresqlConnection(database, writing)


class HubDaemon:
    """One run of the service."""

    def __init__(self, settings: SessionsSettings, directory: Path) -> None:
        """`directory`: of the configuration file, for relative names of secrets."""
        self._settings = settings
        self._log = structlog.get_logger()
        self._metrics = HubMetrics()
        secrets = HubSecrets(directory)
        self._staff = StaffFiles(settings, secrets, self._metrics)
        self._database = Database(connector(settings.database))
        self._notifier = self._make_notifier(settings, secrets)
        self._provider = _provider(settings, secrets)
        self.service = SessionService(self._database, self._staff.rules, settings.heartbeat, self._ask)
        tls = settings.tls
        self._tls = ServerTls(tls.certificate, tls.key, tls.client_ca)
        self._tls_marks = [files.mark(path) for path in self._tls.files]
        self._servers = HubServers()

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until `stop`. `ready`: called with the port of the API. ConfigErrors, OSError, ValueError."""
        self._staff.read()
        self.service.rules = self._staff.rules
        settings = self._settings
        tasks: list[asyncio.Task[None]] = []
        try:
            api = HubApi(self.service, settings.tls.roles, self._metrics)
            await self._listen_pages()
            await self._servers.listen(LocalPages(self.service, self._metrics).app(), settings.http)
            port = await self._servers.listen(api.app(), settings.listen, self._tls.context)
            tasks = [asyncio.create_task(each) for each in self._background()]
            ready(port)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # one that has ended has failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._servers.close()
            if self._notifier is not None:
                await self._notifier.close()
            await self._database.close()

    async def _listen_pages(self) -> None:
        pages = self._settings.pages
        if pages is None:
            return
        own = pages.certificate is not None and pages.key is not None
        tls = (
            ServerTls(pages.certificate, pages.key).context
            if own and pages.certificate and pages.key
            else None
        )
        secure = pages.url.startswith("https:")
        shown = LoginPages(self.service, self._provider, secure, pages.proxies)
        await self._servers.listen(shown.app(), pages.listen, tls)

    def _background(self) -> Iterator[Work]:
        yield self._repeated(_FILES_SECONDS, self._look_at_files)
        yield self._repeated(_OVERDUE_SECONDS, self.service.end_overdue)
        yield self._repeated(_PEOPLE_SECONDS, self.service.apply_people)
        yield self._repeated(_FORGET_SECONDS, lambda: self.service.forget(self._settings.retention))
        if database_path(self._settings.database) is None:
            yield self._repeated(_OTHERS_SECONDS, self.service.look_for_others)

    async def _repeated(self, seconds: float, work: Callable[[], Work]) -> None:
        """For ever. While the database does not answer, it is said once."""
        failing = False
        while True:
            try:
                await work()
                failing = False
            except Unavailable as error:
                if not failing:
                    self._log.error("the database does not answer", error=str(error))
                failing = True
            await asyncio.sleep(seconds)

    async def _look_at_files(self) -> None:
        if self._staff.reread():
            self.service.rules = self._staff.rules
            await self.service.apply_people()
        marks = [files.mark(path) for path in self._tls.files]
        if marks != self._tls_marks:
            self._tls_marks = marks
            try:
                self._tls.renew()
            except OSError as error:
                self._log.error("new certificate not used, the earlier one is in effect", error=str(error))

    def _make_notifier(self, settings: SessionsSettings, secrets: HubSecrets) -> Notifier | None:
        notification, pages = settings.login.notification, settings.pages
        if notification is None or pages is None:
            return None
        webhook, key = notification.webhook, notification.key
        return Notifier(lambda: secrets.read(webhook), lambda: secrets.read(key), pages.link)

    def _ask(self, ask: Ask) -> None:
        if self._notifier is not None:
            self._notifier.ask(ask)


def _provider(settings: SessionsSettings, secrets: HubSecrets) -> Provider | None:
    """The configured identity provider; it is not asked anything yet. ValueError: a package is missing."""
    oidc, pages = settings.login.oidc, settings.pages
    if oidc is None or pages is None:
        return None
    try:
        from hub.service.identity import IdentityProvider  # needs an extra package
    except ImportError:
        raise ValueError("login.oidc needs: pip install 'vpn-facilitator[oidc]'") from None
    return IdentityProvider(oidc, lambda: secrets.read(oidc.secret), f"{pages.url.rstrip('/')}{CALLBACK}")


async def serve(settings: SessionsSettings, directory: Path) -> None:
    """Until SIGTERM or SIGINT."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    notifier, stop, loop = SystemdNotifier(), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = structlog.get_logger()

    def ready(port: int) -> None:
        log.info("serving", port=port, http=str(settings.http))
        notifier.ready(f"serving on port {port}")

    await HubDaemon(settings, directory).run(stop, ready)
    notifier.stopping()
    log.info("ended")
