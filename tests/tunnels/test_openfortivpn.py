"""The kind openfortivpn without a gateway: its settings, and what it says where a host has no PPP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.config.validation import validated
from tests.tunnels.driver import explained, replay
from tunnels.base import Launch, Placement, Reason
from tunnels.kinds.openfortivpn.driver import unfit
from tunnels.kinds.openfortivpn.kind import OPENFORTIVPN, OpenFortiVpn

PLACE = Placement(Path("/run/facilitator/acme"), "t-acme", 0, sys.executable)
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "openfortivpn").glob("*.txt"))
REASONS = {
    "untrusted": Reason.CERTIFICATE,
    "password-refused": Reason.AUTH,
    "code-refused": Reason.AUTH,
    "pppd-fails": Reason.MISSING_BINARY,
    "no-ppp-device": Reason.MISSING_BINARY,
    "closed": Reason.NETWORK,
    "no-name": Reason.DNS,
}


def forti(**options: Any) -> OpenFortiVpn:
    login = {"username": "svc-facilitator", "password": {"file": "p"}}
    return validated(
        OpenFortiVpn,
        {
            "name": "acme",
            "kind": "openfortivpn",
            "destinations": ["10.77.0.0/24"],
            "server": "vpn.example.net:10443",
            "login": login,
            **options,
        },
    )


def launched(**options: Any) -> Launch:
    return OPENFORTIVPN.launch(forti(**options), PLACE, {"password": b"p"})


def test_routes_and_names_are_left_alone() -> None:
    assert launched(trusted_certificate="AA:" * 31 + "AA").files["config"].decode().splitlines() == [
        "host = vpn.example.net",
        "port = 10443",
        "username = svc-facilitator",
        "set-routes = 0",
        "half-internet-routes = 0",
        "set-dns = 0",
        "pppd-use-peerdns = 0",
        "pppd-ifname = t-acme",
        "persistent = 0",
        "use-syslog = 0",
        f"trusted-cert = {'aa' * 32}",
    ]


@pytest.mark.parametrize(
    ("options", "gateway"),
    [
        ({}, ()),
        ({"trusted_certificate": "aa" * 32}, ("--gateway", "vpn.example.net:10443")),
        (
            {"trusted_certificate": "aa" * 32, "server": "vpn.example.net"},
            ("--gateway", "vpn.example.net:443"),
        ),
    ],
)
def test_an_address_may_stand_for_the_name_if_the_certificate_is_known(
    options: dict[str, str], gateway: tuple[str, ...]
) -> None:
    """Else openfortivpn checks the certificate against the name that it connects with."""
    argv = launched(**options).argv
    begin = argv.index("--gateway") if "--gateway" in argv else len(argv)
    assert argv[begin : begin + 2] == gateway


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"server": "vpn.example.net:0"}, "is not a server"),
        ({"server": "https://vpn"}, "is not a server"),
        ({"trusted_certificate": "pin-sha256:x"}, "has 64 hexadecimal digits"),
    ],
)
def test_settings_that_are_none(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        forti(**options)


@pytest.mark.parametrize(
    "login", [{"password": {"file": "p"}}, {"username": "a\nset-routes = 1", "password": {"file": "p"}}]
)
def test_a_name_is_needed_and_cannot_be_more_than_a_name(login: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="login.username"):
        launched(login=login)


def test_it_names_its_gateway() -> None:
    assert OPENFORTIVPN.endpoint(forti()) == "vpn.example.net"


def test_a_host_without_ppp(tmp_path: Path) -> None:
    assert unfit(ppp=str(tmp_path / "ppp"), pppd=str(tmp_path / "pppd")) == f"{tmp_path}/pppd is missing"
    (tmp_path / "pppd").touch()
    assert unfit(ppp=str(tmp_path / "ppp"), pppd=str(tmp_path / "pppd")) == f"{tmp_path}/ppp is missing"
    (tmp_path / "ppp").mkdir()
    assert (
        unfit(ppp=str(tmp_path / "ppp"), pppd=str(tmp_path / "pppd"))
        == f"{tmp_path}/ppp cannot be opened (Is a directory)"
    )


def test_what_to_do_without_ppp_is_said() -> None:
    (failed,) = explained(OPENFORTIVPN.dialogue(forti(), {}), "facilitator: /dev/ppp is missing")
    assert (
        failed.text
        == "/dev/ppp is missing: kind: openconnect with protocol: fortinet reaches the same servers "
        "without PPP"
    )
    assert all(
        "openconnect with protocol: fortinet" in need.otherwise for need in OPENFORTIVPN.required_files
    )


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_it_said_is_understood(path: Path) -> None:
    given_, _ = replay(OPENFORTIVPN.dialogue(forti(), {"password": b"p"}), path.read_text().splitlines())
    assert [line.split("|")[1] for line in given_ if line.startswith("failed|")] == [REASONS[path.stem].value]


def test_every_transcript_is_there() -> None:
    assert {path.stem for path in TRANSCRIPTS} == set(REASONS)


@given(st.lists(st.text(max_size=60), max_size=10))
def test_no_word_upsets_it(lines: list[str]) -> None:
    assert len(explained(OPENFORTIVPN.dialogue(forti(), {}), *lines)) <= 1
