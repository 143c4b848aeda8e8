"""The `hub:` part of the configuration: who is behind an address of staff."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from common.configuration.notation import Url
from common.constraints import CheckedBy, Matching, NotEmpty
from common.quantities import Seconds
from common.settings import Settings, setting
from supervisor.config.fleet import ClientTls
from tunnels.settings import Network, Secret


def _between(least: float, most: float, text: str) -> Callable[[float], float]:
    def checked(seconds: float) -> float:
        if not least <= seconds <= most:
            raise ValueError(f"not between {text}")
        return seconds

    return checked


_SERVER = r"^(/[^\x00-\x20]*|unix:/[^\x00-\x20]*|tcp:[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5})$"
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "sessions": ("url",),
    "openvpn-status": ("servers",),
    "pritunl": ("url", "token", "secret"),
}
_TAKES: Mapping[str, frozenset[str]] = {
    "sessions": frozenset(("url", "routes")),
    "openvpn-status": frozenset(("servers", "groups", "routes")),
    "pritunl": frozenset(("url", "token", "secret")),
}


class IdentitySettings(Settings):
    """The staff VPN that knows which person has which address."""

    source: Literal["sessions", "openvpn-status", "pritunl"] = setting(
        description="sessions: `facilitator-hub sessions`; openvpn-status: any OpenVPN server; pritunl: its "
        "API (Enterprise)"
    )
    url: Url | None = setting(default=None, description="of sessions and pritunl: where its API answers")
    tls: ClientTls = setting(default=ClientTls())
    stale_after: Annotated[Seconds, CheckedBy(_between(10.0, 604_800.0, "10s and 7d"))] = setting(
        default=3600.0,
        description="tunnels are closed for rules by person when the source was not heard of for this long",
    )
    interval: Annotated[Seconds, CheckedBy(_between(1.0, 300.0, "1s and 5m"))] = setting(
        default=5.0, description="time between two questions to openvpn-status and pritunl"
    )
    servers: tuple[Annotated[str, Matching(_SERVER)], ...] = setting(
        default=(),
        description="of openvpn-status: status files (/PATH, status-version 2 or 3) or management sockets "
        "(unix:/PATH, tcp:HOST:PORT)",
    )
    groups: Mapping[str, tuple[Annotated[str, NotEmpty()], ...]] = setting(
        default_factory=dict, description="of openvpn-status: groups, each with its people (common names)"
    )
    routes: tuple[Network, ...] = setting(
        default=(),
        description="of sessions and openvpn-status: what the profiles of staff route, to be compared with the "
        "destinations; Pritunl is asked",
    )
    token: Secret | None = setting(default=None, description="of pritunl: the API token of an administrator")
    secret: Secret | None = setting(default=None, description="of pritunl: the API secret to that token")

    def check(self) -> None:
        """What the source needs is there, and nothing that it has no use for."""
        for name in _NEEDS[self.source]:
            if not getattr(self, name):
                raise ValueError(f"source {self.source} needs {name}")
        for name in ("url", "servers", "groups", "routes", "token", "secret"):
            if getattr(self, name) and name not in _TAKES[self.source]:
                raise ValueError(f"source {self.source} has no use for {name}")
        if self.source == "sessions" and (
            not (self.url or "").startswith("https:") or not self.tls.certificate
        ):
            raise ValueError("source sessions needs an https url, and tls with a certificate")
