"""How OpenVPN's questions for a login are answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.base import Failed, Keep, Question, Reason, Say, Wanted
from tunnels.kinds.openvpn.login import Answer, Credentials, LoginIdentity
from tunnels.kinds.openvpn.patterns import pushed_limit, pushed_user, refusal

PASSWORD = ("Auth", "username/password")


def need(credentials: Credentials, flags: int = 0, challenge: str | None = None) -> list[Answer]:
    return list(credentials.need(*PASSWORD, flags, challenge))


def told(credentials: Credentials) -> str:
    """The password that it gets when it asks."""
    return password_in(need(credentials))


def password_in(answers: list[Answer]) -> str:
    [word] = [
        answer.line.removeprefix('password "Auth" ')
        for answer in answers
        if isinstance(answer, Say) and answer.secret
    ]
    return word


def test_one_text_of_password_and_code() -> None:
    """What newer servers call the static challenge's format `concat`."""
    credentials = Credentials(LoginIdentity("u", "secret"))
    assert need(credentials, 3, "Your token") == [Question(Wanted.CODE, "Your token")]
    assert password_in(list(credentials.answer(" 123456\n"))) == "secret123456"


def test_a_code_alone_is_the_password() -> None:
    credentials = Credentials(LoginIdentity("u", None, append_code=True))
    [question] = need(credentials)
    assert isinstance(question, Question)
    assert password_in(list(credentials.answer("123456"))) == "123456"


def test_an_answer_that_nobody_waits_for() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    assert list(credentials.answer("123456")) == []
    assert told(credentials) == "p"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Enter your code", Wanted.CODE),
        ("Enter Google Authenticator Code", Wanted.CODE),
        ("PIN + token", Wanted.CODE),
        ("Choose 1 for push, 2 for SMS", Wanted.TEXT),
        ("Enter a new PIN having from 4 to 8 digits", Wanted.TEXT),
        ("Security question: your first car?", Wanted.TEXT),
    ],
)
def test_what_a_challenge_wants(text: str, wanted: Wanted) -> None:
    assert need(Credentials(LoginIdentity("u", "p")), 1, text) == [Question(wanted, text)]


def test_a_kept_session_is_used_in_place_of_password_and_code() -> None:
    credentials = Credentials(LoginIdentity("u", "p", kept="SESS_ID_1"))
    assert need(credentials, 1, "Your token") == [
        Say('username "Auth" u'),
        Say('password "Auth" SESS_ID_1', secret=True),
    ]


def test_a_kept_session_may_have_a_user_of_its_own() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    assert list(credentials.token("SESS_ID_1", "c29tZWJvZHk=")) == [Keep("SESS_ID_1\nsomebody")]
    assert need(Credentials(LoginIdentity("u", "p", kept="SESS_ID_1\nsomebody")))[0] == Say(
        'username "Auth" somebody'
    )


def test_a_kept_session_that_is_refused_is_worthless() -> None:
    credentials = Credentials(LoginIdentity("u", "p", kept="SESS_ID_1"))
    need(credentials)
    kept, failed = credentials.refused("Auth", "")
    assert kept == Keep("")
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.SESSION_EXPIRED


@pytest.mark.parametrize("text", ["TEMP:try later", "TEMP:too many sessions"])
def test_a_kept_session_survives_a_server_that_is_busy(text: str) -> None:
    credentials = Credentials(LoginIdentity("u", "p", kept="SESS_ID_1"))
    need(credentials)
    assert not [answer for answer in credentials.refused("Auth", text) if isinstance(answer, Keep)]


def test_a_password_that_is_refused_is_no_expired_session() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    need(credentials)
    [failed] = credentials.refused("Auth", "")
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.AUTH


def test_several_challenges_of_one_login() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    need(credentials)
    texts = []
    for number in range(5):
        assert credentials.challenged(f"CRV1:R:{number}:dQ==:Question {number}")
        [asked] = list(credentials.ask_challenge() or [])
        texts.append(type(asked))
        if isinstance(asked, Question):
            assert credentials.waits
            list(credentials.answer(f"{number}"))
            assert told(credentials) == f"CRV1::{number}::{number}"
    assert texts == [Question, Question, Question, Failed, Failed]


