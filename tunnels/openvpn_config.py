"""A customer's .ovpn, made safe: read with OpenVPN's own rules, stripped of what the daemon owns, written out anew.

    bytes of the .ovpn -> read_profile -> Profile -> `Profile.text` (the memfd that tunnels.openvpn hands to OpenVPN)

The file comes from outside the company. So only directives that are known to be harmless pass, and the text is rebuilt from the parsed
words instead of copied: whatever a quoting trick means to us is exactly what OpenVPN gets.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What makes the connection and its cryptography: the customer knows, we do not.
_KEPT = _names("""
    allow-compression askpass auth auth-token auth-token-user ca capath cert cipher client client-nat comp-lzo comp-noadapt compat-mode
    compress connection crl-verify data-ciphers data-ciphers-fallback disable-occ ecdh-curve explicit-exit-notify extra-certs fast-io float
    force-tls-key-material-export fragment http-proxy http-proxy-option http-proxy-user-pass ifconfig ifconfig-ipv6
    ifconfig-nowarn inactive keepalive key key-direction key-method keysize link-mtu mode mssfix mtu-disc ncp-ciphers ncp-disable no-iv
    no-replay ns-cert-type opt-verify peer-fingerprint ping ping-exit ping-restart ping-timer-rem pkcs12 proto proto-force
    providers pull pull-filter push-peer-info rcvbuf remote remote-cert-eku remote-cert-ku remote-cert-tls
    remote-random-hostname reneg-bytes reneg-pkts reneg-sec replay-window rport secret session-timeout single-session sndbuf socket-flags
    socks-proxy static-challenge tcp-nodelay tcp-queue-limit tls-auth tls-cert-profile tls-cipher tls-ciphersuites tls-client tls-crypt
    tls-crypt-v2 tls-groups tls-timeout tls-version-max tls-version-min topology tran-window tun-max-mtu tun-mtu tun-mtu-extra txqueuelen
    use-prediction-resistance verify-hash verify-x509-name x509-track x509-username-field
""")

# What the daemon decides itself (process, device, routes, names, logins, logs), what runs a program, and what concerns other systems.
_OWNED = _names("""
    allow-nonadmin allow-pull-fqdn allow-recursive-routing auth-nocache auth-retry auth-user-pass bind bind-dev block-ipv6
    block-outside-dns cd chroot client-connect client-crresponse client-disconnect connect-freq connect-retry
    connect-retry-max connect-timeout daemon dev dev-node dev-type dhcp-option dhcp-release dhcp-renew disable-dco dns
    down down-pre echo errors-to-stderr group hand-window ifconfig-noexec ip-win32 ipchange iproute keying-material-exporter lladdr
    learn-address local log log-append lport machine-readable-output management management-client management-client-auth
    management-client-group management-client-user management-external-cert management-external-key management-forget-disconnect
    management-hold management-log-cache management-query-passwords management-query-proxy management-query-remote management-signal
    management-up-down mark max-routes mlock mtu-test multihome mute mute-replay-warnings nice nobind prng passtos pause-exit
    persist-key persist-local-ip persist-remote-ip persist-tun plugin redirect-gateway redirect-private register-dns remap-usr1
    remote-random replay-persist resolv-retry route route-delay route-gateway route-ipv6 route-ipv6-gateway route-method route-metric
    route-noexec route-nopull route-pre-down route-up script-security server-poll-timeout service setcon setenv-safe shaper show-net-up
    status status-version suppress-timestamps syslog tap-sleep tls-exit tls-export-cert tmp-dir tun-ipv6 up up-delay up-restart user verb
    win-sys windows-driver writepid
""")

_SERVER = "makes this a server; only client profiles can be run"
_CODE = "loads code into OpenVPN, which a customer's profile may not do"
_REFUSED = MappingProxyType({
    "config": "includes another file; put everything into one file",
    "server": _SERVER, "server-bridge": _SERVER, "server-ipv6": _SERVER, "tls-server": _SERVER, "ifconfig-pool": _SERVER, "push": _SERVER,
    "engine": _CODE, "pkcs11-providers": _CODE, "pkcs11-id": _CODE, "cryptoapicert": "is a Windows key store",
    "tls-verify": "runs a program to verify the server, and programs are not run; use verify-x509-name",
})

_FILES = _names("""
    askpass auth-user-pass ca capath cert crl-verify dh extra-certs http-proxy-user-pass key pkcs12 secret tls-auth tls-crypt tls-crypt-v2
