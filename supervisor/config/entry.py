"""Writes the entry of a tunnel as YAML that a person goes on with: with comments, and what is not known yet
commented out. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunnels.networks import IPNetwork
from tunnels.proposals import ProposedTunnel

MAX_TARGETS = 4
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}", re.ASCII)
_WORDS = re.compile("y|yes|n|no|true|false|on|off|null", re.IGNORECASE)  # which YAML takes for something else
_SAYS_NOTHING = re.compile(
    "client1?|config|connect|connection|default|ipsec|office|openvpn|ovpn|peer|profile|swanctl|tunnel|user|vpn|vpnc|"
    "wg[0-9]?|wireguard"
)


@dataclass(frozen=True, slots=True)
class EntryChoices:
    """What an operator decides about an imported tunnel."""

    name: str
    destinations: tuple[IPNetwork, ...]
    targets: tuple[str, ...]  # of probes
    code: bool  # the login needs a one-time code
    origin: str  # the name of the file, for people


def name_for(proposed: ProposedTunnel, stem: str) -> str:
    """A name of a tunnel, from the file's name or that of the gateway."""
    labels = proposed.server.split(".")
    candidates = (stem, *(labels[-2:-1] if not labels[-1].isdigit() else ()), f"{proposed.kind}-tunnel")
    words = (re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-")[:31].rstrip("-") for each in candidates)
    return next(each for each in words if _NAME.fullmatch(each) and not _unfit(each))


def _unfit(name: str) -> bool:
    """It tells nobody what the tunnel is, or YAML reads it as another value."""
    return bool(_SAYS_NOTHING.fullmatch(name) or _WORDS.fullmatch(name))


def targets_for(proposed: ProposedTunnel, destinations: tuple[IPNetwork, ...]) -> tuple[str, ...]:
    """Probe targets that the source suggests: DNS servers behind the tunnel."""
    found = []
    for address in proposed.resolvers:
        network = next((each for each in destinations if _holds(each, address)), None)
        if network is not None:
            found.append(f"tcp://{f'[{address}]' if ':' in address else address}:53")
    return tuple(dict.fromkeys(found))[:MAX_TARGETS]


def _holds(network: IPNetwork, address: str) -> bool:
    from ipaddress import ip_address

    return ip_address(address) in network


def config_name(proposed: ProposedTunnel, name: str) -> str | None:
    """Where the copy of the customer's file lies, beside the main configuration; None: there is none."""
    if proposed.extension is None:
        return None
    return f"customers/{name}/{name}.{proposed.extension}"


def secret_name(name: str, suffix: str) -> str:
    """The file of a secret, beside the main configuration or in a directory of credentials."""
    return f"{name}-{suffix}"


def entry_text(proposed: ProposedTunnel, choices: EntryChoices) -> str:
    """The text of a file for the folder of included files."""
    return "\n".join((*_lines(proposed, choices), ""))


def _lines(proposed: ProposedTunnel, choices: EntryChoices) -> Iterator[str]:
    yield f"# Made by facilitator import from {_comment(choices.origin)}; yours to edit."
    yield "tunnels:"
    yield f"  {choices.name}:"
    yield f"    kind: {proposed.kind}"
    yield "    # description: shown in status and incidents"
    config = config_name(proposed, choices.name)
    if config is not None:
        yield f"    config: {config}"
    for key in proposed.files:
        yield f"    {key}: customers/{choices.name}/{key}"
    for key, value in proposed.settings.items():
        if key != "login":
            yield f"    {key}: {_value(value)}"
    yield "    destinations:"
    yield from (f"      - {network}" for network in choices.destinations)
    yield from _secrets(proposed, choices)
    if choices.targets:
        yield "    probe:"
        yield f"      targets: {_value(list(choices.targets))}   # any one that answers proves the tunnel"
    else:
        yield '    # probe: {targets: ["tcp://ADDRESS:PORT"]}   # an address behind the tunnel that answers; without one a'
        yield "    #                                            # tunnel that is up and carries nothing goes unnoticed"


def _secrets(proposed: ProposedTunnel, choices: EntryChoices) -> Iterator[str]:
    groups: dict[str, Any] = dict(proposed.settings.get("login", {}))
    commented = []
    for secret in proposed.secrets:
        reference = {"file": secret_name(choices.name, secret.suffix)}
        needed = not secret.optional or (choices.code and secret.setting[-1] == "totp")
        if secret.setting[0] != "login":
            prefix = "" if needed else "# "
            yield f"    {prefix}{secret.setting[0]}: {_value(reference)}   # {secret.what}"
        elif needed:
            groups[secret.setting[1]] = reference
        else:
            commented.append(
                f"      # {secret.setting[1]}: {_value(reference)}   # if it asks for one: {secret.what}"
            )
    if groups:
        yield "    login:"
        yield from (f"      {key}: {_value(value)}" for key, value in groups.items())
        yield from commented


def _value(value: Any) -> str:
    """In the flow style of YAML, quoted where another reading is possible."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool | int):
        return json.dumps(value)
    text = str(value)
    return (
        text
        if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text)
        else json.dumps(text, ensure_ascii=False)
    )


def _comment(text: str) -> str:
    return "".join(each for each in text if each.isprintable())[:80]
