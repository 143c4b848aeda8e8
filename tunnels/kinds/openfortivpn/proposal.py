"""What `facilitator import` makes of openfortivpn's configuration or command line. Programs are not carried
over, and no password in it is repeated. What this client's kind has no setting for becomes a tunnel of kind
openconnect, which reaches the same gateways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tunnels.kinds.openfortivpn.kind import checked_digest, checked_server
from tunnels.profile_text import text_of
from tunnels.profiles import ProfileError
from tunnels.proposals import (
    ImportSource,
    NeededSecret,
    ProposedTunnel,
    option_names,
    option_pairs,
    option_shown,
)
from tunnels.recognition import ProfileFormat

_PASSWORD = NeededSecret(("login", "password"), "password", "the password of the account")
_CODE = NeededSecret(
    ("login", "totp"), "totp-seed", "the TOTP seed (base32 or an otpauth:// address)", optional=True
)
_KEY = NeededSecret(("key",), "key", "the private key of the certificate, in PEM form without a passphrase")

# options of openfortivpn(1) with a value; the long ones are the names in its configuration too
_WITH_VALUE = option_names(
    """
    -u --username -p --password -o --otp -c --config --cookie --pinentry --otp-prompt --otp-delay --realm --ifname
    --set-routes --half-internet-routes --set-dns --use-resolvconf --ca-file --user-cert --user-key --trusted-cert
    --cipher-list --min-tls --sni --persistent --ppp-system --pppd-plugin --pppd-log --pppd-ifname --pppd-ipparam
    --pppd-call --pppd-use-peerdns --user-agent --hostcheck --check-virtual-desktop
    """
)
_LONG = {"-u": "--username", "-p": "--password", "-o": "--otp", "-c": "--config", "-v": "", "-q": ""}
_PROGRAMS = ("pinentry", "pppd-plugin", "pppd-call", "ppp-system")
_SECRETS = ("password", "otp", "cookie", "cookie-on-stdin", "pem-passphrase")
_READ = ("host", "port", "username", "realm", "trusted-cert", "user-cert", "user-key")
_REALM = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,100}")
_PKCS11 = "pkcs11:"


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a configuration or command line. ProfileError: it cannot be run."""
    if source.words[:1] == ("openfortivpn",):
        said = _of_words(source.words[1:])
    elif source.format is ProfileFormat.OPENFORTIVPN:
        said = list(_of_file(text_of(source.data, source.format)))
    else:
        return None
    first = {name: value for name, value in reversed(said)}
    server = _server(first)
    username = first.get("username") or source.username
    if not username:
        raise ProfileError("no user is named; name the account with --username")
    if not username.isprintable() or username != username.strip():
        raise ProfileError("the user name has characters that no user name has")
    settings: dict[str, Any] = {"server": server, "login": {"username": username}}
    notes = [note for name in first if (note := _left_out(name))]
    if first.get("realm") or first.get("user-cert"):
        return _with_openconnect(first, settings, notes)
    digests = [value for name, value in said if name == "trusted-cert"]
    if digests:
        settings["trusted_certificate"] = _digest(digests[0])
    if len(digests) > 1:
        notes.append("trusted-cert is there more than once: only the first is set")
    return ProposedTunnel(
        kind="openfortivpn",
        server=server.partition(":")[0],
        settings=settings,
        secrets=(_PASSWORD, _CODE),
        notes=tuple(notes),
    )


def _of_words(words: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [(_LONG.get(name, name), value) for name, value in option_pairs(words, _WITH_VALUE)]
    plain = [value for name, value in option_pairs(words, _WITH_VALUE) if not name]
    if any(name == "--config" for name, _ in pairs):
        raise ProfileError("the line names a configuration with -c; import that file instead")
    if len(plain) != 1:
        raise ProfileError(f"the line has {len(plain)} words besides its options; give HOST:PORT alone")
    found = [(option_shown(name).removeprefix("--"), value) for name, value in pairs if name]
    return [("host", plain[0]), *found]


def _of_file(text: str) -> Iterator[tuple[str, str]]:
    """Names and values, by openfortivpn's own rules: `name = value`, and # begins a comment line."""
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals:
            raise ProfileError("this line is not of the form name = value", number)
        yield "".join(each for each in name.strip() if each.isprintable())[:40], value.strip()


def _server(said: dict[str, str]) -> str:
    host, port = said.get("host", ""), said.get("port")
    try:
        return checked_server(f"{host}:{port}" if port and ":" not in host else host)
    except ValueError:
        raise ProfileError("host or port is none; write them as vpn.example.net or 192.0.2.1:10443") from None


def _digest(value: str) -> str:
    try:
        return checked_digest(value)
    except ValueError:
        raise ProfileError("trusted-cert is no digest: it has 64 hexadecimal digits") from None


def _left_out(name: str) -> str | None:
    if name in _PROGRAMS:
        return f"{name} is left out: no program of a configuration is run"
    if name in _SECRETS:
        return f"{name} is left out: a secret goes into a file, see below"
    return None if name in _READ else f"{name} is left out: the daemon decides this"


def _with_openconnect(said: dict[str, str], settings: dict[str, Any], notes: list[str]) -> ProposedTunnel:
    """A realm or a certificate: kind openconnect has settings for them."""
    notes.append("realm and user-cert are no settings of openfortivpn here: this is kind openconnect instead")
    settings = {"server": settings["server"], "protocol": "fortinet", "login": settings["login"]}
    if realm := said.get("realm"):
        if not _REALM.fullmatch(realm):
            raise ProfileError("realm has characters that a realm cannot have here")
        settings["realm"] = realm
    if "trusted-cert" in said:
        notes.append(
            "trusted-cert is left out: openconnect identifies a server by its key; `facilitator try` shows the "
            "pin for server_certificate if no public CA has signed it"
        )
    certificate = said.get("user-cert", "")
    if certificate.startswith(_PKCS11):
        raise ProfileError("user-cert is on a smart card, which cannot be used; ask for it as a file")
    if certificate:
        notes.append("the files of user-cert and user-key are not copied; put them where it is said below")
    return ProposedTunnel(
        kind="openconnect",
        server=settings["server"].partition(":")[0],
        settings=settings,
        secrets=(*((_KEY,) if certificate else ()), _PASSWORD, _CODE),
        files=("certificate",) if certificate else (),
        notes=tuple(notes),
    )