""")
_PROVIDERS = frozenset({"base", "default", "fips", "legacy"})      # by name only: a path would load any library
_INLINE = re.compile(r"<([a-z0-9-]+)>")
_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=*-]+")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_LONGEST = 255                                                      # bytes of a line that OpenVPN reads at once


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of a profile: its line, its words (the first is the name), and the lines of its inline block if it has one."""

    line: int
    words: tuple[str, ...]
    block: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """What the option is called."""
        return self.words[0]


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that is safe to run."""

    text: str                           # for OpenVPN's --config
    asks_login: bool                    # it wants a user name and a password
    has_files: bool                     # it names files that lie beside it
    remotes: int                        # how many servers it names
    limit: int | None                   # seconds after which it ends a session by itself
    mtu: int | None                     # bytes: the MTU that it gives the interface
    certificates: tuple[bytes, ...]     # our own, as PEM, where they stand in the profile
    dropped: tuple[Directive, ...]      # what was left out, because the daemon owns it


def read_profile(data: bytes, turn: int = 0) -> Profile:
    """The safe profile in a customer's .ovpn. ValueError("line N: ...") says why a file cannot be run.

    With each `turn` another of its servers comes first. Where the profile wants a random order, its own bytes draw it: each customer of
    a server has another one, and it is the same at each start, so that a turn leads to a server that was not tried.
    """
    kept: list[Directive] = []
    dropped: list[Directive] = []
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    directives = list(_directives(lines, 1))
    optional = frozenset(word for d in directives if d.name == "ignore-unknown-option" for word in d.words[1:])
    for directive in directives:
        _sort(directive, optional, kept, dropped)
    remotes = _remotes(kept)
    if remotes == 0:
        raise ValueError(f"line {max(1, len(lines))}: no remote: the file names no server to connect to")
    asks_login = any(d.name == "auth-user-pass" for d in dropped)
    seed = data if any(d.name == "remote-random" for d in dropped) else None
    for name in ("remote", "connection"):
        kept = _turned(kept, name, turn, seed)
    return Profile(
        "".join(_render(d) for d in kept), asks_login, any(_beside(d) for d in kept), remotes,
        _last_number(kept, "session-timeout"), _last_number(kept, "tun-mtu"),
        tuple("\n".join((*d.block, "")).encode() for d in kept if d.name == "cert" and d.block is not None), tuple(dropped),
    )


# --- reading -------------------------------------------------------------------------------------------------------------------


def _directives(lines: Sequence[str], first: int) -> Iterator[Directive]:
    numbered = iter(enumerate(lines, first))
    for number, line in numbered:
        words = split_words(line, number)
        if not words:
            continue
        inline = _INLINE.fullmatch(words[0]) if len(words) == 1 else None
        if inline is None:
            yield Directive(number, (words[0].removeprefix("--") or words[0], *words[1:]))
        else:
            yield Directive(number, (inline[1],), tuple(_block(numbered, inline[1], number)))


def _block(numbered: Iterator[tuple[int, str]], tag: str, start: int) -> Iterator[str]:
    """The lines up to the closing tag, which ends a block even if more follows on its line."""
    closing = f"</{tag}>"
    for number, line in numbered:
        if line.lstrip().startswith(closing):
            return
        # OpenVPN cuts long lines into pieces and would see a closing tag at the start of a piece
        if closing in line or any(ord(c) < 32 and c != "\t" for c in line):
            raise ValueError(f"line {number}: unexpected characters in the block <{tag}>")
        yield line
    raise ValueError(f"line {start}: the block <{tag}> is never closed")


def split_words(line: str, number: int = 1) -> tuple[str, ...]:
    """The words of one line by OpenVPN's quoting rules; ValueError names the line when a quote stays open."""
    words: list[str] = []
    rest = line.lstrip()
    while rest and rest[0] not in "#;":
        word, rest = _word(rest, number)
        words.append(word)
        rest = rest.lstrip()
    if any(ord(c) < 32 and c != "\t" for word in words for c in word):
        raise ValueError(f"line {number}: control characters")
    return tuple(words)


def _word(text: str, number: int) -> tuple[str, str]:
    """The first word of a text that starts with one, and what follows it."""
    if text[0] == "'":
        word, quote, rest = text[1:].partition("'")
        if not quote:
            raise ValueError(f"line {number}: a quotation is never closed")
        return word, rest
    quoted = text[0] == '"'
    letters: list[str] = []
    position = int(quoted)
    while position < len(text):
        letter = text[position]
        if letter == '"' if quoted else letter.isspace():
            return "".join(letters), text[position + 1:]
        if letter == "\\":
            position += 1
            letter = _escaped(text[position:position + 1], number)
        letters.append(letter)
        position += 1
    if quoted:
        raise ValueError(f"line {number}: a quotation is never closed")
    return "".join(letters), ""


