"""A swanctl.conf, made safe: parsed by strongSwan's own rules, changed where the daemon decides, and
rewritten.

    bytes of the swanctl.conf -> read_swanctl -> Swanctl -> `Swanctl.text` (an anonymous file for swanctl)

The daemon decides who may use the tunnel, when it is retried and what runs on this host; the customer decides
how the session is made.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_address, ip_network
from types import MappingProxyType
from typing import Any

from tunnels.base import FileFinding, IPNetwork
from tunnels.kinds.strongswan.syntax import Tree, parse, render
from tunnels.profile_text import text_of
from tunnels.profiles import EmptySecret, ProfileError, Value
from tunnels.recognition import ProfileFormat

# what the daemon decides about each connection and each of its children; None: left out
_CONNECTION: Mapping[str, str | None] = MappingProxyType(
    {
        "keyingtries": "1",
        "reauth_time": "0",
        "unique": "never",
        "local_port": None,
        "if_id_in": None,
        "if_id_out": None,
        "mediation": None,
        "pools": None,
    }
)
_CHILD: Mapping[str, str | None] = MappingProxyType(
    {
        "start_action": "none",
        "close_action": "none",
        "dpd_action": "clear",
        "mode": "tunnel",
        "updown": None,
        "hostaccess": None,
        "policies": None,
        "interface": None,
        "if_id_in": None,
        "if_id_out": None,
        "ipcomp": None,
        "mark_in": None,
        "mark_in_sa": None,
        "mark_out": None,
        "set_mark_in": None,
        "set_mark_out": None,
        "hw_offload": None,
        "priority": None,
        "copy_df": None,
        "tfc_padding": None,
        "label": None,
    }
)
# what names files, and the folder beside a swanctl.conf in which swanctl looks for them
_FILES: Mapping[str, str] = MappingProxyType(
    {"certs": "x509", "cacerts": "x509ca", "pubkeys": "pubkey", "cacert": "x509ca"}
)
# options of a certificate by which charon itself would load it from anywhere, or from a token
_LOADED_BY_CHARON = ("file", "handle", "slot", "module")
# dead peer detection after so much silence, if the file says nothing
_DPD_DELAY = "5s"


@dataclass(frozen=True, slots=True)
class File:
    """A file that a configuration names."""

    option: str
    name: str  # relative to the directory of the swanctl.conf
    line: int


@dataclass(frozen=True, slots=True)
class Swanctl:
    """A configuration that is safe to run."""

    text: str  # for swanctl --file
    children: tuple[tuple[str, str], ...]  # what to initiate: (connection, child)
    certificate: bool  # we authenticate with a certificate
    addresses: tuple[str, ...]  # our own ones, if the gateway assigns none
    files: tuple[File, ...]  # that it names, besides the folders of which swanctl loads everything
    locals: tuple[Value, ...]  # addresses of this host that it wants to send from
    # what stands in the text for the name of a gateway, the number of its address to try, and the name
    gateways: tuple[tuple[str, int, str], ...]
    several: bool  # some connection has more than one gateway
    notes: tuple[FileFinding, ...]  # on settings that have no effect, or do not work
    selectors: tuple[Value, ...]  # remote_ts of all children


def read_swanctl(data: bytes, username: str | None = None, remote: int = 0) -> Swanctl:
    """The safe configuration in a swanctl.conf. `username` is the account where the file names none; `remote`
    is the number of the gateway to try. ProfileError says why it cannot be run.
    """
    tree = parse(text_of(data, ProfileFormat.SWANCTL))
    connections = _sections(tree.get("connections"))
    if not connections:
        raise ProfileError("the file has no connection (connections { NAME { ... } })")
    notes = tuple(note for connection in connections.values() for note in _notes(connection))
    notes += tuple(_no_address(list(connections.values())))
    gateways: list[tuple[str, int, str]] = []
    several = False
    for name, connection in connections.items():
        _own(name, connection, username)
        several = _choose_gateway(connection, remote, gateways) or several
    kept: Tree = {name: tree[name] for name in ("connections", "secrets", "authorities") if name in tree}
    children = tuple((name, child) for name, c in connections.items() for child in _sections(c["children"]))
    certified = any(_certified(connection) for connection in connections.values())
    files = tuple(_files(kept["connections"])) + tuple(_files(kept.get("authorities", {})))
    _refuse_tokens(kept.get("secrets"))
    _refuse_empty(kept.get("secrets"))
    return Swanctl(
        render(kept),
        children,
        certified,
        tuple(_own_addresses(connections.values())),
        files,
        tuple(_locals(connections.values())),
        tuple(gateways),
        several,
        notes,
        tuple(_selectors(connections.values())),
    )


def without_owned(data: bytes) -> tuple[Tree, tuple[Value, ...]]:
    """What a swanctl.conf says, without what the daemon decides; and the names of that, with their lines.
    ProfileError.
    """
    tree = parse(text_of(data, ProfileFormat.SWANCTL))
    dropped: list[Value] = []
    for connection in _sections(tree.get("connections")).values():
        _drop(connection, _CONNECTION, dropped)
        for child in _sections(connection.get("children")).values():
            _drop(child, _CHILD, dropped)
    kept: Tree = {name: tree[name] for name in ("connections", "secrets", "authorities") if name in tree}
    return kept, tuple(dropped)


def _drop(section: Tree, names: Iterable[str], dropped: list[Value]) -> None:
    for name in names:
        value = section.pop(name, None)
        if isinstance(value, Value) and (name, value) != ("mode", "tunnel"):
            dropped.append(Value(name, value.line))


def _own(name: str, connection: Tree, username: str | None) -> None:
    """Write the daemon's decisions into a connection."""
    children = _sections(connection.get("children"))
    if not children:
        raise ProfileError(f"connection {name} has no child (children {{ NAME {{ ... }} }})")
    if not isinstance(connection.get("remote_addrs"), str):
        raise ProfileError(f"connection {name} names no remote_addrs")
    connection.setdefault("dpd_delay", _DPD_DELAY)
    _override(connection, _CONNECTION)
    for child_name, child in children.items():
        if child.get("mode", "tunnel") != "tunnel":
            raise ProfileError(
                f"child {child_name} of {name} is not in tunnel mode, and only tunnels can be run"
            )
        _override(child, _CHILD)
    if username is not None:
        _log_in(connection, username)


