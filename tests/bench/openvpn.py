"""A forwarded flow through a real OpenVPN tunnel: our rules beside a route and a masquerade made by hand.

This is what a user sees. (The kernel's way alone, between namespaces and without a tunnel, is a tenth of it:
`tests.bench.flow`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from supervisor.core.network.lanes import FIRST_LANE
from supervisor.core.network.plan import Lane, NetworkPlan
from tests.bench.flow import Compared, TrafficLoad, compared, row, serving, start
from tests.kernel.lab import PLAN, SITE, TUNNEL, KernelWorld, world
from tests.lab.pki import Authority, KeyPair
from tests.netns import Namespace, link

PAIRS, LOAD = 16, TrafficLoad(echoes=600, transfers=4, size="6M")
TUNNELS = 200


def crowded() -> NetworkPlan:
    """The same tunnel as the last of two hundred."""
    others = tuple(Lane(f"other-{i}", FIRST_LANE + i, f"t-other{i}", False) for i in range(2, TUNNELS))
    return replace(PLAN, lanes=(*PLAN.lanes[1:], *others, PLAN.lanes[0]))


@contextlib.contextmanager
def tunnel() -> Iterator[KernelWorld]:
    """Staff, facilitator and site; between the last two a network with an OpenVPN tunnel over it, and
    servers behind that.
    """
    namespace = Namespace("openvpn")
    try:
        with (
            world(namespace) as lab,
            contextlib.ExitStack() as running,
            tempfile.TemporaryDirectory() as directory,
        ):
            _wire(lab)
            authority = Authority(Path(directory))
            far, near = ("203.0.113.1", "203.0.113.2"), (TUNNEL, "10.78.0.1")
            for place, device, outer, inner, role, ready in (
                (lab.site, "acme", far, near[::-1], "server", "link remote"),
                (namespace, "t-acme", far[::-1], near, "client", "Initialization Sequence Completed"),
            ):
                keys = authority.issue(role, f"{role}Auth")
                start(running, place, *_openvpn(device, outer, inner, authority, keys, role), ready=ready)
            running.enter_context(serving(lab))
            yield lab
    finally:
        namespace.remove()


def _wire(lab: KernelWorld) -> None:
    """In place of the cable that is the tunnel elsewhere: a network that takes what OpenVPN adds, and the
    site's address.
    """
    lab.tunnel_down()
    link(lab.facilitator, "w1", lab.site, "w0")
    for place, device, address in (
        (lab.facilitator, "w1", "203.0.113.2/24"),
        (lab.site, "w0", "203.0.113.1/24"),
    ):
        place.run("ip", "link", "set", device, "mtu", "1700")
        place.run("ip", "address", "add", address, "dev", device)
    lab.site.run("ip", "address", "add", f"{SITE}/32", "dev", "lo")


Ends = tuple[str, str]  # addresses: here, there


def _openvpn(
    device: str, outer: Ends, inner: Ends, authority: Authority, identity: KeyPair, role: str
) -> tuple[str, ...]:
    """One end, without routes: those are what is compared."""
    keys = (
        "--ca",
        str(authority.root.certificate),
        "--cert",
        str(identity.certificate),
        "--key",
        str(identity.key),
    )
    return (
        "openvpn",
        "--dev",
        device,
        "--dev-type",
        "tun",
        "--proto",
        "udp",
        "--local",
        outer[0],
        "--remote",
        outer[1],
        "--ifconfig",
        *inner,
        *keys,
        f"--tls-{role}",
        *(("--dh", "none") if role == "server" else ()),
    )


async def measured(pairs: int, load: TrafficLoad) -> dict[str, Compared]:
    """With our rules, and as one of two hundred tunnels."""
    with tunnel() as first, tunnel() as second:
        return {
            "": await compared(first, second, PLAN, pairs, load),
            f", one of {TUNNELS} tunnels": await compared(first, second, crowded(), pairs, load),
        }


def show(seen: dict[str, Compared]) -> None:
    """Medians, and how ours compares."""
    table = Shown(title="a forwarded flow through an OpenVPN tunnel (medians; ratio with its quartiles)")
    for column in ("", "by hand", "facilitator", "ratio", "target"):
        table.add_column(column, justify="left" if not column else "right")
    for name, each in seen.items():
        table.add_row(*row(f"TCP, Mbit/s{name}", each.speeds, each.faster))
        table.add_row(*row(f"round trip, UDP, us{name}", each.trips, each.sooner))
    Console(width=120).print(table)


def main() -> None:
    """Measure and print."""
    show(asyncio.run(measured(PAIRS, LOAD)))


if __name__ == "__main__":
    main()
