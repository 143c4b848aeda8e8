"""What OpenVPN says on its management socket and in its log, and what we answer.

    lines -> OpenVPNDialogue.receive -> Say (back to the socket) | Connected | Failed

OpenVPN's exit code proves nothing, so everything is read from the STATE lines. Under `--management-hold` it waits for us before each
attempt: we release it only while servers that were not tried yet may be better, never after it was connected and never after a refusal.
The log comes over the socket too (`log on`), in order with the states; what it says before the socket is there comes as OUTPUT.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from types import MappingProxyType

from tunnels.base import Connected, Failed, IPNetwork, Observation, Reason, Say, Source
from tunnels.openvpn_config import quote
from tunnels.words import explanation, table

# A log line that explains a failure by itself, wherever it comes from: pattern, reason, text ({0} is the match). First match wins.
_FATAL = table(
    (r"(?<=Options error: ).*", Reason.CLIENT_CONFIG, "{0}"),
    (r"^(?:Cipher|Message hash algorithm) .* not (?:supported|found).*", Reason.CLIENT_CONFIG, "{0}"),
    (r"ERROR: Cannot ioctl TUNSETIFF .*busy.*", Reason.LOCAL, "{0}"),
    (r"ERROR: Cannot ioctl TUNSETIFF .*not permitted.*", Reason.MISSING_RIGHT, "{0}"),
    (r"ERROR: Cannot open TUN/TAP dev .*", Reason.MISSING_RIGHT, "{0}"),
    (r"cd to '.*' failed: .*", Reason.MISSING_INPUT, "{0}"),
    (r"MANAGEMENT: Socket bind failed .*", Reason.LOCAL, "{0}"),
    (r"sitnl_send: rtnl: generic error \(-1\): Operation not permitted", Reason.MISSING_RIGHT, "{0}"),
    (r"Error: private key password verification failed", Reason.KEY, "the passphrase of the private key is wrong"),
    (r"(?:Cannot|Error) (?:pre-)?(?:load|open|read|pars)\w* .*(?:key|certificate|PKCS|pkcs).*", Reason.KEY, "{0}"),
    (r"VERIFY (?:[A-Z0-9]+ )?ERROR.*", Reason.CERTIFICATE, "the server's certificate is not trusted: {0}"),
)
# A log line that explains what a STATE or FATAL line announces a moment later.
_HINT = table(
    (r"TCP: connect to \[AF_INET6?\](\S+ failed: [^(]*[^( ])", Reason.NETWORK, "{1}"),
    (r"RESOLVE: Cannot resolve host address: (\S+ \([^)]*\))", Reason.DNS, "cannot resolve {1}"),
    (r"WARNING: Your certificate (has expired|is not yet valid)", Reason.CERTIFICATE, "the server did not accept us: our certificate {1}"),
    (r"alert (certificate (?:expired|revoked|unknown)|bad certificate|unknown ca)", Reason.CERTIFICATE, "the server says: {1}"),
)
# The word of a STATE line for EXITING or RECONNECTING, or the words of a FATAL line.
_STATE = table(
    (r"auth-temp-failure", Reason.PEER_CLOSED, "the server cannot serve us for the moment"),
    (r"auth-failure", Reason.AUTH, "the server refused the login"),
    (r"server-pushed-halt", Reason.KICKED, "the server's administrator ended the session for good"),
    (r"server-pushed-connection-reset|remote-exit", Reason.PEER_CLOSED, "the server ended the session"),
    (r"inactive", Reason.PEER_CLOSED, "ended for lack of traffic, as the server or the profile wants it"),
    (r"session-timeout", Reason.PEER_CLOSED, "the longest time of a session is over"),
    (r"ping-(?:exit|restart)", Reason.PEER_TIMEOUT, "the server fell silent"),
    (r"server_poll", Reason.NETWORK, "the server does not answer"),
    (r"connection-failed|network-unreachable", Reason.NETWORK, "the server cannot be reached"),
    (r"no-push-reply", Reason.PEER_TIMEOUT, "the server sends no configuration"),
    (r"proxy", Reason.NETWORK, "the proxy does not connect us"),
    (r"Could not determine IPv4/IPv6 protocol|RESOLVE: Cannot resolve", Reason.DNS, "the server's name cannot be resolved"),
    (r"private-key-password-failure|pkcs11", Reason.KEY, "the private key cannot be used"),
    (r"tls-error|connection-reset", Reason.HANDSHAKE, "the server refused the handshake without a word (certificate, tls key, clock?)"),
    (r"process-push-msg-failed", Reason.CLIENT_CONFIG, "what the server pushed cannot be used"),
)
_RETRYABLE = frozenset({Reason.NETWORK, Reason.DNS, Reason.HANDSHAKE, Reason.PEER_TIMEOUT})    # another server of the profile may do better
_STOPPED = frozenset({"SIGTERM", "SIGINT", "SIGHUP", "exit-with-notification"})                # somebody asked for its end

_LOG_LINE = re.compile(r"(?:>LOG:)?\d+,[IFNWD]*,(.*)")
_STATE_LINE = re.compile(r"(?:>STATE:)?\d+,([A-Z_]{4,}),([^,]*)(?:,([^,]*))?(?:,([^,]*))?.*")
_NEED = re.compile(r">PASSWORD:Need '([^']*)' (\S+)(?: SC:\d+,(.*))?")
_REFUSED = re.compile(r">PASSWORD:Verification Failed: '([^']*)'(?: \['(.*)'\])?")
_TEMPORARY = re.compile(r"TEMP(?:\[[^\]]*\])?(?::(.*))?")
_CHALLENGE = re.compile(r"CRV1:[^:]*:[^:]*:[^:]*:(.*)")
_PUSH = re.compile(r"PUSH: Received control message: '(PUSH_REPLY,.*)'")

Answer = Say | Observation


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are at the far side."""

    username: str | None
    password: str | None


