"""The command line that openvpn gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tunnels.test_kinds import PLACE
from tunnels.base import Launch, Question, Source
from tunnels.openvpn import OPENVPN, OpenVPN

PROFILE = b"client\nremote 192.0.2.1 1194 udp\n"


def launch(config: bytes, **settings: object) -> Launch:
    tunnel = OpenVPN.model_validate({"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn", **settings})
    return OPENVPN.launch(tunnel, PLACE, {"config": config, "password": b"secret\n"})


def test_a_directory_is_entered_only_for_files_that_lie_in_it() -> None:
    assert "--cd" not in launch(PROFILE + b"ca /etc/ssl/ca.crt\n<key>\nx\n</key>\n").argv
    words = launch(PROFILE + b"ca ca.crt\n").argv
    assert words[words.index("--cd") + 1] == "/etc/facilitator"


def test_the_mtu() -> None:
    assert "--tun-mtu" not in launch(PROFILE).argv
    words = launch(PROFILE, mtu=1300).argv
    assert words[words.index("--tun-mtu") + 1] == "1300"


def test_a_login_is_asked_for_when_the_profile_or_the_settings_say_so() -> None:
    login = {"username": "svc", "password": {"file": "pw"}}
    assert "--auth-user-pass" not in launch(PROFILE).argv
    assert "--auth-user-pass" in launch(PROFILE, login=login).argv
    assert "--auth-user-pass" in launch(PROFILE + b"auth-user-pass /etc/x\n", login=login).argv


def test_a_login_that_is_missing() -> None:
    with pytest.raises(ValueError, match=r"login\.username"):
        launch(PROFILE + b"auth-user-pass\n")


def test_a_code_may_be_the_whole_password() -> None:
    tunnel = OpenVPN.model_validate({
        "name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn",
        "login": {"username": "svc", "totp": {"file": "seed"}, "append_code": True},
    })
    inputs = {"config": PROFILE + b"auth-user-pass\n"}
    assert "--auth-user-pass" in OPENVPN.launch(tunnel, PLACE, inputs).argv
    [question] = OPENVPN.dialogue(tunnel, inputs).receive(Source.MANAGEMENT, ">PASSWORD:Need 'Auth' username/password")
    assert isinstance(question, Question)


def test_who_may_have_to_be_approved_gets_more_time() -> None:
    def window(config: bytes) -> int:
        words = launch(config, login={"username": "svc", "password": {"file": "pw"}} if b"auth" in config else {}).argv
        return int(words[words.index("--hand-window") + 1])

    assert window(PROFILE) < window(PROFILE + b"auth-user-pass\n") < OPENVPN.start_timeout


def test_a_later_turn_begins_with_another_server() -> None:
    tunnel = OpenVPN.model_validate({"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"})
    config = b"client\nremote 192.0.2.1 1194\nremote 192.0.2.2 1194\n"
    texts = [OPENVPN.launch(tunnel, replace(PLACE, remote=turn), {"config": config}).files["config"] for turn in range(3)]
    assert texts[0] == texts[2] != texts[1]


def test_tunnels_with_one_profile_take_turns() -> None:
    tunnel = OpenVPN.model_validate({"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"})
    assert OPENVPN.endpoint(tunnel) == "/etc/facilitator/acme.ovpn"


@pytest.mark.parametrize(("inputs", "certificates"), [
    ({}, ()), ({"config": b"rubbish"}, ()), ({"config": PROFILE + b"<cert>\nX\n</cert>\n"}, (b"X\n",)),
])
def test_certificates(inputs: dict[str, bytes], certificates: tuple[bytes, ...]) -> None:
    assert OPENVPN.certificates(inputs) == certificates


def test_a_password_that_is_not_text() -> None:
    tunnel = OpenVPN.model_validate({"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"})
    with pytest.raises(ValueError, match="UTF-8"):
        OPENVPN.launch(tunnel, PLACE, {"config": PROFILE, "password": b"\xff\xfe"})
