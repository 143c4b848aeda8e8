"""A customer's .ovpn, made safe: read with OpenVPN's own rules, stripped of what the daemon owns, written
out anew.

    bytes of the .ovpn -> read_profile -> Profile -> `Profile.text` (the memfd that tunnels.kinds.openvpn.kind
    hands to OpenVPN)

The file comes from outside the company. So only directives that are known to be harmless pass, and the text
is rebuilt from the parsed words instead of copied: whatever a quoting trick means to us is exactly what
OpenVPN gets. Files that it names are read by the daemon and written into the text (`Profile.complete`):
OpenVPN opens none of them, and none can be sent to a proxy as its user name and password.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tunnels.profiles import ProfileError


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

# What the daemon decides itself (process, device, routes, names, logins, logs), what runs a program, and what
# concerns other systems.
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
_SENT = (
    "names a file, whose first lines would be sent to the proxy; write the login into the profile, "
    "between <http-proxy-user-pass> and"
    " </http-proxy-user-pass>, and `auto` in place of the file"
)
_REFUSED = MappingProxyType(
    {
        "config": "includes another file; put everything into one file",
        "server": _SERVER,
        "server-bridge": _SERVER,
        "server-ipv6": _SERVER,
        "tls-server": _SERVER,
        "ifconfig-pool": _SERVER,
        "push": _SERVER,
        "engine": _CODE,
        "pkcs11-providers": _CODE,
        "pkcs11-id": _CODE,
        "cryptoapicert": "is a Windows key store",
        "tls-verify": "runs a program to verify the server, and programs are not run; use verify-x509-name",
    }
)

# All of what is kept that can name a file. The content goes into the text as a block; a passphrase is given
# when OpenVPN asks for it.
_EMBEDDED = _names("ca cert crl-verify extra-certs key pkcs12 secret tls-auth tls-crypt tls-crypt-v2")
_DIRECTED = _names("secret tls-auth")
_ASKPASS = "askpass"  # its file goes to the management socket
_FOLDERS = _names("capath")
_PROXY_LOGINS = _names("http-proxy http-proxy-user-pass socks-proxy")
_BLOCKS = _EMBEDDED | _names(
    "connection http-proxy-user-pass peer-fingerprint verify-hash"
)  # what can be a block, of what is kept
_INLINE = frozenset(
    {"[inline]", "[[INLINE]]"}
)  # in place of a file: its block stands elsewhere in the profile
_ASKED = frozenset({"auto", "auto-nct", "stdin"})  # in place of a file with the login for an HTTP proxy
_PROVIDERS = frozenset({"base", "default", "fips", "legacy"})  # by name only: a path would load any library
_TAG = re.compile(r"<([a-z0-9-]+)>")
_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=*-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f]")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_LONGEST = 255  # bytes of a line that OpenVPN reads at once


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of a profile: its line, its words (the first is the name), and what is in its block if it
    has one.
    """

    line: int
    words: tuple[str, ...]
    block: tuple[str, ...] | None = None  # lines
    inner: tuple[Directive, ...] = ()  # of a <connection>

    @property
    def name(self) -> str:
        """What the option is called."""
        return self.words[0]

    @property
    def file(self) -> str | None:
        """The file that it names."""
        named = self.block is None and self.name in _EMBEDDED | {_ASKPASS} and len(self.words) > 1
        return self.words[1] if named and self.words[1] not in _INLINE else None


@dataclass(frozen=True, slots=True)
class OpenVPNProfile:
    """A profile that is safe to run."""

    kept: tuple[Directive, ...]
    asks_login: bool  # it wants a user name and a password
    remotes: int  # how many servers it names
    limit: int | None  # seconds after which it ends a session by itself
    mtu: int | None  # bytes: the MTU that it gives the interface
    dropped: tuple[Directive, ...]  # what was left out, because the daemon owns it

    @property
    def text(self) -> str:
        """All that is kept, with files still by their names."""
        return "".join(map(_render, self.kept))

    @property
    def files(self) -> tuple[Directive, ...]:
        """The options that name a file."""
        return tuple(each for each in _all(self.kept) if each.file is not None)

    def complete(self, read: Callable[[Directive], bytes]) -> str:
        """For OpenVPN's --config: the text with the content of each file in it. ProfileError: a content
        cannot be there.
        """
        return "".join(_render(each) for each in _embedded(self.kept, read))

    def certificates(self, read: Callable[[Directive], bytes]) -> Iterator[bytes]:
        """Our own, as PEM."""
        for each in self.kept:
            if each.name == "cert":
                yield read(each) if each.file is not None else "\n".join((*(each.block or ()), "")).encode()


