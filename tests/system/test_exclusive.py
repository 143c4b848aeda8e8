"""Exclusive tunnels of two facilitators with one certificate, for which the server allows one session."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.lab.exclusive import ACME, CLOUD, TTL, ExclusiveFleet, exclusive_fleet
from tests.lab.fleet import VPN1, VPN2
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def fleet() -> Iterator[ExclusiveFleet]:
    with exclusive_fleet() as made:
        yield made


def test_one_member_is_logged_in_and_the_other_says_for_whom_it_waits(fleet: ExclusiveFleet) -> None:
    fleet.wait_waiting(VPN2)
    waits = fleet.daemons[VPN2]
    eventually(lambda: (waits.tunnel(ACME)["lock"] or {}).get("holder"), 10, "it knows who holds the lock")
    lock = waits.tunnel(ACME)["lock"]
    assert not lock["held"]
    assert lock["holder"].startswith("vpn1 since ")
    assert "waits for the lock of account" in waits.cli("status").stdout
    held = fleet.daemons[VPN1].tunnel(ACME)["lock"]
    assert held["held"]
    assert held["token"] > 0
    assert fleet.logins == 1
    assert fleet.sent(VPN2) == 0
    fleet.daemons[VPN2].wait_for(CLOUD, phase="up")


def test_a_frozen_daemon_loses_its_account_and_its_client_sends_nothing_more(fleet: ExclusiveFleet) -> None:
    daemon, before = fleet.daemons[VPN1], fleet.logins
    assert fleet.up(VPN1)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        frozen = time.monotonic()
        fleet.wait_up(VPN2)
        assert time.monotonic() - frozen < (TTL + 1.0) * NOISE
        sent = fleet.sent(VPN1)
        time.sleep(8.0)  # its client would be heard of within a second, and log in again after six
        assert fleet.sent(VPN1) == sent
        assert fleet.logins == before + 1
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    fleet.wait_waiting(VPN1)
    assert fleet.up(VPN2)
    assert fleet.logins == before + 1


def test_a_member_that_is_stopped_hands_over_at_once(fleet: ExclusiveFleet) -> None:
    holder, other = (VPN1, VPN2) if fleet.up(VPN1) else (VPN2, VPN1)
    fleet.wait_waiting(other)
    begun = time.monotonic()
    assert fleet.daemons[holder].cli("stop", ACME).returncode == 0
    eventually(
        lambda: fleet.daemons[other].tunnel(ACME)["phase"] in ("starting", "up"), 5, "the other logs in"
    )
    assert time.monotonic() - begun < 1.0 * NOISE
    fleet.wait_up(other)
    assert fleet.daemons[holder].cli("start", ACME).returncode == 0
    fleet.wait_waiting(holder)


@pytest.mark.timed
def test_a_daemon_that_is_killed_is_followed_by_one_that_keeps_the_session(fleet: ExclusiveFleet) -> None:
    holder = VPN1 if fleet.up(VPN1) else VPN2
    daemon, before = fleet.daemons[holder], fleet.logins
    token = daemon.tunnel(ACME)["lock"]["token"]
    daemon.kill9()
    daemon.start()
    daemon.wait_for(ACME, phase="up")
    time.sleep(2 * TTL)  # it renews, or it would be over
    assert daemon.tunnel(ACME)["phase"] == "up"
    assert daemon.tunnel(ACME)["lock"]["token"] == token
    assert fleet.logins == before


def test_a_daemon_that_is_dead_is_followed_by_the_other_member(fleet: ExclusiveFleet) -> None:
    holder, other = (VPN1, VPN2) if fleet.up(VPN1) else (VPN2, VPN1)
    daemon, before = fleet.daemons[holder], fleet.logins
    fleet.wait_waiting(other)
    daemon.kill9()
    died = time.monotonic()
    eventually(lambda: fleet.logins > before, 3 * TTL, "the other member logs in")
    assert time.monotonic() - died < (TTL + 1.0) * NOISE
    sent = fleet.sent(holder)
    time.sleep(3.0)
    assert fleet.sent(holder) == sent
    daemon.start()  # its client still runs, without a lock: it ends
    fleet.wait_waiting(holder)
    assert fleet.up(other)
    assert fleet.logins == before + 1


def test_while_the_engine_is_away_the_exclusive_tunnel_ends_and_the_other_lives_on(
    fleet: ExclusiveFleet,
) -> None:
    holder = VPN1 if fleet.up(VPN1) else VPN2
    daemon = fleet.daemons[holder]
    session = daemon.tunnel(CLOUD)["session"]["id"]
    fleet.cluster.halt()
    try:
        daemon.wait_for(ACME, phase="backoff", reason="lock")
        eventually(
            lambda: any(each["name"] == "fleet-lock" for each in daemon.status()["conditions"]),
            10,
            "the condition says that the engine is away",
        )
        assert daemon.metric("facilitator_fleet_lock_up") == 0
    finally:
        fleet.cluster.go_on()
    eventually(lambda: fleet.up(VPN1) or fleet.up(VPN2), 30, "it resumes by itself")
    assert daemon.tunnel(CLOUD)["session"]["id"] == session
    assert not (fleet.up(VPN1) and fleet.up(VPN2))
