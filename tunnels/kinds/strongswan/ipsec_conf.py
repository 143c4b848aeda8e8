"""The connections of an ipsec.conf, strongSwan's old format (ipsec.conf(5)), in terms of swanctl.conf(5).
What has no such term is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunnels.kinds.strongswan.syntax import Tree
from tunnels.profile_text import text_of
from tunnels.profiles import ProfileError, Value
from tunnels.recognition import ProfileFormat

Settings = dict[str, Value]

_HEAD = re.compile(r"(config|conn|ca)[ \t]+(\S+)[ \t]*")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEFAULT = "%default"
_CONNECTION = {
    "right": "remote_addrs",
    "dpddelay": "dpd_delay",
    "mobike": "mobike",
    "aggressive": "aggressive",
}
_CHILD = {"rightsubnet": "remote_ts", "leftsubnet": "local_ts"}
_LOCAL = {"leftid": "id", "leftcert": "certs"}
_REMOTE = {"rightid": "id", "rightcert": "certs"}
_PROPOSALS = {"ike": "proposals", "esp": "esp_proposals"}
_VERSIONS = {"ikev1": "1", "ikev2": "2", "ike": "0"}
_AUTHENTICATION = {"secret": "psk", "psk": "psk", "pubkey": "pubkey", "rsasig": "pubkey"}
_READ_BELOW = ("keyexchange", "leftsourceip", "leftauth", "rightauth", "authby", "type", "eap_identity")
# what the daemon decides, or where each connection sends from
_LEFT_OUT = (
    *(
        "auto",
        "left",
        "leftupdown",
        "rightupdown",
        "leftfirewall",
        "lefthostaccess",
        "dpdaction",
        "dpdtimeout",
    ),
    *(
        "keyingtries",
        "closeaction",
        "ikelifetime",
        "lifetime",
        "keylife",
        "margintime",
        "rekeymargin",
        "rekey",
    ),
    *("rekeyfuzz", "reauth", "compress", "forceencaps", "fragmentation", "installpolicy", "leftsendcert"),
)
_REMEDY = (
    "write the connection as swanctl.conf (docs.strongswan.org: Migrating from ipsec.conf to swanctl.conf), "
    "and import that"
)


def swanctl_of(data: bytes) -> tuple[Tree, list[str]]:
    """The connections as the tree of a swanctl.conf, and notes on what was left out. ProfileError."""
    connections: dict[str, Settings] = {}
    for name, settings in list(_connections(text_of(data, ProfileFormat.IPSEC_CONF))):
        connections.setdefault(name, {}).update(settings)
    default = connections.pop(_DEFAULT, {})
    notes: list[str] = []
    found: Tree = {name: _connection(default | settings, notes) for name, settings in connections.items()}
    return {"connections": found}, list(dict.fromkeys(notes))


def _connections(text: str) -> Iterator[tuple[str, Settings]]:
    settings: Settings | None = None  # None: of another section
    for number, line in enumerate(text.split("\n"), 1):
        said = line.partition("#")[0].rstrip()
        if not said.strip():
            continue
        if said[0] not in " \t":
            head = _HEAD.fullmatch(said)
            if head is None or not (_NAME.fullmatch(head[2]) or head[2] == _DEFAULT):
                raise ProfileError(f"this line cannot be imported; {_REMEDY}", number)
            settings = {} if head[1] == "conn" else None
            if settings is not None:
                yield head[2], settings
        elif settings is not None:
            name, _, value = said.strip().partition("=")
            settings[name.strip().lower()] = Value(value.strip().strip('"'), number)


def _connection(said: Settings, notes: list[str]) -> Tree:
    for name, value in said.items():
        if name in _LEFT_OUT:
            why = "no program of a file is run" if name.endswith("updown") else "the daemon decides this"
            notes.append(f"line {value.line}: {name} is left out: {why}")
        elif name not in (*_CONNECTION, *_CHILD, *_LOCAL, *_REMOTE, *_PROPOSALS, *_READ_BELOW):
            shown = "".join(each for each in name if each.isprintable())[:40]
            raise ProfileError(f"{shown} cannot be imported; {_REMEDY}", value.line)
    if (kind := said.get("type", "tunnel")) != "tunnel":
        raise ProfileError("only type=tunnel can be run", kind.line if isinstance(kind, Value) else None)
    child = _renamed(said, _CHILD)
    tree = _renamed(said, _CONNECTION)
    for name, section in (("ike", tree), ("esp", child)):
        if name in said:
            section[_PROPOSALS[name]] = said[name].rstrip("!")
    if "keyexchange" in said:
        tree["version"] = _term(said["keyexchange"], "keyexchange", _VERSIONS)
    if "leftsourceip" in said:
        address = said["leftsourceip"]
        tree["vips"] = "0.0.0.0" if address.startswith("%config") else str(address)
    account: Tree = {"eap_id": str(said["eap_identity"])} if "eap_identity" in said else {}
    tree["local"] = _renamed(said, _LOCAL) | account | {"auth": _authentication(said, "leftauth")}
    tree["remote"] = _renamed(said, _REMOTE) | {"auth": _authentication(said, "rightauth")}
    return tree | {"children": {"net": child}}


def _renamed(said: Settings, terms: dict[str, str]) -> Tree:
    return {term: str(said[name]) for name, term in terms.items() if name in said}


def _authentication(said: Settings, name: str) -> str:
    value = said.get(name, said.get("authby"))
    if value is None:
        return "pubkey"
    if re.fullmatch(r"eap(-[a-z0-9]+)?", value):
        return str(value)
    return _term(value, name, _AUTHENTICATION)


def _term(value: Value, name: str, terms: dict[str, str]) -> str:
    if value not in terms:
        raise ProfileError(f"this value of {name} cannot be imported; {_REMEDY}", value.line)
    return terms[value]
