"""Our own vpnc-script, for the drivers of openconnect and vpnc.

    client -> vpnc_hook.py (environment) -> Script -> Call -> the driver's handler -> answer -> vpnc_hook.py

The stock vpnc-script sets the address, installs routes and rewrites resolv.conf, and leaves these behind when
it is killed. Ours does none of that: the handler brings the interface up, and what the remote gateway pushed
is only reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from tunnels.drivers.peer_process import is_descendant, peer_pid

SOCKET = "script.sock"  # in the driver's working directory, which is private
# for the client's --script
COMMAND = shlex.join((sys.executable, "-I", "-S", str(Path(__file__).with_name("vpnc_hook.py")), SOCKET))
_MAX_ROUTES = 4096  # that are read of one call

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the script: what happened, and what the remote gateway assigned."""

    reason: str  # pre-init, connect, disconnect, attempt-reconnect or reconnect
    device: str
    addresses: tuple[Address, ...]  # ours inside the tunnel, IPv4 first
    mtu: int | None  # bytes of the largest packet, as far as the client knows it
    gateway: str | None  # address of the remote gateway
    routes: tuple[str, ...]  # networks that it pushed; never installed
    lasts: float | None  # seconds from now until it ends the session; None: unknown


class Script:
    """Listens for the calls of one client's script. They come one after the other, because the client waits
    for each.
    """

    def __init__(self, called: Callable[[Call], None]) -> None:
        """`called` handles a call; if it raises OSError the script fails."""
        self._called = called
        self._listening: asyncio.Task[None] | None = None

    async def listen(self, path: Path = Path(SOCKET)) -> None:
        """Create the socket and serve."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path)
        # As a task it ends first when the event loop shuts down, so that no connection is taken any more.
        self._listening = asyncio.create_task(server.serve_forever())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Other clients of our user can connect too. The script waits for its answer, so it is alive while
        its pid is checked.
        """
        with contextlib.suppress(ConnectionError):
            data = await reader.read()
            writer.write(
                b"+"
                if is_descendant(peer_pid(writer.get_extra_info("socket"))) and self._done(data)
                else b"-"
            )
            await writer.drain()
        writer.close()

    def _done(self, data: bytes) -> bool:
        try:
            variables = data.decode(errors="replace").split("\0")
            self._called(
                read_call(dict(name_value.split("=", 1) for name_value in variables if "=" in name_value))
            )
        except (OSError, ValueError) as error:
            print(f"facilitator: the interface cannot be set up: {error}", flush=True)
            return False
        return True


# --- the environment that vpnc-script gets
# --------------------------------------------------------------------------------------


def read_call(environment: Mapping[str, str]) -> Call:
    """Parse the environment; values that make no sense are left out, because much of it comes from the remote
    gateway.
    """
    return Call(
        reason=environment.get("reason", ""),
        device=environment.get("TUNDEV", ""),
        addresses=tuple(_addresses(environment)),
        mtu=_number(environment.get("INTERNAL_IP4_MTU", "")),
        gateway=environment.get("VPNGATEWAY") or None,
        routes=tuple(_routes(environment)),
        lasts=_lasts(environment.get("CISCO_CSTP_OPTIONS", "")),
    )


def _addresses(environment: Mapping[str, str]) -> Iterator[Address]:
    for name in ("INTERNAL_IP4_ADDRESS", "INTERNAL_IP6_ADDRESS", "INTERNAL_IP6_NETMASK"):
        with contextlib.suppress(ValueError):
            yield ip_address(environment.get(name, "").partition("/")[0])
            if name == "INTERNAL_IP6_ADDRESS":
                return  # the netmask holds the address too, and is all that some servers give


def _routes(environment: Mapping[str, str]) -> Iterator[str]:
    for prefix in ("CISCO_SPLIT_INC", "CISCO_IPV6_SPLIT_INC"):
        for number in range(min(_number(environment.get(prefix, "")) or 0, _MAX_ROUTES)):
            address, length = (
                environment.get(f"{prefix}_{number}_ADDR", ""),
                environment.get(f"{prefix}_{number}_MASKLEN", ""),
            )
            with contextlib.suppress(ValueError):
                yield str(ip_network(f"{address}/{length}", strict=False))


def _lasts(options: str) -> float | None:
    """The shortest time limit in the headers of an AnyConnect session: the remaining time if given, else the
    whole.
    """
    for name in ("Session-Timeout-Remaining", "Session-Timeout"):
        times = [
            float(number)
            for number in re.findall(
                rf"^X-CSTP-{name}[=:] *(\d{{1,9}})\s*$", options, re.MULTILINE | re.ASCII
            )
        ]
        if any(times):
            return min(time for time in times if time > 0)
    return None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None
