"""Drives openconnect: one login for a cookie, then the session with that cookie, then whatever becomes of it.

    python -I -m tunnels.kinds.openconnect.driver --server HOST[:PORT] --protocol NAME --device NAME [--user
    NAME] [--kept FD] ...

    openconnect --authenticate     its prompts -> forms.Interview -> Talk.ask -> its stdin;  COOKIE=... ->
    Talk.keep
    openconnect --cookie-on-stdin  its script -> script.Script -> the device is up -> Talk.connected

Its lines go to our output unchanged, except for the cookie. What only the course of events tells is added as
a line of our own (`facilitator: ...`), so that the failure table of the kind reads everything in one order.
SIGTERM parks the session: the cookie stays good for the next start (SIGHUP of openconnect); after the
daemon's word `leave` it logs off (BYE), and the cookie is worthless.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import sys
import time
from asyncio import StreamReader
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tunnels.drivers.channel import Talk, assigned
from tunnels.drivers.cli import end_like
from tunnels.drivers.netlink import bring_up
from tunnels.drivers.vpnc_script import COMMAND, Call, Script
from tunnels.kinds.openconnect.forms import FormPrompt, Interview, Wish

QUIET = 0.05  # seconds after which text without an end of line is a prompt
GRACE = 3.0  # seconds that openconnect gets to end; in a handshake with a mute server it hears no signal
MEANT = 0.05  # seconds after SIGTERM in which the daemon's word about it may still come
# seconds of silence before the far side is asked whether it lives; a dead one is noticed after about two of
# them
DPD = 4
SHUT_WITHIN = 1.0  # seconds in which a server that shuts us out hangs up
NEAR_END = 15.0  # seconds around the announced end of a session in which its end is no surprise
_PARTS = ("COOKIE", "HOST", "CONNECT_URL", "FINGERPRINT", "RESOLVE")
REFUSED = 2  # openconnect's exit code when its cookie is not taken
# a shell runs it; nothing else needs anything done
SCRIPT = f"case $reason in connect|reconnect) exec {COMMAND};; esac"
_PR_SET_PDEATHSIG = 1

_REACHED = re.compile(r"Connected to (\S+):(\d+)$")
_SECURED = re.compile(r"Connected to HTTPS on ")
_BROKEN = re.compile(
    r"Error (?:reading|fetching) HTTP|Failed to (?:read from|write to) TLS|SSL (?:connection "
    r"failure|(?:read|write) error)"
    r"|Failed to open HTTPS"
)
_EXPIRED = re.compile(r"Client certificate has expired at: (.*)")
_DISMISSED = re.compile(
    r"(?:Received server disconnect|received server terminate|Session terminated by server)(?:.*'(.+)')?"
)

Ticket = Mapping[str, str]  # what a login gave: _PARTS that are there, by name


def main(arguments: Sequence[str]) -> None:
    """Run until the session is over, and end as openconnect did."""
    end_like(asyncio.run(OpenconnectSession(_options(arguments)).run()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="HOST[:PORT]")
    parser.add_argument("--protocol", required=True, help="as openconnect names it")
    parser.add_argument("--device", required=True, help="name of the network device to make")
    parser.add_argument("--talk", type=int, required=True, help="descriptor of the key that the daemon shows")
    parser.add_argument("--user", help="account name")
    parser.add_argument("--group", help="what to choose where the server offers several groups")
    parser.add_argument("--pin", help="the server's key, as openconnect's --servercert wants it")
    parser.add_argument("--certificate", type=int, help="descriptor of our certificate")
    parser.add_argument("--key", type=int, help="descriptor of its private key")
    parser.add_argument("--kept", type=int, help="descriptor of what an earlier session has kept")
    parser.add_argument("--mtu", type=int, help="largest packet in bytes; without it, as the server says")
    parser.add_argument(
        "--append-code", action="store_true", help="the one-time code follows the password in its field"
    )
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(f"facilitator: {text}", flush=True)


class OpenconnectSession:
    """One login and one session, or only the session where a cookie was kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._talk = Talk(options.talk, self._renew, self._leave)
        self._script = Script(self._called)
        self._interview = Interview(options.append_code)
        self._client: Process | None = None
        self._asked_secret = False  # the far side was told a password or a code
        self._up_since: float | None = None
        self._lasts: float | None = None
        self._reached: tuple[str, int] | None = None  # the address that answered last
        self._secured = False  # it has shown its certificate
        self._broken = False  # the connection to it broke
        self._expired = ""  # when our certificate has
        self._farewell: str | None = None  # it has ended the session, with these words
        self._ending = self._leaving = False
        self._stopped = False  # openconnect ended because we told it to

    async def run(self) -> int:
        """The exit code of openconnect; negative: the signal that ended it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        await self._script.listen()
        await self._talk.listen()
        ticket = self._kept()
        resumed = ticket is not None
        if ticket is None:
            code, ticket = await self._authenticate()
            if ticket is None:
                await self._conclude_login(code)
                return code or 1
        self._talk.keep(json.dumps(ticket))
        if self._ending:
            return 0
        code = await self._connect(ticket)
        await self._conclude_session(code, resumed)
        return code

    def _kept(self) -> Ticket | None:
        if self._options.kept is None:
            return None
        try:
            kept = json.loads(Path(f"/proc/self/fd/{self._options.kept}").read_bytes())
            return {name: str(kept[name]) for name in _PARTS if name in kept} if "COOKIE" in kept else None
        except (OSError, ValueError, TypeError):
            return None

    # --- the two steps
    # ------------------------------------------------------------------------------------------------------

    async def _authenticate(self) -> tuple[int, Ticket | None]:
        """Log in: (exit code, what the server gave)."""
        optional = {
            "--user": self._options.user,
            "--authgroup": self._options.group,
            "--servercert": self._options.pin,
        }
        words = [word for name, value in optional.items() if value is not None for word in (name, value)]
        client = await self._spawn("--authenticate", *words, self._options.server, stdout=PIPE, stderr=PIPE)
        assert client.stdout is not None
        assert client.stderr is not None
        ticket, _ = await asyncio.gather(_read_ticket(client.stdout), self._converse(client, client.stderr))
        code = await client.wait()
        return code, ticket if code == 0 and "COOKIE" in ticket else None

    async def _connect(self, ticket: Ticket) -> int:
        """Run the session to its end; the exit code."""
        pin = self._options.pin or ticket.get("FINGERPRINT")
        client = await self._spawn(
            "--cookie-on-stdin",
            "--interface",
            self._options.device,
            "--script",
            SCRIPT,
            # one try in place; how often and how long to try again is the daemon's business
            "--reconnect-timeout",
            "0",
            "--force-dpd",
            str(DPD),
            *(("--servercert", pin) if pin else ()),
            *(("--resolve", ticket["RESOLVE"]) if ticket.get("RESOLVE") else ()),
            ticket.get("CONNECT_URL") or ticket.get("HOST") or self._options.server,
            stdout=PIPE,
            stderr=STDOUT,
        )
        assert client.stdout is not None
        _write(client, ticket["COOKIE"])
        async for line, _ in _lines(client.stdout):
            self._heard(line)
        return await client.wait()

    async def _spawn(self, *words: str, stdout: int, stderr: int) -> Process:
        """Start openconnect in a process group of its own: a signal to ours must not make it log off. It
        never outlives us.
        """
        keys = {"--certificate": self._options.certificate, "--sslkey": self._options.key}
        mine = {name: fd for name, fd in keys.items() if fd is not None}
        self._client = await asyncio.create_subprocess_exec(
            "openconnect",
            f"--protocol={self._options.protocol}",
            *(word for name, fd in mine.items() for word in (name, f"/proc/self/fd/{fd}")),
            *words,
            stdin=PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(mine.values()),
            preexec_fn=_in_own_group,
        )
        if self._ending:
            self._stop(self._client)
        return self._client

    def _heard(self, line: str) -> None:
        """A line of openconnect, for everybody; what tells how far it got is remembered."""
        print(line, flush=True)
        self._interview.hear(line)
        if match := _REACHED.search(line):
            self._reached, self._secured = (match[1].strip("[]"), int(match[2])), False
        elif match := _DISMISSED.match(line):
            self._farewell = self._farewell or match[1] or ""
        elif match := _EXPIRED.match(line):
            self._expired = match[1]
        self._secured = self._secured or _SECURED.match(line) is not None
        self._broken = self._broken or _BROKEN.match(line) is not None

    # --- the login's questions
    # -----------------------------------------------------------------------------------------------------

    async def _converse(self, client: Process, stderr: StreamReader) -> None:
        async for text, whole in _lines(stderr):
            if whole:
                self._heard(text)
            else:
                print(text, flush=True)
                await self._answer(client, self._interview.wanted(text))

    async def _answer(self, client: Process, question: FormPrompt) -> None:
        """Answer a prompt; one that cannot be answered ends the login."""
        match question.wish:
            case Wish.REFUSED:
                _say(f"the login was refused: {question.text}")
            case Wish.TRUST:
                _say("the server's certificate is not trusted")
            case Wish.PASSPHRASE:
                _say("the private key needs a passphrase")
            case _:
                answer = await self._unless_ended(client, question)
                if answer is not None:
                    _write(client, answer, close=False)
                    return
        _kill(client)

    async def _unless_ended(self, client: Process, question: FormPrompt) -> str | None:
        """The answer; None when openconnect has ended before, or was told to."""
        asking = asyncio.ensure_future(self._told(question))
        ended = asyncio.ensure_future(client.wait())
        await asyncio.wait((asking, ended), return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            ended.cancel()
            return asking.result()
        asking.cancel()
        return None

    async def _told(self, question: FormPrompt) -> str:
        answer = await self._talk.ask(question.wish.value, question.text)
        if question.wish is Wish.PASSWORD and self._options.append_code:
            answer += await self._talk.ask(Wish.CODE.value, question.text)
        self._asked_secret = self._asked_secret or question.wish in (Wish.PASSWORD, Wish.CODE)
        return answer

    # --- the session's events
    # ------------------------------------------------------------------------------------------------------

    def _called(self, call: Call) -> None:
        """Our script: the interface is up before openconnect passes the first packet."""
        bring_up(self._options.device, self._options.mtu or call.mtu)
        self._up_since, self._lasts = time.monotonic(), call.lasts
        self._talk.connected(
            **assigned(call.addresses), peer=call.gateway, routes=list(call.routes), lasts=call.lasts
        )

    def _renew(self) -> None:
        if self._client is not None and self._client.returncode is None and self._up_since is not None:
            self._client.send_signal(signal.SIGUSR2)

    def _leave(self) -> None:
        """The tunnel is not wanted any more."""
        self._leaving = True

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            if self._client is not None:
                asyncio.get_running_loop().call_later(MEANT, self._stop, self._client)

    def _stop(self, client: Process) -> None:
        if client.returncode is None:
            self._stopped = True
            client.send_signal(signal.SIGTERM if self._leaving or self._up_since is None else signal.SIGHUP)
            asyncio.get_running_loop().call_later(GRACE, _kill, client)

    # --- why it ended
    # ------------------------------------------------------------------------------------------------------

    async def _conclude_login(self, code: int) -> None:
        """Say what openconnect's own words leave open. Whatever it said itself has been read before."""
        if self._stopped or code < 0:
            return
        if self._asked_secret:
            _say("the connection broke during the login" if self._broken else "the login was refused")
        elif self._reached is not None:
            await self._conclude_handshake()

    async def _conclude_session(self, code: int, resumed: bool) -> None:
        worthless = self._leaving or self._farewell is not None or code == REFUSED
        if worthless:
            self._talk.keep("")
        if self._stopped or code < 0:
            return
        if code == REFUSED:
            known = resumed or self._up_since is not None
            _say(
                "the server no longer takes this session"
                if known
                else "the server takes no further session of this account"
            )
        elif self._up_since is None:
            await self._conclude_handshake()
        elif self._farewell is None:
            _say("the connection to the server broke")
        elif self._over():
            _say("the session has lasted as long as the server lets it")
        else:
            _say(f"the server ended the session{self._farewell and ': '}{self._farewell}")

    def _over(self) -> bool:
        return (
            self._lasts is not None
            and self._up_since is not None
            and time.monotonic() - self._up_since >= self._lasts - NEAR_END
        )

    async def _conclude_handshake(self) -> None:
        """The server answered, and then would not have us."""
        if self._reached is not None and await _shut_out(*self._reached):
            _say("the server hangs up before a word is said")
        elif not self._secured:
            _say("the TLS handshake failed")
        elif self._expired:
            _say(f"our certificate has expired at {self._expired}, and the server ended the connection")
        elif self._options.certificate is None:
            _say("the server ended the connection after the handshake; it may want a certificate")
        else:
            _say("the server ended the connection after the handshake; it may not accept our certificate")


