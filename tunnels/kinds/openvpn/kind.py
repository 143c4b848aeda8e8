"""OpenVPN: one process per session, in the foreground, controlled through its management socket.

The customer's .ovpn and the files that it names go through tunnels.kinds.openvpn.profile into one anonymous
file: a private key is written neither to disk nor to argv, and OpenVPN opens no path that a customer has
chosen. Its messages go to tunnels.kinds.openvpn.management. Addresses, routes and DNS are the daemon's:
OpenVPN only creates its interface.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from common.settings import setting
from tunnels.base import KEY, Carrier, FileFinding, Input, Kind, Launch, Placement, Say, Tunnel
from tunnels.kinds.openvpn.judging import left_out
from tunnels.kinds.openvpn.login import LoginIdentity
from tunnels.kinds.openvpn.management import ASK_COUNTERS, RENEW, OpenVPNDialogue
from tunnels.kinds.openvpn.options import SECRETS
from tunnels.kinds.openvpn.profile import OpenVPNProfile, read_profile
from tunnels.kinds.openvpn.syntax import Directive
from tunnels.profiles import ProfileError, of_file, referenced_file
from tunnels.proposals import ImportSource, ProposedTunnel

CONNECT_SECONDS = 10  # for one server to answer at all
HANDSHAKE_SECONDS = 20  # for the TLS handshake with it, and until it has pushed its settings
# the same if somebody may have to approve the login elsewhere; below the kind's start timeout
LOGIN_SECONDS = 50
LOG_CACHE_LINES = 1000  # of its log, for a daemon that reconnects
_OUR_TEXT = re.compile(r"/proc/self/fd/\d+:(\d{1,6})")  # as its messages name a line of --config


class OpenVPN(Tunnel):
    """A tunnel of kind openvpn."""

    kind: Literal["openvpn"] = setting(default="openvpn", description="OpenVPN")
    config: Path = setting(
        description="the customer's .ovpn; what the daemon owns in it (interface, routes, names, scripts) is "
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
        tunnel.config, named.file or "", named.name, named.line, secret=named.name in SECRETS
    )


def _reader(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> Callable[[Directive], bytes]:
    return lambda named: inputs[_companion(tunnel, named).name]


def _examine(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> Iterator[FileFinding]:
    """What is left out and may matter, and files and blocks that do not hold what belongs there."""
    with of_file(tunnel.config):
        profile = read_profile(inputs["config"])
        for option, sentence in left_out(profile.dropped):
            yield FileFinding(sentence, tunnel.config, option.line, fatal=False)
        for option, problem in profile.wrong_contents(_reader(tunnel, inputs)):
            raise ProfileError(problem, option.line)
        missing = profile.missing(profile.asks_login or tunnel.login.username is not None)
        if missing is not None:
            raise ProfileError(f"the file has {missing}")


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
        raise ProfileError(
            "auth-user-pass asks for a user name and a password; set login.username and login.password",
            profile.login_line,
            tunnel.config,
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
            *_process(management),
            *(() if profile.static_key else _handshake(asks_login)),
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


def _handshake(asks_login: bool) -> tuple[str, ...]:
    """Options about TLS, which are not allowed where both ends have one static key."""
    window = LOGIN_SECONDS if asks_login else HANDSHAKE_SECONDS
    return "--hand-window", str(window), *(("--auth-user-pass",) if asks_login else ())


def _process(management: Path) -> tuple[str, ...]:
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
        account,
        profile.limit,
        tunnel.mtu or profile.mtu,
        fixed_mtu=tunnel.mtu is not None,
        named=functools.partial(_named, tunnel.config, profile.origins(read)),
    )


def _named(config: Path, origins: Sequence[int], line: str) -> str:
    """A line of OpenVPN with the customer's file and line in place of those of our text."""

    def place(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"{config}:{origins[number - 1]}" if 0 < number <= len(origins) else str(config)

    return _OUR_TEXT.sub(place, line)


def _certificates(tunnel: OpenVPN, inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    try:
        return tuple(read_profile(inputs["config"]).certificates(_reader(tunnel, inputs)))
    except (KeyError, ProfileError):
        return ()


def _text(secret: bytes) -> str:
    return secret.decode("utf-8", "replace").rstrip("\r\n")


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.openvpn.proposal import propose  # which the daemon does without

    return propose(source)


OPENVPN = Kind(
    name="openvpn",
    options=OpenVPN,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("openvpn",),
    examine=_examine,
    referenced_inputs=_referenced_inputs,
    renew=(Say(f"signal {RENEW}"),),
    renew_starts_new_session=True,
    ask_sign_of_life=(Say(ASK_COUNTERS),),
    endpoint=lambda tunnel: str(tunnel.config),
    certificates=_certificates,
    interface_moves=True,
    propose=_propose,
)
