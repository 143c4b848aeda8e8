"""Databases for tests: SQLite in a file, and a real PostgreSQL server of our own, without network, as an
unprivileged user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from hub.service.database import Connection
from hub.service.postgresql import PostgresqlConnection
from hub.service.sqlite import SqliteConnection

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


def initdb() -> Path | None:
    """The program that makes a cluster; None: PostgreSQL is not installed."""
    found = [path / "initdb" for path in reversed(_PROGRAMS) if (path / "initdb").exists()]
    return found[0] if found else None


class PostgresqlServer:
    """A cluster in a directory, reached through a unix socket in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program = initdb()
        assert program is not None
        self._programs = program.parent
        self._databases = 0
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())

    def start(self) -> None:
        """Start it; the first time it is made."""
        data = str(self._directory / "data")
        if not (self._directory / "data").exists():
            if os.geteuid() == 0:
                os.chown(self._directory, self._user.pw_uid, self._user.pw_gid)
            self._run("initdb", "-D", data, "-U", "hub", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={self._directory} -c max_connections=40"
        log = str(self._directory / "log")
        self._run("pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop it."""
        self._run("pg_ctl", "-D", str(self._directory / "data"), "-w", "-m", "immediate", "stop")

    def database(self) -> str:
        """The address of a new database."""
        self._databases += 1
        name = f"hub{self._databases}"
        self._run("createdb", "-h", str(self._directory), "-U", "hub", name)
        return f"postgresql://hub@/{name}?host={self._directory}"

    def _run(self, program: str, *arguments: str) -> None:
        as_user = {"user": self._user.pw_uid, "group": self._user.pw_gid} if os.geteuid() == 0 else {}
        subprocess.run(
            [self._programs / program, *arguments], check=True, cwd=self._directory, stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self._directory)}, **as_user,
        )  # fmt: skip


@contextlib.contextmanager
def postgresql(directory: Path) -> Iterator[PostgresqlServer]:
    """A server that is stopped at the end. `directory` must be reachable by everybody."""
    server = PostgresqlServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def sqlite_store(path: Path) -> Callable[[bool], Connection]:
    """Connections to a file."""
    return lambda writing: SqliteConnection(path, writing)


def postgresql_store(address: str) -> Callable[[bool], Connection]:
    """Connections to a database."""
    return lambda writing: PostgresqlConnection(address, writing)
