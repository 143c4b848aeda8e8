"""Each failure has a page, and what names a reason names its page."""

from __future__ import annotations

import re

import pytest

from supervisor.core.session.reason_pages import PAGE, REASON_PAGES, runbook_url
from supervisor.core.session.reasons import is_failure
from tests.architecture.document import ROOT
from tunnels.base import Reason

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


def test_an_address_of_their_own() -> None:
    assert runbook_url("https://wiki.example.net/reasons", "auth") == "https://wiki.example.net/reasons#auth"


@pytest.mark.parametrize("word", ["connected", "stopped", "of-another-version", "uplink-of-this-host"])
def test_what_is_no_failure_has_none(word: str) -> None:
    assert runbook_url(PAGE, word) is None
