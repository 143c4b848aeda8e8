"""Whose turn it is to knock: clients of one gateway, and logins with one account, begin one after the other.

A far side that sees twenty clients of one address in the same second takes them for an attack, and an account
whose password is wrong must not be tried by each of its tunnels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from supervisor.core.session.retry import SLOWEST
from supervisor.core.state import Phase, TunnelState
from tunnels.base import Reason
from tunnels.settings import Tunnel

SPACING = 0.5  # seconds between two clients that knock at one gateway
LOOK_AGAIN = 1.0  # seconds until a tunnel looks again whether another one's login has succeeded
LOGIN_WITHIN = 10.0  # seconds that the others wait for the first login with their account


class Account(NamedTuple):
    """Tunnels with the same user name and the same password log in with the same account."""

    username: str
    password: str  # where it lies


def account(tunnel: Tunnel) -> Account | None:
    """Who this tunnel logs in as; None: it has no password."""
    login = tunnel.login
    if login.username is None or login.password is None:
        return None
    return Account(login.username, login.password.file or f"${login.password.env}")


def partners(tunnels: Mapping[str, Tunnel]) -> dict[str, tuple[str, ...]]:
    """For each tunnel that shares its account with others: these."""
    by_account: dict[Account, list[str]] = {}
    for name, tunnel in tunnels.items():
        if (who := account(tunnel)) is not None:
            by_account.setdefault(who, []).append(name)
    return {
        name: tuple(other for other in names if other != name)
        for names in by_account.values()
        if len(names) > 1
        for name in names
    }


class GatewayPacer:
    """When each gateway may be knocked at next. Moments are monotonic seconds."""

    def __init__(self) -> None:
        self._free: dict[str, float] = {}
        self._banned: dict[str, float] = {}

    def turn(self, gateway: str, held: float | None) -> float:
        """The first moment for a client that has been promised `held` (None: nothing yet)."""
        promised = self._free.get(gateway, 0.0) if held is None else held
        return max(promised, self._banned.get(gateway, 0.0))

    def note(self, gateway: str, before: TunnelState, after: TunnelState) -> None:
        """What a step of a tunnel at the gateway means for the others."""
        if after.session.number != before.session.number:
            self.take(gateway, after.session.started)
        elif after.turn is not None and after.turn != before.turn:
            self.take(gateway, after.turn)
        if after.reason is Reason.BANNED and after.phase is Phase.BACKOFF and after.deadline is not None:
            self.ban(gateway, after.deadline)
        elif (
            after.reason is Reason.BANNED and after.phase is Phase.STOPPED and before.running
        ):  # beside another session
            self.ban(gateway, after.since + SLOWEST[0])

    def take(self, gateway: str, moment: float) -> None:
        """A client knocks at this moment, or is promised to: the next one comes later."""
        self._free[gateway] = max(self._free.get(gateway, 0.0), moment + SPACING)

    def ban(self, gateway: str, until: float) -> None:
        """The far side shuts us out: nobody knocks before."""
        self._banned[gateway] = max(self._banned.get(gateway, 0.0), until)

    def recall(self, gateway: str, state: TunnelState) -> None:
        """What an earlier daemon has promised to a tunnel at the gateway, and for how long it is shut out
        there.
        """
        if state.turn is not None:
            self.take(gateway, state.turn)
        if state.reason is Reason.BANNED and state.deadline is not None:
            self.ban(gateway, state.deadline)


def login_turn(others: Iterable[TunnelState], now: float) -> float:
    """The first moment for a login, given the states of the other tunnels with this account: the first one
    shows whether it is accepted.
    """
    trying = False
    for state in others:
        if state.phase is Phase.UP:
            return 0.0
        trying = trying or (state.phase is Phase.STARTING and now - state.session.started < LOGIN_WITHIN)
    return now + LOOK_AGAIN if trying else 0.0
