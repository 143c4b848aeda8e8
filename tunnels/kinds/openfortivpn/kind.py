"""openfortivpn: Fortinet's SSL VPN over pppd, driven by tunnels/kinds/openfortivpn/driver.py.

It needs PPP in the kernel (/dev/ppp) and pppd. Without them, openconnect with `protocol: fortinet` reaches
the same servers. The settings go through an anonymous file; password and codes are sent when it asks for
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from common.constraints import CheckedBy
from common.settings import setting
from tunnels.base import KEY, Carrier, Input, Kind, Launch, Placement, Reason, RequiredFile, Tunnel
from tunnels.driver_dialogue import INTERFACE_SETTINGS, ProgramDialogue
from tunnels.failure_patterns import table
from tunnels.proposals import ImportSource, ProposedTunnel

INSTEAD = "kind: openconnect with protocol: fortinet reaches the same servers without PPP"
PPP, PPPD = "/dev/ppp", "/usr/sbin/pppd"

_SERVER = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*)(?::(?P<port>\d{1,5}))?", re.ASCII)


def checked_server(value: str) -> str:
    """HOST[:PORT] of a gateway. ValueError: it is none."""
    match = _SERVER.fullmatch(value)
    if match is None or not 0 < int(match["port"] or 443) < 65536:
        raise ValueError(f"{value!r} is not a server; write it as vpn.example.net or 192.0.2.1:10443")
    return value


def checked_digest(value: str) -> str:
    """A SHA-256 digest as 64 lower-case digits, of one with or without colons. ValueError: it is none."""
    digest = value.replace(":", "").lower()
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise ValueError(
            f"{value!r} is not a digest; it has 64 hexadecimal digits, as openfortivpn prints them"
        )
    return digest


class OpenFortiVpn(Tunnel):
    """A tunnel of kind openfortivpn."""

    kind: Literal["openfortivpn"] = setting(
        default="openfortivpn", description="openfortivpn: Fortinet's SSL VPN over pppd"
    )
    server: Annotated[str, CheckedBy(checked_server)] = setting(description="HOST[:PORT] of the gateway")
    trusted_certificate: Annotated[str, CheckedBy(checked_digest)] | None = setting(
        default=None,
        description="SHA-256 digest (64 hexadecimal digits) of the gateway's certificate, where no public "
        "authority vouches for it",
    )


def _inputs(tunnel: OpenFortiVpn) -> tuple[Input, ...]:
    return () if tunnel.login.password is None else (Input("password", tunnel.login.password),)


def _launch(tunnel: OpenFortiVpn, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    if tunnel.login.username is None:
        raise ValueError("openfortivpn needs a login.username")
    host, port = _endpoint(tunnel), _door(tunnel)
    return Launch(
        argv=(
            place.python,
            "-I",
            "-m",
            "tunnels.kinds.openfortivpn.driver",
            "--device",
            place.device,
            "--config",
            "{config}",
            "--talk",
            KEY,
            # the digest identifies the gateway without its name
            *(("--gateway", f"{host}:{port}") if tunnel.trusted_certificate is not None else ()),
            *(("--mtu", str(tunnel.mtu)) if tunnel.mtu is not None else ()),
            *(("--append-code",) if tunnel.login.append_code else ()),
        ),
        files={"config": configuration(tunnel, tunnel.login.username, place.device).encode()},
        management=place.directory / "management.sock",
        reads=(Path("/etc/ppp"), Path("/etc/openfortivpn")),
        writes=INTERFACE_SETTINGS,
        capabilities=("chown", "dac_override", "setgid", "setuid"),  # pppd
    )


def configuration(tunnel: OpenFortiVpn, username: str, device: str) -> str:
    """The whole configuration: ask for the password, try once, leave routes and names alone."""
    if not username.isprintable() or username != username.strip():
        raise ValueError("login.username has characters that openfortivpn cannot be given")
    settings = {
        "host": _endpoint(tunnel),
        "port": str(_door(tunnel)),
        "username": username,
        "set-routes": "0",
        "half-internet-routes": "0",
        "set-dns": "0",
        "pppd-use-peerdns": "0",
        "pppd-ifname": device,
        "persistent": "0",
        "use-syslog": "0",
        **({} if tunnel.trusted_certificate is None else {"trusted-cert": tunnel.trusted_certificate}),
    }
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


# --- what it prints
# ----------------------------------------------------------------------------------------------------------

_LINES = table(
    (
        r"(?<=facilitator: )/.* is missing.*|(?<=facilitator: )/.* cannot be opened.*",
        Reason.MISSING_BINARY,
        f"{{0}}: {INSTEAD}",
    ),
    (
        r"Couldn't set tty to PPP discipline|kernel does not support PPP",
        Reason.MISSING_BINARY,
        f"this kernel has no PPP: {INSTEAD}",
    ),
    (
        r"--trusted-cert ([0-9a-f]{64})",
        Reason.CERTIFICATE,
        "the gateway's certificate is not trusted; its digest is {1}",
    ),
    (
        r"Could not authenticate to gateway",
        Reason.AUTH,
        "the remote gateway refused user name, password or code",
    ),
    (
        r"VPN allocation request failed.*",
        Reason.FAR_END_FULL,
        "the gateway accepted the login and offers no session: {0}",
    ),
    (r"Could not (?:get VPN configuration|start tunnel).*", Reason.HANDSHAKE, "{0}"),
    (r"not spawned with root privileges", Reason.MISSING_RIGHT, "openfortivpn runs as root only"),
    (r"getaddrinfo: (.*)", Reason.DNS, "the gateway's name cannot be resolved: {1}"),
    (r"(?<=connect: ).*", Reason.NETWORK, "the gateway cannot be reached: {0}"),
    (r"SSL_connect: .*", Reason.HANDSHAKE, "{0}"),
    (
        r"pppd: .*(?:not responding to echo requests).*",
        Reason.PEER_TIMEOUT,
        "the remote gateway stopped answering",
    ),
    (
        r"pppd: .*(?:modem hanging up|the peer's request|signal: Hangup).*",
        Reason.PEER_CLOSED,
        "the remote gateway ended the session",
    ),
    (r"pppd: .*(?:connect time limit|because it was idle).*", Reason.SESSION_EXPIRED, "{0}"),
    (r"pppd: .*(?:negotiation failed|failed to authenticate).*", Reason.HANDSHAKE, "{0}"),
    (r"pppd: .*(?:options given|not setuid-root|fatal error).*", Reason.LOCAL, "{0}"),
)


def _dialogue(tunnel: OpenFortiVpn, inputs: Mapping[str, bytes]) -> ProgramDialogue:
    password = inputs.get("password")
    try:
        known = {} if password is None else {"password": password.decode().rstrip("\r\n")}
    except UnicodeDecodeError:
        raise ValueError("login.password is not UTF-8 text") from None
    # where there is no password, the code alone is what the remote gateway takes for one
    return ProgramDialogue({"password": ""} | known if tunnel.login.append_code else known, _LINES)


def _endpoint(tunnel: OpenFortiVpn) -> str:
    return tunnel.server.partition(":")[0]


def _door(tunnel: OpenFortiVpn) -> int:
    return int(tunnel.server.partition(":")[2] or 443)


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.openfortivpn.proposal import propose  # which the daemon does without

    return propose(source)


OPENFORTIVPN = Kind(
    name="openfortivpn",
    options=OpenFortiVpn,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("openfortivpn",),
    endpoint=_endpoint,
    tcp_port=_door,
    required_files=(RequiredFile(PPP, INSTEAD), RequiredFile(PPPD, f"apt install ppp, or: {INSTEAD}")),
    propose=_propose,
)
