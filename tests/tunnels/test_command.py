"""Commands without a daemon: what may be configured, how it is launched, and what its lines mean."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.config.validation import validated
from tunnels.base import Connected, Failed, Launch, LineSource, Placement, Reason
from tunnels.kinds.command.kind import COMMAND, PERMANENT, TRANSIENT, Command, CommandDialogue
from tunnels.regex import MAX_MATCHED_CHARS

PLACE = Placement(Path("/run/facilitator/clients/acme"), "t-acme", 0, "/usr/bin/python3", mark=173001)
PROBE = {"targets": ["tcp://10.77.0.10:443", "icmp://[fd00:77::10]"]}


def tunnel(**options: Any) -> Command:
    data = {
        "name": "acme",
        "kind": "command",
        "destinations": ["10.77.0.0/24"],
        "argv": ["/usr/bin/vpn", "--dev", "{device}"],
        "up": {"line": "connected"},
        **options,
    }
    return validated(COMMAND.options, data)


def launched(inputs: dict[str, bytes] | None = None, **options: Any) -> Launch:
    return COMMAND.launch(tunnel(**options), PLACE, inputs or {})


def said(*lines: str, source: LineSource = LineSource.OUTPUT, **options: Any) -> list[object]:
    dialogue = CommandDialogue(tunnel(**options))
    return [answer for line in lines for answer in dialogue.receive(source, line)]


def trouble(**options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        tunnel(**options)
    return "; ".join(
        error["msg"].removeprefix("Value error, ") for error in caught.value.errors(include_url=False)
    )


# --- the launch ---


def test_placeholders_are_filled_in() -> None:
    launch = launched(
        {"password": b"hunter2"},
        argv=["vpn", "{device}", "-u={username}", "{password_file}", "{directory}/pid", "{{device}} {1} {}"],
        environment={"DEVICE": "{device}", "PASSWORD_FILE": "/x"},
        login={"username": "svc", "password": {"file": "pw"}},
    )
    assert launch.argv == (
        "vpn",
        "t-acme",
        "-u=svc",
        "/proc/self/fd/{login.password}",
        "/run/facilitator/clients/acme/pid",
        "{device} {1} {}",
    )
    assert launch.environment == {"DEVICE": "t-acme", "PASSWORD_FILE": "/x"}
    assert launch.files == {"login.password": b"hunter2"}
    assert not launch.notify


def test_a_password_that_is_not_used_is_not_read() -> None:
    assert COMMAND.inputs(tunnel(login={"password": {"file": "pw"}})) == ()


def test_somebody_looks_out_for_a_device() -> None:
    launch = launched(argv=["vpn", "--", "-x"], up={"device": "vpn0"})
    assert tunnel(argv=["vpn"], up={"device": "vpn0"}).device == "vpn0"
    place = (
        "/usr/bin/python3",
        "-I",
        "-m",
        "tunnels.kinds.command.driver",
        "--device",
        "t-acme",
        "--mark",
        "173001",
        "--",
    )
    assert launch.argv == (*place, "vpn", "--", "-x")
    assert launch.notify


def test_and_for_an_answer() -> None:
    launch = launched(up={"probe": True}, probe=PROBE)
    assert launch.argv[4:11] == (
        "--device",
        "t-acme",
        "--mark",
        "173001",
        "--probe",
        "tcp://10.77.0.10:443",
        "--",
    )
    assert launch.notify


def test_a_program_that_tells_by_itself() -> None:
    launch = launched(up={"notify": True})
    assert (launch.argv[0], launch.notify) == ("/usr/bin/vpn", True)


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"up": {}}, "up is one of {line: REGEX}"),
        ({"up": {"line": "x", "notify": True}}, "up is one of {line: REGEX}"),
        ({"up": {"notify": False}}, "up is one of {line: REGEX}"),
        ({"argv": []}, "at least 1 item"),
        ({"argv": [""]}, "the program's name is missing"),
        ({"argv": ["vpn"]}, "which interface is the tunnel's?"),
        (
            {"argv": ["vpn"], "up": {"device": "a"}, "device": "b"},
            "device: b and up.device: a must be the same",
        ),
        ({"argv": ["vpn", "{device}", "{username}"]}, "{username} is login.username, which is missing"),
        (
            {"argv": ["vpn", "{device}", "{password_file}"]},
            "{password_file} holds login.password, which is missing",
        ),
        ({"up": {"probe": True}}, "needs probe.targets with an IPv4 address"),
        (
            {"up": {"probe": True}, "probe": {"targets": ["icmp://[fd00::1]"]}},
            "needs probe.targets with an IPv4 address",
        ),
        (
            {"argv": ["vpn", "{devcie}"]},
            "{devcie} is no placeholder here; these are: {device}, {directory}, {username}, {password_file}; "
            "for the text itself write {{devcie}}",
        ),
        ({"environment": {"A": "{password_file}"}}, "{password_file} is no placeholder here"),
        ({"environment": {"a-b": "x"}}, "'a-b' cannot be an environment variable"),
    ],
)
def test_what_does_not_fit_together(options: dict[str, Any], wanted: str) -> None:
    assert wanted in trouble(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"argv": ["vpn", "{device}", "{password}"]},
        {"argv": ["vpn", "{device}", "--password=hunter2"]},
        {"argv": ["vpn", "{device}", "--passwd", "hunter2"]},
        {"argv": ["vpn", "{device}", "--TOKEN", "hunter2"]},
        {"argv": ["vpn", "{device}", "https://svc:hunter2@vpn.example.net/"]},
        {"environment": {"VPN_PASSWORD": "hunter2"}},
        {"environment": {"APIKEY": "x", "MY_SECRET": "hunter2"}},
        {"environment": {"http_proxy": "http://svc:hunter2@proxy:3128"}},
    ],
)
def test_secrets_in_the_open(options: dict[str, Any]) -> None:
    text = trouble(**options)
    assert "{password_file}" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "options",
    [
        {"argv": ["vpn", "{device}", "--password-file", "/etc/x"]},
        {"argv": ["vpn", "{device}", "--password=/etc/x"]},
        {"argv": ["vpn", "{device}", "--passwd-on-stdin"]},
        {"argv": ["vpn", "{device}", "--password", "--verbose"]},
        {"environment": {"PASSWORD_FILE": "/run/secrets/x", "PASSPORT": "x"}},
        {"argv": ["vpn", "{device}", "https://vpn.example.net:8443/a@b"]},
    ],
)
def test_what_only_looks_like_one(options: dict[str, Any]) -> None:
    assert tunnel(**options)


# --- patterns ---


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("(", "'(' is not a regular expression: a ) is missing"),
        ("ab[", "'ab[' is not a regular expression: a ] is missing (at character 3)"),
        ("ab)", "'ab)' is not a regular expression: a ( is missing"),
        ("(?P<nobody>x)", "a group here can be called"),
        ("(?P<auth x", "this is not the name of a group"),
        (r"x(?=y)", "it looks ahead, which RE2 does not support; match the text itself (at character 2)"),
        (r"(?<!x)y", "it looks behind, which RE2 does not support"),
        (r"(a)\1", "it may be a reference to a group, which cannot be matched (at character 4)"),
        (r"up\Z", "the end of a line is $ or \\z (at character 3)"),
        ("(?>a+)b", "atomic groups are not supported"),
        ("a++", "possessive repetition is not supported"),
        ("a{1001}", "it repeats something more than 1000 times (at character 2)"),
        ("*a", "there is nothing to repeat"),
        ("[z-a]", "this range of characters is none"),
        ("(?i)(?:[\\pL\\pN]*a){200}", "it is too large"),
        ("\ud800", "half a character at character 1"),
    ],
)
def test_patterns_that_are_refused(pattern: str, wanted: str) -> None:
    for options in ({"up": {"line": pattern}}, {"permanent": ["x", pattern]}, {"transient": [pattern]}):
        assert wanted in trouble(**options)


@pytest.mark.parametrize(
    "pattern",
    [
        "Initialization Sequence Completed",
        r"^assigned (?P<address>[0-9.]+) by (?P<peer>\S+)$",
        r"(?:\d{1,3}\.){3}\d{1,3}",
        "a+b*c?d{2,}",
        "(?:up|connected)",
        "[ab]+",
        "(?i:Up)",
        "(ab)*",
        "(a+)+$",
        ".*.*.*.*=x",
        "(a{1,16}){1,16}b",
        "(?:.*)*",
        "ü+",
    ],
)
def test_patterns_that_are_fine(pattern: str) -> None:
    assert tunnel(up={"line": pattern})


@given(st.text(alphabet="ab|()[]*+?{}1,\\^$.", max_size=20))
def test_no_pattern_upsets_the_check(pattern: str) -> None:
    said = "is not a regular expression"
    try:
        tunnel(permanent=[pattern])
    except ValidationError as error:
        said = str(error)
    assert "is not a regular expression" in said


def test_patterns_that_are_too_large_together() -> None:
    large = "(?:[a-z]+ [0-9]{3}){100}"
    assert tunnel(permanent=[large])
    assert "too large together" in trouble(permanent=[large] * 40)


HOSTILE = (
    ".*.*.*.*=x",
    "(a{1,16}){1,16}b",
    "a*a*a*a*b",
    "a{0,16}" * 6 + "b",
    "(?:a|b)*a(?:a|b){500}$",
    "((?:a|b)*)a((?:a|b){400})c",
    "(?:(a)|(b)|(c)){300}z",
    "(?:a?){400}a{400}z",
    "(.*)(.*)(.*)(.*)(.*)=(.*)x(.*)Q",
    "[ab]*[ab]{900}Q",
    "(?:[^b]*b){300}!",
)
LINES = (
    "a" * MAX_MATCHED_CHARS,
    "ab" * (MAX_MATCHED_CHARS // 2),
    "abba=x ü" * (MAX_MATCHED_CHARS // 8),
    "a=" * (MAX_MATCHED_CHARS // 2),
)


@pytest.mark.parametrize(
    "patterns",
    [*([each] for each in HOSTILE), [f"{number}.*.*.*=x(a|b)*c" for number in range(200)]],
    ids=lambda patterns: patterns[0],
)
def test_no_pattern_takes_long_for_a_line(patterns: list[str]) -> None:
    """All of a tunnel's together, and each line: the event loop goes on after every line."""
    of = tunnel(transient=patterns)
    for line in LINES:
        least = min(_seconds(CommandDialogue(of), line) for _ in range(3))
        assert least < 0.3, f"{least:.3f} s"