# --- the process
# ----------------------------------------------------------------------------------------------------------


def _in_own_group() -> None:
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _kill(client: Process) -> None:
    if client.returncode is None:
        client.kill()


def _write(client: Process, line: str, *, close: bool = True) -> None:
    assert client.stdin is not None
    with contextlib.suppress(ConnectionError):
        client.stdin.write(line.replace("\n", " ").encode() + b"\n")
        if close:
            client.stdin.close()


async def _lines(stream: StreamReader) -> AsyncIterator[tuple[str, bool]]:
    """What a stream says: (line, True), or (text, False) when it stays without an end for a while, which
    is a prompt.
    """
    pending = ""
    while True:
        try:
            data = await asyncio.wait_for(stream.read(1 << 14), QUIET if pending else None)
        except TimeoutError:
            yield pending, False
            pending = ""
            continue
        *whole, pending = (pending + data.decode(errors="replace").replace("\0", "")).split("\n")
        for line in whole:
            if line.strip():
                yield line.rstrip("\r"), True
        if not data:
            if pending:
                yield pending, True
            return


async def _read_ticket(stream: StreamReader) -> dict[str, str]:
    """The shell variables that a login prints. They hold the cookie, so nobody else sees them."""
    ticket = {}
    for line in (await stream.read()).decode(errors="replace").splitlines():
        name, separator, value = line.partition("=")
        if separator and name in _PARTS:
            with contextlib.suppress(ValueError):
                ticket[name] = "".join(shlex.split(value))
    return ticket


async def _shut_out(host: str, port: int) -> bool:
    """Does the server hang up on us before we say a word? Any other TLS server waits for ours."""
    try:
        async with asyncio.timeout(SHUT_WITHIN):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await reader.read(1) == b""
            finally:
                writer.close()
    except ConnectionResetError:
        return True
    except (OSError, TimeoutError):
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
