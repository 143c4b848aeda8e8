"""The sidecar beside a real OpenVPN server, with real clients and the real session service."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Iterator

import pyotp
import pytest

from hub.core.api import EndReason
from tests.hub.lab import HubLab, StaffClient
from tests.hub.lab_service import HUB, SEED, LoginPrompt
from tests.lab.wait import NOISE, eventually
from tests.netns import Namespace

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running() -> Iterator[HubLab]:
    with HubLab() as lab:
        lab.service.start()
        lab.nodes["a"].start()
        yield lab


@pytest.fixture
def lab(running: HubLab) -> Iterator[HubLab]:
    """The running lab; each test has people of its own."""
    yield running
    running.end_clients()
    for session in running.service.open():
        running.service.ask("POST", "/api/v1/end", {"session": session.session})
    eventually(lambda: not running.service.open(), 10, "all sessions end")


def is_up(lab: HubLab, client: StaffClient) -> None:
    """The client has its address, and the service knows it."""
    eventually(lambda: lab.service.up(client.person), 10, f"{client.person} is up")
    eventually(client.pings, 5, f"the server answers {client.person}")


def test_a_certificate_logs_in_and_a_stranger_does_not(lab: HubLab) -> None:
    alice, mallory = lab.client("alice"), lab.client("mallory")
    mallory.begin()
    alice.start()
    is_up(lab, alice)
    (session,) = lab.service.up("alice")
    assert str(session.address) in alice.namespace.run("ip", "address", "show", alice.interface).stdout
    assert session.certificate
    assert session.claims["IV_PLAT"] == "linux"
    eventually(lambda: mallory.ended, 5, "the rejected client ends")
    assert "AUTH_FAILED" in mallory.said
    assert mallory.up_count == 0
    assert [each.reason for each in lab.service.history("mallory")] == [EndReason.UNKNOWN_PERSON]


def test_a_blocked_persons_session_ends_and_does_not_come_back(lab: HubLab) -> None:
    dora = lab.client("dora")
    dora.start()
    is_up(lab, dora)
    lab.service.block("dora")
    eventually(lambda: dora.ended, 2, "the client ends by itself")
    assert "your access has ended" in dora.said
    eventually(lambda: not lab.service.open(), 2, "the service knows of the end")
    assert [each.reason for each in lab.service.history("dora")] == [EndReason.OFFBOARDED]
    again = lab.client("dora")
    again.begin()
    eventually(lambda: again.ended, 5, "she is rejected")
    assert again.up_count == 0


@pytest.mark.timed
def test_a_client_that_is_deaf_sends_nothing_any_more(lab: HubLab) -> None:
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    node = lab.nodes["a"]
    # Nothing from the server reaches the client's process, so it goes on sending.
    lab.outside.run("nft", "-f", "-", input=DEAF)
    sending = lab.outside.popen("ping", "-q", "-i", "0.02", "-I", alice.interface, "10.8.0.1")
    try:
        before = received(node.namespace)
        eventually(lambda: received(node.namespace) > before + 10, 5, "packets arrive in the tunnel")
        lab.service.ask("POST", "/api/v1/end", {"person": "alice"})
        ordered = quiet_since = time.monotonic()
        last = received(node.namespace)
        while time.monotonic() - ordered < 2.5:  # without the cut it sends for 5 s
            time.sleep(0.02)
            if (now := received(node.namespace)) != last:
                last, quiet_since = now, time.monotonic()
    finally:
        sending.send_signal(signal.SIGINT)
        sending.wait()
        lab.outside.run("nft", "delete", "table", "inet", "deaf")
    assert quiet_since - ordered < 0.5 * NOISE, f"it sent for {quiet_since - ordered:.2f} s"
    assert not alice.ended, "the client heard it: nothing was tested"


DEAF = """
table inet deaf {
  chain input { type filter hook input priority 0; udp sport 1194 drop; }
}
"""


def received(namespace: Namespace) -> int:
    """Packets that have come out of the tunnel."""
    return int(namespace.run("cat", "/sys/class/net/tun-hub/statistics/rx_packets").stdout)


@pytest.mark.timed
def test_a_login_that_begins_without_a_sidecar_enters_soon_after(lab: HubLab) -> None:
    node = lab.nodes["a"]
    node.end_sidecar(signal.SIGKILL)
    carol = lab.client("carol", nodes=["a"])
    carol.begin()
    eventually(lambda: "Peer Connection Initiated" in carol.said, 5, "the client waits for its login")
    assert lab.service.history("carol") == []
    back = time.monotonic()
    node.start_sidecar()
    is_up(lab, carol)
    assert time.monotonic() - back <= 5 * NOISE


@pytest.mark.timed
@pytest.mark.parametrize("away", ["killed", "hanging"])
def test_nobody_enters_without_the_service_and_nobody_leaves(lab: HubLab, away: str) -> None:
    alice, bob = lab.client("alice"), lab.client("bob", nodes=["a"])
    alice.start()
    is_up(lab, alice)
    end, begin = {
        "killed": (lab.service.kill, lab.service.start),
        "hanging": (lab.service.halt, lab.service.go_on),
    }[away]
    end()
    bob.begin()
    with alice.pinging() as counted:
        eventually(lambda: "the login service is not reachable" in bob.said, 15, "bob is told")
    assert counted[0] - counted[1] <= 1
    assert bob.up_count == 0
    back = time.monotonic()
    begin()
    is_up(lab, bob)
    assert time.monotonic() - back <= 5 * NOISE
    assert alice.up_count == 1


def test_a_login_waits_until_somebody_approves_it(lab: HubLab) -> None:
    with lab.service.phone() as received_links:
        nora = lab.client("nora", nodes=["a"])
        nora.begin()
        eventually(lambda: received_links, 5, "she is asked")
        eventually(lambda: lab.nodes["a"].phases["waiting"], 5, "the sidecar knows that she waits")
        lab.nodes["a"].end_sidecar(signal.SIGKILL)  # who comes after it knows that she waits
        lab.nodes["a"].start_sidecar()
        assert nora.up_count == 0
        link = received_links[0]["link"]
        assert lab.service.decide(link, "") == 200
        is_up(lab, nora)
        assert lab.service.decide(link, "") == 404, "a link works once"
        assert link not in lab.nodes["a"].log.read_text()
        lab.service.ask("POST", "/api/v1/end", {"person": "nora"})
        eventually(lambda: nora.ended, 5, "her session ends")
        again = lab.client("nora", nodes=["a"])
        again.begin()
        eventually(lambda: len(received_links) == 2, 5, "she is asked again")
        assert lab.service.decide(received_links[1]["link"], "no") == 200
        eventually(lambda: again.ended, 5, "she is rejected")
        assert again.up_count == 0


def prompted(lab: HubLab, *more: str) -> tuple[StaffClient, LoginPrompt]:
    """Tom's client, which asks him for what it needs."""
    path = lab.directory / f"prompt-{lab.number}.sock"
    options = (
        "--auth-user-pass", "--auth-retry", "interact", "--management", str(path), "unix",
        "--management-query-passwords", "--management-hold", *more,
    )  # fmt: skip
    tom = lab.client("tom", nodes=["a"], more=options)
    tom.begin()
    prompt = LoginPrompt(path)
    prompt.say("hold release")
    enter(prompt, "none")
    return tom, prompt


