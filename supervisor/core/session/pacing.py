"""Login pacing against lockout: clients of one gateway, and logins with one account, begin one by one.

A gateway that sees twenty clients from one address in the same second takes them for an attack, and an
account whose password is wrong must not be tried by each of its tunnels: it would be locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from supervisor.core.events import Spawn
from supervisor.core.session.context import Step
from supervisor.core.session.retry import SLOWEST_SECONDS
from supervisor.core.state import Phase, TunnelState
from tunnels.base import Reason
from tunnels.settings import Tunnel

SPACING_SECONDS = 0.5  # between two clients that connect to one gateway
MOST_RETRIES = 20  # repeated attempts, of all tunnels, that may begin within RETRY_WINDOW_SECONDS
RETRY_WINDOW_SECONDS = 0.5
RECHECK_SECONDS = 1.0  # until a tunnel looks again whether another one's login has succeeded
FIRST_LOGIN_SECONDS = 10.0  # that the others wait for the first login with their account


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


def same_account(tunnels: Mapping[str, Tunnel]) -> dict[str, tuple[str, ...]]:
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


@dataclass(frozen=True, slots=True)
class GatewayPacer:
    """When the next client may connect to each gateway. Moments are monotonic seconds."""

    free: Mapping[str, float] = field(default_factory=dict)
    banned: Mapping[str, float] = field(default_factory=dict)

    def turn(self, gateway: str, promised: float | None) -> float:
        """The first moment for a client that has been promised one (None: not yet)."""
        moment = self.free.get(gateway, 0.0) if promised is None else promised
        return max(moment, self.banned.get(gateway, 0.0))

    def after(self, gateway: str, before: TunnelState, step: Step, now: float) -> GatewayPacer:
        """After a step of a tunnel that connects to this gateway."""
        pacer, state = self, step.tunnel
        if any(isinstance(action, Spawn) for action in step.actions):
            pacer = pacer.taken(gateway, now)
        elif state.retry.turn is not None and state.retry.turn != before.retry.turn:
            pacer = pacer.taken(gateway, state.retry.turn)
        if any(ended.reason is Reason.BANNED for ended in step.ended):
            waits = state.reason is Reason.BANNED and state.phase is Phase.BACKOFF
            until = state.deadline if waits and state.deadline is not None else now + SLOWEST_SECONDS[0]
            pacer = pacer.shut(gateway, until)
        return pacer

    def taken(self, gateway: str, moment: float) -> GatewayPacer:
        """A client connects at this moment, or is promised to: the next one comes later."""
        free = max(self.free.get(gateway, 0.0), moment + SPACING_SECONDS)
        return replace(self, free={**self.free, gateway: free})

    def shut(self, gateway: str, until: float) -> GatewayPacer:
        """The gateway has banned us: nobody connects before."""
        banned = max(self.banned.get(gateway, 0.0), until)
        return replace(self, banned={**self.banned, gateway: banned})

    def recalled(self, gateway: str, state: TunnelState) -> GatewayPacer:
        """What an earlier daemon has promised to a tunnel at the gateway, and for how long it is banned
        there.
        """
        pacer = self if state.retry.turn is None else self.taken(gateway, state.retry.turn)
        banned = state.reason is Reason.BANNED and state.phase is Phase.BACKOFF
        return pacer.shut(gateway, state.deadline) if banned and state.deadline is not None else pacer


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Repeated attempts of all tunnels, after the return of an uplink for instance, start few processes at a
    time.
    """

    moments: tuple[float, ...] = ()  # of the last ones, monotonic seconds

    def turn(self) -> float:
        """The first moment (monotonic seconds) for another one."""
        return 0.0 if len(self.moments) < MOST_RETRIES else self.moments[0] + RETRY_WINDOW_SECONDS

    def after(self, step: Step, now: float) -> RetryBudget:
        """After a step of any tunnel."""
        active = step.tunnel.active
        repeated = active is not None and active.reason is Reason.RETRY
        if not repeated or not any(isinstance(action, Spawn) for action in step.actions):
            return self
        return RetryBudget((*self.moments, now)[-MOST_RETRIES:])


def login_turn(others: Iterable[TunnelState], now: float) -> float:
    """The first moment for a login, given the states of the other tunnels with this account: the first login
    shows whether it is accepted.
    """
    trying = False
    for state in others:
        if state.phase is Phase.UP:
            return 0.0
        begun = now - state.session.started < FIRST_LOGIN_SECONDS
        trying = trying or (state.phase is Phase.STARTING and begun)
    return now + RECHECK_SECONDS if trying else 0.0
