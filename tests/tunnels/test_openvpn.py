"""The command line that openvpn gets."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from supervisor.config.validation import validated
from tests.tunnels.test_kinds import PLACE
from tunnels.base import Input, Launch, LineSource, Question, Say
from tunnels.kinds.openvpn.kind import OPENVPN, OpenVPN

PROFILE = b"client\nremote 192.0.2.1 1194 udp\n"
TUNNEL = validated(
    OpenVPN, {"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"}
)


def launch(config: bytes, **settings: object) -> Launch:
    tunnel = validated(
        OpenVPN,
        {
            "name": "acme",
            "destinations": ["10.77.0.0/24"],
            "config": "/etc/facilitator/acme.ovpn",
            **settings,
        },
    )
    return OPENVPN.launch(tunnel, PLACE, {"config": config, "password": b"secret\n"})


def beside(config: bytes) -> tuple[Input, ...]:
    return OPENVPN.referenced_inputs(TUNNEL, {"config": PROFILE + config})


def test_files_beside_the_profile_go_into_it() -> None:
    config = (
        b"ca keys/ca.crt\n<connection>\nremote b 1\ntls-auth /etc/facilitator/ta.key "
        b"1\n</connection>\naskpass pass\n"
    )
    names = [item.name for item in beside(config)]
    assert names == ["beside/keys/ca.crt", "beside/ta.key", "beside/pass"]
    contents = dict(zip(names, (b"CA\r\nCA\n", b"TA\n", b"open sesame\nmore\n"), strict=True))
    inputs = {"config": PROFILE + config, **contents}
    text = OPENVPN.launch(TUNNEL, PLACE, inputs).files["config"].decode()
    assert text == (
        "client\nremote 192.0.2.1 1194 udp\n<ca>\nCA\nCA\n</ca>\n"
        "<connection>\nremote b 1\n<tls-auth>\nTA\n</tls-auth>\nkey-direction 1\n</connection>\n"
    )
    said = list(
        OPENVPN.dialogue(TUNNEL, inputs).receive(
            LineSource.MANAGEMENT, ">PASSWORD:Need 'Private Key' password"
        )
    )
    assert said == [Say('password "Private Key" "open sesame"', secret=True)]


def test_a_container_of_keys_goes_into_it_as_text() -> None:
    inputs = {"config": PROFILE + b"pkcs12 a.p12\n", "beside/a.p12": bytes(range(90))}
    text = OPENVPN.launch(TUNNEL, PLACE, inputs).files["config"].decode()
    block = text.partition("<pkcs12>\n")[2].partition("</pkcs12>")[0]
    assert base64.b64decode(block) == bytes(range(90))
    assert max(map(len, block.splitlines())) <= 76


@pytest.mark.parametrize(
    "name",
    [
        "/etc/shadow",
        "/etc/facilitator",
        "/etc/facilitator/",
        "/etc/facilitator-other/ca.crt",
        "../ca.crt",
        "keys/../../ca.crt",
        "..",
        '""',
        ".",
        "/etc/facilitator/../shadow",
        "//etc/shadow",
        "/proc/self/fd/3",
    ],
)
@pytest.mark.parametrize(
    "option", ["ca", "key", "askpass", '"tls-crypt"', "--cert", "setenv opt secret", "\tcrl-verify\t"]
)
def test_a_file_elsewhere_is_refused_with_place_and_remedy(option: str, name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^/etc/facilitator/acme\.ovpn:3: .* does not lie beside the profile; copy it there"
    ):
        beside(f"{option} {name}\n".encode())


@pytest.mark.parametrize(
    "content", [b"</ca>\nplugin /x.so\n", b"  </ca>", b"x" * 255 + b"</ca>", b"\0", b"\x1b", b"0\x82\x03"]
)
def test_no_content_of_a_file_ends_its_block(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"acme\.ovpn:3: ca: 'ca\.crt' is not a file of text in PEM form"):
        OPENVPN.launch(TUNNEL, PLACE, {"config": PROFILE + b"ca ca.crt\n", "beside/ca.crt": content})


def test_a_certificate_beside_the_profile_is_looked_after() -> None:
    assert OPENVPN.certificates(TUNNEL, {"config": PROFILE + b"cert a.crt\n", "beside/a.crt": b"PEM"}) == (
        b"PEM",
    )


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
    tunnel = validated(
        OpenVPN,
        {
            "name": "acme",
            "destinations": ["10.77.0.0/24"],
            "config": "/etc/facilitator/acme.ovpn",
            "login": {"username": "svc", "totp": {"file": "seed"}, "append_code": True},
        },
    )
    inputs = {"config": PROFILE + b"auth-user-pass\n"}
    assert "--auth-user-pass" in OPENVPN.launch(tunnel, PLACE, inputs).argv
    [question] = OPENVPN.dialogue(tunnel, inputs).receive(
        LineSource.MANAGEMENT, ">PASSWORD:Need 'Auth' username/password"
    )
    assert isinstance(question, Question)


def test_who_may_have_to_be_approved_gets_more_time() -> None:
    def window(config: bytes) -> int:
        words = launch(
            config, login={"username": "svc", "password": {"file": "pw"}} if b"auth" in config else {}
        ).argv
        return int(words[words.index("--hand-window") + 1])

    assert window(PROFILE) < window(PROFILE + b"auth-user-pass\n") < OPENVPN.start_timeout


def test_a_later_turn_begins_with_another_server() -> None:
    tunnel = validated(
        OpenVPN, {"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"}
    )
    config = b"client\nremote 192.0.2.1 1194\nremote 192.0.2.2 1194\n"
    texts = [
        OPENVPN.launch(tunnel, replace(PLACE, remote=turn), {"config": config}).files["config"]
        for turn in range(3)
    ]
    assert texts[0] == texts[2] != texts[1]


def test_tunnels_with_one_profile_take_turns() -> None:
    tunnel = validated(
        OpenVPN, {"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"}
    )
    assert OPENVPN.endpoint(tunnel) == "/etc/facilitator/acme.ovpn"


@pytest.mark.parametrize(
    ("inputs", "certificates"),
    [({}, ()), ({"config": b"rubbish"}, ()), ({"config": PROFILE + b"<cert>\nX\n</cert>\n"}, (b"X\n",))],
)
def test_certificates(inputs: dict[str, bytes], certificates: tuple[bytes, ...]) -> None:
    assert OPENVPN.certificates(TUNNEL, inputs) == certificates


def test_a_password_that_is_not_text() -> None:
    tunnel = validated(
        OpenVPN, {"name": "acme", "destinations": ["10.77.0.0/24"], "config": "/etc/facilitator/acme.ovpn"}
    )
    with pytest.raises(ValueError, match="UTF-8"):
        OPENVPN.launch(tunnel, PLACE, {"config": PROFILE, "password": b"\xff\xfe"})
