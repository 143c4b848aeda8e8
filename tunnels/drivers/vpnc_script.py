"""Our own vpnc-script, for the programs that drive openconnect and vpnc.

    client -> vpnc_hook.py (environment) -> Script -> Call -> the driver's handler -> up -> vpnc_hook.py

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

from tunnels.drivers.peer_process import descends, peer

SOCKET = "script.sock"  # in the private directory that is the program's working directory
COMMAND = shlex.join(
    (sys.executable, "-I", "-S", str(Path(__file__).with_name("vpnc_hook.py")), SOCKET)
)  # for the client's --script
_MANY = 4096  # routes that are read of one

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the script: what happened, and what the far side has given us."""

    reason: str  # pre-init, connect, disconnect, attempt-reconnect or reconnect
    device: str
    addresses: tuple[Address, ...]  # ours inside the tunnel, IPv4 first
    mtu: int | None  # bytes of the largest packet, as far as the client knows it
    gateway: str | None  # address of the far side's server
    routes: tuple[str, ...]  # networks that it wants to carry; never installed
    lasts: float | None  # seconds that it lets the session live from now; None: it does not say


class Script:
    """Listens for the calls of one client's script. Calls come one after the other: the client waits for
    each.
    """

    def __init__(self, called: Callable[[Call], None]) -> None:
        """`called` does what is to be done for a call; an OSError of it is the script's failure."""
        self._called = called

    async def listen(self, path: Path = Path(SOCKET)) -> None:
        """Make the socket and serve."""
        path.unlink(missing_ok=True)
        await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Other clients of our user can connect too. The script waits for its answer, so it is alive while
        we look who it is.
        """
        with contextlib.suppress(ConnectionError):
            data = await reader.read()
            writer.write(
                b"+" if descends(peer(writer.get_extra_info("socket"))) and self._done(data) else b"-"
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
            print(f"facilitator: the device cannot be set up: {error}", flush=True)
            return False
        return True


# --- the environment that vpnc-script gets
# --------------------------------------------------------------------------------------


def read_call(environment: Mapping[str, str]) -> Call:
    """What the client says; all that does not make sense is left out, for much of it is the far side's
    word.
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
        for number in range(min(_number(environment.get(prefix, "")) or 0, _MANY)):
            address, length = (
                environment.get(f"{prefix}_{number}_ADDR", ""),
                environment.get(f"{prefix}_{number}_MASKLEN", ""),
            )
            with contextlib.suppress(ValueError):
                yield str(ip_network(f"{address}/{length}", strict=False))


def _lasts(options: str) -> float | None:
    """The shortest time that the headers of an AnyConnect session leave it; what remains counts before
    what it has as a whole.
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
