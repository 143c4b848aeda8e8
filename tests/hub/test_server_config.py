"""The checks of an OpenVPN server's configuration, and the client profile that belongs to it."""

from __future__ import annotations

import pytest

from hub.core.openvpn.profile import ClientProfile, profile_problems, profile_text
from hub.core.openvpn.server_config import FindingWeight, server_findings, server_options, version_finding

SOCKET = "/run/facilitator-hub/management.sock"
GOOD = f"""
# a comment
port 1194
proto udp
dev tun
topology subnet
server 10.8.0.0 255.255.0.0 nopool   ; the service gives addresses
<ca>
server 192.0.2.0 255.255.255.0
</ca>
keepalive 5 20
explicit-exit-notify 2
reneg-sec 2592000
hand-window 180
auth-user-pass-optional
duplicate-cn
management {SOCKET} unix
management-client-auth
management-hold
auth-gen-token 43200 external-auth
auth-gen-token-secret token.key
"""


def findings(text: str) -> list[tuple[FindingWeight, str, str]]:
    return [(each.weight, each.text, each.hint) for each in server_findings(server_options(text), SOCKET)]


def test_a_fitting_configuration_is_fine() -> None:
    assert [weight for weight, _, _ in findings(GOOD)] == [FindingWeight.OK]


@pytest.mark.parametrize(
    ("before", "after", "weight", "hint"),
    [
        (f"management {SOCKET} unix", "", FindingWeight.PROBLEM, f"management {SOCKET} unix"),
        (f"management {SOCKET} unix", "management 127.0.0.1 7505", FindingWeight.PROBLEM, f"management {SOCKET} unix"),
        (SOCKET, '"/run/other dir/m.sock"', FindingWeight.PROBLEM, f"management {SOCKET} unix"),
        ("management-client-auth", "", FindingWeight.PROBLEM, "management-client-auth"),
        ("management-hold", "", FindingWeight.PROBLEM, "management-hold"),
        ("management-hold", "management-hold\nmanagement-client", FindingWeight.PROBLEM, "remove management-client"),
        ("duplicate-cn", "duplicate-cn\nusername-as-common-name", FindingWeight.PROBLEM, "remove username-as-common-name"),
        ("duplicate-cn", "duplicate-cn\nverify-client-cert none", FindingWeight.PROBLEM, ""),
        ("duplicate-cn", "duplicate-cn\nifconfig-pool 10.8.0.2 10.8.0.9", FindingWeight.PROBLEM, "remove ifconfig-pool"),
        ("duplicate-cn", "duplicate-cn\nclient-connect /x", FindingWeight.WARNING, "remove client-connect"),
        ("duplicate-cn", "duplicate-cn\nconfig more.conf", FindingWeight.WARNING, "run doctor for that file too"),
        (" nopool", "", FindingWeight.PROBLEM, "server 10.8.0.0 255.255.0.0 nopool"),
        ("topology subnet", "", FindingWeight.PROBLEM, "topology subnet"),
        ("topology subnet", "topology net30", FindingWeight.PROBLEM, "topology subnet"),
        ("auth-user-pass-optional", "", FindingWeight.PROBLEM, "auth-user-pass-optional"),
        ("duplicate-cn", "", FindingWeight.WARNING, "duplicate-cn"),
        ("reneg-sec 2592000", "", FindingWeight.PROBLEM, "reneg-sec 2592000"),
        ("reneg-sec 2592000", "reneg-sec 3600", FindingWeight.PROBLEM, "reneg-sec 2592000"),
        ("reneg-sec 2592000", "reneg-sec 0", FindingWeight.PROBLEM, "reneg-sec 2592000"),
        ("auth-gen-token 43200 external-auth", "", FindingWeight.PROBLEM, "reneg-sec 0"),
        ("auth-gen-token-secret token.key", "", FindingWeight.WARNING, "auth-gen-token-secret FILE"),
        ("hand-window 180", "", FindingWeight.WARNING, "hand-window 180"),
        ("keepalive 5 20", "keepalive 10 60", FindingWeight.WARNING, "keepalive 5 20"),
        ("keepalive 5 20", "keepalive 5", FindingWeight.WARNING, "keepalive 5 20"),
        ("explicit-exit-notify 2", "", FindingWeight.WARNING, "explicit-exit-notify 2"),
        (" external-auth", "", FindingWeight.PROBLEM, "auth-gen-token 43200 external-auth"),
    ],
)  # fmt: skip
def test_each_fault_is_one_finding(before: str, after: str, weight: FindingWeight, hint: str) -> None:
    assert before in GOOD
    assert [(weight, hint) for weight, _, hint in findings(GOOD.replace(before, after))] == [(weight, hint)]


def test_over_tcp_nobody_needs_to_be_told_of_the_end() -> None:
    over_tcp = GOOD.replace("proto udp", "proto tcp-server").replace("explicit-exit-notify 2", "")
    assert [weight for weight, _, _ in findings(over_tcp)] == [FindingWeight.OK]


@pytest.mark.parametrize("text", ["", "<ca>", '"', "server\nkeepalive\nreneg-sec\nmanagement\n", "\x00 --"])
def test_any_file_is_read(text: str) -> None:
    assert findings(text)


@pytest.mark.parametrize(
    ("said", "weight"),
    [
        ("OpenVPN 2.6.14 x86_64-pc-linux-gnu", FindingWeight.OK),
        ("OpenVPN 2.5.9", FindingWeight.PROBLEM),
        ("OpenVPN 2.7_beta1", FindingWeight.WARNING),
        ("command not found", FindingWeight.PROBLEM),
    ],
)
def test_the_version(said: str, weight: FindingWeight) -> None:
    assert version_finding(said).weight is weight


PROFILE = ClientProfile((("a.example.net", 1194), ("b.example.net", 1194)), "udp", "CA", "CERT", "KEY", "TLS")


def test_the_profile_holds_what_cannot_be_pushed() -> None:
    lines = profile_text(PROFILE).splitlines()
    assert {"reneg-sec 0", "hand-window 180", "connect-timeout 4", "remote-cert-tls server"} <= set(lines)
    assert [line for line in lines if line.startswith("remote ")] == [
        "remote a.example.net 1194",
        "remote b.example.net 1194",
    ]
    assert "auth-user-pass" not in lines
    assert "<tls-crypt>" in lines
    assert "KEY" not in repr(PROFILE)
    assert list(profile_problems(PROFILE)) == []


def test_one_remote_is_told() -> None:
    (problem,) = profile_problems(ClientProfile((("a", 1),), "tcp", "CA", "CERT", "KEY"))
    assert "one remote" in problem
