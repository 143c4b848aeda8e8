"""Which tunnels need which lock: a function of the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from supervisor.core.session.pacing import account
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Phase, TunnelState, Want
from tunnels.base import Reason
from tunnels.settings import Tunnel

SHORT_PAUSE_SECONDS = 5.0  # between two attempts for which the lock is kept; in a longer one others may try


@dataclass(frozen=True, slots=True)
class LockWish:
    """What one exclusive tunnel wants."""

    account: str
    wanted: bool  # it would log in, or is logged in
    running: bool  # its client exists
    keep: bool  # `without_lock: keep`


def lock_account(tunnel: Tunnel) -> str:
    """The account as all members name it: user name and the place of its password, as logins are paced;
    without a password (a certificate, a key) it is the tunnel's own.
    """
    who = account(tunnel)
    return tunnel.name if who is None else f"{who.username}:{who.password}"


def lock_key(fleet: str, account: str) -> str:
    """The key of its lock."""
    return f"facilitator/{fleet}/locks/{quote(account, safe='@:')}"


def lock_wishes(snapshot: Snapshot) -> Mapping[str, LockWish]:
    """By tunnel; those that are not exclusive need no lock."""
    return {
        name: LockWish(
            lock_account(tunnel),
            snapshot.uplink.alive and _wanted(state),
            bool(state.sessions),
            tunnel.without_lock == "keep",
        )
        for name, (tunnel, state) in snapshot.tunnels.items()
        if tunnel.exclusive
    }


def _wanted(state: TunnelState) -> bool:
    """A tunnel that is stopped, waits for somebody, or for long, leaves the account to others."""
    if state.want is Want.DOWN:
        return False
    if state.phase is not Phase.BACKOFF:
        return state.phase not in (Phase.STOPPED, Phase.FAILED)
    pause = 0.0 if state.deadline is None else state.deadline - state.since
    return state.reason is Reason.LOCK or pause <= SHORT_PAUSE_SECONDS
