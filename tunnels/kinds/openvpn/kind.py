"""OpenVPN: one process per session, in the foreground, controlled through its management socket.

The customer's .ovpn and the files that it names go through tunnels.kinds.openvpn.profile into one anonymous
file: a private key is written neither to disk nor to argv, and OpenVPN opens no path that a customer has
chosen. Its messages go to tunnels.kinds.openvpn.management. Addresses, routes and DNS are the daemon's:
OpenVPN only creates its interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from tunnels.base import KEY, Carrier, Input, Kind, Launch, Placement, Say, Tunnel
from tunnels.kinds.openvpn.login import LoginIdentity
from tunnels.kinds.openvpn.management import RENEW, OpenVPNDialogue
from tunnels.kinds.openvpn.profile import OpenVPNProfile, read_profile
from tunnels.kinds.openvpn.syntax import Directive
from tunnels.profiles import ProfileError, of_file, referenced_file

CONNECT_SECONDS = 10  # for one server to answer at all
HANDSHAKE_SECONDS = 20  # for the TLS handshake with it, and until it has pushed its settings
# the same if somebody may have to approve the login elsewhere; below the kind's start timeout
LOGIN_SECONDS = 50
LOG_CACHE_LINES = 1000  # of its log, for a daemon that reconnects


class OpenVPN(Tunnel):
    """A tunnel of kind openvpn."""

    kind: Literal["openvpn"] = Field("openvpn", description="OpenVPN")
    config: Path = Field(
        description="the customer's .ovpn; what the daemon owns in it (device, routes, names, scripts) is "
        "left out"
    )


def _inputs(tunnel: OpenVPN) -> tuple[Input, ...]:
    config = Input("config", tunnel.config)
    return (config,) if tunnel.login.password is None else (config, Input("password", tunnel.login.password))


def _referenced_inputs(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> tuple[Input, ...]:
    with of_file(tunnel.config):
        return tuple(_companion(tunnel, named) for named in read_profile(inputs["config"]).files)


def _companion(tunnel: OpenVPN, named: Directive) -> Input:
    return referenced_file(
        tunnel.config, named.file or "", named.name, named.line, secret=named.name == "askpass"
    )


def _reader(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> Callable[[Directive], bytes]:
    return lambda named: inputs[_companion(tunnel, named).name]


def _profile(tunnel: OpenVPN, place: Placement, inputs: Mapping[str, bytes]) -> tuple[OpenVPNProfile, str]:
    """The profile, and its text for OpenVPN."""
    with of_file(tunnel.config):
        profile = read_profile(inputs["config"], place.remote)
        return profile, profile.complete(_reader(tunnel, inputs))


def _launch(tunnel: OpenVPN, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    profile, text = _profile(tunnel, place, inputs)
    if profile.asks_login and (
        tunnel.login.username is None or ("password" not in inputs and not tunnel.login.append_code)
    ):
        raise ValueError(
            "the profile asks for a user name and a password (auth-user-pass); set login.username and "
            "login.password"
        )
    if "�" in _text(inputs.get("password", b"")):
        raise ValueError("login.password is not UTF-8 text")
    asks_login = profile.asks_login or tunnel.login.username is not None
    management = place.directory / "management.sock"
    return Launch(
        argv=(
            "openvpn",
            "--config",
            "/proc/self/fd/{config}",
            *_network(tunnel, place),
            *(_KEPT_WHILE_SILENT if tunnel.probe.targets else ()),
            *_process(management, LOGIN_SECONDS if asks_login else HANDSHAKE_SECONDS),
            *(("--auth-user-pass",) if asks_login else ()),
        ),
        files={"config": text.encode()},
        management=management,
    )


# Where probes judge the session, its own timer does not end it: a silence of the network costs no login.
_KEPT_WHILE_SILENT = (
    *("--ping-restart", "0", "--pull-filter", "ignore", "ping-restart"),
    *("--pull-filter", "ignore", "ping-exit"),
)


def _network(tunnel: OpenVPN, place: Placement) -> tuple[str, ...]:
    """Options about the interface: the daemon names it; pushed routes are read, never installed."""
    mtu = () if tunnel.mtu is None else ("--tun-mtu", str(tunnel.mtu), "--pull-filter", "ignore", "tun-mtu")
    return (
        "--dev",
        place.device,
        "--dev-type",
        "tun",
        "--nobind",
        "--route-noexec",
        # the address that the server assigns exists in source NAT only; the daemon brings the interface up
        "--ifconfig-noexec",
        *mtu,
        "--persist-tun",  # the interface stays when it reconnects without ending
        # a kernel (DCO) device outlives a killed process; a tun device goes with it
        "--ignore-unknown-option",
        "disable-dco",
        "--disable-dco",
    )


def _process(management: Path, window: int) -> tuple[str, ...]:
    """Options about the process: one pass over the profile's servers; it never asks on a terminal, retries or
    runs anything by itself.
    """
    return (
        "--management",
        str(management),
        "unix",
        f"/proc/self/fd/{KEY}",
        "--management-hold",
        "--management-query-passwords",
        "--management-log-cache",
        str(LOG_CACHE_LINES),
        "--auth-nocache",
        "--auth-retry",
        "interact",
        "--script-security",
        "1",  # a challenge is answered after the refusal; --management-hold stops it until then
        "--setenv",
        "IV_SSO",
        "crtext,openurl,webauth",  # what a server may ask during the connection
        "--connect-timeout",
        str(CONNECT_SECONDS),
        "--hand-window",
        str(window),
        "--connect-retry-max",
        "1",
        "--resolv-retry",
        "1",
        "--suppress-timestamps",
        "--verb",
        "3",
    )


def _dialogue(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> OpenVPNDialogue:
    password = inputs.get("password")
    profile, read = read_profile(inputs["config"]), _reader(tunnel, inputs)
    passphrases = [
        _text(read(named)).partition("\n")[0].rstrip("\r")
        for named in profile.files
        if named.name == "askpass"
    ]
    account = LoginIdentity(
        tunnel.login.username,
        None if password is None else _text(password),
        tunnel.login.append_code,
        _text(inputs.get("kept", b"")),
        passphrases[-1] if passphrases else None,
    )
    return OpenVPNDialogue(
        account, profile.limit, tunnel.mtu or profile.mtu, fixed_mtu=tunnel.mtu is not None
    )


def _certificates(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    try:
        return tuple(read_profile(inputs["config"]).certificates(_reader(tunnel, inputs)))
    except (KeyError, ProfileError):
        return ()


def _text(secret: bytes) -> str:
    return secret.decode("utf-8", "replace").rstrip("\r\n")


OPENVPN = Kind(
    name="openvpn",
    options=OpenVPN,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("openvpn",),
    referenced_inputs=_referenced_inputs,
    renew=(Say(f"signal {RENEW}"),),
    renew_starts_new_session=True,
    endpoint=lambda tunnel: str(tunnel.config),
    certificates=_certificates,
)
