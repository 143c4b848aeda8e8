"""Dataclasses as plain values: pydantic, which does the same with other means, is the oracle."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from common.plain import NotPlain, from_plain, plain
from supervisor.app.stores.state_store import Stored
from supervisor.core.state import Session, TunnelState
from tests.golden.samples import SORTS, STATE, STORED

TEXTS = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SESSIONS = st.builds(
    Session,
    number=st.integers(0),
    pid=st.none() | st.integers(0),
    id=TEXTS,
    device=st.none() | TEXTS,
    started=NUMBERS,
    connected=st.none() | NUMBERS,
    pushed=st.lists(st.ip_addresses().map(ip_network), max_size=3).map(tuple),
    resumed=st.booleans(),
)


@given(session=SESSIONS)
def test_a_session_is_written_as_pydantic_writes_it_and_read_again(session: Session) -> None:
    same_as_pydantic(session)


@pytest.mark.parametrize(
    "value", [STORED, STATE, *(each.value for each in SORTS.values())], ids=lambda value: type(value).__name__
)
def test_what_the_daemon_keeps_is_written_as_pydantic_writes_it_and_read_again(value: object) -> None:
    if is_dataclass(value):
        same_as_pydantic(value)


def same_as_pydantic(value: object) -> None:
    """Written as by pydantic, and read again through JSON."""
    written = plain(value)
    assert written == TypeAdapter(type(value)).dump_python(value, mode="json")
    assert from_plain(type(value), json.loads(json.dumps(written))) == value


def test_sparse_leaves_defaults_out_and_they_come_back() -> None:
    state = TunnelState(next_number=7)
    assert plain(state, sparse=True) == {"next_number": 7}
    assert from_plain(TunnelState, {"next_number": 7}, complete=False) == state


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("boot",), 7, "boot is not what it should be"),
        (("boot",), None, "boot is not what it should be"),
        (("record", "lane"), True, "record.lane is not what it should be"),
        (("record", "lane"), 1.0, "record.lane is not what it should be"),
        (("record", "state", "want"), "sideways", "record.state.want is not what it should be"),
        (("record", "state", "active"), [], "record.state.active is not what it should be"),
        (("record", "carries"), {}, "record.carries is not what it should be"),
        (("record", "colour"), "red", "record.colour is unknown"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str, ...], value: object, problem: str) -> None:
    raw = plain(STORED)
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(NotPlain) as caught:
        from_plain(Stored, raw)
    assert f"{caught.value.where} {caught.value}" == problem


def test_every_field_is_needed_unless_it_is_said_otherwise() -> None:
    raw = plain(STORED)
    del raw["record"]["state"]["want"]
    with pytest.raises(NotPlain, match="is missing") as caught:
        from_plain(Stored, raw)
    assert caught.value.where == "record.state.want"
    assert from_plain(Stored, raw, complete=False)
