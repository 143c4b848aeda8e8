"""WireGuard: a driver creates the interface, configures it and watches the handshakes.

The customer's .conf goes through tunnels.kinds.wireguard.config into an anonymous file, so its keys are
written neither to disk nor to argv. tunnels/kinds/wireguard/driver.py does the rest, with the kernel's
WireGuard or, if that is missing, with wireguard-go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from common.settings import setting
from tunnels.base import KEY, Carrier, FileFinding, Input, Kind, Launch, Placement, Reason, Tunnel
from tunnels.driver_dialogue import ASK_SIGN_OF_LIFE, INTERFACE_SETTINGS, RENEW, ProgramDialogue
from tunnels.failure_patterns import table
from tunnels.kinds.wireguard.config import WireGuardProfile, read_profile
from tunnels.kinds.wireguard.cryptokey_routing import owners
from tunnels.profiles import ProfileError, of_file
from tunnels.proposals import ImportSource, ProposedTunnel

MTU_BYTES = 1420  # fits into a path of 1500, also if the peer is reached over IPv6
SOCKETS = Path("/run/wireguard")  # wireguard-go insists on a file for each interface here
START_SECONDS = 30.0  # the driver itself gives up earlier, and says why


class WireGuard(Tunnel):
    """A tunnel of kind wireguard."""

    kind: Literal["wireguard"] = setting(
        default="wireguard", description="WireGuard, of the kernel or else wireguard-go"
    )
    config: Path = setting(
        description="the customer's .conf; what the daemon owns in it (routes, names, marks, programs) is "
        "left out"
    )


def _inputs(tunnel: WireGuard) -> tuple[Input, ...]:
    return (Input("config", tunnel.config),)


def _referenced_inputs(tunnel: WireGuard, inputs: Mapping[str, bytes]) -> tuple[Input, ...]:
    """The format has no option that names a file."""
    _profile(tunnel, inputs)
    return ()


def _profile(tunnel: WireGuard, inputs: Mapping[str, bytes]) -> WireGuardProfile:
    with of_file(tunnel.config):
        return read_profile(inputs["config"])


def _examine(tunnel: WireGuard, inputs: Mapping[str, bytes]) -> Iterator[FileFinding]:
    if "config" in inputs:
        yield from (replace(note, where=tunnel.config) for note in _profile(tunnel, inputs).notes)


def _require_reachable(profile: WireGuardProfile, tunnel: WireGuard) -> None:
    """ProfileError: WireGuard would drop all packets to some destination."""
    for destination in tunnel.destinations:
        network = destination.network
        if profile.uncovered(network):
            raise ProfileError(
                f"{network} is not within AllowedIPs: WireGuard would throw its packets away",
                profile.peers[0].line,
            )
        if not any(address.version == network.version for address in profile.addresses):
            raise ProfileError(
                f"{network} cannot be reached: the file has no Address of IPv{network.version}"
            )


def _launch(tunnel: WireGuard, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    profile = _profile(tunnel, inputs)
    with of_file(tunnel.config):
        _require_reachable(profile, tunnel)
    return Launch(
        argv=(
            place.python,
            "-I",
            "-m",
            "tunnels.kinds.wireguard.driver",
            "--device",
            place.device,
            "--config",
            "{config}",
            "--talk",
            KEY,
            "--remote",
            str(place.remote),
            *(("--probed",) if tunnel.probe.targets else ()),
        ),
        files={"config": _document(profile, tunnel)},
        management=place.directory / "management.sock",
        writes=(SOCKETS, *INTERFACE_SETTINGS),
    )


def _document(profile: WireGuardProfile, tunnel: WireGuard) -> bytes:
    """The profile as the driver reads it."""
    owning = owners(profile.peers, [destination.network for destination in tunnel.destinations])
    return json.dumps(
        {
            "private_key": profile.private_key.hex(),
            "listen_port": profile.listen_port,
            "addresses": [str(address) for address in profile.addresses],
            "mtu": tunnel.mtu or profile.mtu or MTU_BYTES,
            "peers": [
                {
                    "public_key": peer.public_key.hex(),
                    "preshared_key": None if peer.preshared_key is None else peer.preshared_key.hex(),
                    "endpoint": peer.endpoint,
                    "allowed": [str(network) for network in peer.allowed],
                    "keepalive": peer.keepalive,
                    "owner": peer.public_key in owning,
                }
                for peer in profile.peers
            ],
        }
    ).encode()


# What wireguard-go prints when it cannot even begin; all else is told by the program, which sees the
# handshakes.
_LINES = table(
    (r"Failed to create TUN device: .*(?:busy|exists)", Reason.LOCAL, "{0}"),
    (
        r"Failed to create TUN device: .*(?:denied|not permitted|not exist|no such file).*",
        Reason.MISSING_RIGHT,
        "{0}",
    ),
    (r"Failed to create TUN device: .*", Reason.LOCAL, "{0}"),
    (
        r"(?:Failed to listen on uapi socket|UAPI listen error): .*unix socket in use.*",
        Reason.LOCAL,
        "another WireGuard on this host has an interface of the same name; set device: to another name",
    ),
    (
        r"(?:Failed to listen on uapi socket|UAPI listen error): .*(?:denied|not permitted|read-only).*",
        Reason.MISSING_RIGHT,
        "wireguard-go needs a directory /run/wireguard that the daemon may write",
    ),
    (r"(?:Failed to listen on uapi socket|UAPI listen error): .*", Reason.LOCAL, "{0}"),
)


def _dialogue(tunnel: WireGuard, inputs: Mapping[str, bytes]) -> ProgramDialogue:
    return ProgramDialogue({}, _LINES)


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.wireguard.proposal import propose  # which the daemon does without

    return propose(source)


WIREGUARD = Kind(
    name="wireguard",
    options=WireGuard,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=(),
    examine=_examine,
    referenced_inputs=_referenced_inputs,
    start_timeout=START_SECONDS,
    renew=(RENEW,),
    ask_sign_of_life=(ASK_SIGN_OF_LIFE,),
    unlimited_session=True,
    uses=lambda tunnel: frozenset(("device", "mtu")),
    interface_moves=True,
    propose=_propose,
)
