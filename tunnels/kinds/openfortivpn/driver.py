"""Drives openfortivpn: checks first that this host has PPP, answers its prompts, and reports when the tunnel
is up.

    python -I -m tunnels.kinds.openfortivpn.driver --device NAME --config FD --talk FD [--mtu N]
    [--append-code] [--gateway HOST:PORT]

pppd puts the addresses on the interface. A login on a host without PPP would be wasted, and many gateways
count sessions, so PPP is checked before.
openfortivpn tries only the first address of the gateway's name, and checks the certificate against what it is
told to connect with. `--gateway` is given where the certificate is known by its digest: then an address may
stand for the name.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket

from tunnels.drivers.addresses import resolved_or_named
from tunnels.drivers.channel import DaemonChannel
from tunnels.drivers.cli import ask_to_end, end_like, parser, say
from tunnels.drivers.netlink import bring_up
from tunnels.drivers.reachable import reachable
from tunnels.drivers.terminal_prompts import read_output, relay

_PROMPT = re.compile(r"[^\n]*[:?]\s*")
_PASSWORD = "VPN account password:"
_ADDRESS = re.compile(r"Got addresses: \[([0-9.]+)\]")


class OpenfortivpnSession:
    """One openfortivpn from its start to its end."""

    def __init__(self, options: argparse.Namespace, talk: DaemonChannel) -> None:
        self._options, self._talk = options, talk
        self._address: str | None = None

    async def run(self) -> int:
        """Run openfortivpn; returns its exit code, or the negative number of a signal."""
        fd = self._options.config
        client = await asyncio.create_subprocess_exec(
            "openfortivpn",
            "-c",
            f"/proc/self/fd/{fd}",
            *await self._instead(),
            pass_fds=(fd,),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ask_to_end, client)
        stdin = client.stdin

        async def answer(prompt: str) -> None:
            stdin.write((await self._answer(prompt)).encode() + b"\n")

        await read_output(client.stdout, _PROMPT, self._heard, answer)
        return await client.wait()

    async def _instead(self) -> tuple[str, ...]:
        """ADDRESS:PORT of the gateway, as openfortivpn's argument, where its name has several addresses and
        the first one does not answer.
        """
        if self._options.gateway is None:
            return ()
        host, _, port = self._options.gateway.partition(":")
        first, *others = await resolved_or_named(host, socket.AF_INET)  # openfortivpn has no IPv6
        answering = await reachable(host, int(port), family=socket.AF_INET) if others else None
        return () if answering in (None, first) else (f"{answering}:{port}",)

    async def _answer(self, prompt: str) -> str:
        if not prompt.startswith(_PASSWORD):
            return await self._talk.ask("code", prompt)
        password = await self._talk.ask("password", prompt)
        return (
            password + await self._talk.ask("code", "One-time password")
            if self._options.append_code
            else password
        )

    def _heard(self, line: str) -> None:
        relay(line)
        if match := _ADDRESS.search(line):
            self._address = match[1]
        elif "Tunnel is up and running" in line:
            mtu = self._options.mtu
            if mtu is not None:
                bring_up(self._options.device, mtu)
            self._talk.connected(address=self._address, on_interface=True, mtu=mtu)


def unfit(ppp: str = "/dev/ppp", pppd: str = "/usr/sbin/pppd") -> str | None:
    """Why PPP is not possible on this host; None: it is."""
    if not os.path.exists(pppd):
        return f"{pppd} is missing"
    try:
        os.close(os.open(ppp, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{ppp} is missing"
    except OSError as error:
        return f"{ppp} cannot be opened ({error.strerror})"
    return None


async def _main(options: argparse.Namespace) -> int:
    talk = DaemonChannel(options.talk)
    await talk.listen()
    return await OpenfortivpnSession(options, talk).run()


if __name__ == "__main__":
    words = parser()
    words.add_argument("--gateway", help="HOST:PORT, if an address may stand for the host's name")
    given = words.parse_args()
    if (why := unfit()) is not None:
        say(why)
        end_like(1)
    end_like(asyncio.run(_main(given)))
