"""Drives vpnc: sends it its configuration, answers its prompts, and reports when the tunnel is up.

    python -I -m tunnels.kinds.vpnc.driver --device NAME --config FD --talk FD --gateway NAME
        [--remote N] [--ca-file FD] [--mtu N] [--append-code]

vpnc reads its configuration from standard input up to a line that starts with ^D, and its passwords from what
follows. It runs our script (tunnels/drivers/vpnc_script.py) when its interface exists; packets pass after it
has printed that it started. The configuration must contain `Debug 2`: then vpnc prints its steps, and no
secrets. vpnc would try only the first address of its gateway's name, so it gets one address, in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import socket

from tunnels.drivers import vpnc_script
from tunnels.drivers.addresses import in_turn, resolved_or_named
from tunnels.drivers.channel import DaemonChannel, assigned
from tunnels.drivers.cli import ask_to_end, end_like, parser, say
from tunnels.drivers.netlink import bring_up
from tunnels.drivers.terminal_prompts import read_output, relay
from tunnels.drivers.vpnc_script import Call, Script

# run by a shell; the other reasons need no action
SCRIPT = f"case $reason in connect) exec {vpnc_script.COMMAND};; esac"
END = b"\x04"  # ends the configuration on standard input
# Without a first answer, where the gateway has other addresses, which are left to be tried. vpnc itself waits
# for 15 s.
SILENCE_OF_SEVERAL_SECONDS = 7.0
REKEY_SECONDS = 1.0  # for the gateway to negotiate new keys after it has deleted the old ones
_PROMPT = re.compile(r"(Password|Answer|Passcode) for VPN [^\n]*: ")
# Lines that `Debug 2` adds; those of ESP packets come with every packet.
_CHATTER = re.compile(
    r" \[\d{4}-|\s*(lifetime status:|NAT-T mode, adding|got late|processing as|got r-u-there|$)"
    r"|vpnc: (Accepting|Discarding) .*ESP packet"
)


class VpncSession:
    """One vpnc from its start to its end."""

    def __init__(self, options: argparse.Namespace, talk: DaemonChannel) -> None:
        self._options, self._talk = options, talk
        # descriptors that vpnc inherits
        self._authorities = () if options.ca_file is None else (options.ca_file,)
        self._call: Call | None = None
        self._mtu: int | None = None  # of the interface, in bytes
        self._started = False
        self._asked = 0  # prompts so far
        self._before = ""  # the line before the current one
        self._rekey_timer: asyncio.TimerHandle | None = None
        self._silence_timer: asyncio.TimerHandle | None = None
        self._several = False  # the gateway has more than one address
        self._given_up = False  # the gateway has deleted its keys, or says nothing

    async def run(self, config: bytes) -> int:
        """Run vpnc with this configuration; returns its exit code, or the negative number of a signal."""
        await Script(self._called).listen()
        gateway = await self._gateway()
        vpnc = await asyncio.create_subprocess_exec(
            "stdbuf",
            "-oL",
            "vpnc",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=self._authorities,
        )
        assert vpnc.stdin is not None
        assert vpnc.stdout is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ask_to_end, vpnc)
        ours = (
            f'IPSec gateway "{gateway}"\n',
            f"Script {SCRIPT}\n",
            *(f"CA-File /proc/self/fd/{fd}\n" for fd in self._authorities),
        )
        vpnc.stdin.write(config + "".join(ours).encode() + END)
        await read_output(
            vpnc.stdout,
            _PROMPT,
            lambda line: self._heard(line, vpnc),
            lambda prompt: self._answer(vpnc, prompt),
        )
        code = await vpnc.wait()
        return 1 if self._given_up else code

    async def _gateway(self) -> str:
        """The address whose turn it is; the name itself if it cannot be resolved."""
        addresses = await resolved_or_named(self._options.gateway, socket.AF_INET)  # vpnc has no IPv6
        self._several = len(addresses) > 1
        return in_turn(addresses, self._options.remote)

    def _called(self, call: Call) -> None:
        """Handle a call of our script."""
        if call.reason == "connect":
            self._mtu = bring_up(call.device, self._options.mtu or call.mtu)
            self._call = call

    def _heard(self, line: str, vpnc: asyncio.subprocess.Process) -> None:
        if _CHATTER.match(line):
            return
        relay(line)
        self._before = line
        self._note_silence(line, vpnc)
        if line.startswith("VPNC started") and self._call is not None:
            self._started = True
            self._talk.connected(
                **assigned(self._call.addresses),
                peer=self._call.gateway,
                routes=list(self._call.routes),
                mtu=self._mtu,
            )
        elif line.startswith("S7.1 ") and self._started:
            self._rekey_timer = asyncio.get_running_loop().call_later(REKEY_SECONDS, self._end, vpnc)
        elif self._rekey_timer is not None and line.startswith("S7.7 "):
            self._rekey_timer.cancel()
        elif self._rekey_timer is not None and "got delete for old connection" in line:
            self._end(vpnc)  # the whole session has ended, which vpnc ignores

    def _note_silence(self, line: str, vpnc: asyncio.subprocess.Process) -> None:
        """Wait for the answer to vpnc's first packet, if another address could do better."""
        if self._several and line.startswith("S4.3 "):
            self._silence_timer = asyncio.get_running_loop().call_later(
                SILENCE_OF_SEVERAL_SECONDS, self._give_up, vpnc, "no response from target"
            )
        elif self._silence_timer is not None and line.startswith("S4.4 "):
            self._silence_timer.cancel()

    def _end(self, vpnc: asyncio.subprocess.Process) -> None:
        """The gateway has deleted its keys and negotiates no new ones: packets cannot pass, but vpnc would
        try for 15 s.
        """
        self._give_up(vpnc, "the remote gateway has deleted the session")

    def _give_up(self, vpnc: asyncio.subprocess.Process, why: str) -> None:
        say(why)
        self._given_up = True
        with contextlib.suppress(ProcessLookupError):
            vpnc.kill()

    async def _answer(self, vpnc: asyncio.subprocess.Process, prompt: str) -> None:
        """Answer a prompt: the first with the password, later ones with a code."""
        self._asked += 1
        if self._asked == 1:
            answer = await self._talk.ask("password", prompt)
            if self._options.append_code:
                answer += await self._talk.ask("code", "One-time password")
        elif prompt.startswith("Password"):
            say("the password was asked for again")
            ask_to_end(vpnc)
            return
        else:
            # the gateway's question is the line before the prompt
            answer = await self._talk.ask("code", self._before or prompt)
        assert vpnc.stdin is not None
        vpnc.stdin.write(answer.encode() + b"\n")


async def _main(options: argparse.Namespace, config: bytes) -> int:
    talk = DaemonChannel(options.talk)
    await talk.listen()
    return await VpncSession(options, talk).run(config)


if __name__ == "__main__":
    words = parser()
    words.add_argument("--gateway", required=True, help="name or address")
    words.add_argument("--remote", type=int, default=0, help="which of the addresses of a name to use")
    words.add_argument("--ca-file", type=int)
    given = words.parse_args()
    with open(given.config, "rb") as file:
        end_like(asyncio.run(_main(given, file.read())))
