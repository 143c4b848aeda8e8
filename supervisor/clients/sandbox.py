"""The sandbox of a client: which files it may read and write, and which privileges it has.

    boundary (a kind's Launch -> Sandbox, changes nothing)
    confined (a thread that enters the sandbox, starts the client, and ends)

A client handles untrusted network data, so one that was compromised must not reach the profiles, memory and
sockets of other clients, or those of the daemon. Restrictions apply to the calling thread, and a process
inherits those of the thread that starts it: a thread costs a fraction of a millisecond, a helper program
would cost twenty. None of this needs a privilege.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import common
import tunnels
from supervisor.clients import seccomp, syscalls
from supervisor.clients.one_shot_thread import apart
from supervisor.clients.users import User
from tunnels.base import Launch

# What every client may read and execute, and what it may only read; entries that do not exist are left out.
# Not all of /etc: our own
# configuration and secrets lie there, and other programs' keys.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
READABLE = (
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/run/nscd",
    "/var/lib/ca-certificates",
    "/var/lib/sss/mc",
    *(
        f"/etc/{name}"
        for name in (
            "alternatives",
            "ca-certificates",
            "ca-certificates.conf",
            "crypto-policies",
            "gai.conf",
            "gnutls",
            "group",
            "host.conf",
            "hostname",
            "hosts",
            "iproute2",
            "java*",
            "ld.so.cache",
            "ld.so.conf",
            "ld.so.conf.d",
            "ld.so.preload",
            "localtime",
            "machine-id",
            "nsswitch.conf",
            "os-release",
            "passwd",
            "pkcs11",
            "pki/ca-trust",
            "pki/tls/cert.pem",
            "pki/tls/certs",
            "pki/tls/openssl.cnf",
            "protocols",
            "python3*",
            "resolv.conf",
            "services",
            "ssh/ssh_config",
            "ssh/ssh_config.d",
            "ssh/ssh_known_hosts",
            "ssl/cert.pem",
            "ssl/certs",
            "ssl/openssl.cnf",
            "timezone",
        )
    ),
)
DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/net/tun",
    "/dev/ppp",
)
_NET_ADMIN = "net_admin"
_CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    _NET_ADMIN: 12,
}

# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE, _MAKE = (
    1,
    1 << 1,
    1 << 2,
    1 << 3,
    0b11 << 4,
    0b101111 << 7,
)
_DEVICE_NODES, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6 | 1 << 11, 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_FIRST = (1 << 13) - 1  # what the first version handles; others came with versions 2, 3 and 5
_SCOPES, _SCOPED_SINCE = 0b11, 6  # abstract unix sockets, signals

LIST = _READ_DIR
READ = _READ_FILE | _READ_DIR
RUN = READ | _EXECUTE
USE = READ | _WRITE_FILE | _IOCTL_DEV
CHANGE = READ | _WRITE_FILE | _REMOVE | _MAKE | _REFER | _TRUNCATE

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The boundary of one client."""

    files: tuple[tuple[str, int], ...]  # a path, and what may be done to it and to all that is beneath
    capabilities: frozenset[int]  # at most, for one that is started as root
    user: User | None = None  # who it will become
    group: int | None = None  # by which the kernel tells its packets from others (exclusive tunnels)


def boundary(
    launch: Launch,
    directory: Path,
    private: Sequence[Path] = (),
    user: User | None = None,
    group: int | None = None,
) -> Sandbox:
    """The sandbox for this launch. `private`: directories of the daemon, which stay closed below an open one,
    except for paths in them that are named.
    """
    derived = ((path, rights) for path, rights in _common() for path in _beside(path, private))
    read = ((path, RUN) for named in launch.reads for path in _named(os.path.realpath(named), private))
    written = ((str(path), CHANGE | RUN | USE) for path in launch.writes)
    program = ((path, RUN) for word in launch.argv[:1] for path in _program(word, private))
    capabilities = frozenset(_CAPABILITIES[name] for name in (_NET_ADMIN, *launch.capabilities))
    return Sandbox(
        (*_interpreter(), *derived, *program, *read, *written, (str(directory), CHANGE)),
        capabilities,
        user,
        group,
    )