def test_a_challenge_for_a_name_that_is_a_command() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    assert credentials.challenged(
        "CRV1:R:1:dQpzaWduYWwgU0lHVEVSTQ==:Code"
    )  # a line break, and `signal SIGTERM`
    [failed] = list(credentials.ask_challenge() or [])
    assert isinstance(failed, Failed)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("CR_TEXT:R,E:Enter your token", Question(Wanted.CODE, "Enter your token")),
        ("CR_TEXT:E:Approve it on your phone", Question(Wanted.APPROVAL, "Approve it on your phone")),
        (
            "OPEN_URL:https://login.example.com/1",
            Question(Wanted.APPROVAL, "log in with a browser at https://login.example.com/1"),
        ),
        (
            "WEB_AUTH:hidden,external:https://x/1",
            Question(Wanted.APPROVAL, "log in with a browser at https://x/1"),
        ),
        ("NOTIFY::Look at your phone", Question(Wanted.APPROVAL, "Look at your phone")),
        ("something new", Question(Wanted.APPROVAL, "something new")),
    ],
)
def test_more_is_wanted_while_the_connection_stands(text: str, question: Question) -> None:
    assert list(Credentials(LoginIdentity("u", "p")).pending(text)) == [question]


def test_an_undecided_server_is_mentioned_once_and_only_after_a_login() -> None:
    credentials = Credentials(LoginIdentity("u", "p"))
    assert list(credentials.undecided()) == []
    need(credentials)
    assert len(list(credentials.undecided())) == 1
    assert list(credentials.undecided()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.AUTH),
        ("the account is locked, call us", Reason.AUTH),
        ("SESSION: Your session has expired, please reauthenticate", Reason.SESSION_EXPIRED),
        ("TEMP", Reason.PEER_CLOSED),
        ("TEMP[backoff 7,advance no]:try later", Reason.PEER_CLOSED),
        ("TEMP:SESSION:x", Reason.PEER_CLOSED),
        (
            "LICENSE: Access Server license failure: maximum concurrent_connections exceeded",
            Reason.FAR_END_FULL,
        ),
        ("You have too many active sessions", Reason.FAR_END_FULL),
        ("too many failed login attempts", Reason.BANNED),
    ],
)
def test_refusals(text: str, reason: Reason) -> None:
    assert refusal("Auth", text).reason is reason


@pytest.mark.parametrize(
    ("reply", "limit", "user"),
    [
        ("PUSH_REPLY", None, None),
        ("PUSH_REPLY,session-timeout", None, None),
        ("PUSH_REPLY,session-timeout 3600,auth-token-user dQ==", 3600, "dQ=="),
        ("PUSH_REPLY,session-timeout 0", None, None),
        ("PUSH_REPLY,session-timeout 5 x,session-timeout 7", 7, None),
        ("PUSH_REPLY,session-timeout -1,auth-token-user", None, None),
    ],
)
def test_what_is_pushed_beside_routes(reply: str, limit: int | None, user: str | None) -> None:
    assert (pushed_limit(reply), pushed_user(reply)) == (limit, user)


@given(st.text(), st.text(), st.text())
def test_no_answer_is_ever_a_command(kept: str, challenge: str, code: str) -> None:
    for account in (LoginIdentity("u", "p", kept=kept), LoginIdentity("u", code, append_code=True)):
        credentials = Credentials(account)
        credentials.challenged(f"CRV1:R:{challenge}:{code}:{kept}")
        answers = [
            *need(credentials, 1, challenge),
            *credentials.answer(code),
            *credentials.pending(f"CR_TEXT:R:{challenge}"),
        ]
        answers += [
            *credentials.answer(code),
            *(credentials.ask_challenge() or ()),
            *credentials.answer(code),
            *need(credentials),
        ]
        answers += [*credentials.token(kept, challenge), *need(credentials)]
        assert not [
            answer for answer in answers if isinstance(answer, Say) and set(answer.line) & set("\r\n\0")
        ]
