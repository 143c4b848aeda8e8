"""A forwarded flow through a real OpenVPN tunnel: our rules beside a route and a masquerade made by hand, on the same device.

This is what a user sees. (The kernel's way alone, between namespaces and without a tunnel, is a tenth of it: `tests.bench.kernel`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from supervisor.core.network import FIRST_LANE, Lane, NetworkPlan
from supervisor.kernel.network import KernelNetwork
from tests.bench.flow import forwarding_by_hand
from tests.kernel.lab import PLAN, SITE, TUNNEL, World, world
from tests.lab.pki import Authority, Identity
from tests.netns import Namespace, link

ROUNDS, SIZE, ECHOES, BURSTS = 15, "8M", "500", 4
TUNNELS = 200
_ECHO = (sys.executable, "-I", "-S", str(Path(__file__).with_name("echo.py")))


@dataclass
class Seen:
    """What the users of one forwarding saw."""

    throughput: list[float] = field(default_factory=list)       # Mbit/s
    latency: list[float] = field(default_factory=list)          # microseconds there and back


def crowded() -> NetworkPlan:
    """The same tunnel as the last of two hundred."""
    others = tuple(Lane(f"other-{i}", FIRST_LANE + i, f"t-other{i}", False) for i in range(2, TUNNELS))
    return replace(PLAN, lanes=(*PLAN.lanes[1:], *others, PLAN.lanes[0]))


@contextlib.contextmanager
def tunnel() -> Iterator[World]:
    """Staff, facilitator and site; between the last two a network with an OpenVPN tunnel over it, and servers behind that."""
    namespace = Namespace("openvpn")
    try:
        with world(namespace) as lab, contextlib.ExitStack() as running, tempfile.TemporaryDirectory() as directory:
            _wire(lab)
            authority = Authority(Path(directory))
            far, near = ("203.0.113.1", "203.0.113.2"), (TUNNEL, "10.78.0.1")
            for place, device, outer, inner, role, ready in (
                (lab.site, "acme", far, near[::-1], "server", "link remote"),
                (namespace, "t-acme", far[::-1], near, "client", "Initialization Sequence Completed"),
            ):
                keys = authority.issue(role, f"{role}Auth")
                _run(running, place, *_openvpn(device, outer, inner, authority, keys, role), ready=ready)
            _run(running, lab.site, "iperf3", "-s", "--forceflush", ready="listening")
            _run(running, lab.site, *_ECHO, SITE, ready="serving")
            yield lab
    finally:
        namespace.remove()


def _wire(lab: World) -> None:
    """In place of the cable that is the tunnel elsewhere: a network that takes what OpenVPN adds, and the site's address."""
    lab.tunnel_down()
    link(lab.facilitator, "w1", lab.site, "w0")
    for place, device, address in ((lab.facilitator, "w1", "203.0.113.2/24"), (lab.site, "w0", "203.0.113.1/24")):
        place.run("ip", "link", "set", device, "mtu", "1700")
        place.run("ip", "address", "add", address, "dev", device)
    lab.site.run("ip", "address", "add", f"{SITE}/32", "dev", "lo")


Ends = tuple[str, str]      # addresses: here, there


def _openvpn(device: str, outer: Ends, inner: Ends, authority: Authority, identity: Identity, role: str) -> tuple[str, ...]:
    """One end, without routes: those are what is compared."""
    keys = ("--ca", str(authority.root.certificate), "--cert", str(identity.certificate), "--key", str(identity.key))
    return (
        "openvpn", "--dev", device, "--dev-type", "tun", "--proto", "udp", "--local", outer[0], "--remote", outer[1], "--ifconfig", *inner,
        *keys, f"--tls-{role}", *(("--dh", "none") if role == "server" else ()),
    )


def _run(running: contextlib.ExitStack, place: Namespace, *argv: str, ready: str) -> None:
    """Start a program, and wait for these words of it; it ends with the stack."""
    process = place.popen(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running.callback(process.wait)
    running.callback(process.kill)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if ready in line:
            return
    raise AssertionError("".join(lines))


def _measure(lab: World, seen: Seen) -> None:
    end = json.loads(lab.staff.run("iperf3", "-J", "-c", SITE, "-n", SIZE).stdout)["end"]
    seen.throughput.append(end["sum_received"]["bits_per_second"] / 1e6)
    seen.latency += [statistics.median(json.loads(lab.staff.run(*_ECHO, SITE, ECHOES).stdout)) for _ in range(BURSTS)]


async def _by_hand(lab: World, seen: Seen) -> None:
    with forwarding_by_hand(lab):
        await asyncio.to_thread(_measure, lab, seen)


async def _ours(plan: NetworkPlan, lab: World, seen: Seen) -> None:
    network = KernelNetwork(lambda _: None, lambda *_: None)
    await network.start(plan)
    await network.settled()
    await asyncio.to_thread(_measure, lab, seen)
    await network.close(keep=False)


async def measured(rounds: int) -> dict[str, Seen]:
    """By hand, with our rules, and as one of two hundred tunnels, by turns over one and the same session."""
    ways: list[tuple[str, Callable[[World, Seen], Awaitable[None]]]] = [
        ("by hand", _by_hand), ("facilitator", partial(_ours, PLAN)), (f"of {TUNNELS}", partial(_ours, crowded())),
    ]
    seen = {name: Seen() for name, _ in ways}
    with tunnel() as lab, lab.facilitator.entered():
        for _ in range(rounds):
            for name, way in ways:
                await way(lab, seen[name])
            ways.append(ways.pop(0))        # nobody is always the one after the same
    return seen


def _undisturbed(values: list[float], best_is_high: bool) -> float:
    """The mean of the best quarter of the rounds: whatever else this host does can only make a round worse."""
    return statistics.mean(sorted(values, reverse=best_is_high)[:max(1, len(values) // 4)])


def show(seen: dict[str, Seen]) -> None:
    """Medians, and how the others compare with the first in undisturbed rounds."""
    hand, *others = seen.values()
    table = Shown(title="a forwarded flow through an OpenVPN tunnel (medians)")
    for column in ("", *seen, "ratio", f"ratio, of {TUNNELS}", "target"):
        table.add_column(column, justify="left" if not column else "right")
    speeds = [f"{statistics.median(each.throughput):.0f}" for each in seen.values()]
    faster = [f"{_undisturbed(each.throughput, True) / _undisturbed(hand.throughput, True):.3f}" for each in others]
    times = [f"{statistics.median(each.latency):.1f}" for each in seen.values()]
    sooner = [f"{_undisturbed(hand.latency, False) / _undisturbed(each.latency, False):.3f}" for each in others]
    table.add_row("TCP, Mbit/s", *speeds, *faster, ">= 0.97")
    table.add_row("round trip, UDP, us", *times, *sooner, ">= 0.97")
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    show(asyncio.run(measured(ROUNDS)))


if __name__ == "__main__":
    main()
