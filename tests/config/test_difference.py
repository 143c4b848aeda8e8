"""What a reload changes."""

from __future__ import annotations

import pytest

from supervisor.config import ConfigDifference, difference
from supervisor.config.difference import fingerprint, with_tunnels_of
from supervisor.config.validation import validated
from tests.config.kinds import HEAD, good
from tunnels.kinds.openvpn.kind import OpenVPN
from tunnels.kinds.sshuttle.kind import Sshuttle

RELEASE_0_1_0 = {  # fingerprints that it has written for these settings
    "openvpn": "8abca5bf5b098cf3936bdd773994327fadba769a69d51af201a18395309c3eb8",
    "sshuttle": "ae0f414ac8e70561ba5433793666d11bc488e81e925e1c891356b1a2577d83e9",
}
OTHER = "  other: {kind: pipe, remote: r, destinations: [10.1.0.0/16]}\n"

LIVE = {
    "description: x": "description",
    "priority: 5": "priority",
    "probe: {interval: 9s}": "probe",
    "reconnect: {max: 9s}": "reconnect",
    "alert: {after: 9s}": "alert",
    "login: {max_attempts: 5}": "login.max_attempts",
    "login: {reconnect_on_change: true}": "login.reconnect_on_change",
}
RESTART = {
    "mtu: 1400": "mtu",
    "device: x": "device",
    "login: {username: x}": "login.username",
    "login: {password: {file: x}}": "login.password",
}


def test_nothing_changes() -> None:
    same = difference(good(HEAD + OTHER), good(f"# a comment\n{HEAD}{OTHER}drain: {{}}\n"))
    assert not same
    assert same == ConfigDifference()
    assert same.lines() == ()


@pytest.mark.parametrize(("line", "name"), LIVE.items(), ids=LIVE)
def test_settings_that_the_client_does_not_see(line: str, name: str) -> None:
    change = difference(good(HEAD), good(f"{HEAD}    {line}\n"))
    assert change == ConfigDifference(updated={"acme": (name,)})
    assert fingerprint(good(HEAD).tunnels["acme"]) == fingerprint(good(f"{HEAD}    {line}\n").tunnels["acme"])
    assert change.lines() == (f"acme: {name} changed",)


@pytest.mark.parametrize(("line", "name"), RESTART.items(), ids=RESTART)
def test_settings_of_the_client(line: str, name: str) -> None:
    change = difference(good(HEAD), good(f"{HEAD}    {line}\n"))
    assert change == ConfigDifference(restart={"acme": (name,)})
    assert fingerprint(good(HEAD).tunnels["acme"]) != fingerprint(good(f"{HEAD}    {line}\n").tunnels["acme"])
    assert change.lines() == (f"acme: {name} changed, restarts",)


def test_the_client_of_an_exclusive_tunnel_runs_in_a_group_of_its_own() -> None:
    fleet = "facilitator: {name: vpn1}\nfleet: {name: emea, lock: {consul: {}}}\n"
    before, after = good(f"{HEAD}{fleet}"), good(f"{HEAD}    exclusive: true\n{fleet}")
    assert difference(before, after) == ConfigDifference(restart={"acme": ("exclusive",)})
    assert fingerprint(before.tunnels["acme"]) != fingerprint(after.tunnels["acme"])


def test_both_sorts_at_once_start_the_client_anew_and_are_both_named() -> None:
    new = HEAD.replace("acme.conf", "b.conf").replace("10.77.", "10.78.")
    assert difference(good(HEAD), good(new)).restart == {"acme": ("destinations", "config")}


def test_a_mapping_is_the_clients_business_too() -> None:
    new = HEAD.replace("[10.77.0.0/24]", "[{network: 10.77.0.0/24, presented_as: 100.64.0.0/24}]")
    assert new != HEAD
    assert difference(good(HEAD), good(new)).restart == {
        "acme": ("destinations", "destinations.presented_as")
    }


def test_another_kind() -> None:
    new = HEAD.replace("wire", "pipe").replace("config: acme.conf", "remote: r")
    assert difference(good(HEAD), good(new)).restart == {"acme": ("kind",)}


def test_tunnels_come_and_go() -> None:
    assert difference(good(HEAD), good(HEAD + OTHER)).lines() == ("other: added",)
    assert difference(good(HEAD + OTHER), good(HEAD)).lines() == ("other: removed",)


def test_a_default_that_changes_changes_the_tunnels_that_use_it() -> None:
    own = HEAD + "    probe: {interval: 1s}\n" + OTHER
    assert difference(good(own), good(own + "defaults: {probe: {interval: 8s}}\n")) == ConfigDifference(
        updated={"other": ("probe",)}
    )


def test_what_is_not_about_one_tunnel() -> None:
    new = HEAD.replace("10.8.0.0", "10.9.0.0") + (
        "facilitator: {name: x, state_dir: /s, runtime_dir: /r}\nhttp: {listen: 127.0.0.1:1, tls: "
        "{certificate: c, key: k}}\n"
        "alerts: {pagerduty: {routing_key: {file: k}}}\non_exit: remove\ndrain: {idle: 1m}\naudit: {file: a}\n"
    )
    change = difference(good(HEAD), good(new))
    assert change.globals == ("staff", "alerts", "drain", "on_exit", "audit")
    assert change.fixed == (
        "facilitator.name",
        "facilitator.state_dir",
        "facilitator.runtime_dir",
        "http.listen",
        "http.tls",
    )
    assert change.lines()[0] == "staff changed"
    assert change.lines()[-1] == "http.tls changed: takes effect after `systemctl restart facilitator`"


def test_clients_of_the_first_release_go_on_but_for_sshuttle() -> None:
    """Its listening sockets were not transparent, and no packet reaches such a socket any more: it begins
    anew at once.
    """
    openvpn = validated(
        OpenVPN,
        {"name": "acme", "kind": "openvpn", "destinations": ["10.0.0.0/16"], "config": "/etc/acme.ovpn"},
    )
    assert fingerprint(openvpn) == RELEASE_0_1_0["openvpn"]
    sshuttle = validated(
        Sshuttle,
        {
            "name": "own-cloud",
            "kind": "sshuttle",
            "destinations": ["10.0.0.0/16"],
            "remote": "u@192.0.2.1",
            "known_hosts": "/etc/known_hosts",
            "identity": {"file": "/etc/key"},
        },
    )
    assert fingerprint(sshuttle) != RELEASE_0_1_0["sshuttle"]


def test_tunnels_that_could_not_start_anew_keep_their_settings() -> None:
    old, new = good(HEAD + OTHER), good(HEAD.replace("acme.conf", "new.conf") + OTHER + "drain: {idle: 9m}\n")
    assert difference(old, new).restart == {"acme": ("config",)}
    change = difference(old, new).withholding({"acme"})
    assert (change.restart, change.globals) == ({}, ("drain",))
    assert change.lines() == ("acme: config changed, applied once its files can be used", "drain changed")
    assert difference(old, new).withholding({"other"}) == difference(old, new)
    kept = with_tunnels_of(new, old, change.withheld)
    assert difference(old, kept).lines() == ("drain changed",)
    assert difference(kept, new).restart == {"acme": ("config",)}