def enter(prompt: LoginPrompt, password: str) -> None:
    """What is typed when the client asks."""
    prompt.wait_for("Need 'Auth' username/password")
    prompt.say('username "Auth" tom')
    prompt.say(f'password "Auth" "{password}"')


def test_a_code_is_asked_by_a_second_login_and_works_once(lab: HubLab) -> None:
    tom, prompt = prompted(lab)
    state = prompt.wait_for(r"CRV1:R(?:,E)?:([^:]+):")[1]
    code = pyotp.TOTP(SEED).now()
    prompt.wait_for(">HOLD")
    prompt.say("hold release")
    enter(prompt, f"CRV1::{state}::{code}")
    is_up(lab, tom)
    assert code not in lab.nodes["a"].log.read_text()
    assert state not in lab.nodes["a"].log.read_text()
    tom.stop()
    prompt.close()
    # The same answer once more, with another login.
    thief, prompt = prompted(lab)
    prompt.wait_for("CRV1:")
    prompt.wait_for(">HOLD")
    prompt.say("hold release")
    enter(prompt, f"CRV1::{state}::{code}")
    prompt.wait_for("Verification Failed|AUTH_FAILED|>FATAL")
    prompt.close()
    assert thief.up_count == 0


def test_a_code_is_asked_on_the_same_connection(lab: HubLab) -> None:
    tom, prompt = prompted(lab, "--setenv", "IV_SSO", "crtext")
    prompt.wait_for(r">INFOMSG:CR_TEXT:R(?:,E)?:")
    code = pyotp.TOTP(SEED).at(time.time() + 30)  # the one of now may have been used by another test
    prompt.say(f"cr-response {base64.b64encode(code.encode()).decode()}")
    is_up(lab, tom)
    prompt.close()
    assert tom.up_count == 1
    assert json.dumps(code) not in lab.nodes["a"].log.read_text()


