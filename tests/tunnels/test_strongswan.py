"""The kind strongswan without strongSwan: its configuration file, the protocol of its daemon, and what
that says.
"""

from __future__ import annotations

import contextlib
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.validation import validated
from tests.tunnels.driver import explained, replay
from tests.tunnels.ipsec_lab import FOLDER, SCENARIOS
from tunnels.base import Connected, LineSource, Placement, Reason
from tunnels.examination import findings
from tunnels.kinds.strongswan.associations import far_side, given_addresses, lasting_policies, living
from tunnels.kinds.strongswan.config import read_swanctl
from tunnels.kinds.strongswan.daemon_configuration import configuration
from tunnels.kinds.strongswan.kind import STRONGSWAN, StrongSwan
from tunnels.kinds.strongswan.syntax import Tree, parse, render
from tunnels.kinds.strongswan.vici import Value

PLACE = Placement(Path("/run/facilitator/acme"), "t-acme", 0, sys.executable)
CONFIG = """\
# from the customer
connections {
  acme {
    remote_addrs = 192.0.2.1, 192.0.2.2   # the second one in Dublin
    vips = 0.0.0.0
    keyingtries = 0
    local { auth = eap-mschapv2 }
    local-2 { auth = xauth }
    remote { id = "CN=gateway, O=\\"ACME\\"" }
    children {
      a { remote_ts = 10.77.0.0/24
        updown = /usr/local/bin/me-first
        start_action = trap
        dpd_action = restart }
      b { remote_ts = 10.78.0.0/24 }
    }
  }
}
pools { p { addrs = 10.0.0.0/8 } }
secrets { ike-1 { secret = 0sAAAA } }
"""

# --- the configuration
# ----------------------------------------------------------------------------------------------------------


def test_what_the_daemon_owns_is_the_daemons() -> None:
    config = read_swanctl(CONFIG.encode(), "svc")
    assert config.children == (("acme", "a"), ("acme", "b"))
    tree: Any = parse(config.text)
    assert set(tree) == {"connections", "secrets"}
    acme = tree["connections"]["acme"]
    assert (acme["keyingtries"], acme["reauth_time"], acme["dpd_delay"]) == ("1", "0", "5s")
    assert (acme["local"]["eap_id"], acme["local-2"]["xauth_id"]) == ("svc", "svc")
    assert acme["remote"]["id"] == 'CN=gateway, O="ACME"'
    assert acme["remote_addrs"] == "192.0.2.1"
    assert acme["children"]["a"] == {
        "remote_ts": "10.77.0.0/24",
        "start_action": "none",
        "close_action": "none",
        "dpd_action": "clear",
        "mode": "tunnel",
    }


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("secrets { }", "no connection"),
        ("", "the file is empty"),
        (
            "conn acme\n  left=%defaultroute\n  right=192.0.2.1\n",
            "this is an ipsec.conf, strongSwan's old format",
        ),
        ("connections { a { remote_addrs = b } }", "connection a has no child"),
        ("connections { a { children { b { } } } }", "names no remote_addrs"),
        (
            "connections { a { remote_addrs = b\n children { c { mode = transport } } } }",
            "child c of a is not in tunnel mode",
        ),
        ("include /etc/other.conf", "line 1: another file is included"),
        ("connections {\n a : base { } }", "line 2: a section that refers to another one"),
        ("connections {\n", "line 1: the section 'connections' is never closed"),
        ("connections { } }", "line 1: a } that closes nothing"),
        ('connections { a = "b\n', "line 1: a quotation is never closed"),
        ("connections\n= 1\n= 2", "line 3: '=' where a name should be"),
    ],
)
def test_what_cannot_be_run_is_said(config: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_swanctl(config.encode())


GATEWAYS = "connections { a { remote_addrs = %s\n children { c { remote_ts = 10.77.0.0/24 } } } }"


@pytest.mark.parametrize(
    ("addresses", "tried"),
    [
        ("192.0.2.1", ["192.0.2.1"] * 4),
        ("192.0.2.1, 192.0.2.2, 2001:db8::1", ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.1"]),
        ("192.0.2.1, vpn.example.net", ["192.0.2.1", "gateway-0.invalid", "192.0.2.1", "gateway-0.invalid"]),
        ("%any", ["%any"] * 4),
        ("192.0.2.0/24", ["192.0.2.0/24"] * 4),
    ],
)
def test_each_gateway_is_tried_in_turn(addresses: str, tried: list[str]) -> None:
    configs = [read_swanctl((GATEWAYS % addresses).encode(), remote=number) for number in range(4)]
    assert [section(config.text, "connections", "a")["remote_addrs"] for config in configs] == tried
    named = {name for config in configs for _, _, name in config.gateways}
    assert named == ({"vpn.example.net"} if "vpn" in addresses else set())


@pytest.mark.parametrize(
    ("addresses", "turns"),
    [("vpn.example.net", [0, 1, 2, 3]), ("vpn.example.net, 192.0.2.2", [0, 1]), ("192.0.2.1", [])],
)
def test_each_address_of_a_name_among_several_gateways_has_its_turn(addresses: str, turns: list[int]) -> None:
    configs = [read_swanctl((GATEWAYS % addresses).encode(), remote=number) for number in range(4)]
    assert [turn for config in configs for _, turn, _ in config.gateways] == turns


def section(text: str, *names: str) -> Any:
    tree: Any = parse(text)
    for name in names:
        tree = tree[name]
    return tree


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("local_port = 500", "2: local_port is left out: each tunnel sends from a port of its own"),
        (
            "local_addrs = 203.0.113.50",
            "2: local_addrs 203.0.113.50 works only as long as this host itself has this address; an Elastic IP "
            "is translated on the way: remove local_addrs then",
        ),
        ("local_addrs = %any", None),
        (
            "dpd_delay = 3s",
            "1: no inner address for this host: add vips = 0.0.0.0 (the remote gateway assigns one), or local_ts = "
            "ADDRESS/32",
        ),
        ("children { c { local_ts = 10.9.0.1/32\n remote_ts = 0.0.0.0/0 } }", None),
        (
            "children { c { local_ts = 10.9.0.0/24\n remote_ts = 0.0.0.0/0 } }",
            "2: local_ts 10.9.0.0/24 is a network, and this host has one address; write the address by which the "
            "remote gateway should see it, such as 10.9.0.1/32",
        ),
        (
            "children { c { remote_ts = 10.77.0.0/25 } }",
            "2: 10.77.0.0/24 of destinations is in no remote_ts, so no packet to it would be carried; add it there",
        ),
        ("children { c { remote_ts = 10.77.0.0/25, 10.77.0.128/25 } }", None),
        ("children { c { remote_ts = 0.0.0.0/0 } }", None),
        ("children { c { remote_ts = dynamic } }", None),
        ("children { c { remote_ts = 10.77.0.0/24[tcp/443] } }", None),
    ],
)
def test_what_check_says(lines: str, said: str | None) -> None:
    rest = "" if "children" in lines else "children { c { remote_ts = 10.77.0.0/24 } }"
    vips = "" if "local_ts" in lines or "no inner address" in (said or "") else "vips = 0.0.0.0"
    text = f"connections {{ a {{ remote_addrs = 192.0.2.1\n{lines}\n{rest}\n{vips}\n }} }}"
    found = findings(STRONGSWAN, swan(), {"config": text.encode()}, complete=True)
    assert [str(each).partition(":")[2] for each in found] == ([] if said is None else [said])