def open_beside(program: str, private: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """What a program of the operator may open: everything but the private directories, and itself."""
    yield from ((path, CHANGE | RUN | USE) for path in _beside("/", private))
    yield from ((path, RUN) for path in _program(program, private))


@functools.cache
def _common() -> tuple[tuple[str, int], ...]:
    """What all clients have in common."""
    programs = dict.fromkeys(map(os.path.realpath, PROGRAMS))
    return (
        *((path, RUN) for path in programs),
        *((path, READ) for pattern in READABLE for path in glob.glob(pattern)),
        *((path, USE) for path in DEVICES),
    )


@functools.cache
def _interpreter() -> tuple[tuple[str, int], ...]:
    """Our Python interpreter, which runs drivers, wherever it is installed."""
    packages = [Path(package.__file__ or "").resolve().parent for package in (common, tunnels)]
    homes = dict.fromkeys((sys.prefix, sys.base_prefix))
    parts = (os.path.join(home, part) for home in homes for part in ("bin", "lib", "lib64", "pyvenv.cfg"))
    return (
        *((path, RUN) for path in parts if not path.startswith("/usr/")),
        *((str(package), RUN) for package in packages),
        *((str(package.parent), LIST) for package in packages),
    )


def _named(path: str, private: Sequence[Path]) -> Iterator[str]:
    """Paths that were named are open, also in a private directory; but a private directory as a
    whole is not.
    """
    if any(_within(str(closed), path) for closed in private):
        return _beside(path, private)
    return iter((path,))


def _program(word: str, private: Sequence[Path]) -> Iterator[str]:
    """A program given by its path, and the files beside it."""
    if os.path.isabs(word):
        path = os.path.realpath(word)
        yield path
        yield from _beside(os.path.dirname(path), private)


def _beside(path: str, private: Sequence[Path]) -> Iterator[str]:
    """The path, or the entries below it that are outside of the private directories."""
    if any(_within(path, str(closed)) for closed in private):
        return
    if not any(_within(str(closed), path) for closed in private):
        yield path
        return
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            yield from _beside(os.path.join(path, name), private)


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


# --- entering it
# ----------------------------------------------------------------------------------------------------------


def confined(sandbox: Sandbox, start: Callable[[], Result]) -> Result:
    """The result of `start`, which runs in a thread inside the sandbox. NotConfined, or what
    `start` raises.
    """

    def work() -> Result:
        enter(sandbox)
        return start()

    return apart(work)


class NotConfined(OSError):
    """The kernel refuses a restriction that it should support."""


def enter(sandbox: Sandbox) -> None:
    """Confine this thread and all that it starts, for good. NotConfined."""
    try:
        _enter(sandbox)
    except OSError as error:
        raise NotConfined(error.errno, f"the client cannot be confined: {error.strerror}") from error


def _enter(sandbox: Sandbox) -> None:
    if sandbox.user is not None and sandbox.user.accounts is not None:
        syscalls.own_mounts()
        syscalls.show_instead(sandbox.user.accounts, "/etc/passwd")
    if sandbox.group is not None:
        syscalls.set_group(sandbox.group)
    if os.geteuid() != 0:
        with contextlib.suppress(OSError):
            syscalls.keep_no_ambient(_CAPABILITIES["setgid"])
    else:
        with contextlib.suppress(
            PermissionError
        ):  # in a container without CAP_SETPCAP, which has few of them anyway
            syscalls.keep_capabilities(sandbox.capabilities)
    syscalls.no_new_privileges()
    if (abi := syscalls.landlock_abi()) > 0:
        close_files(sandbox.files, abi)
    with contextlib.suppress(OSError):  # a kernel without it; the doctor says so
        syscalls.filter_system_calls(seccomp.program())


def close_files(files: Iterable[tuple[str, int]], abi: int) -> None:
    """Let this process open nothing but these files and folders, as far as Landlock of this ABI version can
    (landlock(7)).
    """
    handled = handled_by(abi)
    ruleset = syscalls.landlock_ruleset(handled, _SCOPES if abi >= _SCOPED_SINCE else 0)
    try:
        for path, rights in files:
            _allow(ruleset, path, rights & handled)
        syscalls.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it is not there
        return
    try:
        syscalls.landlock_allow(
            ruleset, fd, rights if stat.S_ISDIR(os.fstat(fd).st_mode) else rights & _OF_FILES
        )
    finally:
        os.close(fd)


def handled_by(abi: int) -> int:
    """The file accesses that this version of Landlock can restrict."""
    return (
        _FIRST
        | (_REFER if abi >= 2 else 0)
        | (_TRUNCATE if abi >= 3 else 0)
        | (_IOCTL_DEV if abi >= 5 else 0)
    )


@functools.cache
def filters() -> bool:
    """System calls can be filtered on this host (seccomp)."""
    try:
        apart(_filter)
    except OSError:
        return False
    return True


def _filter() -> None:
    syscalls.no_new_privileges()
    syscalls.filter_system_calls(seccomp.program())