def _choose_gateway(connection: Tree, remote: int, gateways: list[tuple[str, int, str]]) -> bool:
    """Keep one of the gateways in remote_addrs, of which charon would only ever try the first; returns
    whether there are more. A name becomes a token, which the driver replaces by one of its addresses.
    """
    value = connection["remote_addrs"]
    assert isinstance(value, str)
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if not entries or "%" in value:
        return False
    chosen = entries[remote % len(entries)]
    if not _is_address(chosen):
        token = f"gateway-{len(gateways)}.invalid"
        gateways.append((token, remote // len(entries), chosen))
        chosen = token
    connection["remote_addrs"] = chosen
    return len(entries) > 1


def _is_address(text: str) -> bool:
    """An address, or a range or network of them."""
    return re.fullmatch(r"[0-9.]+(?:[/-][0-9.]+)?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:[/-].*)?", text) is not None


def _locals(connections: Iterable[Tree]) -> Iterator[Value]:
    """The first of each connection's local_addrs, if it is an address."""
    for connection in connections:
        value = connection.get("local_addrs")
        first = str(value).partition(",")[0].strip()
        with contextlib.suppress(ValueError):
            if isinstance(value, Value):
                yield Value(str(ip_address(first)), value.line)


def _notes(connection: Tree) -> Iterator[FileFinding]:
    if isinstance(port := connection.get("local_port"), Value):
        text = "local_port is left out: each tunnel sends from a port of its own"
        yield FileFinding(text, line=port.line, fatal=False)
    for local in _locals([connection]):
        text = (
            f"local_addrs {local} works only as long as this host itself has this address; an Elastic IP is "
            f"translated on the way: remove local_addrs then"
        )
        yield FileFinding(text, line=local.line, fatal=False)


def _no_address(connections: list[Tree]) -> Iterator[FileFinding]:
    """What is wrong if we have no address inside the tunnel: neither one of our own nor an assigned one."""
    if any(connection.get("vips") for connection in connections) or any(_own_addresses(connections)):
        return
    for connection in connections:
        for child in _sections(connection.get("children")).values():
            local = child.get("local_ts")
            with contextlib.suppress(ValueError):
                network = ip_network(str(local).partition(",")[0].partition("[")[0].strip())
                yield _at(
                    local,
                    f"local_ts {network} is a network, and this host has one address; write the address by which the "
                    f"remote gateway should see it, such as {next(network.hosts())}/{network.max_prefixlen}",
                )
                return
    text = "no inner address for this host: add vips = 0.0.0.0 (the remote gateway assigns one), or local_ts = ADDRESS/32"
    yield _at(connections[0].get("remote_addrs"), text)


def _at(value: object, text: str) -> FileFinding:
    return FileFinding(text, line=value.line if isinstance(value, Value) else 1)


def _selectors(connections: Iterable[Tree]) -> Iterator[Value]:
    for connection in connections:
        for child in _sections(connection["children"]).values():
            if isinstance(value := child.get("remote_ts"), Value):
                yield value
            else:
                yield Value("dynamic", 1)


def not_asked_for(config: Swanctl, networks: Iterable[IPNetwork]) -> Iterator[tuple[IPNetwork, int]]:
    """The networks that no remote_ts of the file covers, with the line of the last one: the gateway is not
    asked to carry them. None if a remote_ts depends on the gateway (dynamic).
    """
    asked: list[Any] = []
    for text in ",".join(config.selectors).split(","):
        try:
            asked.append(ip_network(text.partition("[")[0].strip(), strict=False))
        except ValueError:
            return
    for network in networks:
        same = [each for each in asked if each.version == network.version]
        if not any(each.supernet_of(network) for each in collapse_addresses(same)):
            yield network, config.selectors[-1].line


def _files(tree: str | Tree) -> Iterator[File]:
    """The files that are named in a section or below. ProfileError for options by which charon would read
    something itself.
    """
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, dict):
            yield from _files(value)
        elif isinstance(value, Value):
            yield from _named(key.lower(), value)


def _named(key: str, value: Value) -> Iterator[File]:
    """The files that one option names; a value that starts with 0x or 0s is the content itself."""
    folder = _FILES.get(key)
    names = [name.strip(" ") for name in value.split(",")] if folder is not None else []
    if key in _LOADED_BY_CHARON or any(name.startswith("/") for name in names):
        remedy = (
            f"put the file into the folder {folder or 'x509'} beside this one, and name it without a path"
        )
        raise ProfileError(f"{key} names {str(value)!r}; {remedy}", value.line)
    yield from (
        File(key, f"{folder}/{name}", value.line)
        for name in names
        if name and not name.lower().startswith(("0x", "0s"))
    )


def _refuse_tokens(secrets: str | Tree | None) -> None:
    for name, section in _sections(secrets).items():
        if name.startswith("token"):
            line = next((value.line for value in section.values() if isinstance(value, Value)), None)
            raise ProfileError(
                f"{name} is a key on a smart card, which cannot be used; put the key into the folder private",
                line,
            )


def _refuse_empty(secrets: str | Tree | None) -> None:
    """EmptySecret: a section below `secrets` has an empty one (swanctl.conf(5))."""
    for section in _sections(secrets).values():
        value = section.get("secret")
        if isinstance(value, Value) and not value.strip():
            raise EmptySecret("secret is empty", value.line)


def _override(section: Tree, ours: Mapping[str, str | None]) -> None:
    for key, value in ours.items():
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value


def _log_in(connection: Tree, username: str) -> None:
    """Add the account to the authentication rounds that need one."""
    for name, section in connection.items():
        if name.startswith("local") and isinstance(section, dict):
            auth = str(section.get("auth", ""))
            if auth.startswith("eap"):
                section.setdefault("eap_id", username)
            elif auth.startswith("xauth"):
                section.setdefault("xauth_id", username)


def _certified(connection: Tree) -> bool:
    rounds = (section for name, section in _sections(connection).items() if name.startswith("local"))
    return any(str(each.get("auth", "pubkey")).startswith(("pubkey", "rsa", "ecdsa")) for each in rounds)


def _own_addresses(connections: Iterable[Tree]) -> Iterator[str]:
    """The local traffic selectors that are one address, of connections without virtual addresses."""
    alone = [connection for connection in connections if not connection.get("vips")]
    children = [child for connection in alone for child in _sections(connection.get("children")).values()]
    for selector in ",".join(str(child.get("local_ts", "")) for child in children).split(","):
        with contextlib.suppress(ValueError):
            network = ip_network(selector.partition("[")[0].strip())
            if network.num_addresses == 1:
                yield str(network.network_address)


def _sections(tree: str | Tree | None) -> dict[str, Tree]:
    return (
        {name: part for name, part in tree.items() if isinstance(part, dict)}
        if isinstance(tree, dict)
        else {}
    )
