"""CAP_NET_ADMIN is enough, and without it there is one clear sentence instead of a hang."""

from __future__ import annotations

import asyncio
import ctypes
import os
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel.errors import MissingRight
from supervisor.kernel.maintenance import preview
from supervisor.kernel.network import KernelNetwork
from tests.kernel.lab import DOWN, PLAN, kernel
from tests.netns import Namespace

pytestmark = pytest.mark.root
NOBODY = 65534
NET_ADMIN = 12
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _become_nobody(*capabilities: int) -> None:
    """As `setpriv --reuid 65534 --clear-groups --bounding-set ... --no-new-privs` does, for this process."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if capability not in capabilities:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    bits = sum(1 << capability for capability in capabilities)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    assert _libc.capset(header, (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)) == 0
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def as_nobody(work: Callable[[], Coroutine[Any, Any, str]], *capabilities: int) -> str:
    """What `work` returns in a child that has only these capabilities; everything is imported already, so
    it need not read our files.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become_nobody(*capabilities)
            text = asyncio.run(work())
        except BaseException:
            text = traceback.format_exc()
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_net_admin_is_enough(netns: Namespace) -> None:
    async def work() -> str:
        status = Path("/proc/self/status").read_text()
        assert f"CapEff:\t{1 << NET_ADMIN:016x}" in status
        assert "NoNewPrivs:\t1" in status
        async with kernel(DOWN) as held:
            await held.holds(PLAN)
            await held.network.close(keep=True)
            return f"uid {os.getuid()} {held.network.route_counts['acme']} {held.notes}"

    # The device is missing: one route of six. The table stays after the end of the process.
    assert as_nobody(work, NET_ADMIN) == f"uid {NOBODY} RouteCounts(wanted=6, installed=5) []"
    assert "unreachable 10.77.0.0/24" in netns.run("ip", "route").stdout
    assert "table inet facilitator" in netns.run("nft", "list", "tables").stdout
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    assert Path("/proc/sys/net/ipv4/ping_group_range").read_text().split()[1] == str(NOBODY)


def test_without_it_there_is_one_sentence(netns: Namespace) -> None:
    async def work() -> str:
        said = []
        for attempt in (lambda: KernelNetwork(_nobody, _nobody).start(PLAN), lambda: preview(PLAN)):
            with pytest.raises(MissingRight) as refused:
                await attempt()
            said.append(str(refused.value))
        assert len(set(said)) == 1
        return said[0]

    assert (
        as_nobody(work)
        == "the capability CAP_NET_ADMIN is missing: without it no route and no firewall rule can be set"
    )
    assert netns.run("ip", "route", "show", "table", "all", "proto", "173").stdout == ""


def _nobody(*_: object) -> None:
    pass
