"""Each failure has a page, and what names a reason names its page."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from supervisor.cli.status_table import status_view
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.preflight import live
from supervisor.core.session.condition_pages import CONDITION_PAGES
from supervisor.core.session.reason_pages import PAGE, REASON_PAGES, runbook_url
from supervisor.core.session.reasons import is_failure
from supervisor.core.snapshot import Snapshot
from supervisor.core.state import Failure, Health, Phase
from supervisor.core.views.status_json import DaemonIdentity, status_document
from tests.architecture.document import ROOT
from tests.settings import configured
from tests.states import tunnel_state
from tunnels.base import Reason
from tunnels.settings import Tunnel

FAILURES = [reason for reason in Reason if is_failure(reason)]


def test_no_failure_without_a_page() -> None:
    assert set(REASON_PAGES) == set(FAILURES)


@pytest.mark.parametrize("reason", FAILURES)
def test_the_link_leads_to_an_anchor(reason: Reason) -> None:
    """A heading's anchor is its text in lower case, as GitHub and most generators make it."""
    link = runbook_url("", reason)
    assert link is not None
    file, _, anchor = link.partition("#")
    assert re.search(rf"^## {re.escape(anchor)}$", (ROOT / file).read_text(), re.M)


@pytest.mark.parametrize("name", CONDITION_PAGES)
def test_the_link_of_a_condition_leads_to_an_anchor(name: str) -> None:
    link = runbook_url("", f"{name}:acme-dc")
    assert link == f"{PAGE}#{name}"
    assert re.search(rf"^## {re.escape(name)}$", (ROOT / PAGE).read_text(), re.M)


def test_no_condition_without_a_page() -> None:
    """Every name under which the code raises a condition, as far as it stands there as a text."""
    source = "\n".join(path.read_text() for path in (ROOT / "supervisor").rglob("*.py"))
    named = set(
        re.findall(r"""["']([a-z][a-z-]+)(?::\{?\w*\}?)?["']\]?(?::| =|,)\s*\(?_?[Cc]ondition\(""", source)
    )
    named |= set(re.findall(r'^_?(?:CONDITION|AWAY) = "([a-z-]+)"', source, re.M))
    assert {"fleet-routes", "configuration-refused", "audit", "event-loop-stuck"} <= named
    assert named | set(live.CHECKS) - {"uplink"} <= set(CONDITION_PAGES) | {"uplink"}


def test_an_address_of_their_own() -> None:
    assert runbook_url("https://wiki.example.net/reasons", "auth") == "https://wiki.example.net/reasons#auth"


@pytest.mark.parametrize("word", ["connected", "stopped", "of-another-version", "uplink-of-this-host"])
def test_what_is_no_failure_has_none(word: str) -> None:
    assert runbook_url(PAGE, word) is None


def test_status_names_it_while_the_tunnel_is_not_well() -> None:
    """In JSON for each failure, in the table where somebody has to cure it."""
    base = "https://wiki.example.net/reasons"
    failed = {
        name: tunnel_state(phase=Phase.BACKOFF, reason=reason, failure=Failure(reason, "text", 1.0))
        for name, reason in (("cured", Reason.AUTH), ("waits", Reason.NETWORK))
    }
    states = failed | {"well": tunnel_state(phase=Phase.UP, health=Health.HEALTHY, reason=Reason.HEALTHY)}
    tunnels = {
        name: (configured(Tunnel, name=name, kind="test", destinations=(f"10.{n}.0.0/24",)), state)
        for n, (name, state) in enumerate(states.items())
    }
    who = DaemonIdentity("vpn1", "1", 1, 0.0, 0.0, runbooks=base)
    document = status_document(who, Snapshot(tunnels, 10.0), NetworkPlan(), {})
    links = {each["name"]: each.get("runbook_url") for each in document["tunnels"]}
    assert links == {"cured": f"{base}#auth", "waits": f"{base}#network", "well": None}
    console = Console(width=300)
    with console.capture() as shown:
        console.print(status_view(document, 300))
    assert f"see {base}#auth" in shown.get()
    assert f"see {base}#network" not in shown.get()