def test_an_address_that_we_bring_along() -> None:
    config = (
        "connections { a { remote_addrs = b\n %s children { c { local_ts = 10.9.0.1/32[tcp], "
        "10.9.1.0/24, dynamic } } } }"
    )
    assert read_swanctl((config % "").encode()).addresses == ("10.9.0.1",)
    assert read_swanctl((config % "vips = 0.0.0.0\n").encode()).addresses == ()


def test_a_password_needs_a_name() -> None:
    with pytest.raises(ValueError, match="needs a login.username"):
        STRONGSWAN.launch(
            swan(login={"password": {"file": "p"}}), PLACE, {"config": CONFIG.encode(), "password": b"p"}
        )


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_-%/", min_size=1, max_size=8).filter(
    lambda name: name != "include"
)
VALUES = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=20)
TREES: st.SearchStrategy[Tree] = st.dictionaries(
    NAMES,
    st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12),
    max_size=5,
)


@given(TREES)
def test_what_is_written_is_what_was_meant(tree: Tree) -> None:
    assert parse(render(tree)) == tree


@given(st.one_of(st.binary(max_size=200), st.text('{}=:"\\# \nabc', max_size=60).map(str.encode)))
def test_no_file_upsets_it(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_swanctl(data)


# --- the driver
# ----------------------------------------------------------------------------------------------------------


def test_what_a_session_says_of_itself() -> None:
    session: dict[str, Value] = {
        "acme": {
            "remote-host": "192.0.2.1",
            "reauth-time": "3000",
            "local-vips": ["10.9.0.1"],
            "child-sas": {
                "a-1": {
                    "local-ts": ["10.9.0.1/32"],
                    "remote-ts": ["10.77.0.0/24", "10.78.0.0/24[tcp/443]", "10.0.0.1..10.0.0.4"],
                }
            },
        }
    }
    assert given_addresses([session]) == ["10.9.0.1"]
    networks = ["10.77.0.0/24", "10.78.0.0/24", "10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]
    assert far_side([session]) == {"peer": "192.0.2.1", "routes": networks, "agreed": networks, "lasts": 3000}
    assert given_addresses([{"acme": {"child-sas": {"a": {"local-ts": ["10.9.0.0/24"]}}}}]) == []


def test_a_gateway_can_create_a_child_anew_only_in_a_living_session() -> None:
    for state in ("ESTABLISHED", "REKEYING"):
        assert living([{"acme": {"state": state}}, {"other": {"state": "DELETING"}}]) == {"acme"}
    for state in ("CONNECTING", "REKEYED", "DELETING", "DESTROYING"):
        assert living([{"acme": {"state": state}}]) == set()


def test_policies_of_every_child_last() -> None:
    def session(ours: str, theirs: list[str]) -> dict[str, Value]:
        return {"acme": {"child-sas": {"a-1": {"name": "a", "local-ts": [ours], "remote-ts": theirs}}}}

    sessions = [session("10.9.0.1/32", ["10.77.0.0/24[tcp/443]", "10.77.0.5..10.77.0.9"]), session("::1", [])]
    assert lasting_policies(sessions) == {
        "policies-0": {
            "mode": "drop",
            "local_ts": ["10.9.0.1/32"],
            "remote_ts": ["10.77.0.0/24[tcp/443]", "10.77.0.5-10.77.0.9"],
        },
        "policies-1": {"mode": "drop", "local_ts": ["::1"], "remote_ts": []},
    }


def test_a_charon_of_its_own() -> None:
    own: Any = parse(configuration(Path("/run/facilitator/acme dc/charon.vici"), 1_174_405_121))
    charon = own["charon-systemd"]
    assert charon["plugins"]["vici"]["socket"] == "unix:///run/facilitator/acme dc/charon.vici"
    assert (charon["port"], charon["port_nat_t"], charon["routing_table"]) == ("0", "0", "1174405121")


# --- what it says
# ----------------------------------------------------------------------------------------------------------


def swan(**options: Any) -> StrongSwan:
    return validated(
        StrongSwan,
        {"name": "acme", "kind": "strongswan", "destinations": ["10.77.0.0/24"], "config": "/c", **options},
    )


@pytest.mark.parametrize(
    "scenario", [each for each in SCENARIOS if each.kind == "strongswan"], ids=lambda each: each.name
)
def test_what_charon_said_is_understood(scenario: Any) -> None:
    lines = (FOLDER / "strongswan" / f"{scenario.name}.txt").read_text().splitlines()
    secrets = {
        name: b"whatever" for name in ("password", "psk") if any(f'"ask": "{name}"' in line for line in lines)
    }
    dialogue = STRONGSWAN.dialogue(
        swan(login={"username": "svc-facilitator"}), {"config": CONFIG.encode(), **secrets}
    )
    given_, wanted = replay(dialogue, lines)
    assert [line for line in given_ if not line.startswith("say|")] == [
        line for line in wanted if not line.startswith("say|")
    ]
    failures = [line.split("|")[1] for line in given_ if line.startswith("failed|")]
    assert failures == ([] if scenario.reason is None else [scenario.reason.value])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("06[IKE] no trusted ECDSA public key found for 'CN=gateway'", Reason.CERTIFICATE),
        ('06[CFG] no issuer certificate found for "CN=gateway"', Reason.CERTIFICATE),
        ("06[IKE] no private key found for 'CN=svc'", Reason.KEY),
        ("06[IKE] received NO_PROPOSAL_CHOSEN notify error", Reason.HANDSHAKE),
        ("06[IKE] received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built", Reason.CLIENT_CONFIG),
        ("06[IKE] received TS_UNACCEPTABLE notify, no CHILD_SA built", Reason.CLIENT_CONFIG),
        ("10[IKE] received FAILED_CP_REQUIRED notify, no CHILD_SA built", Reason.CLIENT_CONFIG),
        ("06[IKE] received INTERNAL_ADDRESS_FAILURE notify error", Reason.FAR_END_FULL),
        (
            "loading connection 'acme' failed: invalid value for: proposals, config discarded",
            Reason.CLIENT_CONFIG,
        ),
        ("06[IKE] received DELETE for IKE_SA acme[1]", Reason.PEER_CLOSED),
        ("00[LIB] failed to create TUN device", Reason.MISSING_RIGHT),
        ("facilitator: the session has ended", Reason.PEER_TIMEOUT),
        ("facilitator: charon has created no interface", Reason.LOCAL),
    ],
)
def test_words_and_reasons(line: str, reason: Reason) -> None:
    (failed,) = explained(STRONGSWAN.dialogue(swan(), {"config": CONFIG.encode()}), line)
    assert failed.reason is reason


def test_a_refusal_means_what_we_came_with() -> None:
    line = "02[IKE] received AUTHENTICATION_FAILED notify error"
    certified = (
        b"connections { a { remote_addrs = b\n local { auth = pubkey\n certs = c.pem } children { d { } } } }"
    )
    reasons = []
    for config, secrets in ((certified, {}), (CONFIG.encode(), {"psk": b"p"})):
        (failed,) = explained(STRONGSWAN.dialogue(swan(), {"config": config, **secrets}), line)
        reasons.append(failed.reason)
    assert reasons == [Reason.OUR_CERTIFICATE, Reason.AUTH]


def test_what_the_far_side_carries_is_reported() -> None:
    said = (
        '{"connected": {"address": "10.9.0.1", "peer": "192.0.2.1", "routes": ["10.77.0.0/24"], '
        '"lasts": null}}'
    )
    (connected,) = STRONGSWAN.dialogue(swan(), {"config": CONFIG.encode()}).receive(
        LineSource.MANAGEMENT, said
    )
    assert connected == Connected("10.9.0.1", "192.0.2.1", (ip_network("10.77.0.0/24"),))
