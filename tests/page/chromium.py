"""A real headless Chromium, driven by its DevTools protocol; and axe-core, which looks for what keeps
people out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds that a loaded machine may take for anything
_LOCK, _AXE = HERE / "package-lock.json", HERE / "node_modules" / "axe-core" / "axe.min.js"
_INSTALLED = HERE / "node_modules" / ".package-lock.json"  # npm writes it last
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "about:blank",
)


def unavailable() -> str | None:
    """Why there is no browser here; None: there is one."""
    missing = [program for program in ("chromium", "npm") if shutil.which(program) is None]
    return f"the page is looked at with {' and '.join(missing)}" if missing else None


def axe() -> str:
    """The program, installed at the first call."""
    if not _INSTALLED.exists() or _INSTALLED.stat().st_mtime < _LOCK.stat().st_mtime:
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=HERE,
            check=True,
            capture_output=True,
            timeout=300,
        )
        _INSTALLED.touch()
    return _AXE.read_text()


@dataclass
class Tab:
    """One page, and everything that it complained about."""

    _socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    _count: int = 0
    _waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        self._count += 1
        answer = self._waiting[self._count] = asyncio.get_running_loop().create_future()
        message = {"id": self._count, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def read(self) -> None:
        """Take what the browser says, until it ends."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answered(told)
            else:
                self._complained(told["method"], told.get("params", {}))

    def _answered(self, told: dict[str, Any]) -> None:
        future = self._waiting.pop(told["id"])
        if "error" in told:
            future.set_exception(AssertionError(told["error"]["message"]))
        else:
            future.set_result(told["result"])

    def _complained(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.complaints.append(
                    told["exceptionDetails"]
                    .get("exception", {})
                    .get("description", told["exceptionDetails"]["text"])
                )
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(each.get("value")) for each in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def value(self, expression: str) -> Any:
        """What an expression is in the page; a promise is waited for."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return when it is true."""
        async with asyncio.timeout(PATIENCE):
            await self.value(
                f"new Promise((done) => "
                f"{{ const look = () => ({expression}) ? done() : setTimeout(look, 20); look(); }})"
            )

    async def look(self, width: int, scheme: str) -> None:
        """As wide as this, with this colour scheme, and high enough for everything."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=media)
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=3000,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        size = await self.value("[innerWidth, Math.ceil(document.body.getBoundingClientRect().height)]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        told = await self.call("Page.captureScreenshot", format="png", clip=clip)
        file.write_bytes(base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def browse(address: str, profile: Path) -> AsyncIterator[Tab]:
    """A browser that shows this address."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        f"--user-data-dir={profile}",
        *_OPTIONS,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
        start_new_session=True,
    )
    drain: asyncio.Task[bytes] | None = None
    try:
        assert process.stderr is not None
        endpoint = await _endpoint(process.stderr)
        drain = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as http, http.ws_connect(endpoint, max_msg_size=0) as socket:
            tab = Tab(socket)
            reading = asyncio.create_task(tab.read())
            await _open(tab, address)
            yield tab
            reading.cancel()
    finally:
        process.terminate()
        await process.wait()
        if drain is not None:
            drain.cancel()


async def _endpoint(stderr: asyncio.StreamReader) -> str:
    said: list[str] = []
    async with asyncio.timeout(PATIENCE):
        async for line in stderr:
            said.append(line.decode(errors="replace"))
            if "DevTools listening on " in said[-1]:
                return said[-1].split("DevTools listening on ")[1].strip()
    raise AssertionError(f"Chromium does not start: {''.join(said)}")


async def _open(tab: Tab, address: str) -> None:
    target = (await tab.call("Target.createTarget", url="about:blank"))["targetId"]
    tab.session = (await tab.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
        await tab.call(f"{domain}.enable")
    told = await tab.call("Page.navigate", url=address)
    assert "errorText" not in told, told["errorText"]
    await tab.until("document.readyState === 'complete'")
