"""What `facilitator import` makes of a customer's swanctl.conf. Scripts (updown) and everything else that the
daemon decides are not in the copy. An ipsec.conf is written as one first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tunnels.kinds.strongswan.config import Swanctl, read_swanctl, without_owned
from tunnels.kinds.strongswan.ipsec_conf import swanctl_of
from tunnels.kinds.strongswan.syntax import Tree, render
from tunnels.networks import IPNetwork
from tunnels.profiles import ProfileError
from tunnels.proposals import ImportSource, NeededSecret, ProposedTunnel, host_of, network_of, routable
from tunnels.recognition import ProfileFormat

_PSK = NeededSecret(("psk",), "psk", "the pre-shared key")
_PASSWORD = NeededSecret(("login", "password"), "password", "the password of the account")
_CODE = NeededSecret(
    ("login", "totp"), "totp-seed", "the TOTP seed (base32 or an otpauth:// address)", optional=True
)
_LOGINS = ("eap", "xauth")


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a swanctl.conf. ProfileError: it cannot be run."""
    if source.format is ProfileFormat.IPSEC_CONF:
        return _of_ipsec_conf(source)
    if source.format is not ProfileFormat.SWANCTL:
        return None
    config = read_swanctl(source.data)
    if fatal := next((note for note in config.notes if note.fatal), None):
        raise ProfileError(fatal.text, fatal.line)
    tree, dropped = without_owned(source.data)
    rounds = list(_rounds(tree))
    logs_in = any(auth.startswith(_LOGINS) for auth, _ in rounds) and not _has_secret(tree, _LOGINS)
    username = next((name for auth, name in rounds if auth.startswith(_LOGINS) and name), source.username)
    if logs_in and not username:
        raise ProfileError("its login names no user; name the account with --username")
    return ProposedTunnel(
        kind="strongswan",
        server=next(_servers(tree), ""),
        settings={"login": {"username": username}} if logs_in else {},
        extension="conf",
        content=render(tree).encode(),
        networks=routable(_networks(config)),
        secrets=tuple(_secrets(tree, rounds, logs_in)),
        notes=tuple(_notes(config, [(str(each), each.line) for each in dropped])),
    )


def _of_ipsec_conf(source: ImportSource) -> ProposedTunnel | None:
    tree, notes = swanctl_of(source.data)
    try:
        found = propose(replace(source, data=render(tree).encode(), format=ProfileFormat.SWANCTL))
    except ProfileError as error:
        raise ProfileError(f"as swanctl.conf: {error.text}") from None  # its lines are none of the file
    return found and replace(found, notes=(*notes, *found.notes))


def _sections(tree: str | Tree | None) -> Iterator[tuple[str, Tree]]:
    if isinstance(tree, dict):
        yield from ((name, part) for name, part in tree.items() if isinstance(part, dict))


def _rounds(tree: Tree) -> Iterator[tuple[str, str]]:
    """How we authenticate in each round (swanctl.conf(5): local<suffix>.auth), and the account it names."""
    for _, connection in _sections(tree.get("connections")):
        for name, section in _sections(connection):
            if name.startswith("local"):
                account = section.get("eap_id") or section.get("xauth_id") or ""
                yield str(section.get("auth", "pubkey")), account if isinstance(account, str) else ""


def _has_secret(tree: Tree, prefixes: tuple[str, ...]) -> bool:
    sections = _sections(tree.get("secrets"))
    return any(name.startswith(prefixes) and section.get("secret") for name, section in sections)


def _servers(tree: Tree) -> Iterator[str]:
    for _, connection in _sections(tree.get("connections")):
        for entry in str(connection.get("remote_addrs", "")).split(","):
            host = host_of(entry.strip())
            if host is not None:
                yield host


def _networks(config: Swanctl) -> Iterator[IPNetwork]:
    for text in ",".join(config.selectors).split(","):
        network = network_of(text.partition("[")[0].strip())
        if network is not None:
            yield network


def _secrets(tree: Tree, rounds: list[tuple[str, str]], logs_in: bool) -> Iterator[NeededSecret]:
    if any(auth.startswith("psk") for auth, _ in rounds) and not _has_secret(tree, ("ike",)):
        yield _PSK
    if logs_in:
        yield _PASSWORD
        yield _CODE


def _notes(config: Swanctl, dropped: list[tuple[str, int]]) -> Iterator[str]:
    for name, line in dropped:
        why = "no program of a file is run" if name == "updown" else "the daemon decides this"
        yield f"line {line}: {name} is left out: {why}"
    yield from (f"line {note.line}: {note.text}" for note in config.notes if "local_port" not in note.text)
    if config.certificate:
        yield "keys and authorities are not copied: put them into the folders private and x509ca beside the copy"
