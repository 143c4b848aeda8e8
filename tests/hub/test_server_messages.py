"""Bytes from the management socket -> messages, and commands back."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.openvpn import commands
from hub.core.openvpn.clients import ClientRow, address_and_port, client_facts, client_rows
from hub.core.openvpn.messages import (
    MAX_LINE_BYTES,
    MAX_VARIABLES,
    AddressMessage,
    ClientEvent,
    ClientMessage,
    HoldMessage,
    MessageReader,
    ReplyLine,
    ServerMessage,
)

CONNECT = (
    b">CLIENT:CONNECT,3,1\r\n>CLIENT:ENV,n_clients=0\r\n>CLIENT:ENV,IV_VER=2.6.14\r\n"
    b">CLIENT:ENV,common_name=alice\r\n>CLIENT:ENV,password=a=b\r\n>CLIENT:ENV,END\r\n"
)
ALICE = ClientMessage(
    ClientEvent.CONNECT,
    3,
    1,
    env={"n_clients": "0", "IV_VER": "2.6.14", "common_name": "alice", "password": "a=b"},
)


def read(data: bytes) -> list[ServerMessage]:
    return list(MessageReader().feed(data))


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (CONNECT, [ALICE]),
        (b">HOLD:Waiting for hold release:0\r\n", [HoldMessage()]),
        (b">CLIENT:ADDRESS,3,10.8.5.5,1\r\n", [AddressMessage(3, "10.8.5.5", primary=True)]),
        (b">CLIENT:ADDRESS,3,10.8.5.0/24,0\r\n", []),
        (b">INFO:OpenVPN Management Interface Version 5\r\n", []),
        (b"SUCCESS: pid=77\r\n", [ReplyLine("SUCCESS: pid=77")]),
        (
            b">CLIENT:CR_RESPONSE,3,1,MTIz\r\n>CLIENT:ENV,END\r\n",
            [ClientMessage(ClientEvent.CR_RESPONSE, 3, 1, "MTIz")],
        ),
        (b">CLIENT:DISCONNECT,3\r\n>CLIENT:ENV,END\r\n", [ClientMessage(ClientEvent.DISCONNECT, 3)]),
        # what no server writes
        (b">CLIENT:CONNECT,3\r\n>CLIENT:ENV,END\r\n", []),
        (b">CLIENT:CONNECT,x,1\r\n>CLIENT:ENV,common_name=eve\r\n>CLIENT:ENV,END\r\n", []),
        (b">CLIENT:CONNECT,-3,1\r\n>CLIENT:ENV,END\r\n", []),
        (b">CLIENT:CONNECT,%d,1\r\n>CLIENT:ENV,END\r\n" % 2**64, []),
        (b">CLIENT:GREET,3,1\r\n>CLIENT:ENV,END\r\n", []),
        (b">CLIENT:ENV,common_name=eve\r\n>CLIENT:ENV,END\r\n", []),
        # a block that a line in between does not break
        (
            CONNECT.replace(b">CLIENT:ENV,IV", b">BYTECOUNT_CLI:1,2,3\r\nSUCCESS: x\r\n>CLIENT:ENV,IV"),
            [ReplyLine("SUCCESS: x"), ALICE],
        ),
    ],
)
def test_lines_are_understood(data: bytes, messages: list[ServerMessage]) -> None:
    assert read(data) == messages


def test_the_servers_own_word_counts_more_than_an_earlier_one_of_the_client() -> None:
    twice = CONNECT.replace(b">CLIENT:ENV,IV", b">CLIENT:ENV,common_name=root\r\n>CLIENT:ENV,IV")
    (message,) = read(twice)
    assert isinstance(message, ClientMessage)
    assert message.env["common_name"] == "alice"


def test_secrets_are_not_shown() -> None:
    assert "a=b" not in repr(read(CONNECT))


def test_what_is_too_long_is_left_out_and_costs_nothing_else() -> None:
    endless = b">CLIENT:ENV,UV_x=" + b"y" * (3 * MAX_LINE_BYTES) + b"\r\n"
    many = b"".join(b">CLIENT:ENV,UV_%d=1\r\n" % number for number in range(3 * MAX_VARIABLES))
    begin, end = CONNECT.split(b">CLIENT:ENV,common", 1)
    assert read(begin + endless + b">CLIENT:ENV,common" + end) == [ALICE]
    (message,) = read(begin + many + b">CLIENT:ENV,END\r\n")
    assert isinstance(message, ClientMessage)
    assert len(message.env) == MAX_VARIABLES


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [*CONNECT.split(b"\r\n"), b">HOLD:x", b"END", b"ERROR: no", b">CLIENT:ADDRESS,1,::1,1"]
        ),
        st.text(max_size=40).map(lambda text: b">CLIENT:" + text.encode()),
    ),
    max_size=30,
)


@given(lines=LINES, cuts=st.lists(st.integers(0, 2000), max_size=8))
def test_messages_do_not_depend_on_the_chunks(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    reader = MessageReader()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[first:last] for first, last in zip(places, places[1:], strict=False)]
    assert [message for chunk in chunks for message in reader.feed(chunk)] == read(data)


@given(data=st.binary(max_size=400))
def test_after_any_bytes_the_next_login_is_understood(data: bytes) -> None:
    reader = MessageReader()
    list(reader.feed(data))
    assert list(reader.feed(b"\n" + CONNECT))[-1] == ALICE


# --- commands


@given(text=st.text(max_size=80))
def test_a_parameter_never_starts_another_command(text: str) -> None:
    parameter = commands.quoted(text)
    assert "\n" not in parameter
    assert "\r" not in parameter
    # OpenVPN reads quotes and backslashes as a shell does within double quotes (options.c, parse_line)
    assert shlex.split(parameter.replace("$", "").replace("`", "")) == [
        "".join(letter if letter.isprintable() else " " for letter in text).replace("$", "").replace("`", "")
    ]


@given(text=st.text(max_size=4000), flags=st.integers(0, 2**16))
def test_what_a_client_is_shown_fits(text: str, flags: int) -> None:
    shown = commands.elsewhere(flags, 3, text)
    assert shown.startswith("TEMP[") == bool(flags & 256)
    assert len(shown) < 300


@pytest.mark.parametrize("address", ["", "10.8.0", "10.8.0.1\nclient-auth 4 1", "::1", "10.8.0.1 10.8.0.2"])
def test_nobody_is_let_in_without_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="(?i)address|Expected 4 octets|Only decimal|At most"):
        commands.allow(3, 1, address, "255.255.0.0")


def test_a_client_is_let_in_with_one() -> None:
    assert commands.allow(3, 1, "10.8.5.5", "255.255.0.0") == (
        "client-auth 3 1\nifconfig-push 10.8.5.5 255.255.0.0\nEND"
    )


@pytest.mark.parametrize(
    ("real", "command"),
    [
        ("192.0.2.7:1194", "kill 192.0.2.7:1194"),
        ("[2001:db8::1]:1194", None),
        ("2001:db8::1", None),
        ("", None),
        ("192.0.2.7:x\nsignal SIGTERM", None),
    ],
)
def test_a_session_is_cut_by_its_address(real: str, command: str | None) -> None:
    assert commands.cut(real) == command


# --- clients

STATUS = [
    "TITLE\tOpenVPN 2.6.14",
    "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\tBytes Received"
    "\tBytes Sent\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\tPeer ID\tData Channel Cipher",
    "CLIENT_LIST\talice\t192.0.2.7:40000\t10.8.0.10\t\t3000\t4000\t2026-11-30\t1\tUNDEF\t3\t0\tAES",
    "CLIENT_LIST\tbob\tudp4:192.0.2.8:40000\t\t\t1\t2\t2026-11-30\t1\tUNDEF\t4\t1\t",
    "CLIENT_LIST\tcarol\t192.0.2.8:40000\t\t\tmany\t2\t2026-11-30\t1\tUNDEF\t5\t1\t",
    "CLIENT_LIST\tshort",
    "HEADER\tROUTING_TABLE\tVirtual Address",
    "END",
]


def test_the_table_of_clients_is_read_by_its_header() -> None:
    assert list(client_rows(STATUS)) == [
        ClientRow(3, "alice", "192.0.2.7:40000", "10.8.0.10", 3000, 4000),
        ClientRow(4, "bob", "192.0.2.8:40000", "", 1, 2),
    ]


@pytest.mark.parametrize(
    ("real", "parts"),
    [
        ("192.0.2.7:40000", ("192.0.2.7", 40000)),
        ("[2001:db8::1]:40000", ("2001:db8::1", 40000)),
        ("192.0.2.7", ("192.0.2.7", 0)),
        ("192.0.2.7:99999", ("192.0.2.7:99999", 0)),
        ("", ("", 0)),
    ],
)
def test_address_and_port(real: str, parts: tuple[str, int]) -> None:
    assert address_and_port(real) == parts


@given(env=st.dictionaries(st.text(max_size=20), st.text(max_size=300), max_size=20))
def test_any_variables_give_bounded_printable_facts(env: dict[str, str]) -> None:
    env |= {"common_name": "al\x1b[31mice" * 100, "IV_PROTO": "9" * 30, "UV_A\n": "x", "IV_VER": "2\x00"}
    facts = client_facts(env)
    assert len(facts.person) <= 200
    assert facts.person.isprintable()
    assert facts.flags == 0
    assert facts.claims["IV_VER"] == "2"
    assert "UV_A\n" not in facts.claims
