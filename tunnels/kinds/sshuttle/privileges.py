"""Drops all privileges of a process for good: one that carries other people's connections needs none."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Sequence

from tunnels.drivers.cli import Unfit

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


User = tuple[int, int]  # uid, gid


def user(text: str) -> User:
    """Parse UID:GID. ValueError."""
    uid, _, gid = text.partition(":")
    return int(uid), int(gid)


def drop(private: Sequence[int], descriptors: int, memory: int, user: User | None) -> None:
    """Switch from root to the user; drop all capabilities; no core dumps; limits for this process and each
    child.

    `private`: descriptors of files that stay readable for the new user, and for nobody else. `descriptors` is
    RLIMIT_NOFILE, `memory` RLIMIT_DATA in bytes. Unfit: this host does not allow it.
    """
    if os.geteuid() != 0:
        user = None
    elif user is None or 0 in user:
        raise Unfit("started as root without another user to become")
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_NOFILE, descriptors)
    _limit(resource.RLIMIT_DATA, memory)
    os.chdir("/")
    for descriptor in private:
        os.fchmod(descriptor, 0o400)
        if user is not None:
            os.fchown(descriptor, *user)
    _drop_bounding_set(libc)
    if user is not None:
        _switch(user)
    _drop_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else our own ssh may not open /proc/PID/fd


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (limit, limit))


def _switch(user: User) -> None:
    uid, gid = user
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise Unfit(f"cannot become the user {uid}: {error.strerror}") from error
    os.environ.update(HOME="/")


def _drop_bounding_set(libc: ctypes.CDLL) -> None:
    """Empty the bounding set as far as the kernel lets us; no_new_privs covers the rest."""
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise Unfit(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
