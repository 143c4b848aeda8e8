"""The approval page and the page of sessions in a real browser: they work and keep nobody out."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from hub.core import routes
from tests.hub.messages import heartbeat, login
from tests.hub.running import HubSetup, post
from tests.hub.test_notification import NotifierDouble, notifier, setup  # noqa: F401 - fixtures
from tests.page import chromium
from tests.page.test_chromium import SCHEMES, WIDTHS

pytestmark = pytest.mark.slow

_TOLD = "(v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join()"
_AXE = f"axe.run().then((found) => ({{looked: found.passes.length, wrong: found.violations.map({_TOLD})}}))"


@pytest.fixture(scope="module")
def axe() -> str:
    reason = chromium.unavailable()
    if reason is not None:
        pytest.skip(reason)
    return chromium.axe()


async def _keeps_nobody_out(tab: chromium.Tab, axe: str) -> None:
    await tab.value(f"{axe}; undefined")
    for width in WIDTHS:
        for scheme in SCHEMES:
            await tab.look(width, scheme)
            found = await tab.value(_AXE)
            assert found["wrong"] == [], (width, scheme)
            assert found["looked"] > 10, "it has looked at something"
            assert await tab.value("document.documentElement.scrollWidth <= innerWidth"), (
                f"{width}: it does not fit"
            )
    assert tab.complaints == []


async def _shows(tab: chromium.Tab, text: str) -> None:
    """Wait for it; while the browser goes to another page, an expression has no value."""
    async with asyncio.timeout(chromium.PATIENCE):
        while True:
            with contextlib.suppress(AssertionError):
                if await tab.value(f"(document.body?.textContent ?? '').includes('{text}')"):
                    return
            await asyncio.sleep(0.05)


async def test_a_person_approves_and_an_operator_looks(
    axe: str,
    setup: HubSetup,  # noqa: F811
    notifier: NotifierDouble,  # noqa: F811
    tmp_path: Path,
) -> None:
    async with setup.serving(), setup.client("hub-a") as client:
        _, answer = await post(client, routes.LOGIN.path, login("nora", understands={"crtext"}))
        link = (await notifier.messages.get())["link"]
        number = answer["text"].rpartition(" ")[2]
        async with chromium.browse(link, tmp_path / "person") as tab:
            await tab.until("document.querySelectorAll('button').length === 5")
            await _keeps_nobody_out(tab, axe)
            await tab.value(
                f"[...document.querySelectorAll('button')].find((b) => b.value === '{number}').click()"
            )
            await _shows(tab, "is approved")
        session = answer["session"]
        _, beaten = await post(client, routes.HEARTBEAT.path, heartbeat([session], waiting={session}))
        assert beaten["decided"][0]["answer"]["decision"] == "allow"
        async with chromium.browse(f"http://127.0.0.1:{setup.http}/", tmp_path / "operator") as tab:
            await _shows(tab, "nora")
            await _keeps_nobody_out(tab, axe)
