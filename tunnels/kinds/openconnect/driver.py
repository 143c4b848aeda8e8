"""Drives openconnect: one login for a cookie, then the session with that cookie, then the explanation of its
end.

    python -I -m tunnels.kinds.openconnect.driver --server HOST[:PORT] --protocol NAME --device NAME
        [--user NAME] [--kept FD] ...

    openconnect --authenticate     prompts -> forms.Interview -> DaemonChannel.ask -> its stdin
                                   COOKIE=... -> DaemonChannel.keep
    openconnect --cookie-on-stdin  its script -> Script -> the interface is up -> DaemonChannel.connected

openconnect's lines go to our output unchanged, except for the cookie. Explanations of ours are lines with the
prefix `facilitator: `, so that the failure table of the kind reads everything in one order. SIGTERM ends
openconnect without a logout, so that the cookie stays valid for the next start (SIGHUP of openconnect); after
the daemon's `leave` it logs out (BYE), and the cookie is worthless.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from asyncio import StreamReader
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunnels.drivers.channel import DaemonChannel, assigned
from tunnels.drivers.cli import end_like, say
from tunnels.drivers.netlink import bring_up
from tunnels.drivers.reachable import reachable
from tunnels.drivers.vpnc_script import COMMAND, Call, Script
from tunnels.kinds.openconnect import browser
from tunnels.kinds.openconnect.client_process import (
    TICKET_PARTS,
    hangs_up,
    host_and_port,
    in_own_group,
    is_address,
    kill,
    lines_and_prompts,
    read_ticket,
    write_line,
)
from tunnels.kinds.openconnect.forms import FormPrompt, Interview, Wish
from tunnels.kinds.openconnect.progress import REFUSED_CODE, Progress, cookie_refused

STOP_SECONDS = 3.0  # from a signal to SIGKILL; in a handshake with a mute server openconnect ignores signals
LEAVE_SECONDS = 0.05  # after SIGTERM in which the daemon's `leave` may still arrive
# for a connection to be accepted: the kernel repeats its SYN after 1 and 3 s, then after pauses that double,
# while the daemon sees at once that a server answers again
CONTACT_SECONDS = 4.0
NAME_SECONDS = (
    12.0  # the same where openconnect asks for the addresses of a name itself (resolv.conf(5): 10 s)
)
BROWSER = "/bin/echo"  # openconnect runs it with the address to open
KEPT_SECONDS = 3.0  # for the address of the login to accept a connection, before the name is asked again
# run by a shell; the other reasons need no action
SCRIPT = f"case $reason in connect|reconnect) exec {COMMAND};; esac"

Ticket = Mapping[str, str]  # what a login gave: those of TICKET_PARTS that it printed


def main(arguments: Sequence[str]) -> None:
    """Run until the session is over, and end with openconnect's exit status."""
    end_like(asyncio.run(OpenconnectSession(_options(arguments)).run()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="HOST[:PORT]")
    parser.add_argument("--protocol", required=True, help="as openconnect names it")
    parser.add_argument("--device", required=True, help="name of the interface to create")
    parser.add_argument("--talk", type=int, required=True, help="descriptor of the key that the daemon shows")
    parser.add_argument(
        "--dpd", type=int, required=True, help="seconds of silence after which the server is asked"
    )
    parser.add_argument("--user", help="account name")
    parser.add_argument("--group", help="group to choose if the server offers several")
    parser.add_argument("--usergroup", help="the path of the server's address")
    parser.add_argument("--useragent", help="User-Agent")
    parser.add_argument("--os", help="the operating system to report, as openconnect names it")
    parser.add_argument("--pin", help="the server's key, as openconnect's --servercert wants it")
    parser.add_argument("--certificate", type=int, help="descriptor of our certificate")
    parser.add_argument("--key", type=int, help="descriptor of its private key")
    parser.add_argument("--kept", type=int, help="descriptor of what an earlier session has kept")
    parser.add_argument("--mtu", type=int, help="largest packet in bytes; without it, as the server says")
    parser.add_argument(
        "--append-code", action="store_true", help="the one-time password follows the password in its field"
    )
    return parser.parse_args(arguments)


class OpenconnectSession:
    """One login and one session, or only the session if a cookie was kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._talk = DaemonChannel(options.talk, self._renew, self._leave)
        self._script = Script(self._called)
        self._interview = Interview(options.append_code)
        self._client: Process | None = None
        self._browsing: asyncio.Future[None] | None = None  # a person logs in with a browser
        self._sent_secret = False  # a password or code was sent to the server
        self._up_since: float | None = None  # monotonic seconds
        self._lasts: float | None = None  # seconds from then, as the server announced
        self._progress = Progress()
        self._ending = self._leaving = False
        self._unreachable = False  # no address of the server's name accepts a connection
        self._stopped = False  # openconnect got a signal from us
        self._contact: asyncio.TimerHandle | None = None  # when openconnect is ended unless it has contact
        self._silent = False  # it was

    async def run(self) -> int:
        """Returns the exit code of openconnect; negative: the signal that ended it."""
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
        await self._conclude_session(code, ticket if resumed else {})
        return code

    def _kept(self) -> Ticket | None:
        if self._options.kept is None:
            return None
        try:
            kept = json.loads(Path(f"/proc/self/fd/{self._options.kept}").read_bytes())
            return (
                {name: str(kept[name]) for name in TICKET_PARTS if name in kept} if "COOKIE" in kept else None
            )
        except (OSError, ValueError, TypeError):
            return None

    # --- the two steps
    # ------------------------------------------------------------------------------------------------------

    async def _authenticate(self) -> tuple[int, Ticket | None]:
        """Log in: (exit code, what the server gave; None: the login failed)."""
        optional = {
            "--user": self._options.user,
            "--authgroup": self._options.group,
            "--usergroup": self._options.usergroup,
            # only SAML: the "browser" prints the address at which a person has to log in
            "--external-browser": BROWSER if self._options.protocol == "anyconnect" else None,
            "--servercert": self._options.pin,
        }
        words = [word for name, value in optional.items() if value is not None for word in (name, value)]
        here = await self._resolve(self._options.server)
        client = await self._spawn(
            "--authenticate", *here, *words, self._options.server, stdout=PIPE, stderr=PIPE
        )
        assert client.stdout is not None
        assert client.stderr is not None
        ticket, _ = await asyncio.gather(
            read_ticket(client.stdout, lambda line: self._browse(client, line)),
            self._converse(client, client.stderr),
        )
        code = await client.wait()
        return code, ticket if code == 0 and "COOKIE" in ticket else None

    async def _connect(self, ticket: Ticket) -> int:
        """Run the session to its end; returns the exit code."""
        pin = self._options.pin or ticket.get("FINGERPRINT")
        url = _url(ticket) or self._options.server
        here = await self._resolve(url, ticket.get("RESOLVE", ""))
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
            str(self._options.dpd),
            *(("--servercert", pin) if pin else ()),
            *here,
            url,
            stdout=PIPE,
            stderr=STDOUT,
        )
        assert client.stdout is not None
        write_line(client, ticket["COOKIE"])
        async for line, _ in lines_and_prompts(client.stdout):
            self._heard(line)
        return await client.wait()

    async def _resolve(self, url: str, kept: str = "") -> tuple[str, ...]:
        """The option that names the address to use: the one of the login (`kept`, HOST:ADDRESS) while it
        answers, else one that the name has now. openconnect itself waits minutes for a silent one.
        """
        host, port = host_and_port(url)
        if is_address(host):
            return ()
        _, _, before = kept.partition(":")
        if before and await reachable(before, port, KEPT_SECONDS) is not None:
            return "--resolve", kept
        address = await reachable(host, port)
        self._unreachable = address is None
        return () if address is None else ("--resolve", f"{host}:{address}")

    async def _spawn(self, *words: str, stdout: int, stderr: int) -> Process:
        """Start openconnect in a process group of its own: a signal to ours must not make it log off. It
        never outlives us.
        """
        keys = {"--certificate": self._options.certificate, "--sslkey": self._options.key}
        posing = {"--useragent": self._options.useragent, "--os": self._options.os}
        mine = {name: fd for name, fd in keys.items() if fd is not None}
        self._client = await asyncio.create_subprocess_exec(
            "openconnect",
            f"--protocol={self._options.protocol}",
            *(word for name, fd in mine.items() for word in (name, f"/proc/self/fd/{fd}")),
            *(f"{name}={value}" for name, value in posing.items() if value is not None),
            *words,
            stdin=PIPE,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(mine.values()),
            preexec_fn=in_own_group,
        )
        if self._ending:
            self._stop(self._client)
        self._progress.contact = False
        self._watch_contact()
        return self._client

    def _heard(self, line: str) -> None:
        """Pass on a line of openconnect, and note what it shows about the progress."""
        print(line, flush=True)
        self._interview.hear(line)
        self._progress.see(line)
        self._watch_contact()

    def _watch_contact(self) -> None:
        """End an openconnect whose connection nobody accepts. Its cookie stays valid."""
        if self._progress.contact and self._contact is not None:
            self._contact.cancel()
            self._contact = None
        elif not self._progress.contact and self._contact is None:
            seconds = NAME_SECONDS if self._unreachable else CONTACT_SECONDS
            self._contact = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if self._client is not None and self._client.returncode is None:
            self._silent = True
            kill(self._client)

    # --- the login's questions
    # -----------------------------------------------------------------------------------------------------

    async def _converse(self, client: Process, stderr: StreamReader) -> None:
        async for text, whole in lines_and_prompts(stderr):
            if whole and browser.is_address(text):  # since openconnect 9.10
                self._browse(client, text)
            elif whole:
                self._heard(text)
            else:
                print(text, flush=True)
                await self._answer(client, self._interview.wanted(text))

    def _browse(self, client: Process, line: str) -> None:
        """Take a line that is none of openconnect's: its "browser" prints the address of a login (SAML)."""
        if browser.is_address(line) and self._browsing is None:
            self._browsing = asyncio.ensure_future(self._log_in_by_browser(client, line.strip()))

    async def _log_in_by_browser(self, client: Process, address: str) -> None:
        """Let a person log in there, and give openconnect the address at which the browser ends."""
        question = FormPrompt(Wish.TEXT, browser.question(address))
        while (answer := await self._unless_ended(client, question)) is not None:
            path = browser.path_of(answer)
            if path is not None and await browser.deliver(path):
                return
            question = FormPrompt(Wish.TEXT, browser.question(address, again=True))

    async def _answer(self, client: Process, question: FormPrompt) -> None:
        """Answer a prompt; one that cannot be answered ends the login."""
        match question.wish:
            case Wish.REFUSED:
                say(f"the login was refused: {question.text}")
            case Wish.TRUST:
                say("the server's certificate is not trusted")
            case Wish.PASSPHRASE:
                say("the private key needs a passphrase")
            case _:
                answer = await self._unless_ended(client, question)
                if answer is not None:
                    write_line(client, answer, close=False)
                    return
        kill(client)

    async def _unless_ended(self, client: Process, question: FormPrompt) -> str | None:
        """The answer; None if openconnect ended before it came."""
        asking = asyncio.ensure_future(self._ask(question))
        ended = asyncio.ensure_future(client.wait())
        await asyncio.wait((asking, ended), return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            ended.cancel()
            return asking.result()
        asking.cancel()
        return None

    async def _ask(self, question: FormPrompt) -> str:
        answer = await self._talk.ask(question.wish.value, question.text)
        if question.wish is Wish.PASSWORD and self._options.append_code:
            answer += await self._talk.ask(Wish.CODE.value, question.text)
        self._sent_secret = self._sent_secret or question.wish in (Wish.PASSWORD, Wish.CODE)
        return answer

    # --- the session's events
    # ------------------------------------------------------------------------------------------------------

    def _called(self, call: Call) -> None:
        """Our script was run: bring the interface up before openconnect passes the first packet."""
        mtu = bring_up(self._options.device, self._options.mtu or call.mtu)
        self._up_since, self._lasts = time.monotonic(), call.lasts
        self._talk.connected(
            **assigned(call.addresses), peer=call.gateway, routes=list(call.routes), lasts=call.lasts, mtu=mtu
        )

    def _renew(self) -> None:
        if self._client is not None and self._client.returncode is None and self._up_since is not None:
            self._client.send_signal(signal.SIGUSR2)
            self._progress.contact = False
            self._watch_contact()

    def _leave(self) -> None:
        """No other session continues this one: log out."""
        self._leaving = True

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            if self._client is not None:
                asyncio.get_running_loop().call_later(LEAVE_SECONDS, self._stop, self._client)

    def _stop(self, client: Process) -> None:
        if client.returncode is None:
            self._stopped = True
            client.send_signal(signal.SIGTERM if self._leaving or self._up_since is None else signal.SIGHUP)
            asyncio.get_running_loop().call_later(STOP_SECONDS, kill, client)

    # --- why it ended
    # ------------------------------------------------------------------------------------------------------

    async def _conclude_login(self, code: int) -> None:
        """Print what openconnect's own lines, which came before, leave open."""
        if self._silent:
            self._say_silent()
        elif self._stopped or code < 0:
            return
        elif self._sent_secret:
            say(self._progress.login_failure())
        elif self._progress.reached is not None:
            await self._conclude_handshake()

    async def _conclude_session(self, code: int, kept: Ticket) -> None:
        """`kept`: of an earlier login; empty: this one logged in."""
        other_key = self._progress.other_key and self._options.pin is None
        over = self._leaving or self._progress.farewell is not None or code == REFUSED_CODE
        if over or other_key or (self._unreachable and self._is_elsewhere(kept)):
            self._talk.keep("")  # the cookie is worthless now
        if other_key:
            self._talk.failed("session-expired", "the server has another key than at the login")
        elif self._silent:
            self._say_silent()
        elif self._stopped or code < 0:
            return
        elif code == REFUSED_CODE:
            say(cookie_refused(bool(kept) or self._up_since is not None))
        elif self._up_since is None:
            await self._conclude_handshake()
        else:
            say(self._progress.session_end(time.monotonic() - self._up_since, self._lasts))

    def _say_silent(self) -> None:
        self._talk.failed("network", "the server does not answer")

    def _is_elsewhere(self, kept: Ticket) -> bool:
        """The login led to another host than the configured one, which may know a third one by now."""
        return bool(kept) and host_and_port(_url(kept))[0] != host_and_port(self._options.server)[0]

    async def _conclude_handshake(self) -> None:
        reached = self._progress.reached
        hung_up = reached is not None and await hangs_up(*reached)
        say(self._progress.handshake_failure(hung_up, self._options.certificate is not None))


def _url(ticket: Ticket) -> str:
    """Where the login led to; empty: it did not say."""
    return ticket.get("CONNECT_URL") or ticket.get("HOST") or ""


if __name__ == "__main__":
    main(sys.argv[1:])
