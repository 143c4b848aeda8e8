"""OpenVPN's messages about failures, and what a server says in its PUSH_REPLY: the tables for
tunnels.kinds.openvpn.management.

    a line of the log, the word of a STATE, the text of a refusal -> explanation(table, text) -> Failed
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from types import MappingProxyType

from tunnels.base import Failed, IPNetwork, Reason
from tunnels.failure_patterns import explanation, table
from tunnels.networks import IPAddress

# A log line that explains an end by itself, if there is one: pattern, reason, text ({0} is the match). First
# match wins.
FATAL = table(
    (r"(?<=Options error: ).*|(?<=OPTIONS ERROR: ).*", Reason.CLIENT_CONFIG, "{0}"),
    (r"^(?:Cipher|Message hash algorithm) .* not (?:supported|found).*", Reason.CLIENT_CONFIG, "{0}"),
    (r"ERROR: Cannot ioctl TUNSETIFF .*busy.*", Reason.LOCAL, "{0}"),
    (r"ERROR: Cannot ioctl TUNSETIFF .*not permitted.*", Reason.MISSING_RIGHT, "{0}"),
    (r"ERROR: Cannot open TUN/TAP dev .*", Reason.MISSING_RIGHT, "{0}"),
    (r"cd to '.*' failed: .*", Reason.MISSING_INPUT, "{0}"),
    (r"MANAGEMENT: Socket bind\S* failed .*", Reason.LOCAL, "{0}"),
    (r"sitnl_send: rtnl: generic error \(-1\): Operation not permitted", Reason.MISSING_RIGHT, "{0}"),
    (
        r"Error: private key password verification failed",
        Reason.KEY,
        "the passphrase of the private key is wrong",
    ),
    (
        r"(?:Cannot|Error) (?:pre-)?(?:load|open|read|pars)\w* .*(?:key|certificate|PKCS|pkcs).*",
        Reason.KEY,
        "{0}",
    ),
    (
        r"VERIFY ERROR.*certificate has expired.*",
        Reason.CERTIFICATE,
        "the server's certificate is out of date: {0}",
    ),
    (
        r"VERIFY ERROR.*not yet valid.*",
        Reason.CERTIFICATE,
        "the server's certificate is not valid yet (or this host's clock is wrong): {0}",
    ),
    (r"VERIFY (?:[A-Z0-9]+ )?ERROR.*", Reason.CERTIFICATE, "the server's certificate is not trusted: {0}"),
)
# A log line that explains what a STATE or FATAL line announces a moment later.
HINT = table(
    (r"TCP: connect to \[AF_INET6?\](\S+ failed: [^(]*[^( ])", Reason.NETWORK, "{1}"),
    (r"RESOLVE: Cannot resolve host address: (\S+ \([^)]*\))", Reason.DNS, "cannot resolve {1}"),
    (
        r"WARNING: Your certificate (has expired|is not yet valid)",
        Reason.OUR_CERTIFICATE,
        "the server rejected the login: the client certificate {1}",
    ),
    (
        r"alert (certificate (?:expired|revoked|unknown)|bad certificate|unknown ca)",
        Reason.OUR_CERTIFICATE,
        "the server refuses our certificate, it says: {1}",
    ),
)
# The word of a STATE line for EXITING or RECONNECTING, or the words of a FATAL line.
STATE = table(
    (r"auth-temp-failure", Reason.PEER_CLOSED, "the server is temporarily unavailable"),
    (
        r"auth-failure \(auth-token\)",
        Reason.SESSION_EXPIRED,
        "the server no longer takes the session that was kept",
    ),
    (r"auth-failure", Reason.AUTH, "the server refused the login"),
    (r"server-pushed-halt", Reason.KICKED, "the server's administrator ended the session for good"),
    (r"server-pushed-connection-reset|remote-exit", Reason.PEER_CLOSED, "the server ended the session"),
    (r"inactive", Reason.PEER_CLOSED, "ended for lack of traffic, as the server or the profile demands"),
    (r"session-timeout", Reason.SESSION_EXPIRED, "the maximum session time has been reached"),
    (r"ping-(?:exit|restart)", Reason.PEER_TIMEOUT, "the server fell silent"),
    (r"server_poll", Reason.NETWORK, "the server does not answer"),
    (r"connection-failed|network-unreachable", Reason.NETWORK, "the server cannot be reached"),
    (r"no-push-reply", Reason.PEER_TIMEOUT, "the server sends no configuration"),
    (r"proxy", Reason.NETWORK, "the proxy refused the connection"),
    (
        r"Could not determine IPv4/IPv6 protocol|RESOLVE: Cannot resolve",
        Reason.DNS,
        "the server's name cannot be resolved",
    ),
    (r"private-key-password-failure|pkcs11", Reason.KEY, "the private key cannot be used"),
    (
        r"tls-error|connection-reset",
        Reason.HANDSHAKE,
        "the server ended the handshake and does not say why (certificate, tls key, clock?)",
    ),
    (r"process-push-msg-failed", Reason.PROTOCOL, "what the server pushed cannot be used"),
)
# What a server says when it refuses a login for another reason than a wrong account.
_REFUSAL = table(
    (r"(?i)^SESSION:? *(.*)", Reason.SESSION_EXPIRED, "the kept session has expired: {1}"),
    (
        r"(?i)^.*(?:licen[sc]e|concurrent|too many (?:\w+ )?(?:sessions|connections|clients|users)|session limit"
        r"|no (?:free|more|available) (?:\w+ )?address|pool (?:is )?(?:exhausted|full|empty)"
        r"|server (?:is )?(?:full|at capacity)|max-clients).*",
        Reason.FAR_END_FULL,
        "{0}",
    ),
    (
        r"(?i)^.*(?:no (?:shared|common) cipher|cipher negotiation|negotiate (?:a )?cipher|no (?:shared|common) "
        r"protocol|unsupported (?:cipher|protocol|client|version)|tls version|compression).*",
        Reason.HANDSHAKE,
        "the server and we have no cryptography or settings in common: {0}",
    ),
    (
        r"(?i)^.*\b(?:client )?certificate (?:\w+ ){0,3}(?:expired|revoked|invalid|unknown|not (?:yet )?valid)\b.*",
        Reason.OUR_CERTIFICATE,
        "the server refuses our certificate, it says: {0}",
    ),
    (
        r"(?i)^.*(?:banned|too many (?:\w{1,20} ){0,4}(?:attempts|logins|failures)|temporarily "
        r"(?:blocked|locked)).*",
        Reason.BANNED,
        "{0}",
    ),
    (
        r"(?i)^.*(?:\b(?:try|retry) (?:it )?(?:again )?later|\bbusy\b|overload|maintenance|shutting down|restarting"
        r"|temporar(?:y|ily)|not (?:yet )?ready|unavailable|internal (?:server )?error|time[d ]*out"
        r"|(?:ldap|radius|backend|database|server agent|authentication server|plug-?in)\b.*\b(?:fail\w*|error|down"
        r"|unreachable|initiali[sz]ation)).*",
        Reason.PEER_CLOSED,
        "the server is temporarily unavailable: {0}",
    ),
)
_TEMPORARY = re.compile(r"TEMP(?:\[[^\]]*\])?(?::(.*))?")


def refusal(what: str, text: str) -> Failed:
    """Why a login was refused: `what` was asked for, and the server's own text, which may be empty."""
    if what == "Private Key":
        return Failed(Reason.KEY, "the passphrase of the private key is wrong")
    if temporary := _TEMPORARY.fullmatch(text):
        said = explanation(_REFUSAL, temporary[1] or "")
        reason = Reason.PEER_CLOSED if said is None or said.reason is Reason.SESSION_EXPIRED else said.reason
        return Failed(
            reason, f"the server is temporarily refusing logins: {temporary[1] or 'it does not say why'}"
        )
    return explanation(_REFUSAL, text) or Failed(
        Reason.AUTH, text or "the server refused the user name or the password"
    )