def read_profile(data: bytes, turn: int = 0) -> OpenVPNProfile:
    """The safe profile in a customer's .ovpn. ProfileError says why a file cannot be run.

    With each `turn` another of its servers comes first. Where the profile wants a random order, its own bytes
    draw it: each customer of a server has another one, and it is the same at each start, so that a turn leads
    to a server that was not tried.
    """
    kept: list[Directive] = []
    dropped: list[Directive] = []
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise ProfileError("the file is not UTF-8 text") from None
    directives = list(_directives(lines, 1))
    optional = frozenset(
        word for d in directives if d.name == "ignore-unknown-option" for word in d.words[1:]
    )
    for directive in directives:
        _sort(directive, optional, kept, dropped)
    remotes = _remotes(kept)
    if remotes == 0:
        raise ProfileError("no remote: the file names no server to connect to", max(1, len(lines)))
    asks_login = any(d.name == "auth-user-pass" for d in dropped)
    seed = data if any(d.name == "remote-random" for d in dropped) else None
    for name in ("remote", "connection"):
        kept = _turned(kept, name, turn, seed)
    _check_inline(kept)
    for each in _all(kept):
        _check_length(each)
    return OpenVPNProfile(
        tuple(kept),
        asks_login,
        remotes,
        _last_number(kept, "session-timeout"),
        _last_number(kept, "tun-mtu"),
        tuple(dropped),
    )


# --- reading
# ----------------------------------------------------------------------------------------------------------


def _directives(lines: Sequence[str], first: int) -> Iterator[Directive]:
    numbered = iter(enumerate(lines, first))
    for number, line in numbered:
        words = split_words(line, number)
        if not words:
            continue
        inline = _TAG.fullmatch(words[0]) if len(words) == 1 else None
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
        if closing in line or _CONTROL.search(line):
            raise ProfileError(f"unexpected characters in the block <{tag}>", number)
        yield line
    raise ProfileError(f"the block <{tag}> is never closed", start)


def split_words(line: str, number: int = 1) -> tuple[str, ...]:
    """The words of one line by OpenVPN's quoting rules; ValueError names the line when a quote stays open."""
    words: list[str] = []
    rest = line.lstrip()
    while rest and rest[0] not in "#;":
        word, rest = _word(rest, number)
        words.append(word)
        rest = rest.lstrip()
    if any(map(_CONTROL.search, words)):
        raise ProfileError("control characters", number)
    return tuple(words)


def _word(text: str, number: int) -> tuple[str, str]:
    """The first word of a text that starts with one, and what follows it."""
    if text[0] == "'":
        word, quote, rest = text[1:].partition("'")
        if not quote:
            raise ProfileError("a quotation is never closed", number)
        return word, rest
    quoted = text[0] == '"'
    letters: list[str] = []
    position = int(quoted)
    while position < len(text):
        letter = text[position]
        if letter == '"' if quoted else letter.isspace():
            return "".join(letters), text[position + 1 :]
        if letter == "\\":
            position += 1
            letter = _escaped(text[position : position + 1], number)
        letters.append(letter)
        position += 1
    if quoted:
        raise ProfileError("a quotation is never closed", number)
    return "".join(letters), ""


def _escaped(letter: str, number: int) -> str:
    if letter in ("\\", '"') or letter.isspace():
        return letter
    raise ProfileError("a backslash that escapes nothing; write it twice", number)


# --- judging
# ----------------------------------------------------------------------------------------------------------


def _sort(
    directive: Directive, optional: frozenset[str], kept: list[Directive], dropped: list[Directive]
) -> None:
    """Put one directive where it belongs."""
    if directive.words[:2] == ("setenv", "opt") and len(directive.words) > 2:
        directive = Directive(directive.line, directive.words[2:], directive.block)
        optional = optional | {directive.name}
    _refuse(directive)
    _refuse_files(directive)
    if directive.name == "connection" and directive.block is not None:
        kept.append(_connection(directive, optional, dropped))
    elif directive.name == "port":
        kept.append(
            Directive(directive.line, ("rport", *directive.words[1:]))
        )  # `port` would also bind a local port
    elif _wanted(directive):
        kept.append(directive)
    elif directive.name in _OWNED | _KEPT | optional | {"setenv", "ignore-unknown-option"}:
        dropped.append(directive)
    else:
        # what does not look like an option may be part of a key whose block was not opened
        shown = repr(directive.name) if _OPTION.fullmatch(directive.name) else "this"
        raise ProfileError(f"{shown} is not an option that a client profile can have", directive.line)


def _wanted(directive: Directive) -> bool:
    match directive.words:
        case ("setenv", name, *_):
            return name.startswith(
                "UV_"
            )  # told to the server by push-peer-info; other variables are for scripts
        case ("askpass", *files):
            return files not in ([], ["stdin"])  # without a file it would ask on a terminal
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
        raise ProfileError(f"{directive.name} {why}", directive.line)


