"""A customer's WireGuard .conf: what describes the tunnel is taken; what would change this host is left out
and reported.

    bytes of the .conf -> read_profile -> WireGuardProfile -> kind -> an anonymous file for the driver

The format is that of wg(8) and wg-quick(8). No error text repeats a value, because any of them may be a key.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, ip_address, ip_interface, ip_network
from types import MappingProxyType
from typing import Any, TypeVar

from tunnels.base import FileFinding, IPNetwork
from tunnels.profile_text import text_of
from tunnels.profiles import EmptySecret, ProfileError
from tunnels.recognition import ProfileFormat, placeholder

T = TypeVar("T")

# if the file says nothing: without packets nobody can know whether the peer is alive
KEEPALIVE_SECONDS = 25
_KEY_BYTES = 32

_INTERFACE = MappingProxyType({name.lower(): name for name in ("PrivateKey", "Address", "MTU", "ListenPort")})
_PEER = MappingProxyType(
    {
        name.lower(): name
        for name in ("PublicKey", "PresharedKey", "Endpoint", "AllowedIPs", "PersistentKeepalive")
    }
)
_MANY = frozenset({"Address", "AllowedIPs"})  # these may stand in several lines
_HOOK = "programs of a customer's file are not run"
OWNED = MappingProxyType(
    {
        "dns": "names are resolved as this host does it",
        "table": "routes are the daemon's",
        "fwmark": "marks are the daemon's",
        "saveconfig": "the file is never written",
        "preup": _HOOK,
        "postup": _HOOK,
        "predown": _HOOK,
        "postdown": _HOOK,
    }
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}", re.ASCII)
_ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ConfiguredPeer:
    """One peer."""

    line: int  # of its [Peer]
    public_key: bytes = field(repr=False)
    preshared_key: bytes | None = field(repr=False)
    endpoint: tuple[str, int] | None  # name or address, and UDP port; None: the peer connects to us
    allowed: tuple[IPNetwork, ...]  # AllowedIPs
    keepalive: int  # seconds between two keepalive packets


@dataclass(frozen=True, slots=True)
class WireGuardProfile:
    """What a .conf says about the tunnel."""

    private_key: bytes = field(repr=False)
    addresses: tuple[IPv4Address | IPv6Address, ...]  # ours inside the tunnel
    mtu: int | None  # bytes
    listen_port: int  # 0: any
    peers: tuple[ConfiguredPeer, ...]
    notes: tuple[FileFinding, ...]  # on settings that have no effect

    def uncovered(self, network: IPNetwork) -> bool:
        """Some address of the network belongs to no peer: packets to it would be dropped."""
        allowed: Any = [
            each for peer in self.peers for each in peer.allowed if each.version == network.version
        ]
        return not any(each.supernet_of(network) for each in collapse_addresses(allowed))


@dataclass(frozen=True, slots=True)
class _Setting:
    line: int
    name: str  # as wg(8) writes it
    value: str


@dataclass(frozen=True, slots=True)
class _Section:
    line: int
    name: str  # interface or peer
    settings: list[_Setting]


def read_profile(data: bytes) -> WireGuardProfile:
    """The tunnel that a .conf describes. ProfileError says why it cannot be run."""
    lines = text_of(data, ProfileFormat.WIREGUARD).removesuffix("\n").split("\n")
    notes: list[FileFinding] = []
    sections = _sections(lines, notes)
    interfaces = [section for section in sections if section.name == "interface"]
    if len(interfaces) != 1:
        where = interfaces[1].line if interfaces else max(1, len(lines))
        raise ProfileError(f"{'a second' if interfaces else 'no'} [Interface]", where)
    return _profile(interfaces[0], [section for section in sections if section.name == "peer"], notes)


def _profile(section: _Section, peers: Sequence[_Section], notes: Sequence[FileFinding]) -> WireGuardProfile:
    addresses = tuple(_each(section, "Address", lambda text: ip_interface(text).ip))
    if not addresses:
        raise ProfileError("[Interface] has no Address", section.line)
    return WireGuardProfile(
        private_key=_required(section, "PrivateKey", _key),
        addresses=tuple(dict.fromkeys(addresses)),
        mtu=_one(section, "MTU", _number(576, 65535), None),
        listen_port=_one(section, "ListenPort", _number(0, 65535), 0),
        peers=_peers(peers),
        notes=(*notes, *_shared_networks(peers)),
    )


def _peer(section: _Section) -> ConfiguredPeer:
    return ConfiguredPeer(
        line=section.line,
        public_key=_required(section, "PublicKey", _key),
        preshared_key=_one(section, "PresharedKey", _key, None),
        endpoint=_one(section, "Endpoint", _endpoint, None),
        allowed=tuple(_each(section, "AllowedIPs", lambda text: ip_network(text, strict=False))),
        keepalive=_one(section, "PersistentKeepalive", _keepalive, 0) or KEEPALIVE_SECONDS,
    )


def _peers(sections: Sequence[_Section]) -> tuple[ConfiguredPeer, ...]:
    peers: dict[bytes, ConfiguredPeer] = {}
    for section in sections:
        peer = _peer(section)
        if peer.public_key in peers:
            raise ProfileError("a [Peer] again", section.line)
        peers[peer.public_key] = peer
    if not any(peer.endpoint for peer in peers.values()):
        raise ProfileError("no [Peer] has an Endpoint: there is nobody to connect to")
    return tuple(peers.values())


def _shared_networks(sections: Sequence[_Section]) -> Iterator[FileFinding]:
    """A note on each network that two peers have: WireGuard itself accepts that silently."""
    taken: dict[IPNetwork, tuple[int, int]] = {}  # where it stands: the line, and that of its [Peer]
    for section in sections:
        for setting in section.settings:
            for network in _networks(setting):
                line, peer = taken.get(network, (setting.line, section.line))
                if peer != section.line:
                    text = (
                        f"AllowedIPs {network} has no effect: line {setting.line} gives it to another [Peer], "
                        f"and WireGuard uses the last one; remove one of the two"
                    )
                    yield _note(text, line)
                taken[network] = setting.line, section.line


def _note(text: str, line: int) -> FileFinding:
    return FileFinding(text, line=line, fatal=False)


def _networks(setting: _Setting) -> Iterator[IPNetwork]:
    if setting.name == "AllowedIPs":
        yield from _values(setting, lambda text: ip_network(text, strict=False))


# --- lines
# ----------------------------------------------------------------------------------------------------------


def _sections(lines: Sequence[str], notes: list[FileFinding]) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in enumerate(lines, 1):
        line = raw.partition("#")[0].strip()
        if line.startswith("["):
            name = line.lower()
            if name not in ("[interface]", "[peer]"):
                raise ProfileError("only [Interface] and [Peer] are known", number)
            sections.append(_Section(number, name.strip("[]"), []))
        elif line:
            _take(sections, number, line, notes)
    return sections


def _take(sections: Sequence[_Section], number: int, line: str, notes: list[FileFinding]) -> None:
    """Take one `Name = value`."""
    name, separator, value = (part.strip() for part in line.partition("="))
    if not separator or not _WORD.fullmatch(name):
        raise ProfileError("not of the form Name = value", number)
    if not sections:
        raise ProfileError(f"{name} stands before the first section", number)
    section = sections[-1]
    if section.name == "interface" and name.lower() in OWNED:
        notes.append(_note(f"{name} is left out: {OWNED[name.lower()]}", number))
        return
    proper = (_INTERFACE if section.name == "interface" else _PEER).get(name.lower())
    if proper is None:
        raise ProfileError(_unknown(name, section.name.title()), number)
    if proper not in _MANY and any(setting.name == proper for setting in section.settings):
        raise ProfileError(f"{proper} again", number)
    section.settings.append(_Setting(number, proper, value))


def _unknown(name: str, section: str) -> str:
    if re.fullmatch(r"(?:jc|jmin|jmax|[sh][1-4]|i[1-5]|j[1-3]|itime)", name.lower()):
        return f"{name} is AmneziaWG's, which WireGuard cannot speak; ask for a plain WireGuard configuration"
    return f"{name} is no setting of [{section}]"


def _required(section: _Section, name: str, read: Callable[[str], T]) -> T:
    value: T | None = _one(section, name, read, None)
    if value is None:
        raise ProfileError(f"[{section.name.title()}] has no {name}", section.line)
    return value


def _one(section: _Section, name: str, read: Callable[[str], T], missing: T) -> T:
    return next(
        (_read(setting, setting.value, read) for setting in section.settings if setting.name == name), missing
    )


def _each(section: _Section, name: str, read: Callable[[str], T]) -> Iterator[T]:
    for setting in section.settings:
        if setting.name == name:
            yield from _values(setting, read)


def _values(setting: _Setting, read: Callable[[str], T]) -> Iterator[T]:
    parts = [part.strip() for part in setting.value.split(",")]
    yield from (_read(setting, part, read) for part in parts if part)


# --- values
# ----------------------------------------------------------------------------------------------------------

_SECRETS = ("PrivateKey", "PresharedKey")
_WANTED: Mapping[str, str] = MappingProxyType(
    {
        "PrivateKey": "a key (44 characters of base64)",
        "PublicKey": "a key (44 characters of base64)",
        "PresharedKey": "a key (44 characters of base64)",
        "Address": "an address, such as 10.86.0.2/32",
        "AllowedIPs": "a network, such as 10.77.0.0/24",
        "Endpoint": "HOST:PORT",
        "MTU": "a number from 576 to 65535",
        "ListenPort": "a port",
        "PersistentKeepalive": "off or a number of seconds",
    }
)


def _read(setting: _Setting, text: str, read: Callable[[str], T]) -> T:
    if not text and setting.name in _SECRETS:
        raise EmptySecret(_complaint(setting, text), setting.line)
    try:
        return read(text)
    except ValueError:
        raise ProfileError(_complaint(setting, text), setting.line) from None


def _complaint(setting: _Setting, text: str) -> str:
    if not text or placeholder(text):
        return f"{setting.name} is not filled in; put in {_WANTED[setting.name]}"
    return f"{setting.name} is not {_WANTED[setting.name]}"


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None
    if len(key) != _KEY_BYTES:
        raise ValueError
    return key


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return read


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _number(0, 65535)(text)


def _endpoint(text: str) -> tuple[str, int]:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError
    host, port = match["host"], _number(1, 65535)(match["port"])
    if host.startswith("["):
        host = str(ip_address(host.strip("[]")))
    return host, port
