"""A customer's .ovpn, made safe: parsed by OpenVPN's own rules, without the options that the daemon owns, and
rewritten.

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
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunnels.kinds.openvpn.judging import contents_problem, known, refuse, unknown, wanted
from tunnels.kinds.openvpn.options import ASKPASS, BLOCKS, INLINE, SOME_VERSIONS, WITH_KEY_DIRECTION
from tunnels.kinds.openvpn.syntax import CONTROL, Directive, check_length, directives_of, render
from tunnels.profile_text import text_of
from tunnels.profiles import ProfileError
from tunnels.recognition import ProfileFormat

_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
# what OpenVPN 2.5 and later offer by themselves, and what OpenSSL 3 has in its legacy provider only
_DATA_CIPHERS = "AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305"
_LEGACY_CIPHER = re.compile(r"(?i)(?:BF|DES|CAST5|RC2|RC5|IDEA|SEED)-(?!EDE3)")


@dataclass(frozen=True, slots=True)
class OpenVPNProfile:
    """A profile that is safe to run."""

    kept: tuple[Directive, ...]
    login_line: int | None  # of auth-user-pass: it needs a user name and a password; None: it does not
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

    @property
    def static_key(self) -> bool:
        """Both ends have one key, and there is no TLS and no handshake."""
        names = {each.name for each in self.kept}
        return "secret" in names and names.isdisjoint({"client", "tls-client"})

    @property
    def asks_login(self) -> bool:
        """It needs a user name and a password."""
        return self.login_line is not None

    def wrong_contents(self, read: Callable[[Directive], bytes]) -> Iterator[tuple[Directive, str]]:
        """The options whose block or file does not hold what belongs there, and a sentence."""
        for each in _all(self.kept):
            problem = None if _elsewhere(each) else contents_problem(each, read)
            if problem is not None:
                yield each, problem

    def missing(self, logs_in: bool) -> str | None:
        """What OpenVPN would refuse to start without, or encrypt nothing; None: nothing. `logs_in`: with a
        user name.
        """
        names = {each.name for each in self.kept}
        if self.static_key:
            return None
        if names.isdisjoint({"client", "tls-client"}):
            return "neither client (or tls-client) nor secret: nothing would be encrypted; ask for the whole file"
        if names.isdisjoint({"ca", "pkcs12", "peer-fingerprint"}):
            return "no ca: nothing says which server to trust; ask for its certificate authority"
        if "cert" in names and "key" not in names:
            return "a cert and no key: ask for the private key"
        if not logs_in and names.isdisjoint({"cert", "pkcs12"}):
            return "no way to log in, neither cert and key (or pkcs12) nor auth-user-pass; ask for the client certificate"
        return None

    def complete(self, read: Callable[[Directive], bytes]) -> str:
        """The text for OpenVPN's --config, with the content of each file in it. ProfileError: a content
        cannot be embedded.
        """
        return "".join(render(each) for each in self._written(read))

    def origins(self, read: Callable[[Directive], bytes]) -> tuple[int, ...]:
        """The line of the customer's file from which each line of that text comes."""
        return tuple(line for each in self._written(read) for line in _origins(each))

    def _written(self, read: Callable[[Directive], bytes]) -> Iterator[Directive]:
        yield from _additions(self.kept)
        yield from _embedded(self.kept, read)

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
    lines = text_of(data, ProfileFormat.OPENVPN, comments="#;").split("\n")
    directives = list(directives_of(lines, 1))
    optional = _optional(directives)
    for directive in directives:
        _sort(directive, optional, kept, dropped)
    remotes = _remotes(kept)
    if remotes == 0:
        raise ProfileError("no remote: the file names no server to connect to", max(1, len(lines)))
    login_line = next((d.line for d in dropped if d.name == "auth-user-pass"), None)
    seed = data if any(d.name == "remote-random" for d in dropped) else None
    for name in ("remote", "connection"):
        kept = _turned(kept, name, turn, seed)
    _check_inline(kept)
    for each in _all(kept):
        check_length(each)
    return OpenVPNProfile(
        tuple(kept),
        login_line,
        remotes,
        _last_number(kept, "session-timeout"),
        _last_number(kept, "tun-mtu"),
        tuple(dropped),
    )


# --- judging
# ----------------------------------------------------------------------------------------------------------


def _optional(directives: Sequence[Directive]) -> Container[str]:
    """The options that the profile lets a client ignore."""
    if any(d.words[:3] == ("setenv", "FORWARD_COMPATIBLE", "1") for d in directives):
        return _Everything()
    return frozenset(word for d in directives if d.name == "ignore-unknown-option" for word in d.words[1:])


class _Everything:
    """All options."""

    def __contains__(self, name: object) -> bool:
        return True


def _sort(
    directive: Directive, optional: Container[str], kept: list[Directive], dropped: list[Directive]
) -> None:
    """Append one option to `kept` or `dropped`. ProfileError: it is refused."""
    if directive.words[:2] == ("setenv", "opt") and len(directive.words) > 2:
        directive = Directive(directive.line, directive.words[2:], directive.block)
        optional = frozenset({directive.name})
    refuse(directive)
    if directive.name == "connection" and directive.block is not None:
        kept.append(_connection(directive, optional, dropped))
    elif directive.name == "port":
        # `port` would also bind a local port
        kept.append(Directive(directive.line, ("rport", *directive.words[1:])))
    elif wanted(directive):
        kept.append(directive)
    elif known(directive) or directive.name in optional:
        dropped.append(directive)
    else:
        raise unknown(directive)


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


def _connection(directive: Directive, optional: Container[str], dropped: list[Directive]) -> Directive:
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


def _additions(kept: Sequence[Directive]) -> Iterator[Directive]:
    """What the installed version needs besides, whichever it is."""
    for each in kept:
        if each.name in SOME_VERSIONS:
            yield Directive(each.line, ("ignore-unknown-option", each.name))
    ciphers = [each for each in kept if each.name == "cipher" and len(each.words) > 1]
    if ciphers and not any(each.name == "secret" for each in kept):
        yield from _negotiable(ciphers[-1], kept)


def _negotiable(cipher: Directive, kept: Sequence[Directive]) -> Iterator[Directive]:
    """The profile's only cipher is offered to the server too, and used with one that does not negotiate: as
    OpenVPN 2.5 did; 2.6 ignores it.
    """
    name, legacy = cipher.words[1], any("legacy" in d.words for d in kept if d.name == "providers")
    lists = [d for d in kept if d.name in ("data-ciphers", "ncp-ciphers") and len(d.words) > 1]
    offered = lists[-1].words[1] if lists else _DATA_CIPHERS
    if (_LEGACY_CIPHER.match(name) and not legacy) or name.upper() in offered.upper().split(":"):
        return
    yield Directive(cipher.line, ("ignore-unknown-option", "data-ciphers", "data-ciphers-fallback"))
    yield Directive(cipher.line, ("data-ciphers", f"{offered}:{name}"))
    if not any(d.name == "data-ciphers-fallback" for d in kept):
        yield Directive(cipher.line, ("data-ciphers-fallback", name))


def _origins(directive: Directive) -> Iterator[int]:
    """The line of the customer's file for each line of the rendered option."""
    yield directive.line
    if directive.block is not None:
        yield from (directive.line + 1 + offset for offset in range(len(directive.block)))
        yield from (line for each in directive.inner for line in _origins(each))
        yield directive.line + len(directive.block) + 1


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