def test_a_renegotiation_is_decided_and_goes_on_without_the_service(lab: HubLab) -> None:
    alice = lab.client("alice", more=("--reneg-sec", "6"))
    alice.start()
    is_up(lab, alice)
    (session,) = lab.service.up("alice")
    keys = alice.said.count("Control Channel: TLS")
    with alice.pinging() as counted:
        eventually(lambda: alice.said.count("Control Channel: TLS") > keys, 20, "the keys are new")
        lab.service.kill()
        keys = alice.said.count("Control Channel: TLS")
        noted = "renewed without the service"
        eventually(lambda: noted in lab.nodes["a"].log.read_text(), 20, "the sidecar decides alone")
        lab.service.start()
    assert counted[0] - counted[1] <= 2
    assert alice.up_count == 1
    eventually(lambda: lab.service.up("alice"), 5, "the service knows her session again")
    assert [each.session for each in lab.service.up("alice")] == [session.session]


def test_a_lost_journal_costs_no_session(lab: HubLab) -> None:
    node = lab.nodes["a"]
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    (session,) = lab.service.up("alice")
    with alice.pinging() as counted:
        node.end_sidecar(signal.SIGKILL)
        (node.directory / "sidecar.journal").unlink()
        node.start_sidecar()
        eventually(
            lambda: [each.session for each in lab.service.up("alice")] != [session.session],
            5,
            "the service has a session for her client",
        )
    assert counted[0] - counted[1] <= 1
    assert alice.up_count == 1
    lab.service.ask("POST", "/api/v1/end", {"person": "alice"})
    eventually(lambda: alice.ended, 5, "the session can be ended")


def test_an_operator_on_the_node_sees_ends_and_finds_one_sidecar(lab: HubLab) -> None:
    node = lab.nodes["a"]
    bob = lab.client("bob", nodes=["a"])
    bob.start()
    is_up(lab, bob)
    command = (HUB, "sidecar", "-c", str(node.config))
    assert node.namespace.run(*command, check=False).returncode == 75, "two sidecars beside one server"
    found = json.loads(node.namespace.run(*command, "status").stdout)
    assert (found["clients"]["up"], found["openvpn"].split()[0]) == (1, "OpenVPN")
    doctor = (HUB, "doctor", str(node.openvpn.config), "-c", str(node.config))
    assert "problem" not in node.namespace.run(*doctor).stdout
    node.namespace.run(*command, "end", "bob")
    eventually(lambda: bob.ended, 5, "his session ends")
    eventually(lambda: not lab.service.open("bob"), 5, "the service knows of the end")
    assert lab.service.history("bob")[0].reason is EndReason.ENDED_BY_ADMIN


def test_a_server_that_starts_anew_has_no_old_sessions(lab: HubLab) -> None:
    node = lab.nodes["a"]
    alice = lab.client("alice")
    alice.start()
    is_up(lab, alice)
    node.openvpn.kill()
    alice.kill()
    node.openvpn.start()
    eventually(lambda: not lab.service.open("alice"), 5, "her session ends with the server")
    assert lab.service.history("alice")[0].reason is EndReason.LOST_WITH_NODE
    bob = lab.client("bob", nodes=["a"])
    bob.start()
    is_up(lab, bob)
    (first,) = lab.service.up("bob")
    # A restart within the process: the same connection to the management socket, and client ids from 0.
    os.kill(node.openvpn.pid, signal.SIGUSR1)
    eventually(lambda: bob.up_count == 2, 30, "he is connected again")
    eventually(lambda: [each.session for each in lab.service.up("bob")] != [first.session], 5, "another one")
    is_up(lab, bob)
    assert len(lab.service.open("bob")) == 1
