"""The status page in a real browser: it follows what happens, complains of nothing, and keeps nobody out."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.control.api import HTTPApi
from supervisor.control.server_sent_events import StreamLimits
from supervisor.control.sockets import Servers
from tests.control.test_server_sent_events import ShowingDaemon, changed
from tests.page import chromium
from tests.page.sample_pages import bad_night, tunnel, with_tunnels
from tests.page.test_page import HOSTILE, poisoned

pytestmark = pytest.mark.slow

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
_TOLD = "(v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join()"
_AXE = f"axe.run().then((found) => ({{looked: found.passes.length, wrong: found.violations.map({_TOLD})}}))"


@pytest.fixture(scope="module")
def axe() -> str:
    reason = chromium.unavailable()
    if reason is not None:
        pytest.skip(reason)
    return chromium.axe()


async def test_the_page_lives_complains_of_nothing_and_keeps_nobody_out(axe: str, tmp_path: Path) -> None:
    daemon, servers = ShowingDaemon(bad_night()), Servers()
    await servers.listen_tcp(HTTPApi(daemon, StreamLimits(pause_seconds=0.05)).public(), "127.0.0.1", 0, None)
    await servers.serve()
    try:
        async with chromium.browse(f"http://127.0.0.1:{servers.addresses()[-1][1]}/", tmp_path) as tab:
            await tab.until("document.getElementById('live').className === 'on'")
            await _follows(tab, daemon)
            await tab.value(f"{axe}; undefined")
            for width in WIDTHS:
                for scheme in SCHEMES:
                    await tab.look(width, scheme)
                    found = await tab.value(_AXE)
                    assert found["wrong"] == [], (width, scheme)
                    assert found["looked"] > 25, "it has looked at something"
                    assert await tab.value("document.documentElement.scrollWidth <= innerWidth"), (
                        f"{width}: it does not fit"
                    )
            assert tab.complaints == []
            await servers.close()
            await tab.until(
                "document.getElementById('live').className === 'lost' && "
                "document.body.classList.contains('stale')"
            )
    finally:
        await servers.close()


async def _follows(tab: chromium.Tab, daemon: ShowingDaemon) -> None:
    """Everything that can happen to a tunnel, and to the keyboard's focus while it happens."""
    assert await tab.value("document.title") == "2 of 8 up · vpn1-eu-west-1"
    await tab.value("document.querySelector('#tunnel-borealis summary').click()")
    await tab.value("document.querySelector('#tunnel-borealis summary').focus()")
    page = changed(bad_night(), "borealis", phase="up", health="healthy", next_attempt=None)
    daemon.show(page)
    await tab.until("document.title === '3 of 8 up · vpn1-eu-west-1'")
    await tab.until("document.getElementById('said').textContent.includes('borealis: up')")
    assert await tab.value("document.querySelector('#tunnel-borealis details').open"), (
        "what was opened stays open"
    )
    assert await tab.value("document.activeElement === document.querySelector('#tunnel-borealis summary')"), (
        "the focus stays"
    )
    names = "[...document.querySelectorAll('h3')].map((each) => each.textContent).join()"
    order = "cascade,delta-logistics,umbrella,wayne-tower,acme-dc,borealis,own-cloud,zephyr"
    assert await tab.value(names) == order, "its place is another now"
    left = [each for each in page["tunnels"] if each["name"] != "zephyr"]
    page = with_tunnels(page, [*left, tunnel("young")])
    page["measures"]["acme-dc"]["rtts"][-1] = 0.777
    daemon.show(page)
    await tab.until("document.getElementById('measures-acme-dc').textContent.includes('777 ms')")
    assert (
        await tab.value(names)
        == "cascade,delta-logistics,umbrella,wayne-tower,acme-dc,borealis,own-cloud,young"
    )
    daemon.show(
        {**poisoned(page, HOSTILE), "version": page["version"]}
    )  # another version would load the page anew
    await tab.until("document.getElementById('tunnel-acme-dc').textContent.includes('<script>')")
    assert (
        await tab.value(
            "document.querySelectorAll('img').length + document.querySelectorAll('script').length"
        )
        == 1
    )
    daemon.show(bad_night())
    await tab.until(
        f"{names} === 'borealis,cascade,delta-logistics,umbrella,wayne-tower,acme-dc,own-cloud,zephyr'"
    )
