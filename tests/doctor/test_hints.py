"""The hints, on real packets: what the doctor calls a problem stops traffic, and what it says to do
lets it through.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from supervisor.app.preflight import host
from supervisor.core.preflight.finding import Finding
from supervisor.core.preflight.firewalls import firewalls, mark_and_mask
from supervisor.core.preflight.routing import rules
from tests.doctor.test_checks import SOUND
from tests.doctor.test_host import DOCKER, FIREWALLD
from tests.kernel.lab import PLAN, SITE, STAFF, TUNNEL, ask, kernel, server, world
from tests.netns import Namespace

pytestmark = pytest.mark.root


def said() -> Finding:
    (finding,) = firewalls(replace(SOUND, kernel=host.kernel()))
    return finding


def apply(namespace: Namespace, hint: str) -> None:
    """The hint itself; where iptables is not installed, the rule that it makes."""
    if hint.startswith("iptables") and shutil.which("iptables") is None:
        mark, mask = mark_and_mask()
        hint = (
            f"nft insert rule ip filter DOCKER-USER ct mark and {mask:#x} == {mark:#x} counter "
            f"accept comment facilitator"
        )
    namespace.run("sh", "-c", hint)


@pytest.mark.parametrize("ruleset", [DOCKER, FIREWALLD], ids=["docker", "last-rule-rejects"])
async def test_the_remedy_lets_the_staff_through(netns: Namespace, ruleset: str) -> None:
    with world(netns) as lab:
        async with kernel(PLAN), server(lab.site):
            assert await ask(lab.staff, SITE) == TUNNEL
            netns.run("nft", "-f", "-", input=ruleset)
            finding = said()
            assert finding.severity == "problem"
            with pytest.raises((OSError, TimeoutError)):
                await ask(lab.staff, SITE, seconds=0.5)
            apply(netns, finding.hint)
            assert said().severity == "ok"
            assert await ask(lab.staff, SITE) == TUNNEL


async def test_a_proxied_connection_needs_the_input_chain(netns: Namespace) -> None:
    with world(netns) as lab:
        async with kernel(PLAN), server(netns, 17300, lambda sock: str(sock.getpeername()[0])):
            assert await ask(lab.staff, "10.90.0.10") == STAFF
            netns.run(
                "nft",
                "-f",
                "-",
                input="table inet mine {\n chain in {\n type filter hook input priority 0; policy drop;\n "
                "}\n}\n",
            )
            finding = said()
            assert "redirected to a proxy" in finding.text
            with pytest.raises((OSError, TimeoutError)):
                await ask(lab.staff, "10.90.0.10", seconds=0.5)
            apply(netns, finding.hint)
            assert await ask(lab.staff, "10.90.0.10") == STAFF


async def test_a_foreign_policy_rule_moves_behind_ours(netns: Namespace) -> None:
    with world(netns) as lab:
        async with kernel(PLAN), server(lab.site):
            netns.run("ip", "rule", "add", "pref", "100", "lookup", "main")
            (finding,) = rules(replace(SOUND, rules=host.rules()))
            assert "`100: lookup main`" in finding.text
            with pytest.raises((OSError, TimeoutError)):
                await ask(lab.staff, SITE, seconds=0.5)
            apply(netns, finding.hint)
            assert await ask(lab.staff, SITE) == TUNNEL
            assert [each.severity for each in rules(replace(SOUND, rules=host.rules()))] == ["ok"]
