"""`make hub`: a staff VPN shown in the lab. Three people log in by certificate, code and approval; sidecar
and session service are killed, a server is drained, a person is offboarded.

Exits 0 only if everything went as it should.
"""

from __future__ import annotations

import base64
import http.client
import os
import signal
import sys
import time
from collections.abc import Callable

import pyotp
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tests.hub.lab import HubLab, StaffClient
from tests.hub.lab_service import SEED
from tests.hub.test_sidecar import is_up, prompted
from tests.lab.demo import Story, play
from tests.lab.wait import NOISE, eventually

PICTURE = """\
alice, tom, nora ──┬── OpenVPN a ── sidecar ──┐
                   └── OpenVPN b ── sidecar ──┴── session service ── SQLite"""


def main() -> int:
    """The exit code."""
    return play(PICTURE, _demo, "NOT AS IT SHOULD BE", "All as it should be.")


def _demo(story: Story) -> None:
    story.tell("building the private network: two OpenVPN servers, sidecars, the session service ...")
    with HubLab() as lab:
        lab.service.start()
        for node in lab.nodes.values():
            node.start()
        story.table = lambda: _sessions(lab)
        alice = lab.client("alice")
        story.show("alice, by certificate: up after", _seconds(lambda: _log_in(lab, alice)))
        _log_in_by_code(story, lab)
        _log_in_by_approval(story, lab)
        _kill(story, lab, alice)
        _drain(story, lab, alice)
        _offboard(story, lab, alice)


def _log_in(lab: HubLab, client: StaffClient) -> None:
    client.begin()
    is_up(lab, client)


def _log_in_by_code(story: Story, lab: HubLab) -> None:
    tom, prompt = prompted(lab, "--setenv", "IV_SSO", "crtext")
    prompt.wait_for(r">INFOMSG:CR_TEXT:R(?:,E)?:")
    code = pyotp.TOTP(SEED).now().encode()

    def typed() -> None:
        prompt.say(f"cr-response {base64.b64encode(code).decode()}")
        is_up(lab, tom)

    story.show("tom, by a code that he types: up after", _seconds(typed))
    prompt.close()


def _log_in_by_approval(story: Story, lab: HubLab) -> None:
    with lab.service.phone() as received:
        nora = lab.client("nora")
        nora.begin()
        eventually(lambda: received, 10, "nora gets a link")
        assert nora.up_count == 0, "nora is in without an approval"

        def approved() -> None:
            assert lab.service.decide(received[0]["link"], "") == 200
            is_up(lab, nora)

        story.show("nora, by an approval on her phone: up after", _seconds(approved))
        assert lab.service.decide(received[0]["link"], "") == 404, "a link works twice"


def _kill(story: Story, lab: HubLab, alice: StaffClient) -> None:
    story.tell("kill -9 the session service and the sidecar of server a ...")
    with alice.pinging() as counted:
        lab.service.kill()
        lab.nodes["a"].end_sidecar(signal.SIGKILL)
        time.sleep(1)  # long enough for a few pings without both
        lab.service.start()
        lab.nodes["a"].start_sidecar()
        eventually(lambda: len(lab.service.open()) == 3, 10, "the service knows the three sessions")
    lost = counted[0] - counted[1]
    story.show(
        "Service and sidecar killed: lost pings, sessions", f"{lost}, {len(lab.service.open())} of 3 left"
    )
    assert lost <= 1, "pings were lost"  # the last one may be under way


def _drain(story: Story, lab: HubLab, alice: StaffClient) -> None:
    story.tell("server a is drained ...")
    with alice.pinging() as counted:
        lab.nodes["a"].ask(command="drain", timeout=None)
        bob = lab.client("bob")
        story.show("Drain of server a: bob is on server b after", _seconds(lambda: _log_in(lab, bob)))
    assert {each.node for each in lab.service.up("bob")} == {"node-b"}, "bob is on the drained server"
    assert counted[0] - counted[1] <= 1, "the drained server lost pings"
    lab.nodes["a"].ask(command="drain", timeout=0.0)
    moved = _seconds(lambda: eventually(lambda: _all_on_b(lab), 20 * NOISE, "all are on server b"))
    story.show("Its time is over: all on server b after", moved)


def _all_on_b(lab: HubLab) -> bool:
    found = lab.service.up("alice") + lab.service.up("bob")
    return len(found) == 2 and {each.node for each in found} == {"node-b"}


def _offboard(story: Story, lab: HubLab, alice: StaffClient) -> None:
    story.tell("alice leaves the company ...")

    def gone() -> None:
        lab.service.block("alice")
        eventually(lambda: alice.ended and not lab.service.open("alice"), 10 * NOISE, "her session ends")

    story.show("Offboarding of alice: out after", _seconds(gone))
    again = lab.client("alice")
    again.begin()
    eventually(lambda: again.ended, 10 * NOISE, "she is refused")
    assert again.up_count == 0, "she is in again"


def _seconds(act: Callable[[], object]) -> str:
    begun = time.monotonic()
    act()
    return f"{time.monotonic() - begun:.1f} s"


def _sessions(lab: HubLab) -> RenderableType:
    """As `facilitator-hub who` shows them."""
    try:
        found = lab.service.open()
    except (OSError, AssertionError, http.client.HTTPException):
        return Text("the session service does not answer", "yellow")
    table = Table("person", "address", "server", "login", "state", title="sessions")
    for each in found:
        table.add_row(each.person, str(each.address or ""), each.node, each.method, each.state)
    return table


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("It makes network namespaces: say sudo make hub")
    sys.exit(main())
