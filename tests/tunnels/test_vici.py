"""The vici protocol: strongSwan's own Python client (PyPI: vici) is the oracle for our codec."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vici.exception import DeserializationException
from vici.protocol import FiniteStream, Packet, Transport
from vici.protocol import Message as Upstream

from tunnels.kinds.strongswan.vici import Message, Value, Vici, ViciError, decode, encode

NAMES = st.text(max_size=20)
MESSAGES: st.SearchStrategy[Any] = st.dictionaries(
    NAMES,
    st.recursive(
        st.one_of(st.text(max_size=300), st.lists(st.text(max_size=9), max_size=3)),
        lambda inner: st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
# Bytes that are nearly a message: elements in any order, with names and values that are whole or not.
ELEMENTS = st.one_of(
    st.sampled_from([b"\2", b"\6", b"\5\0\1x", b"\3\1k\0\1v", b"\1\1s", b"\4\1l", b"\7", b"\0"]),
    st.binary(max_size=4),
)


def upstream_decoded(data: bytes) -> dict[str, Value]:
    return _text(Upstream.deserialize(FiniteStream(data)))


def _text(value: Any) -> Any:
    """Upstream gives values as bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_text(item) for item in value]
    return {name: _text(inner) for name, inner in value.items()}


@given(MESSAGES)
def test_both_write_the_same_bytes(message: dict[str, Value]) -> None:
    assert encode(message) == Upstream.serialize(message)


@given(MESSAGES)
def test_each_reads_what_the_other_has_written(message: dict[str, Value]) -> None:
    assert decode(Upstream.serialize(message)) == message
    assert upstream_decoded(encode(message)) == message


@given(st.lists(ELEMENTS, max_size=12).map(b"".join))
def test_what_we_can_read_they_read_alike(data: bytes) -> None:
    """Ours is stricter: upstream skips elements that it does not know and ends inside of values."""
    with contextlib.suppress(ValueError):
        assert decode(data) == upstream_decoded(data)


@pytest.mark.parametrize("data", [b"\2", b"\1\1s", b"\4\1l\3", b"\3\1k\0\5v", b"\4\1l", b"\5\0\1x"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_upstream_too_refuses_a_section_that_is_not_closed() -> None:
    """The oracle is one: it does not take everything."""
    with pytest.raises(DeserializationException):
        upstream_decoded(b"\1\1s")


@given(MESSAGES)
def test_a_message_survives_the_wire(message: dict[str, Value]) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=100))
def test_no_bytes_upset_the_reading(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)


def test_an_example_of_the_protocol() -> None:
    """As in strongSwan's own description of it."""
    message: dict[str, Value] = {
        "key1": "value1",
        "section1": {"sub-section": {"key2": "value2"}, "list1": ["item1", "item2"]},
    }
    assert encode(message) == (
        b"\3\4key1\0\6value1\1\10section1\1\13sub-section\3\4key2\0\6value2\2\4\5list1\5\0\5item1\5\0\5item2\6\2"
    )


# --- packets
# ----------------------------------------------------------------------------------------------------------


def serve(transport: Transport) -> None:
    """Answers as charon does, with upstream's half of the protocol: a command gets its message back, and an
    event comes before the answer.
    """
    with contextlib.suppress(OSError):
        while True:
            packet = transport.receive()
            kind, name = packet[0], packet[2 : 2 + packet[1]].decode()
            body = packet[2 + packet[1] :]
            if kind == Packet.EVENT_REGISTER:
                transport.send(bytes((Packet.EVENT_CONFIRM if name == "list-sa" else Packet.EVENT_UNKNOWN,)))
            elif name == "echo":
                assert packet == Packet.request("echo", body)
                transport.send(bytes((Packet.EVENT,)) + Packet.register_event("list-sa")[1:] + body)
                transport.send(bytes((Packet.CMD_RESPONSE,)) + body)
            else:
                transport.send(bytes((Packet.CMD_UNKNOWN,)))


async def test_requests_and_events_fit_upstreams_packets() -> None:
    heard: list[tuple[str, Message]] = []
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=serve, args=(Transport(theirs),))
    server.start()
    vici = Vici(
        *await asyncio.open_unix_connection(sock=ours), lambda name, message: heard.append((name, message))
    )
    await vici.register("list-sa")
    message: dict[str, Value] = {"ike": "acme", "children": ["a", "b"], "section": {"timeout": "5"}}
    assert await vici.request("echo", message) == message
    assert heard == [("list-sa", message)]
    with pytest.raises(ViciError, match="charon does not know no-such-command"):
        await vici.request("no-such-command")
    with pytest.raises(ViciError, match="charon does not know no-such-event"):
        await vici.register("no-such-event")
    with pytest.raises(ViciError, match="sorry"):
        await vici.request("echo", {"success": "no", "errmsg": "sorry"})
    theirs.shutdown(socket.SHUT_RDWR)
    server.join(60)
    with pytest.raises(ConnectionError):
        await vici.request("echo", message)
    theirs.close()
