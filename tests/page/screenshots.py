"""`make screenshots`: the status page on a bad night, in both themes, on a desk and on a phone."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from supervisor.control.api import HTTPApi
from supervisor.control.sockets import Servers
from tests.control.test_server_sent_events import ShowingDaemon
from tests.page import chromium
from tests.page.sample_pages import bad_night
from tests.page.test_chromium import SCHEMES, WIDTHS


async def main(directory: Path) -> None:
    """Write `status-SCHEME-WIDTH.png`."""
    directory.mkdir(parents=True, exist_ok=True)
    servers = Servers()
    await servers.listen_tcp(HTTPApi(ShowingDaemon(bad_night())).public(), "127.0.0.1", 0, None)
    await servers.serve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with chromium.browse(f"http://127.0.0.1:{servers.addresses()[-1][1]}/", Path(profile)) as tab:
            await tab.until("document.getElementById('live').className === 'on'")
            await tab.value("document.querySelector('#tunnel-borealis details').open = true")
            for width in WIDTHS:
                for scheme in SCHEMES:
                    await tab.look(width, scheme)
                    file = directory / f"status-{scheme}-{width}.png"
                    await tab.picture(file)
                    print(file)
    await servers.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