def _seconds(dialogue: CommandDialogue, line: str) -> float:
    since = time.perf_counter()
    list(dialogue.receive(LineSource.OUTPUT, line))
    return time.perf_counter() - since


# --- what lines mean ---


def test_up_by_a_line() -> None:
    assert said("starting", "now connected", "connected") == [Connected(on_interface=True)] * 2


def test_a_line_may_tell_addresses() -> None:
    pattern = "is (?P<address>[^ ]+)(?: via (?P<peer>[^ ]+))?$"
    assert said("is 10.9.9.2 via gw", "is fd00::2", "is nothing", up={"line": pattern}) == [
        Connected("10.9.9.2", "gw", on_interface=True),
        Connected(address6="fd00::2", on_interface=True),
        Connected(on_interface=True),
    ]


def test_up_by_notification() -> None:
    words = ("STATUS=hello", "X_ADDRESS=10.9.9.2", "X_PEER=gw", "READY=0", "READY=1")
    assert said(*words, source=LineSource.NOTIFY, up={"notify": True}) == [
        Connected("10.9.9.2", "gw", on_interface=True)
    ]
    assert said("READY=1", up={"notify": True}) == []


@pytest.mark.parametrize(
    ("options", "line", "wanted"),
    [
        ({"permanent": ["denied"]}, "access denied", Failed(Reason.CLIENT_CONFIG, "access denied")),
        ({"transient": ["timed out"]}, "it timed out", Failed(Reason.NETWORK, "it timed out")),
        (
            {"permanent": ["(?P<auth>wrong password)|(?P<key>bad key)"]},
            "wrong password",
            Failed(Reason.AUTH, "wrong password"),
        ),
        (
            {"permanent": ["(?P<auth>wrong password)|(?P<key>bad key)"]},
            "bad key",
            Failed(Reason.KEY, "bad key"),
        ),
        (
            {"transient": ["(?P<far_end_full>no licence)"]},
            "no licence left",
            Failed(Reason.FAR_END_FULL, "no licence left"),
        ),
        (
            {"permanent": ["x"], "transient": ["x"], "up": {"line": "x"}},
            "x",
            Failed(Reason.CLIENT_CONFIG, "x"),
        ),
        (
            {},
            "facilitator: vpn cannot be run: No such file or directory",
            Failed(Reason.MISSING_BINARY, "vpn is not installed"),
        ),
        (
            {},
            "facilitator: vpn cannot be run: Permission denied",
            Failed(Reason.MISSING_RIGHT, "vpn cannot be run: Permission denied"),
        ),
    ],
)
def test_failures(options: dict[str, Any], line: str, wanted: Failed) -> None:
    assert said(line, line, "connected", **options) == [wanted]


@pytest.mark.parametrize("reason", [*PERMANENT, *TRANSIENT])
def test_every_reason_can_be_named(reason: Reason) -> None:
    which = "permanent" if reason in PERMANENT else "transient"
    options: dict[str, Any] = {which: [f"(?P<{reason.replace('-', '_')}>gone)"]}
    assert said("gone", **options) == [Failed(reason, "gone")]


def test_only_the_beginning_of_a_long_line_is_looked_at() -> None:
    assert said(" " * MAX_MATCHED_CHARS + "connected") == []
