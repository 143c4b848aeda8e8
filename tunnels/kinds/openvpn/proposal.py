"""What `facilitator import` makes of a customer's .ovpn. Scripts, plugins and everything else that the daemon
owns are not in the copy: it holds the options that OpenVPN would be given anyhow.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunnels.kinds.openvpn.judging import left_out
from tunnels.kinds.openvpn.profile import OpenVPNProfile, read_profile
from tunnels.kinds.openvpn.syntax import Directive
from tunnels.networks import IPNetwork
from tunnels.profiles import ProfileError
from tunnels.proposals import (
    ImportSource,
    NeededSecret,
    ProposedTunnel,
    address_of,
    host_of,
    network_of,
    routable,
)
from tunnels.recognition import ProfileFormat

_PASSWORD = NeededSecret(("login", "password"), "password", "the password of the account")
_CODE = "the TOTP seed (base32 or an otpauth:// address)"


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a profile. ProfileError: it cannot be run."""
    if source.format is not ProfileFormat.OPENVPN:
        return None
    profile = read_profile(source.data)
    notes = [f"line {option.line}: {sentence}" for option, sentence in left_out(profile.dropped)]
    login: dict[str, object] = {}
    if profile.asks_login:
        if source.username is None:
            text = "auth-user-pass asks for a user name and a password; name the account with --username"
            raise ProfileError(text, profile.login_line)
        login = {"login": {"username": source.username}}
    return ProposedTunnel(
        kind="openvpn",
        server=next(_servers(profile), ""),
        settings=login,
        extension="ovpn",
        content=_copy(profile).encode(),
        networks=routable(_routes(profile)),
        resolvers=tuple(_resolvers(profile)),
        secrets=tuple(_secrets(profile)),
        notes=tuple(notes),
    )


def _copy(profile: OpenVPNProfile) -> str:
    """The profile without what the daemon owns; that it asks for a login, and in which order its servers are
    tried, stays.
    """
    dropped = {each.name for each in profile.dropped}
    login = "auth-user-pass\n" if profile.asks_login else ""
    order = "remote-random\n" if "remote-random" in dropped else ""
    return f"{profile.text}{login}{order}"


def _everything(profile: OpenVPNProfile) -> Iterator[Directive]:
    for each in profile.kept:
        yield each
        yield from each.inner


def _servers(profile: OpenVPNProfile) -> Iterator[str]:
    for each in _everything(profile):
        host = host_of(each.words[1]) if each.name == "remote" and len(each.words) > 1 else None
        if host is not None:
            yield host


def _routes(profile: OpenVPNProfile) -> Iterator[IPNetwork]:
    for each in profile.dropped:
        if each.name == "route" and len(each.words) > 1:
            mask = each.words[2] if len(each.words) > 2 else "32"
            network = network_of(f"{each.words[1]}/{'32' if mask == 'default' else mask}")
        else:
            network = network_of(each.words[1]) if each.name == "route-ipv6" and each.words[1:] else None
        if network is not None:
            yield network


def _resolvers(profile: OpenVPNProfile) -> Iterator[str]:
    for each in profile.dropped:
        if each.name == "dhcp-option" and len(each.words) > 2 and each.words[1] in ("DNS", "DNS6"):
            address = address_of(each.words[2])
            if address is not None:
                yield address


def _secrets(profile: OpenVPNProfile) -> Iterator[NeededSecret]:
    if profile.asks_login:
        yield _PASSWORD
        challenge = any(each.name == "static-challenge" for each in profile.kept)
        yield NeededSecret(("login", "totp"), "totp-seed", _CODE, optional=not challenge)