def _escaped(letter: str, number: int) -> str:
    if letter in ("\\", '"') or letter.isspace():
        return letter
    raise ValueError(f"line {number}: a backslash that escapes nothing; write it twice")


# --- judging -------------------------------------------------------------------------------------------------------------------


def _sort(directive: Directive, optional: frozenset[str], kept: list[Directive], dropped: list[Directive]) -> None:
    """Put one directive where it belongs."""
    if directive.words[:2] == ("setenv", "opt") and len(directive.words) > 2:
        directive = Directive(directive.line, directive.words[2:], directive.block)
        optional = optional | {directive.name}
    _refuse(directive)
    if directive.name == "connection" and directive.block is not None:
        kept.append(_connection(directive, optional, dropped))
    elif directive.name == "port":
        kept.append(Directive(directive.line, ("rport", *directive.words[1:])))     # `port` would also bind a local port
    elif _wanted(directive):
        kept.append(directive)
    elif directive.name in _OWNED | _KEPT | optional | {"setenv", "ignore-unknown-option"}:
        dropped.append(directive)
    else:
        # what does not look like an option may be part of a key whose block was not opened
        shown = repr(directive.name) if _OPTION.fullmatch(directive.name) else "this"
        raise ValueError(f"line {directive.line}: {shown} is not an option that a client profile can have")


def _wanted(directive: Directive) -> bool:
    match directive.words:
        case ("setenv", name, *_):
            return name.startswith("UV_")       # told to the server by push-peer-info; other variables are for scripts
        case ("askpass", *files):
            return bool(files)                  # without a file it would ask on a terminal
        case (name, *_):
            return name in _KEPT
    return False


def _refuse(directive: Directive) -> None:
    """ValueError for what cannot be run as a client tunnel."""
    why = _REFUSED.get(directive.name)
    match directive.words:
        case ("dev" | "dev-type", kind, *_) if kind.startswith("tap"):
            why = "asks for a tap device (Ethernet); only tun (IP) can be routed"
        case ("mode", "server", *_) | ("proto", "tcp-server" | "tcp4-server" | "tcp6-server", *_):
            why = _SERVER
        case ("remote", _, _, proto, *_) if proto.endswith("server"):
            why = _SERVER
        case ("remote",):
            why = "names no server"
        case ("providers", *names) if not _PROVIDERS.issuperset(names):
            why = _CODE
    if why is not None:
        raise ValueError(f"line {directive.line}: {directive.name} {why}")


def _connection(directive: Directive, optional: frozenset[str], dropped: list[Directive]) -> Directive:
    """A <connection> block holds options itself."""
    inner: list[Directive] = []
    for each in _directives(directive.block or (), directive.line + 1):
        _sort(each, optional, inner, dropped)
    return Directive(directive.line, directive.words, tuple("".join(_render(d) for d in inner).splitlines()))


def _remotes(kept: Iterable[Directive]) -> int:
    plain = sum(d.name == "remote" for d in kept)
    blocks = sum(d.name == "connection" and any(line.startswith("remote ") for line in d.block or ()) for d in kept)
    return plain + blocks


def _turned(directives: Sequence[Directive], name: str, turn: int, seed: bytes | None) -> list[Directive]:
    """The directives, where those of this name have changed places."""
    servers = [d for d in directives if d.name == name]
    if seed is not None:
        servers.sort(key=lambda d: zlib.crc32(_render(d).encode(), zlib.crc32(seed)))
    first = turn % max(1, len(servers))
    turned = iter(servers[first:] + servers[:first])
    return [next(turned) if d.name == name else d for d in directives]


def _last_number(directives: Iterable[Directive], name: str) -> int | None:
    """What the last of these options says, if that is a number other than 0."""
    numbers = [int(d.words[1]) for d in directives if d.name == name and len(d.words) > 1 and _NUMBER.fullmatch(d.words[1])]
    return (numbers[-1] or None) if numbers else None


def _beside(directive: Directive) -> bool:
    """It names a file by a relative path."""
    words = directive.words[1:2] if directive.name in _FILES else directive.words[3:4] if directive.name.endswith("-proxy") else ()
    return any(not word.startswith(("/", "[")) for word in words) or directive.name == "connection"


# --- writing -------------------------------------------------------------------------------------------------------------------


def _render(directive: Directive) -> str:
    if directive.block is not None:
        return "\n".join((f"<{directive.name}>", *directive.block, f"</{directive.name}>\n"))
    line = " ".join(quote(word) for word in directive.words)
    if len(line.encode()) >= _LONGEST:
        raise ValueError(f"line {directive.line}: longer than the {_LONGEST} bytes that OpenVPN reads")
    return line + "\n"


def quote(word: str) -> str:
    """The word as OpenVPN reads it back, in a configuration file as well as on its management socket."""
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
