"""The `names:` part of a tunnel: which names are asked behind it, and of whom."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any

from common.constraints import CheckedBy, NotEmpty
from common.settings import Settings, setting
from tunnels.networks import IPAddress

PUSHED = "pushed"  # instead of addresses: those that the remote gateway pushes
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


def checked_domain(value: str) -> str:
    """A domain in lower case without the last dot. ValueError."""
    domain = value.lower().removesuffix(".")
    labels = domain.split(".")
    if len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"{value!r} is not a domain; write it as acme.internal, without `*` and with other letters in their "
            f"xn-- form"
        )
    if labels[-1].isdecimal():
        raise ValueError(f"{value!r} is an address; names of addresses are asked for by `reverse: true`")
    if labels[-1] == "arpa":
        raise ValueError(f"{value!r}: names of addresses are asked for by `reverse: true`")
    return domain


def _checked_servers(values: tuple[str, ...]) -> tuple[str, ...]:
    if values == (PUSHED,):
        return values
    for value in values:
        try:
            address = ip_address(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an address; write 10.77.0.53, or `servers: pushed`") from None
        if str(address) != value:
            raise ValueError(f"{value!r}: write {address}")
    return values


_SERVERS = {
    "anyOf": [{"const": PUSHED}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    "examples": [["10.77.0.53"]],
}
Domain = Annotated[str, CheckedBy(checked_domain)]


class TunnelNames(Settings):
    """Names of hosts behind the tunnel, which the customer's own name servers know."""

    domains: Annotated[tuple[Domain, ...], NotEmpty()] = setting(
        description="names in these domains are asked behind this tunnel, and no others"
    )
    servers: Annotated[tuple[str, ...], NotEmpty(), CheckedBy(_checked_servers, _SERVERS)] = setting(
        default=(PUSHED,),
        description="addresses of the name servers behind the tunnel, as they are there; `pushed`: those that the "
        "remote gateway pushes",
    )
    reverse: bool = setting(
        default=True, description="also ask for the names of addresses in the tunnel's destinations"
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """The word `pushed` may stand for a list of it."""
        if isinstance(value, dict) and value.get("servers") == PUSHED:
            return {**value, "servers": [PUSHED]}
        return value

    @property
    def pushed(self) -> bool:
        """The remote gateway says which servers to ask."""
        return self.servers == (PUSHED,)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The servers that the file names."""
        return () if self.pushed else tuple(map(ip_address, self.servers))
