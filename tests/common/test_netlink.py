"""The codec of netlink against what linux/netlink.h says, and the socket against this kernel.
Needs no right.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.netlink import (
    ACK,
    DONE,
    ERROR,
    REQUEST,
    WITH_TEXT,
    NetlinkMessage,
    NetlinkRequest,
    NetlinkSocket,
    attribute,
    attributes,
    messages,
    native,
    pack,
    refusal,
    text,
    text_attribute,
)
from common.rtnetlink import address_dump, link_dump, link_query, read_address, read_link

ROOT = Path(__file__).parents[2]
requests = st.builds(NetlinkRequest, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=50))


@given(st.lists(requests, max_size=5))
def test_messages_are_read_as_they_were_packed(sent: list[NetlinkRequest]) -> None:
    datagram = b"".join(pack(request, number) for number, request in enumerate(sent, 1))
    assert list(messages(datagram)) == [
        NetlinkMessage(kind, flags | REQUEST, number, 0, body)
        for number, (kind, flags, body) in enumerate(sent, 1)
    ]


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=50)), max_size=5))
def test_attributes_are_read_as_they_were_packed(sent: list[tuple[int, bytes]]) -> None:
    packed = b"".join(attribute(kind, data) for kind, data in sent)
    assert list(attributes(packed)) == sent
    assert len(packed) % 4 == 0


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(data: bytes) -> None:
    assert sum(len(body) for _, _, _, _, body in messages(data)) <= len(data)
    assert sum(len(body) for _, body in attributes(data)) <= len(data)


def test_a_message_looks_as_the_kernel_wants_it() -> None:
    packed = pack(NetlinkRequest(18, ACK, b"abcde"), 7)
    assert packed == struct.pack("=IHHII", 21, 18, 0x5, 7, 0) + b"abcde\0\0\0"
    assert attribute(0x8003, b"xyz") == struct.pack("=HH", 7, 0x8003) + b"xyz\0"
    assert list(attributes(text_attribute(3, "t-acme"))) == [(3, b"t-acme\0")]
    assert (text(b"t-acme\0"), text(None), native(struct.pack("=I", 173001)), native(None)) == (
        "t-acme",
        "",
        173001,
        0,
    )


@pytest.mark.parametrize(("code", "kind"), [(errno.EPERM, PermissionError), (errno.EEXIST, FileExistsError)])
def test_a_refusal_is_the_error_that_python_has_for_it(code: int, kind: type[OSError]) -> None:
    error = refusal(NetlinkMessage(ERROR, 0, 1, 0, struct.pack("=i", -code) + bytes(16)))
    assert type(error) is kind
    assert error.errno == code


def test_the_kernels_own_text_is_told() -> None:
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + text_attribute(1, "Invalid prefix")
    assert str(refusal(NetlinkMessage(ERROR, WITH_TEXT, 1, 0, body))) == "[Errno 22] Invalid prefix"


@pytest.mark.parametrize("body", [b"", bytes(4), struct.pack("=i", 5)])
def test_what_is_no_error_is_none(body: bytes) -> None:
    assert refusal(NetlinkMessage(DONE, 0, 1, 0, body)) is None


def test_the_kernel_answers_a_question_a_dump_and_what_it_refuses() -> None:
    with NetlinkSocket() as netlink:
        (answer,) = netlink.request(*link_query(name="lo"))
        assert read_link(answer).index == socket.if_nametoindex("lo")
        found = {read_link(body).name for body in netlink.request(*link_dump())}
        assert found == {name for _, name in socket.if_nameindex()}
        with pytest.raises(OSError, match="No such device"):
            netlink.request(*link_query(name="no-such-thing"))
        index = socket.if_nametoindex("lo")
        held = [read_address(body) for body in netlink.request(*address_dump(index))]
        assert "127.0.0.1" in {str(each.address) for each in held if each is not None}


def test_a_notification_between_the_answers_is_no_answer() -> None:
    with NetlinkSocket() as netlink:
        theirs = netlink.frame([link_query(name="lo")])[0]
        assert netlink.frame([link_query(name="lo")] * 3)[0] == theirs + 1
        assert netlink.frame([link_query(name="lo")])[0] == theirs + 4
        netlink.send(link_query(name="lo"))  # its answer is read with the next one's
        (answer,) = netlink.request(*link_query(name="lo"))
        assert read_link(answer).name == "lo"


def test_netlink_is_opened_and_framed_in_one_place() -> None:
    sources = [
        path
        for package in ("common", "hub", "supervisor", "tunnels")
        for path in ROOT.glob(f"{package}/**/*.py")
    ]
    for word in ("AF_NETLINK", "=IHHII"):
        assert [str(path.relative_to(ROOT)) for path in sources if word in path.read_text()] == [
            "common/netlink.py"
        ]
