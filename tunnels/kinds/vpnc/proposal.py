"""What `facilitator import` makes of vpnc's configuration, or of a profile of Cisco's old VPN Client (.pcf).
The script, the password helper and everything else that the daemon owns are not in the copy.

An obfuscated secret (enc_GroupPwd) stays as it is: vpnc reads it as `IPSec obfuscated secret`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tunnels.kinds.vpnc.kind import GATEWAY, PASSWORDS, SECRETS, owned_in, read_config, rendered
from tunnels.networks import IPNetwork
from tunnels.profile_text import text_of
from tunnels.profiles import ProfileError
from tunnels.proposals import ImportSource, NeededSecret, ProposedTunnel, host_of, network_of, routable
from tunnels.recognition import ProfileFormat

_GROUP_SECRET = NeededSecret(("group_secret",), "group-secret", "the group's secret (IPSec secret)")
_PASSWORD = NeededSecret(("login", "password"), "password", "the password of the account")
_CODE = NeededSecret(
    ("login", "totp"), "totp-seed", "the TOTP seed (base32 or an otpauth:// address)", optional=True
)
_HEX = re.compile(r"[0-9A-Fa-f]{2,1024}")
_USERNAME = "Xauth username"
# settings of a .pcf, and what they are called in vpnc's configuration
_OF_PCF = {
    "host": GATEWAY,
    "groupname": "IPSec ID",
    "grouppwd": "IPSec secret",
    "enc_grouppwd": "IPSec obfuscated secret",
    "username": _USERNAME,
    "userpassword": "Xauth password",
    "enc_userpassword": "Xauth obfuscated password",
    "ntdomain": "Domain",
}
_BY_CERTIFICATE = ("3", "5")  # AuthType: certificate, and group with the gateway's certificate


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a configuration of vpnc or a .pcf. ProfileError: it cannot be run."""
    notes: list[str] = []
    if source.format is ProfileFormat.VPNC:
        said: Mapping[str, str] = read_config(source.data)
        notes = [
            f"line {line}: {name} is left out: the daemon decides this"
            for name, line in owned_in(source.data)
        ]
    elif source.format is ProfileFormat.PCF:
        said = _of_pcf(text_of(source.data, source.format), notes)
    else:
        return None
    host = host_of(said.get(GATEWAY, ""))
    if host is None:
        raise ProfileError(f"it names no {GATEWAY} to connect to")
    if not said.get("IPSec ID"):
        raise ProfileError("it names no group (IPSec ID, GroupName); ask for it")
    kept = {
        name: value for name, value in said.items() if value or name not in (*PASSWORDS, *SECRETS, _USERNAME)
    }
    settings = {} if kept.get(_USERNAME) else {"login": {"username": _account(source)}}
    return ProposedTunnel(
        kind="vpnc",
        server=host,
        settings=settings,
        extension="conf",
        content="".join(f"{line}\n" for line in rendered(kept)).encode(),
        networks=routable(_networks(kept.get("IPSEC target network", ""))),
        secrets=tuple(_secrets(kept)),
        notes=tuple(notes),
    )


def _account(source: ImportSource) -> str:
    if not source.username:
        raise ProfileError("it names no user; name the account with --username")
    return source.username


def _networks(text: str) -> Iterator[IPNetwork]:
    network = network_of(text)
    if network is not None:
        yield network


def _secrets(kept: Mapping[str, str]) -> Iterator[NeededSecret]:
    if not any(name in kept for name in SECRETS) and kept.get("IKE Authmode") != "cert":
        yield _GROUP_SECRET
    if not any(name in kept for name in PASSWORDS):
        yield _PASSWORD
        yield _CODE


def _of_pcf(text: str, notes: list[str]) -> dict[str, str]:
    """vpnc's options that a .pcf says."""
    parts = (line.partition("=") for line in text.split("\n"))
    values = {name.strip().removeprefix("!").lower(): value.strip(" \t") for name, _, value in parts}
    found = {name: value for name, value in values.items() if value}
    if found.get("authtype") in _BY_CERTIFICATE:
        raise ProfileError(
            "AuthType asks for certificates; write a configuration of vpnc with IKE Authmode hybrid and CA-File, "
            "and import that"
        )
    if found.get("tunnelingmode") == "1":
        notes.append("TunnelingMode=1 (IPsec in TCP) is left out: vpnc uses UDP")
    if "backupserver" in found:
        notes.append("BackupServer is left out: vpnc has one gateway")
    said = {_OF_PCF[name]: value for name, value in found.items() if name in _OF_PCF}
    for name in [name for name in said if "obfuscated" in name and not _HEX.fullmatch(said[name])]:
        del said[name]
        notes.append(f"{name} is left out: it is not in hexadecimal digits")
    if any(ord(letter) < 32 for value in said.values() for letter in value):
        raise ProfileError("control characters in a value")
    group = found.get("dhgroup", "")
    return said | ({"IKE DH Group": f"dh{group}"} if group in ("1", "2", "5") else {})
