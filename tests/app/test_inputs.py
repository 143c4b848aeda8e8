"""Files beside a profile: they are read anew before each start, and watched like the profile itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.app.files import Files
from supervisor.clients.input_watcher import InputWatcher
from supervisor.config.validation import validated
from supervisor.core.events import Event, InputsChanged
from tunnels.base import Tunnel
from tunnels.registry import KINDS

PROFILE = "client\nremote 192.0.2.1 1194\nca ca.crt\n"
SWAN = "connections { acme { remote_addrs = 192.0.2.1\n children { net { } } } }\n"


def tunnel(kind: str, config: Path) -> Tunnel:
    made: Tunnel = validated(
        KINDS[kind].options,
        {"name": "acme", "kind": kind, "destinations": ["10.77.0.0/24"], "config": config},
    )
    return made


@asynccontextmanager
async def watching(of: Tunnel) -> AsyncIterator[asyncio.Queue[Event]]:
    inbox: asyncio.Queue[Event] = asyncio.Queue()
    watcher, files = InputWatcher(inbox.put_nowait), Files(of.config.parent, lambda _: None, {})  # type: ignore[attr-defined]
    watcher.start()
    watcher.set(lambda: {"acme": files.watched(KINDS[of.kind], of)})
    try:
        yield inbox
    finally:
        await watcher.close()


async def told(inbox: asyncio.Queue[Event]) -> None:
    assert await asyncio.wait_for(inbox.get(), 60) == InputsChanged("acme")


async def test_a_file_that_a_profile_names_is_watched_as_soon_as_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "acme.ovpn").write_text("client\n")  # nothing that could be run
    async with watching(tunnel("openvpn", tmp_path / "acme.ovpn")) as inbox:
        (tmp_path / "acme.ovpn").write_text(PROFILE)
        await told(inbox)
        (tmp_path / "ca.crt").write_text("one")
        await told(inbox)
        (tmp_path / "ca.crt").write_text("two")
        await told(inbox)


async def test_a_new_file_in_a_folder_is_seen(tmp_path: Path) -> None:
    (tmp_path / "swanctl.conf").write_text(SWAN)
    (tmp_path / "private").mkdir()
    async with watching(tunnel("strongswan", tmp_path / "swanctl.conf")) as inbox:
        (tmp_path / "private" / "ours.pem").write_text("one")
        await told(inbox)
        (tmp_path / "x509ca").mkdir()
        await told(inbox)


def test_a_rotated_file_counts_at_the_next_start(tmp_path: Path) -> None:
    remembered: list[str] = []
    (tmp_path / "acme.ovpn").write_text(f"{PROFILE}askpass pass\n")
    (tmp_path / "pass").write_text("open sesame\n")
    files, of = Files(tmp_path, remembered.append, {}), tunnel("openvpn", tmp_path / "acme.ovpn")
    with pytest.raises(FileNotFoundError, match=r"acme\.ovpn:3: ca: cannot read ca\.crt: No such file"):
        files.inputs(KINDS["openvpn"], of)
    for content in ("one", "two"):
        (tmp_path / "ca.crt").write_text(content)
        assert files.inputs(KINDS["openvpn"], of)["beside/ca.crt"] == content.encode()
    assert set(remembered) == {"open sesame"}
