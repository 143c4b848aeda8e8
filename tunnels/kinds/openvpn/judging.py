"""Judges single options of a profile: kept, left out, or refused with a sentence that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from tunnels.kinds.openvpn.options import (
    BLOCKS,
    FOLDERS,
    INLINE,
    KEPT,
    LOADS_CODE,
    MAY_MATTER,
    OWNED_BY_DAEMON,
    PROXY_LOGIN_PROMPTS,
    REFUSED,
    SAFE_PROVIDERS,
    SENT_TO_PROXY,
    SERVER,
    SOME_VERSIONS,
)
from tunnels.kinds.openvpn.syntax import Directive
from tunnels.profiles import ProfileError
from tunnels.recognition import Pem, pem_problem, placeholder

_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_JOINED = re.compile(r"(?:[a-z0-9]+://)?(?P<host>[^:/\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})/?")
_ADDRESS = re.compile(r"[a-z0-9]+://(?P<host>[^/:]+).*")
# options whose values are hosts and ports: what a template leaves to be filled in
_FILLED_IN = frozenset({"remote", "http-proxy", "socks-proxy", "ifconfig", "port"})
# what the file or block of an option holds
_HOLDS = {
    "ca": Pem.CERTIFICATE,
    "cert": Pem.CERTIFICATE,
    "extra-certs": Pem.CERTIFICATE,
    "key": Pem.PRIVATE_KEY,
    "crl-verify": Pem.REVOCATION_LIST,
    "secret": Pem.STATIC_KEY,
    "tls-auth": Pem.STATIC_KEY,
    "tls-crypt": Pem.STATIC_KEY,
    "tls-crypt-v2": Pem.TLS_CRYPT_V2,
}


def wanted(directive: Directive) -> bool:
    """OpenVPN gets it."""
    match directive.words:
        case ("setenv", name, *_):
            # sent to the server by push-peer-info; other variables are for scripts
            return name.startswith("UV_")
        case ("askpass", *files):
            return files not in ([], ["stdin"])  # without a file it would ask on a terminal
        case (name, *_):
            return name in KEPT | SOME_VERSIONS
    return False


def known(directive: Directive) -> bool:
    """It may be in a client profile."""
    return directive.name in OWNED_BY_DAEMON | KEPT | SOME_VERSIONS | {"setenv", "ignore-unknown-option"}


def unknown(directive: Directive) -> ProfileError:
    """Why an option that is not known is refused."""
    # what does not look like an option may be part of a key whose block was not opened
    shown = repr(directive.name) if _OPTION.fullmatch(directive.name) else "this"
    return ProfileError(f"{shown} is not an option that a client profile can have", directive.line)


def left_out(dropped: Iterable[Directive]) -> Iterator[tuple[Directive, str]]:
    """Of what was left out that which may matter, and a sentence; each option once."""
    said = set()
    for directive in dropped:
        why = MAY_MATTER.get(directive.name)
        if not known(directive):
            why = "it is not known, and the profile lets it be ignored"
        if why is not None and directive.name not in said:
            said.add(directive.name)
            yield directive, f"{directive.name} is left out: {why}"


def refuse(directive: Directive) -> None:
    """ProfileError for what cannot be run as a client tunnel."""
    why = REFUSED.get(directive.name) or _no_client(directive) or _unfilled(directive)
    if why is not None:
        raise ProfileError(f"{directive.name} {why}", directive.line)
    _refuse_files(directive)


def _no_client(directive: Directive) -> str | None:
    why = None
    match directive.words:
        case ("dev" | "dev-type", kind, *_) if kind.startswith("tap"):
            why = "asks for a tap interface (Ethernet); only tun (IP) can be routed"
        case ("mode", "server", *_) | ("proto", "tcp-server" | "tcp4-server" | "tcp6-server", *_):
            why = SERVER
        case ("remote", _, _, proto, *_) if proto.endswith("server"):
            why = SERVER
        case ("remote",):
            why = "names no server"
        case ("remote", host, *_) if (better := _apart(host)) is not None:
            why = f"has the server in another form than OpenVPN reads; write it as: remote {better}"
        case ("providers", *names) if not SAFE_PROVIDERS.issuperset(names):
            why = LOADS_CODE
        case ("key-method", "1", *_):
            why = "1 was removed in OpenVPN 2.5; ask for a profile with key-method 2"
    return why


def _unfilled(directive: Directive) -> str | None:
    if directive.name not in _FILLED_IN or directive.block is not None:
        return None
    value = next((each for each in directive.words[1:] if placeholder(each) and each not in INLINE), None)
    if value is None:
        return None
    return f"says {value!r}, which a template leaves to be filled in; ask for the value"


def _apart(host: str) -> str | None:
    """Host and port as two words, if this is both in one, or a URL; None: it is a host."""
    if joined := _JOINED.fullmatch(host):
        return f"{joined['host'].strip('[]')} {joined['port']}"
    address = _ADDRESS.fullmatch(host)
    return None if address is None else f"{address['host']} PORT"


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


def contents_problem(directive: Directive, read: Callable[[Directive], bytes]) -> str | None:
    """Why the block or file of this option does not hold what belongs there; None: it does, or cannot be read
    here (KeyError of `read`).
    """
    holds = _HOLDS.get(directive.name)
    if holds is None or (directive.block is None and directive.file is None):
        return None
    if directive.block is not None:
        said = pem_problem("\n".join(directive.block), holds)
        return None if said is None else f"the block <{directive.name}> {said}"
    try:
        said = pem_problem(read(directive).decode("utf-8", "replace"), holds)
    except KeyError:
        return None
    return None if said is None else f"{directive.name}: {directive.file} {said}"
