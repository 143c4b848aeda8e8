"""Gives up every right of a process for good: what carries other people's connections needs none."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import struct
from collections.abc import Sequence

from tunnels.programs.unfit import Unfit

USERS = ("facilitator", "nobody")
_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


def give_up(private: Sequence[int], descriptors: int) -> None:
    """Root becomes one of USERS; no capability, no core dump, at most so many descriptors. Unfit: this host does not let us.

    The private files stay readable for the user that we become, and for nobody else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = descriptors if hard == resource.RLIM_INFINITY else min(descriptors, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.chdir("/")
    user = _user() if os.geteuid() == 0 else None
    for descriptor in private:
        if user is not None:
            os.fchown(descriptor, user.pw_uid, user.pw_gid)
        os.fchmod(descriptor, 0o400)
    _drop_capabilities(libc)
    if user is not None:
        _switch(user)
    _forget_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)    # else our own ssh may not open /proc/PID/fd


def _user() -> pwd.struct_passwd:
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unfit(f"no unprivileged user to become: neither {' nor '.join(USERS)} exists")


def _switch(user: pwd.struct_passwd) -> None:
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise Unfit(f"cannot become the user {user.pw_name}: {error.strerror}") from error
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise Unfit(f"the user {user.pw_name} is root")
    os.environ.update(HOME="/", USER=user.pw_name, LOGNAME=user.pw_name)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """The bounding set goes as far as we may; no_new_privs covers what is left."""
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1


def _forget_capabilities(libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise Unfit(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