class OpenVPNDialogue:
    """The understanding of one OpenVPN process. Says each failure once and is silent after it."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._routes: tuple[IPNetwork, ...] = ()
        self._hint: Failed | None = None        # what the log said about the attempt that runs
        self._lost: Failed | None = None        # why the last attempt ended, if another may follow
        self._connected = False
        self._failed = False
        self._replies = 0                       # END lines still to come: the histories that we asked for
        self._held = False                      # it waits for our release

    def receive(self, source: Source, line: str) -> Iterator[Answer]:
        """Take one line and give what to answer and what it means."""
        if self._failed:
            return
        for answer in self._understand(source, line):
            yield answer
            if isinstance(answer, Failed):
                self._failed = True
                return

    def answer(self, text: str) -> Iterator[Answer]:
        """Nothing is asked that waits for an answer."""
        return iter(())

    def _understand(self, source: Source, line: str) -> Iterator[Answer]:
        if source is Source.MANAGEMENT:
            yield from self._management(line)
        elif source is Source.OUTPUT and (failed := explanation(_FATAL, line)):
            yield failed

    # --- by kind of line -----------------------------------------------------------------------------------------------------

    def _management(self, line: str) -> Iterator[Answer]:
        if line == "":
            yield from self._attached()
        elif line == "END":
            self._replies -= 1
            yield from self._release()
        elif match := _LOG_LINE.fullmatch(line):
            yield from self._log(match[1])
        elif match := _STATE_LINE.fullmatch(line):
            yield from self._state(*match.groups(default=""))
        else:
            yield from self._notice(line)

    def _attached(self) -> Iterator[Answer]:
        """Ask for the histories too: it may run already, when a restarted daemon finds it again."""
        self._replies = 2
        yield Say("log on all")
        yield Say("state on all")
        yield Say("bytecount 0")

    def _notice(self, line: str) -> Iterator[Answer]:
        if line.startswith(">HOLD:"):
            self._held = True
            yield from self._release()
        elif line.startswith(">FATAL:"):
            yield self._lost or self._explain(line.removeprefix(">FATAL:"))
        elif match := _NEED.fullmatch(line):
            yield from self._need(*match.groups())
        elif match := _REFUSED.fullmatch(line):
            yield _refusal(*match.groups(default=""))

    def _log(self, line: str) -> Iterator[Answer]:
        if match := _PUSH.search(line):
            self._routes += tuple(pushed_routes(match[1]))
        elif failed := explanation(_FATAL, line):
            yield failed
        elif hint := explanation(_HINT, line):
            self._hint = hint

    # --- what they mean ------------------------------------------------------------------------------------------------------

    def _release(self) -> Iterator[Answer]:
        """Let it begin an attempt, once we know its history."""
        if self._held and self._replies <= 0:
            self._held = False
            yield Say("hold release")

    def _state(self, state: str, detail: str, address: str, peer: str) -> Iterator[Answer]:
        if state == "CONNECTED" and detail == "SUCCESS":
            self._connected, self._lost, self._hint = True, None, None
            yield Connected(address or None, peer or None, self._routes)
        elif state == "CONNECTED":
            yield Failed(Reason.LOCAL, f"connected, but could not be set up here ({detail})")
        elif state in ("RECONNECTING", "EXITING"):
            yield from self._attempt_over(state, detail)

    def _attempt_over(self, state: str, detail: str) -> Iterator[Answer]:
        if detail in _STOPPED:
            if self._lost is not None:
                yield self._lost
            return
        failed = self._explain(detail)
        self._hint, self._routes = None, ()
        if state == "EXITING" or self._connected or failed.reason not in _RETRYABLE | {Reason.CERTIFICATE}:
            yield failed
        else:
            self._lost = failed

    def _explain(self, detail: str) -> Failed:
        """The end of an attempt in our words: its hint in the log knows more than its STATE."""
        failed = explanation(_STATE, detail)
        if failed is None:
            return Failed(Reason.EXITED, f"openvpn ended: {detail}")
        if failed.reason is Reason.HANDSHAKE and self._connected:
            return Failed(Reason.PEER_CLOSED, f"the connection to the server broke ({detail})")
        if self._hint is not None and failed.reason in _RETRYABLE:
            return self._hint
        return failed

    def _need(self, what: str, kind: str, challenge: str | None) -> Iterator[Answer]:
        if challenge is not None:
            yield Failed(Reason.AUTH, f"asks for a one-time code: {challenge}")
        elif what == "Private Key":
            yield Failed(Reason.KEY, "the private key is encrypted; give a key without a passphrase, or `askpass FILE` in the profile")
        elif what != "Auth" or kind != "username/password":
            yield Failed(Reason.CLIENT_CONFIG, f"asks for the {kind} of {what!r}, which cannot be given")
        elif self._account.username is None or self._account.password is None:
            yield Failed(Reason.AUTH, "the far side asks for a user name and a password; set login.username and login.password")
        elif not _one_line(self._account.username) or not _one_line(self._account.password):
            yield Failed(Reason.MISSING_INPUT, "login.username or login.password has more than one line")
        else:
            yield Say(f'username "Auth" {quote(self._account.username)}')
            yield Say(f'password "Auth" {quote(self._account.password)}', secret=True)


def _one_line(text: str) -> bool:
    """A line break would be a command of its own."""
    return not set(text) & set("\r\n\0")


def _refusal(what: str, text: str) -> Failed:
    """A login that was not accepted."""
    if challenge := _CHALLENGE.fullmatch(text):
        return Failed(Reason.AUTH, f"asks for a one-time code: {challenge[1]}")
    if temporary := _TEMPORARY.fullmatch(text):
        return Failed(Reason.PEER_CLOSED, f"the server refused us for the moment: {temporary[1] or 'it does not say why'}")
    if what == "Private Key":
        return Failed(Reason.KEY, "the passphrase of the private key is wrong")
    return Failed(Reason.AUTH, text or "the server refused the user name or the password")


# --- what the server pushed -------------------------------------------------------------------------------------------------------


def pushed_routes(reply: str) -> Iterator[IPNetwork]:
    """The networks in a PUSH_REPLY; what is not a plain network (a name, a keyword) is left out."""
    for option in reply.split(","):
        name, _, words = option.strip().partition(" ")
        reader = _ROUTE_OPTIONS.get(name)
        if reader is not None:
            with contextlib.suppress(ValueError):
                yield from reader(words.split())


def _route(words: list[str]) -> Iterator[IPNetwork]:
    if words:
        mask = words[1] if len(words) > 1 and words[1] != "default" else "255.255.255.255"
        yield ip_network(f"{words[0]}/{mask}", strict=False)


def _route6(words: list[str]) -> Iterator[IPNetwork]:
    if words:
        yield ip_network(words[0], strict=False)


def _gateway(flags: list[str]) -> Iterator[IPNetwork]:
    if "!ipv4" not in flags:
        yield ip_network("0.0.0.0/0")
    if "ipv6" in flags:
        yield ip_network("::/0")


_ROUTE_OPTIONS: Mapping[str, Callable[[list[str]], Iterator[IPNetwork]]] = MappingProxyType({
    "route": _route, "route-ipv6": _route6, "redirect-gateway": _gateway,
})
