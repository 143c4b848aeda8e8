"""The client profile (.ovpn) that fits an OpenVPN server with a sidecar. Pure.

`reneg-sec` and `hand-window` cannot be pushed (options.c, OPT_P_TLS_PARMS), so they belong into the profile:
while no sidecar is there, a renegotiation stops the client's traffic and then ends its session; and an
approval has as much time as the client gives its handshake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

HAND_WINDOW_SECONDS = 180
CONNECT_TIMEOUT_SECONDS = 4


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """`remotes`: HOST and PORT of the servers, the first is tried first; PEM texts stand in the profile."""

    remotes: tuple[tuple[str, int], ...]
    protocol: str  # udp or tcp, with 4 or 6 behind it for one family only
    ca: str
    certificate: str
    key: str = field(repr=False)
    tls_crypt: str = field(default="", repr=False)
    asks_codes: bool = False  # the person types a user name, a password or a code


def profile_text(profile: ClientProfile) -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in (*_options(profile), *_inline(profile)))


def _options(profile: ClientProfile) -> Iterator[str]:
    yield from ("client", "dev tun", f"proto {profile.protocol}")
    yield from (f"remote {host} {port}" for host, port in profile.remotes)
    yield from (
        "remote-cert-tls server",
        "nobind",
        "persist-key",
        "resolv-retry infinite",
        f"connect-timeout {CONNECT_TIMEOUT_SECONDS}",
        "connect-retry 1 5",
        "reneg-sec 0",
        f"hand-window {HAND_WINDOW_SECONDS}",
        "push-peer-info",
    )
    if profile.protocol.startswith("udp"):
        yield "explicit-exit-notify 1"
    if profile.asks_codes:
        yield from ("auth-user-pass", "auth-retry interact")


def _inline(profile: ClientProfile) -> Iterator[str]:
    parts = (
        ("ca", profile.ca),
        ("cert", profile.certificate),
        ("key", profile.key),
        ("tls-crypt", profile.tls_crypt),
    )
    for name, text in parts:
        if text:
            yield f"<{name}>\n{text.strip()}\n</{name}>"


def profile_problems(profile: ClientProfile) -> Iterable[str]:
    """What makes the profile worse than it could be, as sentences."""
    if len(profile.remotes) < 2:
        yield "it has one remote: when that server drains or fails, the client has nowhere to go"
