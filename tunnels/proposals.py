"""What `facilitator import` makes of a customer's file or command line: the proposal of a tunnel.

    ImportSource -> Kind.propose -> ProposedTunnel
                                 -> None (not of this kind), ProfileError (of this kind, and cannot be run)

The source is untrusted. A proposal holds values that were understood, never text that was passed through: no
script and no path of the source comes into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import collapse_addresses, ip_address, ip_network
from typing import Any

from tunnels.networks import IPNetwork
from tunnels.recognition import ProfileFormat

MAX_NETWORKS = 256  # of a source


@dataclass(frozen=True, slots=True)
class ImportSource:
    """A file, or a command line."""

    data: bytes
    format: ProfileFormat | None = None  # of the file
    words: tuple[str, ...] = ()  # of the command line; the first is the program, without its directory
    username: str | None = None  # as the operator has given it, where the source has none


@dataclass(frozen=True, slots=True)
class NeededSecret:
    """A secret that the tunnel needs and the source does not hold."""

    setting: tuple[str, ...]  # such as ("login", "password")
    suffix: str  # the secret's file is NAME-SUFFIX
    what: str  # for people: "the password of the account"
    optional: bool = False  # not known whether it is needed


@dataclass(frozen=True, slots=True)
class ProposedTunnel:
    """Everything of a tunnel's entry that a source says."""

    kind: str
    server: str  # host name or address
    settings: Mapping[str, Any] = field(default_factory=dict)  # the kind's own, and `login`
    extension: str | None = None  # `content` becomes NAME.EXTENSION, and `config` names it
    content: bytes = field(default=b"", repr=False)  # without what the daemon owns and what runs programs
    networks: tuple[IPNetwork, ...] = ()  # behind the tunnel
    resolvers: tuple[str, ...] = ()  # addresses of DNS servers behind the tunnel
    secrets: tuple[NeededSecret, ...] = ()
    files: tuple[
        str, ...
    ] = ()  # settings that name a file which the operator has to add, such as known_hosts
    notes: tuple[str, ...] = ()  # what was left out or is unusual, a sentence each


def routable(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The networks that can be destinations: without the whole internet, each address in one of them."""
    found: Any = [each for each in networks if each.prefixlen > 1]
    by_version: Any = [[each for each in found if each.version == version] for version in (4, 6)]
    return tuple(each for group in by_version for each in collapse_addresses(group))[:MAX_NETWORKS]


def network_of(text: str) -> IPNetwork | None:
    """A network or address as clients write it, host bits allowed; None: it is none."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def address_of(text: str) -> str | None:
    """An address in its usual form; None: it is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}", re.ASCII)


def host_of(text: str) -> str | None:
    """A host name or address; None: it is none, or could be taken for something else."""
    return text if _HOST.fullmatch(text) else None


def option_names(text: str) -> frozenset[str]:
    """The options in a text, separated by white space."""
    return frozenset(text.split())


def option_pairs(words: Sequence[str], with_value: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line with their values, and other words under an empty name."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            yield name, value
        elif word in with_value:
            yield word, next(rest, "")
        elif len(word) > 2 and word[0] == "-" and word[1] != "-" and word[:2] in with_value:
            yield word[:2], word[2:]
        else:
            yield (word, "") if word.startswith("-") else ("", word)


def option_shown(name: str) -> str:
    """An option for people, without what may be a secret: of short options that are written together, the
    first.
    """
    shown = name if name.startswith("--") else name[:2]
    return "".join(each for each in shown if each.isprintable())[:40]