# --- what the server pushed
# -------------------------------------------------------------------------------------------------------


def pushed_routes(reply: str) -> Iterator[IPNetwork]:
    """The networks in a PUSH_REPLY; entries that are no plain network (a name, a keyword) are left out."""
    for name, words in _options(reply):
        reader = _ROUTE_OPTIONS.get(name)
        if reader is not None:
            with contextlib.suppress(ValueError):
                yield from reader(words)


def pushed_name_servers(reply: str) -> Iterator[IPAddress]:
    """The name servers in a PUSH_REPLY: `dhcp-option DNS ADDRESS`, and `dns server N address ADDRESS...` of
    OpenVPN 2.6 and later, there with or without a port.
    """
    for name, words in _options(reply):
        found: list[str] = []
        if name == "dhcp-option" and len(words) > 1 and words[0].upper() in ("DNS", "DNS6"):
            found = words[1:2]
        elif name == "dns" and words[:1] == ["server"] and words[2:3] == ["address"]:
            found = words[3:]
        for word in found:
            with contextlib.suppress(ValueError):
                yield ip_address(word.strip("[]"))


def pushed_limit(reply: str) -> int | None:
    """Seconds that the server lets a session last (`session-timeout`); None: not pushed."""
    limits = [
        int(words[0])
        for name, words in _options(reply)
        if name == "session-timeout" and words and _NUMBER.fullmatch(words[0])
    ]
    return (limits[-1] or None) if limits else None


def pushed_mtu(reply: str) -> int | None:
    """MTU in bytes that the server wants for the interface (`tun-mtu`); None: not pushed."""
    sizes = [
        int(words[0])
        for name, words in _options(reply)
        if name == "tun-mtu" and words and _NUMBER.fullmatch(words[0])
    ]
    return (sizes[-1] or None) if sizes else None


def pushed_ping(reply: str) -> int | None:
    """Seconds of silence after which the client should send a packet, and by custom the server does (`ping`);
    None: not pushed.
    """
    pauses = [
        int(words[0])
        for name, words in _options(reply)
        if name == "ping" and words and _NUMBER.fullmatch(words[0])
    ]
    return pauses[-1] if pauses else None


def pushed_user(reply: str) -> str | None:
    """The user name that belongs to the pushed token, in base64; None: ours."""
    return next((words[0] for name, words in _options(reply) if name == "auth-token-user" and words), None)


_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


def _options(reply: str) -> Iterator[tuple[str, list[str]]]:
    for option in reply.split(","):
        name, _, words = option.strip().partition(" ")
        yield name, words.split()


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


_ROUTE_OPTIONS: Mapping[str, Callable[[list[str]], Iterator[IPNetwork]]] = MappingProxyType(
    {"route": _route, "route-ipv6": _route6, "redirect-gateway": _gateway}
)
