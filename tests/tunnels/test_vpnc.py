"""The kind vpnc without vpnc: what becomes of the customer's configuration."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.validation import validated
from tests.tunnels.driver import replay
from tests.tunnels.ipsec_lab import FOLDER, SCENARIOS
from tunnels.base import LineSource, Placement
from tunnels.driver_dialogue import ProgramDialogue
from tunnels.kinds.vpnc.kind import VPNC, Vpnc, configuration, read_config

PLACE = Placement(Path("/run/facilitator/acme"), "t-acme", 0, sys.executable)
CONFIG = """\
# from the customer
IPSec gateway vpn.example.net
ipsec id staff
IPSec secret "with a space"
Xauth username anna
Xauth password "for anna"
Interface name tun7
Script /bin/rm -rf /
Pidfile /etc/passwd
Debug 99
IKE DH Group dh5
Enable Single DES
"""


def vpnc(**options: Any) -> Vpnc:
    return validated(
        Vpnc,
        {
            "name": "acme",
            "kind": "vpnc",
            "destinations": ["10.77.0.0/24"],
            "config": "/etc/acme.conf",
            **options,
        },
    )


def made(config: str, tunnel: Vpnc | None = None, **secrets: str) -> list[str]:
    inputs = {"config": config.encode()} | {name: value.encode() for name, value in secrets.items()}
    return configuration(tunnel or vpnc(), "t-acme", inputs).splitlines()


def test_what_the_daemon_owns_is_the_daemons() -> None:
    lines = made(CONFIG)
    assert not [line for line in lines if "gateway" in line]  # the driver says which address it is
    assert 'IPSec ID "staff"' in lines
    assert "Enable Single DES" in lines
    assert [
        line
        for line in lines
        if line.startswith(("Interface", "Script", "Pidfile", "Debug", "Local", "No Detach", "DPD"))
    ] == [
        "Interface name t-acme",
        "Interface mode tun",
        "No Detach",
        "Pidfile none",
        "Local Port 0",
        "DPD idle timeout (our side) 10",
        "Debug 2",
    ]


def test_the_driver_is_told_the_gateway_and_whose_turn_it_is() -> None:
    launch = VPNC.launch(vpnc(), replace(PLACE, remote=3), {"config": CONFIG.encode()})
    assert "--gateway=vpn.example.net" in launch.argv
    assert launch.argv[launch.argv.index("--remote") + 1] == "3"


def test_the_secrets_of_the_file_are_used_where_there_are_no_others() -> None:
    lines = made(CONFIG)
    assert 'IPSec secret "with a space"' in lines
    assert 'Xauth password "for anna"' in lines
    assert "Xauth interactive" not in lines


def test_a_login_and_a_group_secret_replace_those_of_the_file() -> None:
    tunnel = vpnc(login={"username": "svc", "password": {"file": "p"}}, group_secret={"file": "g"})
    lines = made(CONFIG, tunnel, password="ours", group_secret="the group's\n")
    assert 'Xauth username "svc"' in lines
    assert 'IPSec secret "the group\'s"' in lines
    assert "Xauth interactive" in lines
    assert not [line for line in lines if "anna" in line or "ours" in line or "with a space" in line]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("IPSec ID staff\nIPSec secret s\nXauth username u", "no IPSec gateway"),
        ("IPSec gateway g\nIPSec secret s\nXauth username u", "no IPSec ID"),
        ("IPSec gateway g\nIPSec ID i\nXauth username u", "no IPSec secret, and there is no group_secret"),
        ("IPSec gateway g\nIPSec ID i\nIPSec secret s", "no Xauth username or login.username"),
        ("IPSec gateway g\nclient\nremote 192.0.2.1", "line 2: this is not an option of vpnc"),
        ("IPSec gatewayg", "line 1: this is not an option of vpnc"),
        ("IPSec secret a\x04b", "line 1: control characters in IPSec secret"),
    ],
)
def test_what_cannot_be_run_is_said(config: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        made(config)


def test_a_complaint_repeats_no_line() -> None:
    with pytest.raises(ValueError, match="line 1") as error:
        read_config(b"IPSec sekret hunter2")
    assert "hunter2" not in str(error.value)


@given(st.binary(max_size=300))
def test_no_file_upsets_it(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all("\n" not in value for value in read_config(data).values())


@given(
    st.dictionaries(
        st.sampled_from(("IPSec ID", "IPSec secret", "Domain")),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30),
        min_size=1,
    )
)
def test_what_is_written_is_what_was_meant(said: dict[str, str]) -> None:
    text = "".join(f'{name} "{value}"\n' for name, value in said.items())
    assert read_config(text.encode()) == said


def test_the_one_time_code_alone_can_be_the_password() -> None:
    tunnel = vpnc(login={"username": "svc", "append_code": True})
    launch = VPNC.launch(tunnel, PLACE, {"config": CONFIG.encode()})
    assert "--append-code" in launch.argv
    asked = list(
        VPNC.dialogue(tunnel, {"config": CONFIG.encode()}).receive(
            LineSource.MANAGEMENT, '{"ask": "password", "id": 1, "text": ""}'
        )
    )
    assert [getattr(each, "line", None) for each in asked] == ['{"id": 1, "answer": ""}']


@pytest.mark.parametrize(
    "scenario", [each for each in SCENARIOS if each.kind == "vpnc"], ids=lambda each: each.name
)
def test_what_vpnc_said_is_understood(scenario: Any) -> None:
    dialogue = VPNC.dialogue(
        vpnc(login={"username": "svc", "password": {"file": "p"}}), {"password": b"correct horse"}
    )
    assert isinstance(dialogue, ProgramDialogue)
    given_, wanted = replay(dialogue, (FOLDER / "vpnc" / f"{scenario.name}.txt").read_text().splitlines())
    assert [line for line in given_ if not line.startswith("say|")] == [
        line for line in wanted if not line.startswith("say|")
    ]
    failures = [line.split("|")[1] for line in given_ if line.startswith("failed|")]
    assert failures == ([] if scenario.reason is None else [scenario.reason.value])
