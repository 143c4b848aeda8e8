"""What `facilitator import` makes of a command line of openconnect. Scripts and wrappers are not carried
over, and no password or cookie in the line is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from tunnels.kinds.openconnect.kind import (
    REALM,
    USERAGENT,
    USERGROUP,
    OperatingSystem,
    Protocol,
    checked_pin,
    checked_server,
)
from tunnels.profiles import ProfileError
from tunnels.proposals import (
    ImportSource,
    NeededSecret,
    ProposedTunnel,
    option_names,
    option_pairs,
    option_shown,
)

_PASSWORD = NeededSecret(("login", "password"), "password", "the password of the account")
_PASSWORD_IF_ASKED = NeededSecret(_PASSWORD.setting, _PASSWORD.suffix, _PASSWORD.what, optional=True)
_KEY = NeededSecret(("key",), "key", "the private key of the certificate, in PEM form without a passphrase")
_CODE = "the TOTP seed (base32 or an otpauth:// address)"

# options of openconnect(8) with a value
_WITH_VALUE = option_names(
    """
    -c --certificate -e --cert-expire-warning -k --sslkey -C --cookie -g --usergroup -F --form-entry -i --interface
    -m --mtu --base-mtu -p --key-password -P --proxy -Q --queue-len -s --script -u --user -U --setuid --csd-user
    -x --xmlconfig --protocol --authgroup --servercert --useragent --os --version-string --local-hostname --resolve
    --sni --cafile --dtls-ciphers --dtls12-ciphers --gnutls-priority --pid-file --reconnect-timeout --token-mode
    --token-secret --csd-wrapper --force-dpd --force-trojan --config --compression --dtls-local-port
    --external-browser --mca-certificate --mca-key --mca-key-password --proxy-auth --http-auth
    """
)
_LONG = {
    "-u": "--user",
    "-g": "--usergroup",
    "-c": "--certificate",
    "-k": "--sslkey",
    "-s": "--script",
    "-S": "--script-tun",
    "-p": "--key-password",
    "-C": "--cookie",
    "-F": "--form-entry",
}
_PROGRAMS = ("--script", "--script-tun", "--csd-wrapper", "--external-browser")
_SECRETS = ("--key-password", "--cookie", "--token-secret", "--form-entry", "--mca-key-password")
_SILENT = ("-b", "--background", "-v", "--verbose", "-q", "--quiet", "-l", "--syslog", "--timestamp")
_URL = re.compile(r"(?:https://)?(?P<server>[^/?#]*)/?(?P<path>[^#]*)", re.ASCII | re.IGNORECASE)


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a command line. ProfileError: it cannot be run."""
    if source.words[:1] != ("openconnect",):
        return None
    pairs = [(_LONG.get(name, name), value) for name, value in option_pairs(source.words[1:], _WITH_VALUE)]
    said = dict(pairs)
    settings, notes = _server([value for name, value in pairs if not name])
    if "--juniper" in said:
        said.setdefault("--protocol", "nc")
    notes += _read(settings, said)
    username = said.get("--user") or source.username
    certified = "certificate" in settings or "--certificate" in said
    if not username and not certified:
        raise ProfileError("the line names no user; name the account with --username")
    if username:
        if not username.isprintable() or username != username.strip():
            raise ProfileError("the user name has characters that no user name has")
        settings["login"] = {"username": username}
    notes += [note for name in said if (note := _left_out(name))]
    return ProposedTunnel(
        kind="openconnect",
        server=settings["server"].rpartition("]")[0].strip("[") or settings["server"].partition(":")[0],
        settings=settings,
        secrets=tuple(_secrets(said, bool(username), certified)),
        files=("certificate",) if certified else (),
        notes=tuple(notes),
    )


def _server(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings of the one word that names the server. The error does not repeat words, which may be
    secrets.
    """
    if len(words) != 1:
        raise ProfileError(f"the line has {len(words)} words besides its options; give the server alone")
    match = _URL.fullmatch(words[0])
    try:
        settings: dict[str, Any] = {"server": checked_server(match["server"] if match else "")}
    except ValueError:
        raise ProfileError(
            "the server in the line is none; write it as vpn.example.net or 192.0.2.1:4443"
        ) from None
    path = match["path"] if match else ""
    if path and not re.fullmatch(USERGROUP, path):
        return settings, ["the path of the address is left out: set usergroup by hand"]
    return settings | ({"usergroup": path} if path else {}), []


def _read(settings: dict[str, Any], said: dict[str, str]) -> list[str]:
    """Add what the options say; notes on values that cannot be set."""
    rules: dict[str, tuple[str, Callable[[str], bool]]] = {
        "--protocol": ("protocol", lambda value: value in get_args(Protocol)),
        "--os": ("os", lambda value: value in get_args(OperatingSystem)),
        "--servercert": ("server_certificate", _is_pin),
        "--authgroup": ("group", lambda value: bool(value.strip()) and value.isprintable()),
        "--useragent": ("useragent", lambda value: re.fullmatch(USERAGENT, value) is not None),
        "--usergroup": ("usergroup", lambda value: re.fullmatch(USERGROUP, value) is not None),
    }
    if said.get("--protocol", "anyconnect") not in get_args(Protocol):
        raise ProfileError("--protocol names none of " + ", ".join(get_args(Protocol)))
    notes = []
    for option, (setting, accepts) in rules.items():
        if option in said and accepts(said[option]):
            settings[setting] = said[option]
        elif option in said:
            notes.append(f"{option} is left out: its value cannot be set as {setting}")
    return [*notes, *_realm(settings)]


def _is_pin(value: str) -> bool:
    try:
        return checked_pin(value) == value
    except ValueError:
        return False


def _realm(settings: dict[str, Any]) -> Iterator[str]:
    """The realm in the address of a gateway of Fortinet, as the setting for it."""
    prefix, _, realm = settings.get("usergroup", "").partition("?realm=")
    plain = not prefix and "%" not in realm and re.fullmatch(REALM, realm) is not None
    if settings.get("protocol") == "fortinet" and plain:
        del settings["usergroup"]
        settings["realm"] = realm
        yield "the realm in the address is written as realm"


def _left_out(name: str) -> str | None:
    if name in _PROGRAMS:
        return f"{name} is left out: no program of a command line is run"
    if name in _SECRETS:
        return f"{name} is left out: a secret goes into a file, see below"
    if name in ("--certificate", "--sslkey"):
        return f"the file of {name} is not copied; put it where it is said below"
    read = ("", "--user", "--protocol", "--juniper", "--os", "--servercert", "--authgroup", "--useragent")
    if name in (*read, "--usergroup", "--token-mode", *_SILENT):
        return None
    return f"{option_shown(name)} is left out: the daemon decides this"


def _secrets(said: dict[str, str], named: bool, certified: bool) -> Iterator[NeededSecret]:
    if certified:
        yield _KEY
    if named:
        yield _PASSWORD_IF_ASKED if certified else _PASSWORD
        totp = said.get("--token-mode") == "totp"
        yield NeededSecret(("login", "totp"), "totp-seed", _CODE, optional=not totp)
