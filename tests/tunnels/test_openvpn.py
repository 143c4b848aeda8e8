"""The command line that openvpn gets."""

from __future__ import annotations

import pytest

from tests.tunnels.test_kinds import PLACE
from tunnels.base import Launch
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


def test_a_password_that_is_not_text() -> None:
    tunnel = OpenVPN.model_validate({"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"})
    with pytest.raises(ValueError, match="UTF-8"):
        OPENVPN.launch(tunnel, PLACE, {"config": PROFILE, "password": b"\xff\xfe"})
