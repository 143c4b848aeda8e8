"""All leases of one member: what to ask the lock service next, and what its answers mean. Pure.

A member has one lease at the service, and each of its locks is held with that. It is renewed every third of
its TTL, so an idle member costs one small request each time, however many accounts it has. An answer counts
from the moment at which its request was sent.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from supervisor.core.fleet.lease import (
    NEVER,
    Acquired,
    GivenBack,
    Lease,
    LeaseEvent,
    LeaseLost,
    LeasePhase,
    LockRefused,
    Passed,
    Renewed,
    Unanswered,
    Vouched,
    Wished,
    follow,
    interval,
    log_off,
    permitted_until,
)

RETRY_SECONDS = 0.1  # after a call that failed at once, such as a refused connection


class LockCall(enum.Enum):
    """A call to the lock service."""

    OPEN = "open"  # a new lease
    RENEW = "renew"
    ACQUIRE = "acquire"  # the lock of an account
    GIVE_BACK = "give back"  # the lock of an account


@dataclass(frozen=True, slots=True)
class LockRequest:
    """A call to be made."""

    call: LockCall
    lease: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class LockReply:
    """What the service has said to one. `lease` and `ttl`: of OPEN; `granted`: RENEW and ACQUIRE."""

    granted: bool = True
    lease: str = ""
    ttl: float = 0.0
    token: int = 0
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class MemberLease:
    """The state of all leases of this member. Moments are monotonic seconds."""

    ttl: float
    lease: str | None = None  # at the service
    until: float = NEVER  # the permission that it gives
    renew_at: float = NEVER
    poll_at: float = NEVER  # when locks are asked for again
    give_at: float = NEVER  # when locks are given back again, after a call that failed
    trusted: float = NEVER  # what was sent before gives no permission
    accounts: Mapping[str, Lease] = field(default_factory=dict)
    under_way: frozenset[LockRequest] = frozenset()
    cautious: bool = False  # some tunnel keeps its session without the service: see `ask_at`
    ask_at: float = NEVER  # no lock is asked for before: another member may keep its session until then
    silent: str = ""  # why the last call was not answered; empty: it was

    # --- what to do

    def requests(self, now: float) -> Iterator[LockRequest]:
        """The calls to make now; each is to be `sent`."""
        for request in self._wanted(now):
            if request not in self.under_way:
                yield request

    def _wanted(self, now: float) -> Iterator[LockRequest]:
        if self.lease is None:
            if self._needed and now >= self.renew_at:
                yield LockRequest(LockCall.OPEN)
            return
        if now >= self.renew_at:
            yield LockRequest(LockCall.RENEW, self.lease)
        for account, each in self.accounts.items():
            if each.gives_back and now >= self.give_at:
                yield LockRequest(LockCall.GIVE_BACK, self.lease, account)
            elif each.asks and now >= max(self.poll_at, self.ask_at) and now < self.until - each.log_off:
                yield LockRequest(LockCall.ACQUIRE, self.lease, account)

    @property
    def _needed(self) -> bool:
        return any(each.phase is not LeasePhase.FREE for each in self.accounts.values())

    @property
    def due(self) -> float | None:
        """The next moment at which something is to be done without any event; None: nothing is."""
        moments = [each.due for each in self.accounts.values()]
        if self.lease is not None or self._needed:
            moments.append(self.renew_at)
        if self.lease is not None and any(each.asks for each in self.accounts.values()):
            moments.append(max(self.poll_at, self.ask_at))
        if self.lease is not None and any(each.gives_back for each in self.accounts.values()):
            moments.append(self.give_at)
        return min((moment for moment in moments if moment is not None), default=None)

    # --- what happens

    def sent(self, request: LockRequest, now: float) -> MemberLease:
        """The call is under way."""
        after = replace(self, under_way=self.under_way | {request})
        if request.call in (LockCall.RENEW, LockCall.OPEN):
            return replace(after, renew_at=now + interval(self.ttl))
        if request.call is LockCall.ACQUIRE:
            others = {each for each in self._wanted(now) if each.call is LockCall.ACQUIRE} - after.under_way
            return after if others else replace(after, poll_at=now + interval(self.ttl))
        return after

    def answered(self, request: LockRequest, reply: LockReply, sent: float, now: float) -> MemberLease:
        """The reply to a call that was sent at that moment."""
        ask_at = now + self.ttl if self.silent and self.cautious else self.ask_at
        member = replace(self, under_way=self.under_way - {request}, silent="", ask_at=ask_at)
        if request.call is not LockCall.OPEN and request.lease != self.lease:
            return member  # about a lease that is over
        if request.call is LockCall.OPEN:
            until = permitted_until(sent, min(self.ttl, reply.ttl)) if sent >= self.trusted else NEVER
            renew_at = self.renew_at if sent >= self.trusted else now
            return replace(member, lease=reply.lease, until=until, renew_at=renew_at, poll_at=now)
        if request.call is LockCall.RENEW:
            return member._renewed(reply, sent, now)
        return member._one(request.account, _meaning(request, reply, self.until), now)

    def _renewed(self, reply: LockReply, sent: float, now: float) -> MemberLease:
        if not reply.granted:
            return self.over("the lock service has revoked this member's lease", now)
        if sent < self.trusted:
            return replace(self, renew_at=now)
        until = max(self.until, permitted_until(sent, self.ttl))
        return replace(self, until=until)._all(Renewed(until), now)

    def failed(self, request: LockRequest, why: str, now: float) -> MemberLease:
        """The call was not answered within its budget."""
        member = replace(self, under_way=self.under_way - {request}, silent=why)
        if request.call in (LockCall.OPEN, LockCall.RENEW):
            again = now + (RETRY_SECONDS if now < self.until else interval(self.ttl))
            return replace(member, renew_at=min(self.renew_at, again))._all(Unanswered(why), now)
        if request.call is LockCall.GIVE_BACK:
            return replace(member, give_at=now + interval(self.ttl))
        return member._one(request.account, Unanswered(why), now)

    def over(self, why: str, now: float) -> MemberLease:
        """The member's lease is over: every lock may be another's. A new one is opened at once."""
        member = replace(self, lease=None, until=NEVER, renew_at=now)
        return member._all(LeaseLost(why), now)._given_back(now)

    def doubted(self, why: str, now: float) -> MemberLease:
        """This host's clocks cannot be trusted: what we believe to be permitted may be over."""
        doubtful = replace(self, until=NEVER, trusted=now, renew_at=now)
        return doubtful._all(LeaseLost(why), now)._given_back(now)

    def vouched(self, account: str, asked: float, now: float) -> MemberLease:
        """Every other member has said, when asked at that moment, that it does not hold this lock."""
        return self._one(account, Vouched(permitted_until(asked, self.ttl)), now)

    def wished(self, wishes: Mapping[str, Wished], now: float) -> MemberLease:
        """What the tunnels want, by account; an account that is not named is not wanted."""
        member = self
        for account in {*self.accounts, *wishes}:
            if account not in member.accounts:
                fresh = {**member.accounts, account: Lease(log_off=log_off(self.ttl))}
                member = replace(member, accounts=fresh)
            before = member.accounts[account]
            member = member._one(account, wishes.get(account, Wished(False, False)), now)
            if member.accounts[account].asks and not before.asks:
                member = replace(member, poll_at=now)
        kept = {
            account: each
            for account, each in member.accounts.items()
            if account in wishes or each.phase is not LeasePhase.FREE
        }
        return replace(member, accounts=kept)._given_back(now)

    def hinted(self, now: float) -> MemberLease:
        """A lock has changed."""
        return replace(self, poll_at=now)

    def passed(self, now: float) -> MemberLease:
        """Time has passed."""
        return self._all(Passed(), now)._given_back(now)

    def _all(self, event: LeaseEvent, now: float) -> MemberLease:
        return replace(
            self, accounts={name: follow(each, event, now) for name, each in self.accounts.items()}
        )

    def _one(self, account: str, event: LeaseEvent, now: float) -> MemberLease:
        if account not in self.accounts:
            return self
        return replace(
            self, accounts={**self.accounts, account: follow(self.accounts[account], event, now)}
        )._given_back(now)

    def _given_back(self, now: float) -> MemberLease:
        """Without a lease at the service there is nothing to give back."""
        if self.lease is not None or not any(each.gives_back for each in self.accounts.values()):
            return self
        accounts = {
            name: follow(each, GivenBack(), now) if each.gives_back else each
            for name, each in self.accounts.items()
        }
        return replace(self, accounts=accounts)


def _meaning(request: LockRequest, reply: LockReply, until: float) -> LeaseEvent:
    """What the reply to a call about one account's lock means for that account."""
    if request.call is LockCall.GIVE_BACK:
        return GivenBack()
    return Acquired(reply.token, until) if reply.granted else LockRefused(reply.holder)
