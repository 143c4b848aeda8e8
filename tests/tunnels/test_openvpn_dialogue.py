"""The corners of OpenVPN's conversation that the transcripts do not show."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnels.driver import explained
from tunnels.base import Connected, Failed, LineSource, NextServer, Question, Reason, Say, Wanted
from tunnels.kinds.openvpn.login import Answer, LoginIdentity
from tunnels.kinds.openvpn.management import PATIENCE, OpenVPNDialogue
from tunnels.kinds.openvpn.patterns import pushed_name_servers, pushed_routes

ATTACHED = ("", "END", ">STATE:1,CONNECTING,,,,,,", "END")


def hear(*lines: str, account: LoginIdentity = LoginIdentity("u", "p")) -> list[Answer]:
    """What comes back for these management lines."""
    dialogue = OpenVPNDialogue(account)
    return [answer for line in lines for answer in dialogue.receive(LineSource.MANAGEMENT, line)]


def failed(*lines: str) -> Failed:
    [answer] = [answer for answer in hear(*lines) if isinstance(answer, Failed)]
    return answer


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("EXITING,auth-failure", Reason.AUTH),
        ("RECONNECTING,auth-temp-failure (server temporary reject)", Reason.PEER_CLOSED),
        ("EXITING,server-pushed-halt", Reason.KICKED),
        ("EXITING,private-key-password-failure", Reason.KEY),
        ("EXITING,something new", Reason.EXITED),
        ("EXITING,process-push-msg-failed", Reason.PROTOCOL),
        ("CONNECTED,ERROR", Reason.LOCAL),
        ("CONNECTED,ROUTE_ERROR", Reason.LOCAL),
    ],
)
def test_before_connected(state: str, reason: Reason) -> None:
    assert failed(*ATTACHED, f">STATE:1,{state},,,,,").reason is reason


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("tls-error", Reason.PEER_CLOSED),
        ("connection-reset", Reason.PEER_CLOSED),
        ("ping-restart", Reason.PEER_TIMEOUT),
        ("server_poll", Reason.NETWORK),
        ("remote-exit", Reason.PEER_CLOSED),
    ],
)
def test_after_connected_it_never_begins_anew(word: str, reason: Reason) -> None:
    answers = hear(
        *ATTACHED,
        ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,",
        f">STATE:2,RECONNECTING,{word},,,,,",
        ">HOLD:x:1",
    )
    assert answers[-1] == failed(
        *ATTACHED,
        ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,",
        f">STATE:2,RECONNECTING,{word},,,,,",
    )
    assert isinstance(answers[-1], Failed)
    assert answers[-1].reason is reason


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("server_poll", Reason.NETWORK),
        ("connection-failed", Reason.NETWORK),
        ("tls-error", Reason.HANDSHAKE),
        ("connection-reset", Reason.HANDSHAKE),
        ("Could not determine IPv4/IPv6 protocol", Reason.DNS),
        ("no-push-reply", Reason.PEER_TIMEOUT),
    ],
)
def test_the_next_server_is_tried_and_the_last_failure_counts(word: str, reason: Reason) -> None:
    lost = f">STATE:2,RECONNECTING,{word},,,,,"
    answers = hear(
        *ATTACHED, lost, ">HOLD:Waiting for hold release:1", ">FATAL:All connections have been tried"
    )
    assert answers[-2] == Say("hold release")
    assert isinstance(answers[-1], Failed)
    assert answers[-1].reason is reason


def test_the_hold_waits_until_its_history_is_known() -> None:
    held = (
        "",
        ">INFO:x",
        ">HOLD:Waiting for hold release:0",
        "SUCCESS: ...",
        "1,I,text",
        "END",
        "SUCCESS: ...",
        "1,CONNECTING,,,,,,",
    )
    assert Say("hold release") not in hear(*held)
    assert hear(*held, "END")[-1] == Say("hold release")


def test_attached_again_to_a_session_that_is_up() -> None:
    """A restarted daemon learns from the histories that it is connected."""
    push = "1,,PUSH: Received control message: 'PUSH_REPLY,route 10.77.0.0 255.255.0.0,ping 10'"
    answers = hear("", push, "END", "1,WAIT,,,,,,", "2,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,", "END")
    assert answers[-1] == Connected("10.8.0.2", "192.0.2.1", (ip_network("10.77.0.0/16"),), mtu=1500)


@pytest.mark.parametrize(
    ("options", "pushed", "mtu"),
    [
        ({}, "", 1500),
        ({"mtu": 1400}, "", 1400),
        ({"mtu": 1400}, ",tun-mtu 1300", 1300),
        ({"mtu": 1400, "fixed_mtu": True}, ",tun-mtu 1300", 1400),
    ],
)
def test_the_interface_gets_what_openvpn_itself_would_give_it(
    options: dict[str, Any], pushed: str, mtu: int
) -> None:
    dialogue = OpenVPNDialogue(LoginIdentity("u", "p"), **options)
    log = f">LOG:1,,PUSH: Received control message: 'PUSH_REPLY,topology subnet{pushed}'"
    lines = (*ATTACHED, log, ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,,fd00:8::2")
    answers = [answer for line in lines for answer in dialogue.receive(LineSource.MANAGEMENT, line)]
    assert answers[-1] == Connected("10.8.0.2", "192.0.2.1", address6="fd00:8::2", mtu=mtu)


def test_attached_again_when_the_log_no_longer_holds_what_was_pushed() -> None:
    connected = hear("", "END", "1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,", "END")[-1]
    assert connected == Connected("10.8.0.2", "192.0.2.1", mtu=None)


def test_attached_again_after_it_reconnected_in_place() -> None:
    """Only what was pushed the last time holds, and what is left of the session is counted by its own
    clock.
    """
    pushes = [
        f"1,,PUSH: Received control message: 'PUSH_REPLY,route 10.{n}.0.0 255.255.0.0,session-timeout {n}00'"
        for n in (1, 2)
    ]
    log = (
        pushes[0],
        "1,I,SIGUSR1[hard,] received, process restarting",
        pushes[1],
        "1060,D,MANAGEMENT: CMD 'log on all'",
        "END",
    )
    states = (
        "1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,",
        "2,RECONNECTING,SIGUSR1,,,,,",
        "1000,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,",
        "END",
    )
    assert hear("", *log, *states)[-1] == Connected(
        "10.8.0.2", "192.0.2.1", (ip_network("10.2.0.0/16"),), 140.0, mtu=1500
    )


def test_attached_again_while_a_challenge_waits() -> None:
    challenge = "1,,AUTH: Received control message: AUTH_FAILED,CRV1:R,E:7:dQ==:Enter your code"
    dialogue = OpenVPNDialogue(LoginIdentity("u", "p"))
    lines = (
        "",
        ">HOLD:Waiting for hold release:1",
        challenge,
        "END",
        "1,CONNECTING,,,,,,",
        "2,RECONNECTING,auth-failure,,,,,",
        "END",
    )
    heard = [answer for line in lines for answer in dialogue.receive(LineSource.MANAGEMENT, line)]
    assert heard[-1] == Question(Wanted.CODE, "Enter your code")
    assert list(dialogue.answer("123456")) == [Say("hold release")]
    again = list(dialogue.receive(LineSource.MANAGEMENT, ">PASSWORD:Need 'Auth' username/password"))
    assert again == [Say('username "Auth" u'), Say('password "Auth" CRV1::7::123456', secret=True)]


def test_a_renewal_that_fails_is_a_failed_attempt() -> None:
    up = ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,"
    answers = hear(
        *ATTACHED,
        up,
        ">STATE:2,RECONNECTING,SIGUSR1,,,,,",
        ">HOLD:x:1",
        ">STATE:3,RECONNECTING,server_poll,,,,,",
        ">FATAL:x",
    )
    assert [type(answer) for answer in answers[-4:]] == [Connected, Say, NextServer, Failed]
    assert answers[-3] == Say("hold release")
    assert isinstance(answers[-1], Failed)
    assert answers[-1].reason is Reason.NETWORK


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (">INFOMSG:WEB_AUTH::https://login.example.com/1", Reason.CHALLENGE),
        (">INFOMSG:CR_TEXT:R:Enter your token", Reason.CHALLENGE),
        (
            ">LOG:1,,SENT CONTROL [server]: 'PUSH_REQUEST' (status=1)",
            Reason.PEER_TIMEOUT,
        ),  # it says nothing: it may as well have died
    ],
)
def test_nobody_approves_in_time(question: str, reason: Reason) -> None:
    need = ">PASSWORD:Need 'Auth' username/password"
    assert (
        failed(*ATTACHED, need, *[question] * PATIENCE, ">STATE:2,RECONNECTING,no-push-reply,,,,,").reason
        is reason
    )


def test_a_code_that_no_server_saw_is_used_for_the_next_one() -> None:
    dialogue, need = (
        OpenVPNDialogue(LoginIdentity("u", "p")),
        ">PASSWORD:Need 'Auth' username/password SC:1,Your token",
    )
    assert list(dialogue.receive(LineSource.MANAGEMENT, need)) == [Question(Wanted.CODE, "Your token")]
    given = list(dialogue.answer("123456"))
    assert given[1] == Say('password "Auth" SCRV1:cA==:MTIzNDU2', secret=True)
    lost_state = ">STATE:2,RECONNECTING,server_poll,,,,,"
    assert list(dialogue.receive(LineSource.MANAGEMENT, lost_state)) == [NextServer()]
    assert list(dialogue.receive(LineSource.MANAGEMENT, need)) == given
    [lost] = dialogue.receive(
        LineSource.MANAGEMENT, ">STATE:2,RECONNECTING,tls-error,,,,,"
    )  # by now it is too old
    assert isinstance(lost, Failed)
    assert lost.reason is Reason.HANDSHAKE


def test_attached_again_to_a_session_that_was_lost_meanwhile() -> None:
    states = ("2,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,", "3,RECONNECTING,ping-restart,,,,,", "END")
    answers = hear("", ">HOLD:Waiting for hold release:1", "END", *states)
    assert isinstance(answers[-1], Failed)
    assert Say("hold release") not in answers


def test_a_requested_end_is_no_failure() -> None:
    assert hear(*ATTACHED, ">STATE:1,EXITING,SIGTERM,,,,,") == hear(*ATTACHED)


def test_a_requested_end_tells_what_was_wrong_before() -> None:
    assert (
        failed(*ATTACHED, ">STATE:1,RECONNECTING,server_poll,,,,,", ">STATE:2,EXITING,SIGTERM,,,,,").reason
        is Reason.NETWORK
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (">PASSWORD:Need 'Private Key' password", Reason.KEY),
        (">PASSWORD:Need 'HTTP Proxy' username/password", Reason.CLIENT_CONFIG),
        (">PASSWORD:Need 'RSA' password", Reason.CLIENT_CONFIG),
        (">PASSWORD:Verification Failed: 'Auth'", Reason.AUTH),
        (">PASSWORD:Verification Failed: 'Auth' ['it's \"locked\"']", Reason.AUTH),
        (">PASSWORD:Verification Failed: 'Auth' ['TEMP']", Reason.PEER_CLOSED),
        (">PASSWORD:Verification Failed: 'Private Key'", Reason.KEY),
    ],
)
def test_questions_and_refusals(line: str, reason: Reason) -> None:
    assert failed(*ATTACHED, line).reason is reason


def test_no_login_configured() -> None:
    [answer] = OpenVPNDialogue(LoginIdentity(None, None)).receive(
        LineSource.MANAGEMENT, ">PASSWORD:Need 'Auth' username/password"
    )
    assert isinstance(answer, Failed)
    assert "login.username" in answer.text


def test_the_password_is_quoted_and_secret() -> None:
    answers = hear(">PASSWORD:Need 'Auth' username/password", account=LoginIdentity("u v", 'a"b\\c'))
    assert answers == [Say('username "Auth" "u v"'), Say('password "Auth" "a\\"b\\\\c"', secret=True)]


@given(st.text(), st.text())
def test_an_account_is_never_a_command(username: str, password: str) -> None:
    for answer in hear(">PASSWORD:Need 'Auth' username/password", account=LoginIdentity(username, password)):
        assert not isinstance(answer, Say) or not set(answer.line) & set("\r\n\0")


def test_nothing_is_answered_after_a_refusal() -> None:
    lines = (
        ">PASSWORD:Verification Failed: 'Auth'",
        ">HOLD:Waiting for hold release:1",
        ">PASSWORD:Need 'Auth' username/password",
        "",
    )
    assert [type(answer) for answer in hear(*lines)] == [Failed]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Options error: Unrecognized option", Reason.CLIENT_CONFIG),
        ("ERROR: Cannot ioctl TUNSETIFF t-acme: Device or resource busy (errno=16)", Reason.LOCAL),
        ("ERROR: Cannot ioctl TUNSETIFF t-acme: Operation not permitted (errno=1)", Reason.MISSING_RIGHT),
        (
            "ERROR: Cannot open TUN/TAP dev /dev/net/tun: No such file or directory (errno=2)",
            Reason.MISSING_RIGHT,
        ),
        ("Cannot load certificate file client.crt", Reason.KEY),
        ("Cannot load private key file client.key", Reason.KEY),
        ("Error: private key password verification failed", Reason.KEY),
        ("VERIFY ERROR: depth=0, error=certificate has expired: CN=server", Reason.CERTIFICATE),
        ("VERIFY EKU ERROR", Reason.CERTIFICATE),
        ("VERIFY KU ERROR", Reason.CERTIFICATE),
    ],
)
def test_output_that_explains_itself(line: str, reason: Reason) -> None:
    [failed] = explained(OpenVPNDialogue(LoginIdentity(None, None)), line)
    assert failed.reason is reason


@pytest.mark.parametrize(
    ("reply", "routes"),
    [
        ("PUSH_REPLY", []),
        ("PUSH_REPLY,route 10.77.0.0 255.255.255.0", ["10.77.0.0/24"]),
        ("PUSH_REPLY,route 10.77.0.5 255.255.255.0 vpn_gateway 5", ["10.77.0.0/24"]),
        ("PUSH_REPLY,route 10.77.0.5", ["10.77.0.5/32"]),
        ("PUSH_REPLY,route files.example.com,route net_gateway", []),
        ("PUSH_REPLY,route 10.0.0.0 255.0.255.0,route", []),
        ("PUSH_REPLY,route-ipv6 fd00:77::/64 fd00::1,route-ipv6 x", ["fd00:77::/64"]),
        ("PUSH_REPLY,redirect-gateway def1", ["0.0.0.0/0"]),
        ("PUSH_REPLY,redirect-gateway !ipv4 ipv6", ["::/0"]),
        ("PUSH_REPLY,route-gateway 10.8.0.1,,ping 10", []),
    ],
)
def test_pushed_routes(reply: str, routes: list[str]) -> None:
    assert list(pushed_routes(reply)) == [ip_network(route) for route in routes]


_PIECES = st.sampled_from(
    [
        ">STATE:",
        "1,",
        "CONNECTED,",
        "SUCCESS,",
        "RECONNECTING,",
        "EXITING,",
        "tls-error",
        ">HOLD:",
        ">PASSWORD:Need '",
        "Auth'",
        " SC:1,",
        "END",
        ">LOG:1,I,",
        "PUSH: Received control message: 'PUSH_REPLY,",
        "route ",
        "route-ipv6 ",
        ",",
        "'",
        "10.0.0.0 ",
        "999.1/33",
        ">FATAL:",
        "{0}",
        "%s",
        "auth-failure",
        "SIGUSR1",
        ">INFOMSG:",
        "CR_TEXT:R:",
        "WEB_AUTH::",
        "R,E:",
        "dQ==:",
        "AUTH: Received control message: ",
        "AUTH_FAILED,",
        ">PASSWORD:Auth-Token:",
        "SENT CONTROL [s]: 'PUSH_REQUEST'",
        "session-timeout ",
        "auth-token-user ",
        "CRV1:",
        "Verification Failed: '",
        "['CRV1:",
        "VERIFY ERROR",
        "",
    ]
)


@given(st.lists(st.lists(st.one_of(_PIECES, st.text(max_size=5)), max_size=6).map("".join), max_size=20))
def test_junk_in_the_shape_of_sense(lines: list[str]) -> None:
    for source in LineSource:
        for account in (
            LoginIdentity("u", "p"),
            LoginIdentity("u", None, append_code=True),
            LoginIdentity("u", "p", kept="token\nuser"),
        ):
            dialogue = OpenVPNDialogue(account, 5)
            for line in lines:
                given = [*dialogue.receive(source, line), *dialogue.answer(line)]
                assert not [
                    answer for answer in given if isinstance(answer, Say) and set(answer.line) & set("\r\n\0")
                ]


@pytest.mark.parametrize(
    ("reply", "servers"),
    [
        ("PUSH_REPLY,dhcp-option DNS 10.0.0.53,dhcp-option DOMAIN acme.internal", ["10.0.0.53"]),
        ("PUSH_REPLY,dhcp-option DNS6 fd00::53,dhcp-option DNS 10.0.0.53", ["fd00::53", "10.0.0.53"]),
        ("PUSH_REPLY,dns server 1 address 10.0.0.53 [fd00::53],route 10.0.0.0", ["10.0.0.53", "fd00::53"]),
        ("PUSH_REPLY,dhcp-option DNS here,dhcp-option DNS,dns server 1 resolve-domains a.b", []),
    ],
)
def test_pushed_name_servers(reply: str, servers: list[str]) -> None:
    assert [str(server) for server in pushed_name_servers(reply)] == servers