def _refuse_files(directive: Directive) -> None:
    """ProfileError for what would have OpenVPN read more than a file, or send it away."""
    why = None
    match directive.words:
        case (name, *_) if directive.block is not None:
            if name in _KEPT - _BLOCKS:
                why = "cannot be a block; write it as one line"
        case (name, *_) if name in _FOLDERS:
            why = "names a directory; put its certificates into one file and say ca"
        case ("crl-verify", _, "dir", *_):
            why = "names a directory; put its lists into one file and leave out the word dir"
        case ("http-proxy-user-pass", file, *_) if file not in _INLINE:
            why = _SENT
        case ("http-proxy", _, _, file, *_) if file not in _ASKED:
            why = _SENT
        case ("socks-proxy", _, _, _, *_):
            why = (
                "names a file, whose first lines would be sent to the proxy; only a SOCKS proxy without "
                "a login can be used"
            )
    if why is not None:
        raise ProfileError(f"{directive.name} {why}", directive.line)


def _check_inline(kept: Sequence[Directive]) -> None:
    """What stands for a block needs one."""
    blocks = {each.name for each in _all(kept) if each.block is not None}
    for each in _all(kept):
        if _elsewhere(each) and each.name not in blocks:
            raise ProfileError(
                f"{each.name} is said to be inline, but there is no block <{each.name}>", each.line
            )


def _elsewhere(directive: Directive) -> bool:
    """It only says that its block stands somewhere else."""
    return (
        directive.block is None and directive.name in _BLOCKS and not _INLINE.isdisjoint(directive.words[1:2])
    )


def _connection(directive: Directive, optional: frozenset[str], dropped: list[Directive]) -> Directive:
    """A <connection> block holds options itself."""
    inner: list[Directive] = []
    for each in _directives(directive.block or (), directive.line + 1):
        _sort(each, optional, inner, dropped)
    return Directive(directive.line, directive.words, (), tuple(inner))


def _all(directives: Iterable[Directive]) -> Iterator[Directive]:
    """The directives and those inside of them."""
    for each in directives:
        yield each
        yield from each.inner


def _remotes(kept: Iterable[Directive]) -> int:
    plain = sum(d.name == "remote" for d in kept)
    blocks = sum(any(each.name == "remote" for each in d.inner) for d in kept)
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
    numbers = [
        int(d.words[1])
        for d in directives
        if d.name == name and len(d.words) > 1 and _NUMBER.fullmatch(d.words[1])
    ]
    return (numbers[-1] or None) if numbers else None


# --- writing
# ----------------------------------------------------------------------------------------------------------


def _embedded(directives: Iterable[Directive], read: Callable[[Directive], bytes]) -> Iterator[Directive]:
    """The directives with blocks in place of the files that they name."""
    for each in directives:
        if each.file is not None and each.name != _ASKPASS:
            yield Directive(each.line, each.words[:1], tuple(_content(each, read(each))))
        elif each.name != _ASKPASS and not _elsewhere(each):
            yield Directive(each.line, each.words, each.block, tuple(_embedded(each.inner, read)))
        if each.name in _DIRECTED and each.block is None and len(each.words) > 2:
            yield Directive(each.line, ("key-direction", each.words[2]))  # which a block cannot hold


def _content(directive: Directive, data: bytes) -> Iterator[str]:
    """The lines of a file as a block may hold them."""
    if directive.name == "pkcs12":
        data = base64.encodebytes(data)
    text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").removesuffix("\n")
    # OpenVPN cuts long lines into pieces, and any closing tag at the start of one would end a block
    if "</" in text or _CONTROL.search(text.replace("\n", "")):
        raise ProfileError(
            f"{directive.name}: {directive.file!r} is not a file of text in PEM form", directive.line
        )
    yield from text.split("\n")


def _render(directive: Directive) -> str:
    if directive.block is None:
        return _line(directive) + "\n"
    inside = "".join(f"{line}\n" for line in directive.block) + "".join(map(_render, directive.inner))
    return f"<{directive.name}>\n{inside}</{directive.name}>\n"


def _line(directive: Directive) -> str:
    return " ".join(quote(word) for word in directive.words)


def _check_length(directive: Directive) -> None:
    if directive.block is None and len(_line(directive).encode()) >= _LONGEST:
        raise ProfileError(f"longer than the {_LONGEST} bytes that OpenVPN reads", directive.line)


def quote(word: str) -> str:
    """The word as OpenVPN reads it back, in a configuration file as well as on its management socket."""
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
