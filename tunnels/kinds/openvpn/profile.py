"""A customer's .ovpn, made safe: parsed by OpenVPN's own rules, without the options that the daemon owns, and
written anew.

    bytes of the .ovpn -> read_profile -> OpenVPNProfile -> `complete` (the text for OpenVPN's --config)

The file comes from outside the company. So only options that are known to be harmless pass (`options`), and
the text is rebuilt from the parsed words instead of copied (`syntax`): whatever a quoting trick means to us
is exactly what OpenVPN gets. Files that it names are read by the daemon and written into the text: OpenVPN
opens none of them, and none can be sent to a proxy as user name and password.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunnels.kinds.openvpn.options import (
    ASKPASS,
    BLOCKS,
    FOLDERS,
    INLINE,
    KEPT,
    LOADS_CODE,
    OWNED_BY_DAEMON,
    PROXY_LOGIN_PROMPTS,
    REFUSED,
    SAFE_PROVIDERS,
    SENT_TO_PROXY,
    SERVER,
    WITH_KEY_DIRECTION,
)
from tunnels.kinds.openvpn.syntax import CONTROL, Directive, check_length, directives_of, render
from tunnels.profiles import ProfileError

_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class OpenVPNProfile:
    """A profile that is safe to run."""

    kept: tuple[Directive, ...]
    asks_login: bool  # it needs a user name and a password
    remotes: int  # number of servers that it names
    limit: int | None  # seconds after which OpenVPN ends a session by itself
    mtu: int | None  # bytes: the MTU that it gives the interface
    dropped: tuple[Directive, ...]  # what was left out, because the daemon owns it

    @property
    def text(self) -> str:
        """The kept options as text, with files still by their names."""
        return "".join(map(render, self.kept))

    @property
    def files(self) -> tuple[Directive, ...]:
        """The options that name a file."""
        return tuple(each for each in _all(self.kept) if each.file is not None)

    def complete(self, read: Callable[[Directive], bytes]) -> str:
        """The text for OpenVPN's --config, with the content of each file in it. ProfileError: a content
        cannot be embedded.
        """
        return "".join(render(each) for each in _embedded(self.kept, read))

    def certificates(self, read: Callable[[Directive], bytes]) -> Iterator[bytes]:
        """Our own certificates, as PEM."""
        for each in self.kept:
            if each.name == "cert":
                yield read(each) if each.file is not None else "\n".join((*(each.block or ()), "")).encode()


def read_profile(data: bytes, turn: int = 0) -> OpenVPNProfile:
    """The safe profile in a customer's .ovpn. ProfileError says why a file cannot be run.

    With each `turn` another of its servers comes first. If the profile wants a random order, a checksum of
    its bytes decides it: it differs between customers of a server, but is the same at each start, so that the
    next turn is a server that was not tried.
    """
    kept: list[Directive] = []
    dropped: list[Directive] = []
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise ProfileError("the file is not UTF-8 text") from None
    directives = list(directives_of(lines, 1))
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
        check_length(each)
    return OpenVPNProfile(
        tuple(kept),
        asks_login,
        remotes,
        _last_number(kept, "session-timeout"),
        _last_number(kept, "tun-mtu"),
        tuple(dropped),
    )


# --- judging
# ----------------------------------------------------------------------------------------------------------


def _sort(
    directive: Directive, optional: frozenset[str], kept: list[Directive], dropped: list[Directive]
) -> None:
    """Append one option to `kept` or `dropped`. ProfileError: it is refused."""
    if directive.words[:2] == ("setenv", "opt") and len(directive.words) > 2:
        directive = Directive(directive.line, directive.words[2:], directive.block)
        optional = optional | {directive.name}
    _refuse(directive)
    _refuse_files(directive)
    if directive.name == "connection" and directive.block is not None:
        kept.append(_connection(directive, optional, dropped))
    elif directive.name == "port":
        # `port` would also bind a local port
        kept.append(Directive(directive.line, ("rport", *directive.words[1:])))
    elif _wanted(directive):
        kept.append(directive)
    elif directive.name in OWNED_BY_DAEMON | KEPT | optional | {"setenv", "ignore-unknown-option"}:
        dropped.append(directive)
    else:
        # what does not look like an option may be part of a key whose block was not opened
        shown = repr(directive.name) if _OPTION.fullmatch(directive.name) else "this"
        raise ProfileError(f"{shown} is not an option that a client profile can have", directive.line)


def _wanted(directive: Directive) -> bool:
    match directive.words:
        case ("setenv", name, *_):
            # sent to the server by push-peer-info; other variables are for scripts
            return name.startswith("UV_")
        case ("askpass", *files):
            return files not in ([], ["stdin"])  # without a file it would ask on a terminal
        case (name, *_):
            return name in KEPT
    return False


def _refuse(directive: Directive) -> None:
    """ProfileError for what cannot be run as a client tunnel."""
    why = REFUSED.get(directive.name)
    match directive.words:
        case ("dev" | "dev-type", kind, *_) if kind.startswith("tap"):
            why = "asks for a tap device (Ethernet); only tun (IP) can be routed"
        case ("mode", "server", *_) | ("proto", "tcp-server" | "tcp4-server" | "tcp6-server", *_):
            why = SERVER
        case ("remote", _, _, proto, *_) if proto.endswith("server"):
            why = SERVER
        case ("remote",):
            why = "names no server"
        case ("providers", *names) if not SAFE_PROVIDERS.issuperset(names):
            why = LOADS_CODE
    if why is not None:
        raise ProfileError(f"{directive.name} {why}", directive.line)


def _refuse_files(directive: Directive) -> None:
    """ProfileError for what would make OpenVPN read more than a file, or send it to somebody."""
    why = None
    match directive.words:
        case (name, *_) if directive.block is not None:
            if name in KEPT - BLOCKS:
                why = "cannot be a block; write it as one line"
        case (name, *_) if name in FOLDERS:
            why = "names a directory; put its certificates into one file and say ca"
        case ("crl-verify", _, "dir", *_):
            why = "names a directory; put its lists into one file and leave out the word dir"
        case ("http-proxy-user-pass", file, *_) if file not in INLINE:
            why = SENT_TO_PROXY
        case ("http-proxy", _, _, file, *_) if file not in PROXY_LOGIN_PROMPTS:
            why = SENT_TO_PROXY
        case ("socks-proxy", _, _, _, *_):
            why = (
                "names a file, whose first lines would be sent to the proxy; only a SOCKS proxy without "
                "a login can be used"
            )
    if why is not None:
        raise ProfileError(f"{directive.name} {why}", directive.line)


def _check_inline(kept: Sequence[Directive]) -> None:
    """ProfileError for an option that is said to be inline without a block."""
    blocks = {each.name for each in _all(kept) if each.block is not None}
    for each in _all(kept):
        if _elsewhere(each) and each.name not in blocks:
            raise ProfileError(
                f"{each.name} is said to be inline, but there is no block <{each.name}>", each.line
            )


def _elsewhere(directive: Directive) -> bool:
    """It only says that its block is somewhere else."""
    return (
        directive.block is None and directive.name in BLOCKS and not INLINE.isdisjoint(directive.words[1:2])
    )


def _connection(directive: Directive, optional: frozenset[str], dropped: list[Directive]) -> Directive:
    """A <connection> block holds options itself."""
    inner: list[Directive] = []
    for each in directives_of(directive.block or (), directive.line + 1):
        _sort(each, optional, inner, dropped)
    return Directive(directive.line, directive.words, (), tuple(inner))


def _all(directives: Iterable[Directive]) -> Iterator[Directive]:
    """The options, and those in <connection> blocks."""
    for each in directives:
        yield each
        yield from each.inner


def _remotes(kept: Iterable[Directive]) -> int:
    plain = sum(d.name == "remote" for d in kept)
    blocks = sum(any(each.name == "remote" for each in d.inner) for d in kept)
    return plain + blocks


def _turned(directives: Sequence[Directive], name: str, turn: int, seed: bytes | None) -> list[Directive]:
    """The options; those of this name in another order."""
    servers = [d for d in directives if d.name == name]
    if seed is not None:
        servers.sort(key=lambda d: zlib.crc32(render(d).encode(), zlib.crc32(seed)))
    first = turn % max(1, len(servers))
    turned = iter(servers[first:] + servers[:first])
    return [next(turned) if d.name == name else d for d in directives]


def _last_number(directives: Iterable[Directive], name: str) -> int | None:
    """The value of the last of these options, if that is a number other than 0."""
    numbers = [
        int(d.words[1])
        for d in directives
        if d.name == name and len(d.words) > 1 and _NUMBER.fullmatch(d.words[1])
    ]
    return (numbers[-1] or None) if numbers else None


# --- writing
# ----------------------------------------------------------------------------------------------------------


def _embedded(directives: Iterable[Directive], read: Callable[[Directive], bytes]) -> Iterator[Directive]:
    """The options, with blocks in place of the files that they name."""
    for each in directives:
        if each.file is not None and each.name != ASKPASS:
            yield Directive(each.line, each.words[:1], tuple(_content(each, read(each))))
        elif each.name != ASKPASS and not _elsewhere(each):
            yield Directive(each.line, each.words, each.block, tuple(_embedded(each.inner, read)))
        if each.name in WITH_KEY_DIRECTION and each.block is None and len(each.words) > 2:
            yield Directive(each.line, ("key-direction", each.words[2]))  # which a block cannot hold


def _content(directive: Directive, data: bytes) -> Iterator[str]:
    """The content of a file as the lines of a block. ProfileError: a block cannot hold it."""
    if directive.name == "pkcs12":
        data = base64.encodebytes(data)
    text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").removesuffix("\n")
    # OpenVPN cuts long lines into pieces, and any closing tag at the start of one would end a block
    if "</" in text or CONTROL.search(text.replace("\n", "")):
        raise ProfileError(
            f"{directive.name}: {directive.file!r} is not a file of text in PEM form", directive.line
        )
    yield from text.split("\n")
