"""Users for clients that are started as root and need no root privileges: each gets a uid of its own, so that
none can affect the others.

ssh insists on an entry in /etc/passwd. The client sees a copy of that file with one more line, in a mount
namespace of its own.
"""

from __future__ import annotations

import functools
import os
import pwd
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.clients import processes, syscalls
from supervisor.clients.one_shot_thread import apart

# if mount namespaces are forbidden, as in most containers, all clients share this user
NAME = "facilitator"
NUMBERS = range(61184, 65520)  # as systemd's DynamicUser=: no package creates users here
_ACCOUNTS = Path("/etc/passwd")
_TAKEN = Path("/run/systemd/dynamic-uid")
_LINE = "facilitator-client:x:{0}:{0}:client of facilitator:/:/usr/sbin/nologin\n"


@dataclass(frozen=True, slots=True)
class User:
    """The user that a client switches to."""

    uid: int
    gid: int
    accounts: str | None = None  # a file that it sees as /etc/passwd


class Users:
    """Assigns users to clients."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}  # by slot

    def pick(self, directory: Path) -> User | None:
        """The user for the client in this directory; None: the daemon is not root. LookupError: there is
        none, with a sentence that says what to do. OSError.
        """
        if os.geteuid() != 0:
            return None
        if not _mounts():
            return shared_user()
        others = {number for place, number in self._given.items() if place != directory.name}
        number = next(
            each
            for each in _numbers(zlib.crc32(os.fsencode(directory)))
            if each not in others and _free(each)
        )
        self._given[directory.name] = number
        accounts = directory / "passwd"
        accounts.unlink(missing_ok=True)
        with open(os.open(accounts, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(_ACCOUNTS.read_text() + _LINE.format(number))
        return User(number, number, str(accounts))


def _numbers(seed: int) -> Iterator[int]:
    return (NUMBERS[(seed + step) % len(NUMBERS)] for step in range(len(NUMBERS)))


def _free(number: int) -> bool:
    """Nobody has this number: no account, no service of systemd, no process."""
    try:
        pwd.getpwuid(number)
    except KeyError:
        return not (_TAKEN / str(number)).exists() and number not in _running()
    return False


def _running() -> set[int]:
    found = set()
    for pid in processes.all_pids():
        try:
            found.add(os.stat(f"/proc/{pid}").st_uid)
        except OSError:  # it has ended
            continue
    return found


def shared_user() -> User:
    """The user `facilitator`, where clients cannot have users of their own. LookupError: there is none."""
    try:
        account = pwd.getpwnam(NAME)
    except KeyError:
        account = None
    if account is None or account.pw_uid == 0:
        raise LookupError(
            f"there is no user {NAME} for what must not run as root: useradd --system --no-create-home {NAME}"
        )
    return User(account.pw_uid, account.pw_gid)


@functools.cache
def _mounts() -> bool:
    """May we have mount namespaces."""
    try:
        apart(syscalls.own_mounts)
    except OSError:
        return False
    return True
