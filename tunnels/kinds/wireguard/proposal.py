"""What `facilitator import` makes of a customer's WireGuard .conf: without the programs (PostUp and others)
and the other settings that the daemon owns.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunnels.kinds.wireguard.config import OWNED, read_profile
from tunnels.profile_text import text_of
from tunnels.proposals import ImportSource, ProposedTunnel, address_of, routable
from tunnels.recognition import ProfileFormat


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a .conf. ProfileError: it cannot be run."""
    if source.format is not ProfileFormat.WIREGUARD:
        return None
    profile = read_profile(source.data)
    lines = [line.partition("#")[0].strip() for line in text_of(source.data, source.format).split("\n")]
    kept = [line for line in lines if line and _name(line) not in OWNED]
    return ProposedTunnel(
        kind="wireguard",
        server=next((peer.endpoint[0] for peer in profile.peers if peer.endpoint is not None), ""),
        extension="conf",
        content="\n".join((*kept, "")).encode(),
        networks=routable(network for peer in profile.peers for network in peer.allowed),
        resolvers=tuple(_resolvers(lines)),
        notes=tuple(f"line {note.line}: {note.text}" for note in profile.notes),
    )


def _name(line: str) -> str:
    return line.partition("=")[0].strip().lower()


def _resolvers(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if _name(line) == "dns":
            addresses = (address_of(each.strip()) for each in line.partition("=")[2].split(","))
            yield from (each for each in addresses if each is not None)
