"""Understands OpenVPN's management socket and log, and controls it.

    lines -> OpenVPNDialogue.receive -> Say (to the socket) | Connected | NextServer | Failed | ...

OpenVPN's exit code proves nothing, so everything is read from the STATE lines. With `--management-hold` it
waits for us before each attempt. It is released while untried servers are left, for the answer to a
challenge, and when we told it to reconnect; never after it was connected and never after a refusal. The log
comes over the socket too (`log on`), in order with the states; what it prints before the socket exists comes
as OUTPUT. A line of the log explains the end of an attempt or of the process; it never is that end: OpenVPN
goes on after many an `Options error` about what was pushed. The protocol: doc/management-notes.txt of
OpenVPN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunnels.base import Connected, Failed, IPNetwork, LineSource, NextServer, Reason, Say, SignOfLife
from tunnels.failure_patterns import explanation, line_explanation, quoting
from tunnels.kinds.openvpn.login import Answer, Credentials, LoginIdentity
from tunnels.kinds.openvpn.patterns import (
    FATAL,
    HINT,
    STATE,
    pushed_limit,
    pushed_mtu,
    pushed_name_servers,
    pushed_ping,
    pushed_routes,
    pushed_user,
)
from tunnels.networks import IPAddress

TUN_MTU = 1500  # bytes: OpenVPN's default
# requests for the server's settings, one each five seconds, before its silence is taken for a wait for
# somebody
PATIENCE = 4
# Asks for its counters. Of these, one counts the bytes of authenticated packets of the server, its pings too.
ASK_COUNTERS = "status 1"
_AUTHENTICATED = "Auth read bytes,"
USUAL_PING_SECONDS = 10  # of a server's `keepalive`, where it is not known
RENEW = "SIGUSR1"  # sent to OpenVPN, and reported by it as the reason why an attempt ended

_UNSEEN = frozenset({Reason.NETWORK, Reason.DNS})  # the server did not see the login
_RETRYABLE = _UNSEEN | {
    Reason.HANDSHAKE,
    Reason.PEER_TIMEOUT,
    Reason.OUR_CERTIFICATE,
    Reason.CERTIFICATE,
    Reason.PROTOCOL,
}  # another server of the profile may do better
# ends without a reason of their own, which a decisive line of the log explains
_UNEXPLAINED = frozenset({Reason.HANDSHAKE, Reason.PROTOCOL, Reason.KEY})
# looks like this when the server waits for somebody in vain
_MUTE = frozenset({Reason.HANDSHAKE, Reason.PEER_TIMEOUT})
_STOPPED = frozenset({"SIGTERM", "SIGINT", "SIGHUP", "exit-with-notification"})  # it was told to end

_LOG_LINE = re.compile(r"(?:>LOG:)?(\d{1,12}),([IFNWD]*),(.*)", re.ASCII)
# Time, state, detail, assigned IPv4 address, server's address and port, our address and port, assigned IPv6
# address (management-notes.txt).
_STATE_LINE = re.compile(
    r"(?:>STATE:)?(\d{1,12}),([A-Z_]{4,}),([^,]*)(?:,([^,]*))?(?:,([^,]*))?(?:,[^,]*){0,3}(?:,([^,]*))?.*",
    re.ASCII,
)
_NEED = re.compile(r">PASSWORD:Need '([^']*)' (\S+)(?: SC:(\d{1,3}),(.*))?", re.ASCII)
_REFUSED = re.compile(r">PASSWORD:Verification Failed: '([^']*)'(?: \['(.*)'\])?")
_AUTH_FAILED = re.compile(r"AUTH: Received control message: AUTH_FAILED,(.*)")
_PUSH = re.compile(r"PUSH: Received control message: '(PUSH_REPLY,.*)'")
_ASKS_FOR_PUSH = re.compile(r"SENT CONTROL \[.*\]: 'PUSH_REQUEST'")
_BEGINS_ANEW = re.compile(r"SIGUSR1\[.*\] received, process restarting")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_TOKEN, _INFO = ">PASSWORD:Auth-Token:", ">INFOMSG:"


@dataclass(slots=True)
class _Pushed:
    """What the server has pushed in the current attempt."""

    routes: tuple[IPNetwork, ...] = ()
    name_servers: tuple[IPAddress, ...] = ()
    limit: int | None = None
    mtu: int | None = None
    user: str | None = None
    ping: int | None = None
    requests: int = 0  # how often OpenVPN has asked for it
    seen: bool = False  # it has pushed something

    def read(self, reply: str) -> None:
        """Take one PUSH_REPLY; there may be several."""
        self.seen = True
        self.routes += tuple(pushed_routes(reply))
        self.name_servers += tuple(pushed_name_servers(reply))
        self.limit = pushed_limit(reply) or self.limit
        self.mtu = pushed_mtu(reply) or self.mtu
        self.user = pushed_user(reply) or self.user
        self.ping = pushed_ping(reply) or self.ping


class OpenVPNDialogue:
    """The dialogue of one OpenVPN process. Reports each failure once and is silent after it."""

    def __init__(
        self,
        account: LoginIdentity,
        limit: int | None = None,
        mtu: int | None = None,
        fixed_mtu: bool = False,
        named: Callable[[str], str] = lambda line: line,
    ) -> None:
        """`limit`: seconds after which the profile itself ends a session. `mtu`: of the interface in bytes;
        `fixed_mtu`: whatever the server pushes. `named` puts the customer's file and line into a message
        about our text of the profile.
        """
        self._login, self._limit, self._mtu, self._fixed_mtu = (
            Credentials(account),
            limit,
            mtu or TUN_MTU,
            fixed_mtu,
        )
        self._named = named
        self._pushed = _Pushed()
        self._hint: Failed | None = None  # what the log said about the attempt that runs
        self._decisive: Failed | None = None  # the same, where the line explains an end by itself
        self._complaint = ""  # its latest line of an error (flags N and F, management-notes.txt)
        self._lost: Failed | None = None  # why the last attempt ended, if another may follow
        self._connected = False
        self._failed = False
        self._replies = 0  # END lines still to come, of the histories that we asked for
        self._latest: tuple[
            Answer, ...
        ] = ()  # what the latest state of the history means: earlier ones are over
        self._held = False  # it waits for `hold release`
        self._now = 0  # Unix time of its latest line
        self._received = 0  # authenticated bytes, when it was last asked

    def receive(self, source: LineSource, line: str) -> Iterator[Answer]:
        """Take one line and return replies and what it means."""
        yield from self._until_failed(self._understand(source, self._named(line)))

    def answer(self, text: str) -> Iterator[Answer]:
        """Take the answer to the latest question, and let OpenVPN go on."""
        yield from self._until_failed(self._login.answer(text))
        yield from self._release()

    def _until_failed(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        while not self._failed and (answer := next(answers, None)) is not None:
            self._failed = isinstance(answer, Failed)
            yield answer

    def _understand(self, source: LineSource, line: str) -> Iterator[Answer]:
        if source is LineSource.MANAGEMENT:
            yield from self._management(line)
        elif source is LineSource.OUTPUT:
            self._note(line)
        elif source is LineSource.END and (failed := self._lost or self._decisive):
            yield failed

    # --- by kind of line
    # -----------------------------------------------------------------------------------------------------

    def _management(self, line: str) -> Iterator[Answer]:
        if line == "":
            yield from self._attached()
        elif line == "END":
            yield from self._end_of_history() if self._replies > 0 else ()
        elif line.startswith(_AUTHENTICATED):
            yield from self._counted(line.removeprefix(_AUTHENTICATED))
        elif match := _LOG_LINE.fullmatch(line):
            self._now = int(match[1])
            self._complain(match[2], match[3])
            yield from self._log(match[3])
        elif match := _STATE_LINE.fullmatch(line):
            yield from self._remember(self._state(*match.groups(default="")))
        else:
            yield from self._notice(line)

    def _attached(self) -> Iterator[Answer]:
        """Ask for the histories too: after a restart of the daemon OpenVPN runs already."""
        self._replies = 2
        yield Say("log on all")
        yield Say("state on all")
        yield Say("bytecount 0")

    def _remember(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        """Of a history only the end counts."""
        if self._replies > 0:
            self._latest = tuple(answers)
        else:
            yield from answers

    def _end_of_history(self) -> Iterator[Answer]:
        self._replies -= 1
        latest, self._latest = self._latest, ()
        yield from latest
        yield from self._release()

    def _counted(self, octets: str) -> Iterator[Answer]:
        """A server that pushes no ping sends most likely none."""
        if not _NUMBER.fullmatch(octets):
            return
        before, self._received = self._received, int(octets)
        known = self._pushed.ping if self._pushed.seen else USUAL_PING_SECONDS
        yield SignOfLife(self._received > before, float(known or 0))

    def _notice(self, line: str) -> Iterator[Answer]:
        if line.startswith(">HOLD:"):
            self._held = True
            yield from self._release()
        elif line.startswith(">FATAL:"):
            yield self._lost or self._explain(line.removeprefix(">FATAL:"))
        elif line.startswith(_TOKEN):
            yield from self._login.token(line.removeprefix(_TOKEN), self._pushed.user)
        elif line.startswith(_INFO) and not self._connected:
            yield from self._login.pending(line.removeprefix(_INFO))
        elif match := _NEED.fullmatch(line):
            yield from self._login.need(match[1], match[2], int(match[3] or 0), match[4])
        elif match := _REFUSED.fullmatch(line):
            yield from self._refused(*match.groups(default=""))

    def _refused(self, what: str, text: str) -> Iterator[Answer]:
        if not self._login.challenged(text):
            yield from self._login.refused(what, text)

    def _log(self, line: str) -> Iterator[Answer]:
        if match := _PUSH.search(line):
            self._pushed.read(match[1])
        elif match := _AUTH_FAILED.fullmatch(line):
            self._login.challenged(match[1])
        elif _BEGINS_ANEW.fullmatch(line):
            self._pushed = _Pushed()
        elif _ASKS_FOR_PUSH.search(line):
            yield from self._asks_again()
        else:
            self._note(line)

    def _note(self, line: str) -> None:
        """Remember what a line of the log explains; of the decisive ones the first counts."""
        self._decisive = self._decisive or line_explanation(FATAL, line)
        self._hint = line_explanation(HINT, line) or self._hint

    def _complain(self, flags: str, line: str) -> None:
        """Remember it if it is about an error."""
        if "N" in flags or "F" in flags:
            self._complaint = line

    # --- what they mean
    # ------------------------------------------------------------------------------------------------------

    def _release(self) -> Iterator[Answer]:
        """Release the next attempt, once its history and the answer to its question are known."""
        if self._held and self._replies <= 0 and not self._login.waits and not self._failed:
            self._held = False
            yield Say("hold release")

    def _asks_again(self) -> Iterator[Answer]:
        """A server that has decided about our login pushes at once."""
        self._pushed.requests += 1
        if self._pushed.requests == PATIENCE and not self._connected and self._replies <= 0:
            yield from self._login.undecided()

    def _state(
        self, when: str, state: str, detail: str, address: str, peer: str, address6: str
    ) -> Iterator[Answer]:
        if state == "CONNECTED" and detail == "SUCCESS":
            self._connected, self._lost = True, None
            self._forget()
            self._login.accepted()
            yield Connected(
                address or None,
                peer or None,
                self._pushed.routes,
                self._lasts(int(when)),
                address6=address6 or None,
                mtu=self._link_mtu(),
                name_servers=self._pushed.name_servers,
            )
        elif state == "CONNECTED":
            yield Failed(Reason.LOCAL, f"connected, but could not be set up here ({detail})")
        elif state in ("RECONNECTING", "EXITING"):
            yield from self._attempt_over(state, detail)

    def _link_mtu(self) -> int | None:
        """Bytes: what OpenVPN itself would give the interface; None: it runs already, and its log no
        longer has what was pushed.
        """
        if self._fixed_mtu:
            return self._mtu
        return None if self._replies > 0 and not self._pushed.seen else self._pushed.mtu or self._mtu

    def _lasts(self, since: int) -> float | None:
        """What is left of the session, which may have begun before we were attached."""
        limit = self._pushed.limit or self._limit
        return None if limit is None else max(1.0, float(limit - max(0, self._now - since)))

    def _attempt_over(self, state: str, detail: str) -> Iterator[Answer]:
        if detail in _STOPPED:
            if self._lost is not None:
                yield self._lost
            return
        failed = self._explain(detail)
        question = (
            self._login.ask_challenge()
            if detail.startswith("auth-failure") and state == "RECONNECTING"
            else None
        )
        retryable = failed.reason in (_UNSEEN if self._login.spent else _RETRYABLE) and not self._connected
        self._forget()
        if question is not None or detail == RENEW:
            self._connected, self._lost = False, None
            yield from question or ()
        elif state == "EXITING" or not retryable:
            yield failed
        else:
            self._lost = failed
            if failed.reason in _UNSEEN:
                self._login.unused()
            yield NextServer()

    def _forget(self) -> None:
        """What the log said about the attempt that is over."""
        self._hint = self._decisive = None
        self._complaint = ""

    def _explain(self, detail: str) -> Failed:
        """The end of an attempt in our words: its hint in the log knows more than its STATE."""
        failed = explanation(STATE, detail)
        if failed is None:
            return self._decisive or Failed(Reason.EXITED, f"openvpn ended: {detail}")
        if self._decisive is not None and failed.reason in _UNEXPLAINED:
            return _because(failed, self._decisive)
        if failed.reason is Reason.HANDSHAKE and self._connected:
            return Failed(Reason.PEER_CLOSED, f"the connection to the server broke ({detail})")
        if self._hint is not None and failed.reason in _RETRYABLE:
            return self._hint
        if self._login.unanswered is not None and failed.reason in _MUTE:
            return Failed(
                Reason.CHALLENGE, f"nobody did in time what the server asks for: {self._login.unanswered}"
            )
        return Failed(failed.reason, quoting(failed.text, self._complaint))


def _because(failed: Failed, decisive: Failed) -> Failed:
    """The end of an attempt with the line of the log that explains it. What a server pushed is never a fault
    of our configuration.
    """
    if failed.reason is Reason.PROTOCOL:
        return Failed(failed.reason, f"{failed.text}: {decisive.text}")
    return decisive
