"""The identity book: which person had which address of the staff VPN, and when.

    source (`supervisor.identity`) -> BookReading -> IdentityBook.apply -> at(address, moment) -> audit, why
                                                                        -> latest -> access by person

A source may be away, and polls may be lost. What the book says about a moment is right or "not known", never
another person: a session whose end nobody has told ends for the book where it was last confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MAX_HOLDINGS = 50_000  # in the book
MAX_PER_ADDRESS = 16  # sessions that are remembered of one address
KEPT_SECONDS = 86_400.0  # for which an ended session is remembered: flows are recorded when they end


class Holding(NamedTuple):
    """One session of a person at one address. Moments are Unix time in seconds, by the source's clock."""

    address: bytes  # packed
    person: str
    session: str  # identifies it at this address
    since: float
    ended: float | None = None  # None: it holds the address
    groups: tuple[str, ...] = ()
    node: str = ""  # the VPN server
    client: str = ""  # what the person's client says of itself
    ordered: bool = False  # its end was ordered: the VPN may not have carried that out yet

    def holds(self, moment: float) -> bool:
        """Did the session hold its address then."""
        return self.since <= moment and (self.ended is None or moment < self.ended)


class BookReading(NamedTuple):
    """What a source said at one moment."""

    revision: int  # where the next reading continues, for sources that count changes
    complete: bool  # all sessions that hold an address; False: those that have changed since the last reading
    whole: bool  # there is nothing that it has not said
    holdings: tuple[Holding, ...]
    time: float  # the moment of which this is true, by the source's clock
    skipped: int = 0  # entries that could not be used


class IdentityBook:
    """Written by one thread; `at` may be called in any."""

    def __init__(self, relied: float = 0.0) -> None:
        """`relied`: seconds for which no address changes its person after its session ends (quarantine)."""
        self._relied = relied
        self._by_address: dict[bytes, tuple[Holding, ...]] = {}
        self._count = 0
        self.confirmed = float("-inf")  # until when everything is known, by the source's clock

    def apply(self, reading: BookReading) -> None:
        """Take up what a source has said."""
        if reading.complete:
            named = {(each.address, each.session) for each in reading.holdings}
            self._end_unnamed(named)
        for each in reading.holdings:
            self._take(each)
        if reading.whole:
            self.confirmed = max(self.confirmed, reading.time)
        self._forget(reading.time)

    def at(self, address: bytes, moment: float) -> Holding | None:
        """The session that held the address at this moment; None: nobody's, or not known."""
        if moment > self.confirmed + self._relied:
            return None
        found = [each for each in self._by_address.get(address, ()) if each.holds(moment)]
        return found[-1] if len({each.person for each in found}) == 1 else None

    def latest(self) -> Iterator[Holding]:
        """The newest session of each address, ended ones too."""
        return (holdings[-1] for holdings in self._by_address.values())

    def last_at(self, address: bytes) -> Holding | None:
        """The newest session of this address, though it may have ended."""
        found = self._by_address.get(address)
        return found[-1] if found else None

    def __len__(self) -> int:
        return self._count

    def _take(self, new: Holding) -> None:
        before = self._by_address.get(new.address, ())
        others = [each for each in before if each.session != new.session]
        others = [self._ended_before(each, new) if each.ended is None else each for each in others]
        merged = sorted((*others, new), key=lambda each: (each.since, each.ended is None))
        self._replace(new.address, merged[-MAX_PER_ADDRESS:])

    def _ended_before(self, old: Holding, new: Holding) -> Holding:
        """An address is one session's at a time: the old one is over, at a moment that nobody has told."""
        if old.since > new.since:
            return old
        return old._replace(ended=min(max(old.since, self.confirmed), new.since))

    def _end_unnamed(self, named: set[tuple[bytes, str]]) -> None:
        for address, holdings in list(self._by_address.items()):
            if any(each.ended is None and (address, each.session) not in named for each in holdings):
                self._replace(address, [self._known_until(each, named) for each in holdings])

    def _known_until(self, each: Holding, named: set[tuple[bytes, str]]) -> Holding:
        if each.ended is not None or (each.address, each.session) in named:
            return each
        return each._replace(ended=max(each.since, self.confirmed))

    def _replace(self, address: bytes, holdings: Iterable[Holding]) -> None:
        made = tuple(holdings)
        self._count += len(made) - len(self._by_address.get(address, ()))
        if made:
            self._by_address[address] = made
        else:
            self._by_address.pop(address, None)

    def _forget(self, now: float) -> None:
        """Only what has ended: first what is old, then more, as long as there is too much."""
        if self._count <= MAX_HOLDINGS // 2:
            return
        self._keep_since(now - KEPT_SECONDS)
        if self._count > MAX_HOLDINGS:
            ends = sorted(each.ended for each in self._all() if each.ended is not None)
            self._keep_since(ends[min(len(ends), self._count - MAX_HOLDINGS // 2) - 1] if ends else now)

    def _keep_since(self, moment: float) -> None:
        for address, holdings in list(self._by_address.items()):
            kept = [each for each in holdings if each.ended is None or each.ended > moment]
            if len(kept) < len(holdings):
                self._replace(address, kept)

    def _all(self) -> Iterator[Holding]:
        return (each for holdings in self._by_address.values() for each in holdings)


def of_people(groups: Mapping[str, Iterable[str]], person: str) -> tuple[str, ...]:
    """The groups that name this person, sorted."""
    return tuple(sorted(name for name, members in groups.items() if person in members))
