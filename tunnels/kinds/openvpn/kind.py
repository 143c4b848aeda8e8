"""OpenVPN: one process per session, in the foreground, driven through its management socket.

The customer's .ovpn and the files that it names go through tunnels.kinds.openvpn.profile into one anonymous
file: a private key touches neither disk nor argv, and OpenVPN opens no path that a customer has chosen. The
words of the process go to tunnels.kinds.openvpn.management. Addresses, routes and names are the daemon's:
OpenVPN only makes its interface.
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
from tunnels.profiles import ProfileError, companion, of_file

CONNECT_TIMEOUT = 10  # seconds that one server gets to answer at all
HAND_WINDOW = 20  # seconds for the TLS handshake with it, and until it has pushed its settings
LOGIN_WINDOW = (
    50  # the same where somebody may have to approve the login elsewhere; below the kind's start timeout
)
LOG_CACHE = 1000  # lines of its log that a restarted daemon finds again


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
    return companion(tunnel.config, named.file or "", named.name, named.line, secret=named.name == "askpass")


def _reader(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> Callable[[Directive], bytes]:
    return lambda named: inputs[_companion(tunnel, named).name]


def _profile(tunnel: OpenVPN, place: Placement, inputs: Mapping[str, bytes]) -> tuple[OpenVPNProfile, str]:
    """It, and what OpenVPN gets of it."""
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
            *_process(management, LOGIN_WINDOW if asks_login else HAND_WINDOW),
            *(("--auth-user-pass",) if asks_login else ()),
        ),
        files={"config": text.encode()},
        management=management,
    )


def _network(tunnel: OpenVPN, place: Placement) -> tuple[str, ...]:
    """Its device is ours to name; its routes are read, never installed."""
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
        "--persist-tun",  # the device stays when it reconnects in place
        # a kernel (DCO) device outlives a killed process; a tun device goes with it
        "--ignore-unknown-option",
        "disable-dco",
        "--disable-dco",
    )


def _process(management: Path, window: int) -> tuple[str, ...]:
    """One bounded pass over the profile's servers; it never asks, retries or runs anything by itself."""
    return (
        "--management",
        str(management),
        "unix",
        f"/proc/self/fd/{KEY}",
        "--management-hold",
        "--management-query-passwords",
        "--management-log-cache",
        str(LOG_CACHE),
        "--auth-nocache",
        "--auth-retry",
        "interact",
        "--script-security",
        "1",  # a challenge is answered after the refusal; we hold it
        "--setenv",
        "IV_SSO",
        "crtext,openurl,webauth",  # what a server may ask while the connection stands
        "--connect-timeout",
        str(CONNECT_TIMEOUT),
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
