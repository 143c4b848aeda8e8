"""The identity book: right, or "not known", in any order of logins, reconnects, reuse and lost polls."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.identity.book import MAX_HOLDINGS, MAX_PER_ADDRESS, BookReading, Holding, IdentityBook
from supervisor.core.identity.session_service import MAX_ENTRIES, read_book
from supervisor.core.identity.view import ordered_out, present

ADDRESSES = [ip_address(f"10.8.0.{number}").packed for number in (1, 2)]
PEOPLE = ("alice", "bob", "carol")
QUARANTINE = 60.0


@dataclass
class HubModel:
    """What a session service knows: the truth. Each change has a revision; old ones are forgotten."""

    now: float = 1000.0
    revision: int = 1
    rows: dict[str, tuple[int, Holding]] = field(default_factory=dict)
    oldest: int = 0

    def holder(self, address: bytes) -> Holding | None:
        live = [row for _, row in self.rows.values() if row.address == address and row.ended is None]
        return live[0] if live else None

    def login(self, person: str, address: bytes) -> None:
        last = max(
            (row for _, row in self.rows.values() if row.address == address),
            default=None,
            key=lambda row: row.since,
        )
        if (
            last is not None
            and last.person != person
            and not (last.ended is not None and last.ended + QUARANTINE <= self.now)
        ):
            return  # it rests before it changes its person
        if last is not None and last.ended is None:
            return
        self.change(Holding(address, person, f"s{self.revision}", self.now))

    def leave(self, address: bytes) -> None:
        if (holder := self.holder(address)) is not None:
            self.change(holder._replace(ended=self.now, ordered=self.revision % 2 == 0))

    def change(self, row: Holding) -> None:
        self.revision += 1
        self.rows[row.session] = self.revision, row

    def answer(self, after: int, page: int) -> BookReading:
        if after == 0 or not self.oldest <= after <= self.revision:
            held = tuple(row for _, row in self.rows.values() if row.ended is None)
            return BookReading(self.revision, True, True, held, self.now)
        news = sorted((each for each in self.rows.values() if each[0] > after), key=lambda each: each[0])[
            :page
        ]
        upto = news[-1][0] if news else self.revision
        return BookReading(upto, False, not news, tuple(row for _, row in news), self.now)

    def last(self, address: bytes, moment: float) -> str | None:
        found = [row for _, row in self.rows.values() if row.address == address and row.since <= moment]
        return max(found, key=lambda row: row.since).person if found else None

    def truth(self, address: bytes, moment: float) -> str | None:
        found = [row for _, row in self.rows.values() if row.address == address and row.holds(moment)]
        return found[0].person if found else None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("login"), st.sampled_from(PEOPLE), st.sampled_from(ADDRESSES)),
        st.tuples(st.just("leave"), st.sampled_from(ADDRESSES)),
        st.tuples(st.just("time"), st.sampled_from((0.25, 5.0, 61.0, 300.0))),
        st.tuples(st.just("poll"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("forget"), st.booleans()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans())
def test_the_person_by_the_flows_begin_is_right_or_not_known(steps: list[tuple], restarts: bool) -> None:
    service, book, cursor = HubModel(), IdentityBook(QUARANTINE), 0
    complete_since = service.now  # from then on no change was lost for good
    moments = [service.now]
    for step in steps:
        service.now += 0.001  # no two things happen at one moment
        match step:
            case ("login", person, address):
                service.login(person, address)
            case ("leave", address):
                service.leave(address)
            case ("time", seconds):
                service.now += seconds
                moments.append(service.now - seconds / 2)
            case ("forget", restart):
                service.oldest = service.revision + 1  # old events are deleted, or the store was restored
                if restart and restarts:
                    book, cursor = IdentityBook(QUARANTINE), 0  # the facilitator was restarted
            case ("poll", page, lost):
                reading = service.answer(cursor, page)
                if lost:
                    continue  # the answer never comes: the next question is the same
                if reading.complete:
                    complete_since = service.now
                book.apply(reading)
                cursor = reading.revision
                service.oldest = min(service.oldest, cursor)
        for address in ADDRESSES:
            for moment in (*moments, service.now):
                found = book.at(address, moment)
                # Nobody else has the address while it rests: what begins then is the last person's.
                assert found is None or found.person == service.last(address, moment)
                if complete_since <= moment <= book.confirmed:
                    assert (found and found.person) == service.truth(address, moment)


def test_a_session_that_a_complete_book_does_not_name_has_ended_where_it_was_last_confirmed() -> None:
    book, alice = IdentityBook(), Holding(ADDRESSES[0], "alice", "s1", 10.0)
    book.apply(BookReading(1, True, True, (alice,), 20.0))
    book.apply(BookReading(9, True, True, (), 90.0))
    assert book.at(ADDRESSES[0], 19.0) == alice._replace(ended=20.0)
    assert book.at(ADDRESSES[0], 21.0) is None
    assert present(book.latest()) == {}


def test_what_is_later_than_the_last_answer_is_not_known() -> None:
    book, alice = IdentityBook(5.0), Holding(ADDRESSES[0], "alice", "s1", 10.0)
    book.apply(BookReading(1, True, True, (alice,), 20.0))
    assert book.at(ADDRESSES[0], 25.0) == alice
    assert book.at(ADDRESSES[0], 25.1) is None


def test_two_people_at_one_address_are_nobody() -> None:
    book = IdentityBook()
    rows = (Holding(ADDRESSES[0], "alice", "s1", 10.0, 30.0), Holding(ADDRESSES[0], "bob", "s2", 20.0, 40.0))
    book.apply(BookReading(1, True, True, rows, 50.0))
    assert [found and found.person for found in (book.at(ADDRESSES[0], t) for t in (15.0, 25.0, 35.0))] == [
        "alice", None, "bob",
    ]  # fmt: skip


def test_an_ordered_end_keeps_the_address_out_until_somebody_else_has_it() -> None:
    book = IdentityBook()
    out = Holding(ADDRESSES[0], "alice", "s1", 10.0, 30.0, ordered=True)
    book.apply(BookReading(1, True, True, (out,), 31.0))
    assert ordered_out(book.latest(), 0.0) == (ip_address("10.8.0.1"),)
    book.apply(BookReading(2, False, False, (Holding(ADDRESSES[0], "bob", "s2", 700.0),), 700.0))
    assert ordered_out(book.latest(), 0.0) == ()


def test_a_hostile_source_cannot_fill_the_book() -> None:
    book = IdentityBook()
    for number in range(MAX_PER_ADDRESS * 3):
        book.apply(
            BookReading(
                number, False, False, (Holding(ADDRESSES[0], "a", f"s{number}", number, number + 0.5),), 1e6
            )
        )
    assert len(book) == MAX_PER_ADDRESS
    many = (
        Holding(number.to_bytes(4, "big"), "a", "s", 1.0, 2.0 + number)
        for number in range(MAX_HOLDINGS + 1000)
    )
    book.apply(BookReading(1, False, False, tuple(many), 1e6))
    assert len(book) <= MAX_HOLDINGS


# --- what the session service says


def document(**changed: object) -> bytes:
    entry = {
        "revision": 7, "address": "10.8.0.1", "person": "alice", "groups": ["engineers"], "session": "5f0c",
        "node": "hub-b", "client": "2.6.14 linux", "since": 100.0, "ended": None, "reason": None,
    }  # fmt: skip
    return json.dumps({"revision": 7, "complete": True, "time": 200.0, "entries": [entry | changed]}).encode()


def test_an_answer_is_read() -> None:
    found = read_book(document(), lambda _: True)
    assert found == BookReading(
        7, True, True,
        (Holding(ADDRESSES[0], "alice", "5f0c", 100.0, None, ("engineers",), "hub-b", "2.6.14 linux"),), 200.0,
    )  # fmt: skip
    (ended,) = read_book(document(ended=150, reason="offboarded"), lambda _: True).holdings
    assert (ended.ended, ended.ordered) == (150.0, True)
    (left,) = read_book(document(ended=150, reason="left"), lambda _: True).holdings
    assert not left.ordered


@pytest.mark.parametrize(
    "changed",
    [
        {"address": "nowhere"}, {"address": 1}, {"address": None}, {"person": ""}, {"person": "a\nb"},
        {"person": "a" * 201}, {"person": "\u202eecila"}, {"person": ["alice"]}, {"session": None}, {"since": "now"},
        {"since": True}, {"since": 1e300}, {"since": -1}, {"since": 9999.0}, {"ended": "never"}, {"groups": "engineers"},
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong_is_left_out(changed: dict[str, object]) -> None:
    found = read_book(document(**changed), lambda _: True)
    assert (found.holdings, found.skipped) == ((), 1)


def test_addresses_outside_of_staff_are_left_out() -> None:
    assert read_book(document(), lambda address: address not in {ip_address("10.8.0.1")}).holdings == ()


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(("revision", "time", "entries", "complete", "address")), inner
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_nothing_that_a_service_sends_raises_anything_else(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_book(body, lambda _: True)


def test_bombs_are_refused() -> None:
    for body in (
        b"[" * 200_000,
        b'{"entries":' + b"[" * 200_000,
        json.dumps({"revision": 1, "time": 1, "entries": [{}] * (MAX_ENTRIES + 1)}).encode(),
        b'{"revision": 1, "time": 1' + b"0" * 4000 + b', "entries": []}',
    ):
        with pytest.raises(ValueError):
            read_book(body, lambda _: True)
