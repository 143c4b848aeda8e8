"""The kind openconnect without root: settings, launch, what prompts want, and what recorded sessions mean."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.config.validation import validated
from tests.lab.ocserv import USER
from tests.lab.servers import PASSWORD
from tests.tunnels.driver import explained, replay
from tests.tunnels.openconnect_scenarios import FOLDER, SCENARIOS
from tunnels import base
from tunnels.base import Input, Launch, Placement, Reason, Secret
from tunnels.driver_dialogue import ProgramDialogue
from tunnels.kinds.openconnect.client_process import lines_and_prompts, read_ticket
from tunnels.kinds.openconnect.forms import Interview, Wish
from tunnels.kinds.openconnect.kind import OPENCONNECT, OpenConnect
from tunnels.kinds.openconnect.progress import Progress

PIN = f"pin-sha256:{'A' * 43}="
PLACE = Placement(Path("/run/facilitator/acme"), "t-acme", 0, "/usr/bin/python3")
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\n"


def tunnel(**settings: object) -> OpenConnect:
    return validated(
        OpenConnect,
        {"name": "acme", "destinations": ["10.77.0.0/24"], "server": "vpn.example.net", **settings},
    )


def launch(inputs: dict[str, bytes] | None = None, **settings: object) -> Launch:
    return OPENCONNECT.launch(tunnel(**settings), PLACE, inputs or {})


# --- settings
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"server": "https://vpn.example.net"},
        {"server": "vpn.example.net:0"},
        {"server": "vpn.example.net:70000"},
        {"server": "-oops"},
        {"server_certificate": "pin-sha256:short"},
        {"server_certificate": "ACCEPT"},
        {"protocol": "wireguard"},
        {"key": {"file": "key"}},
        {"group": ""},
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        tunnel(**settings)


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("vpn.example.net", "vpn.example.net"),
        ("192.0.2.1:4443", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
    ],
)
def test_tunnels_to_one_server_take_turns(server: str, host: str) -> None:
    assert OPENCONNECT.endpoint(tunnel(server=server)) == host


def test_the_inputs_are_what_the_login_needs() -> None:
    every = tunnel(
        certificate="/etc/acme.pem",
        key={"file": "key"},
        login={"username": "svc", "password": {"file": "pw"}},
    )
    assert OPENCONNECT.inputs(every) == (
        Input("password", Secret(file="pw")),
        Input("certificate", Path("/etc/acme.pem")),
        Input("key", Secret(file="key")),
    )
    assert OPENCONNECT.inputs(tunnel()) == ()
    assert OPENCONNECT.certificates(tunnel(), {"certificate": CERTIFICATE}) == (CERTIFICATE,)


# --- launch
# ----------------------------------------------------------------------------------------------------------


def test_a_launch_with_everything() -> None:
    inputs = {"certificate": CERTIFICATE, "key": KEY, "kept": b"{}", "password": b"secret"}
    made = launch(
        inputs,
        protocol="fortinet",
        server_certificate=PIN,
        group="staff",
        mtu=1300,
        certificate="/x",
        key={"file": "k"},
        login={"username": USER, "append_code": True},
    )
    assert made.argv == (
        "/usr/bin/python3",
        "-I",
        "-m",
        "tunnels.kinds.openconnect.driver",
        "--device",
        "t-acme",
        "--talk",
        base.KEY,
        "--server=vpn.example.net",
        "--protocol=fortinet",
        f"--user={USER}",
        "--group=staff",
        f"--pin={PIN}",
        "--mtu=1300",
        "--dpd=4",
        "--certificate={certificate}",
        "--key={key}",
        "--kept={kept}",
        "--append-code",
    )
    assert dict(made.files) == {name: inputs[name] for name in ("certificate", "key", "kept")}
    assert made.management == PLACE.directory / "management.sock"


@pytest.mark.parametrize(
    "inputs",
    [
        {"certificate": b"hello"},
        {"certificate": CERTIFICATE},
        {"certificate": CERTIFICATE, "key": b"hello"},
        {"certificate": CERTIFICATE, "key": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"},
        {"certificate": CERTIFICATE, "key": b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"},
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_before_the_start(inputs: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="PEM form"):
        launch(inputs, certificate="/x")


def test_a_certificate_may_hold_its_key() -> None:
    assert set(launch({"certificate": CERTIFICATE + KEY}, certificate="/x").files) == {"certificate"}


# --- prompts
# ----------------------------------------------------------------------------------------------------------

_NEXT = "POST https://vpn.example.net/auth"


@pytest.mark.parametrize(
    ("said", "wishes"),
    [
        # line by line; what ends with ':' or '?' is a prompt
        (
            ["Please enter your username.", "Username:", _NEXT, "Please enter your password.", "Password:"],
            [Wish.USERNAME, Wish.PASSWORD],
        ),
        (
            ["Password:", _NEXT, "Please enter your OTP password.", "Password:"],
            [Wish.PASSWORD, Wish.CODE],
        ),  # ocserv
        (
            ["Password:", _NEXT, "Login failed.", "Please enter your password.", "Password:"],
            [Wish.PASSWORD, Wish.REFUSED],
        ),
        (
            ["Username:", "Password:", "Second Password:"],
            [Wish.USERNAME, Wish.PASSWORD, Wish.CODE],
        ),  # Cisco, one form
        (["Password:", _NEXT, "Enter your verification code", "Response:"], [Wish.PASSWORD, Wish.CODE]),
        (
            ["Password: ", _NEXT, "Please enter your token code", "Code: "],
            [Wish.PASSWORD, Wish.CODE],
        ),  # Fortinet
        (["password:", _NEXT, "", "password#2:"], [Wish.PASSWORD, Wish.CODE]),  # Juniper
        (["Code:", _NEXT, "Wrong code, try again", "Code:"], [Wish.CODE, Wish.REFUSED]),
        (
            ["Password:", _NEXT, "Your password has expired.", "Current password:"],
            [Wish.PASSWORD, Wish.REFUSED],
        ),  # Pulse
        (["Password:", _NEXT, "New Password:"], [Wish.PASSWORD, Wish.REFUSED]),
        (
            ["Username: ", "Password: ", _NEXT, "Please enter your secondary token information:"],
            [Wish.USERNAME, Wish.PASSWORD, Wish.CODE],
        ),
        (["GROUP: [staff|partners]:"], [Wish.TEXT]),
        (["What is your quest?"], [Wish.TEXT]),
        (["Enter 'yes' to accept, 'no' to abort; anything else to view:"], [Wish.TRUST]),
        (["Enter PEM pass phrase:"], [Wish.PASSPHRASE]),
        (["Enter PKCS#12 pass phrase:"], [Wish.PASSPHRASE]),
    ],
)
def test_what_prompts_want(said: list[str], wishes: list[Wish]) -> None:
    interview = Interview()
    found = []
    for line in said:
        if line.strip()[-1:] in (":", "?"):
            found.append(interview.wanted(line).wish)
        else:
            interview.hear(line)
    assert found == wishes


def test_an_appended_code_has_no_prompt_of_its_own() -> None:
    interview = Interview(appended=True)
    assert [interview.wanted(prompt).wish for prompt in ("Password and token:", "Password and token:")] == [
        Wish.PASSWORD,
        Wish.REFUSED,
    ]


def test_a_person_reads_the_far_sides_words() -> None:
    interview = Interview()
    interview.hear(_NEXT)
    interview.hear("We have sent you a message.")
    assert interview.wanted("Passcode: ").text == "We have sent you a message. Passcode:"


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=60)), max_size=40))
def test_no_form_upsets_it(words: list[tuple[bool, str]]) -> None:
    interview = Interview()
    for is_prompt, text in words:
        if is_prompt:
            assert interview.wanted(text).wish in Wish
        else:
            interview.hear(text)


# --- what it reads
# ----------------------------------------------------------------------------------------------------------


def _stream(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    return reader


async def test_text_without_an_end_is_a_prompt_after_a_while() -> None:
    reader = _stream(b"one\n\ntwo\r\nPass")
    reader.feed_data(b"word:")
    found = []
    async for text, whole in lines_and_prompts(reader):
        found.append((text, whole))
        if not whole:
            reader.feed_data(b"three")
            reader.feed_eof()
    assert found == [("one", True), ("two", True), ("Password:", False), ("three", True)]


@given(data=st.binary(max_size=200))
async def test_no_output_upsets_it(data: bytes) -> None:
    reader = _stream(data)
    reader.feed_eof()
    assert not [text async for text, whole in lines_and_prompts(reader) if not whole or "\n" in text]
    again = _stream(data)
    again.feed_eof()
    assert await read_ticket(again, lambda line: None) == {}


async def test_a_ticket_is_read() -> None:
    reader = _stream(
        b"COOKIE='a=1; b=it'\\''s'\nHOST='192.0.2.1'\nFINGERPRINT='pin-sha256:x='\nCOOKIE\nNOISE='1'\n"
    )
    reader.feed_eof()
    others: list[str] = []
    assert await read_ticket(reader, others.append) == {
        "COOKIE": "a=1; b=it's",
        "HOST": "192.0.2.1",
        "FINGERPRINT": "pin-sha256:x=",
    }
    assert others == ["COOKIE", "NOISE='1'"]


# --- recorded sessions
# ----------------------------------------------------------------------------------------------------------

FILES = sorted(FOLDER.glob("*.txt"))
REASONS = {scenario.name: scenario.reason for scenario in SCENARIOS}


def _dialogue(password: str = PASSWORD) -> ProgramDialogue:
    dialogue = OPENCONNECT.dialogue(tunnel(login={"username": USER}), {"password": password.encode()})
    assert isinstance(dialogue, ProgramDialogue)
    return dialogue


def test_every_scenario_has_its_transcript() -> None:
    assert {path.stem for path in FILES} == set(REASONS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_replay(path: Path) -> None:
    given, wanted = replay(
        _dialogue("wrong" if path.stem == "login-refused" else PASSWORD), path.read_text().splitlines()
    )
    assert given == wanted
    reason = REASONS[path.stem]
    failures = [line.split("|")[1] for line in given if line.startswith("failed|")]
    assert failures == ([] if reason is None else [reason.value])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_secret_in_what_openconnect_and_we_print(path: Path) -> None:
    printed = "\n".join(re.findall(r"^output\|(.*)", path.read_text(), re.MULTILINE))
    assert PASSWORD not in printed
    assert "webvpn" not in printed


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Failed to bind local tun device (TUNSETIFF): Device or resource busy", Reason.LOCAL),
        ("Failed to bind local tun device (TUNSETIFF): Operation not permitted", Reason.MISSING_RIGHT),
        ("Failed to open tun device: No such file or directory", Reason.MISSING_RIGHT),
        (
            "facilitator: the interface cannot be set up: [Errno 1] Operation not permitted",
            Reason.MISSING_RIGHT,
        ),
        ("VPN service unavailable; reason: no license", Reason.FAR_END_FULL),
        ("Unexpected 503 result from server", Reason.FAR_END_FULL),
        ("Unexpected 512 result from server", Reason.AUTH),
        ("Authentication failure: Account locked out", Reason.AUTH),
        ("Authentication failure: Client certificate required", Reason.OUR_CERTIFICATE),
        ("Failed to find or parse web form in login page", Reason.CLIENT_CONFIG),
        ("Error: Server asked us to run CSD hostscan.", Reason.CLIENT_CONFIG),
        ('Auth choice "staff" not available', Reason.CLIENT_CONFIG),
        ("facilitator: the login was refused", Reason.AUTH),
        ("facilitator: the login was refused: Wrong code, try again", Reason.AUTH),
        ("facilitator: the connection broke during the login", Reason.NETWORK),
        ("facilitator: the TLS handshake failed", Reason.HANDSHAKE),
        ("facilitator: the server ended the session: Admin Reset", Reason.PEER_CLOSED),
        ("facilitator: the connection to the server broke", Reason.PEER_CLOSED),
        ("facilitator: the private key needs a passphrase", Reason.KEY),
        ("Server certificate verify failed: signer not found", None),  # also when the pin fits
        ("Client certificate expires soon at: Tue, 22 Dec 2026 11:34:09 GMT", None),
        ("Failed to connect to [2001:db8::1]:443: Network is unreachable", None),  # the next address may work
        ("DTLS handshake failed: Resource temporarily unavailable, try again.", None),
    ],
)
def test_failures_that_the_lab_does_not_make(line: str, reason: Reason | None) -> None:
    failures = [failed.reason for failed in explained(_dialogue(), line)]
    assert failures == ([] if reason is None else [reason])


def test_what_is_kept_holds_no_password() -> None:
    kept = [
        json.loads(json.loads(line.partition("|")[2])["keep"])
        for path in FILES
        for line in path.read_text().splitlines()
        if line.startswith('management|{"keep": "{')
    ]
    assert kept
    assert all(set(each) <= {"COOKIE", "HOST", "CONNECT_URL", "FINGERPRINT", "RESOLVE"} for each in kept)


# --- contact with the server
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "contact"),
    [
        ("CSTP Dead Peer Detection detected dead peer!", False),
        ("GPST Dead Peer Detection detected dead peer!", False),
        ("DTLS Dead Peer Detection detected dead peer!", True),
        ("ESP Dead Peer Detection detected dead peer", True),
        ("SSL negotiation with vpn.example.net", True),
    ],
)
def test_what_ends_the_contact_with_the_server(line: str, contact: bool) -> None:
    progress = Progress()
    assert not progress.contact
    progress.see("Connected to 203.0.113.2:443")
    progress.see(line)
    assert progress.contact is contact
    progress.see("SSL negotiation with 203.0.113.2")  # in place openconnect says no more
    assert progress.contact
