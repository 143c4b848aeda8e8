"""openconnect: the SSL VPNs of Cisco (and ocserv), Palo Alto, Pulse, F5, Fortinet, Array and Juniper.

Runs tunnels/kinds/openconnect/driver.py, which logs in once for a cookie and then runs the session with it.
The cookie is kept, so that a short outage needs no second login. Routes and DNS are the daemon's: the driver
only brings the interface up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from common.constraints import CheckedBy, Matching, NotEmpty
from common.settings import setting
from tunnels.base import KEY, Carrier, Input, Kind, Launch, Placement, Reason, Secret, Tunnel
from tunnels.driver_dialogue import INTERFACE_SETTINGS, LOGOUT, RENEW, ProgramDialogue
from tunnels.failure_patterns import table
from tunnels.proposals import ImportSource, ProposedTunnel

_SERVER = re.compile(
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII
)
_PIN = re.compile(r"pin-sha256:[A-Za-z0-9+/]{43}=|sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}", re.ASCII)
_PEM = b"-----BEGIN "
USERAGENT = r"^[\x21-\x7e][\x20-\x7e]{0,200}$"
USERGROUP = r"^[A-Za-z0-9._~%:/?=&+@-]{1,200}$"
REALM = r"^[\x21-\x7e][\x20-\x7e]{0,100}$"

Protocol = Literal["anyconnect", "gp", "pulse", "f5", "fortinet", "array", "nc"]
# Dead peer detection, in seconds: openconnect asks a server that is silent for so long, and gives up after
# twice as long. Where probes judge the session, a silence of the network is to cost nothing.
_DPD_SECONDS, _DPD_SECONDS_WITH_PROBES = 4, 22
_LAST_TRY_SECONDS = 4.0  # it tries once in place


OperatingSystem = Literal["linux", "linux-64", "win", "mac-intel", "android", "apple-ios"]


def checked_server(value: str) -> str:
    """HOST[:PORT] of a gateway. ValueError: it is none."""
    match = _SERVER.fullmatch(value)
    if match is None or not 0 < int(match["port"] or 443) < 65536:
        raise ValueError(f"{value!r} is not a server; write it as vpn.example.net or 192.0.2.1:4443")
    return value


def checked_pin(value: str) -> str:
    """The pin of a server's key, as openconnect takes it. ValueError: it is none."""
    if _PIN.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is not a pin; write it as pin-sha256: and 44 characters, as `openconnect "
            f"--authenticate` shows it"
        )
    return value


class OpenConnect(Tunnel):
    """A tunnel of kind openconnect."""

    kind: Literal["openconnect"] = setting(
        default="openconnect", description="openconnect: SSL VPNs of Cisco (ocserv) and others"
    )
    server: Annotated[str, CheckedBy(checked_server)] = setting(
        description="HOST[:PORT] of the remote gateway"
    )
    protocol: Protocol = setting(
        default="anyconnect",
        description="VPN protocol: anyconnect (also ocserv), gp, pulse, f5, fortinet, array or nc",
    )
    server_certificate: Annotated[str, CheckedBy(checked_pin)] | None = setting(
        default=None, description="the server's key as pin-sha256:..., where no public CA has signed it"
    )
    certificate: Path | None = setting(
        default=None, description="client certificate (PEM), with its key if `key` is not given"
    )
    key: Secret | None = setting(
        default=None, description="private key of the certificate, without a passphrase"
    )
    group: Annotated[str, NotEmpty()] | None = setting(
        default=None, description="group to choose if the server offers several"
    )

    useragent: Annotated[str, Matching(USERAGENT)] | None = setting(
        default=None, description="User-Agent of the client, where the remote gateway accepts only some"
    )
    os: OperatingSystem | None = setting(
        default=None,
        description="operating system that the client reports: linux, linux-64, win, mac-intel, android or "
        "apple-ios",
    )
    usergroup: Annotated[str, Matching(USERGROUP)] | None = setting(
        default=None, description="path of the URL after HOST, by which the gateway distinguishes groups"
    )
    realm: Annotated[str, Matching(REALM)] | None = setting(
        default=None, description="the realm to log in to (protocols fortinet, nc and pulse)"
    )

    def check(self) -> None:
        """A realm belongs to the protocol, and a key to a certificate."""
        if self.realm is not None and self.protocol not in ("fortinet", "nc", "pulse"):
            raise ValueError(f"protocol {self.protocol} has no realms; set group or usergroup")
        if self.realm is not None and (self.usergroup if self.protocol == "fortinet" else self.group):
            raise ValueError(
                "realm and "
                + ("usergroup" if self.protocol == "fortinet" else "group")
                + " are one thing here; set one"
            )
        if self.key is not None and self.certificate is None:
            raise ValueError("a key without a certificate is of no use; set certificate too")

    @property
    def host(self) -> str:
        """Name or address of the gateway."""
        match = _SERVER.fullmatch(self.server)
        return match["host"].strip("[]") if match else self.server

    @property
    def port(self) -> int:
        """Its TCP port."""
        match = _SERVER.fullmatch(self.server)
        return int((match and match["port"]) or 443)


def _inputs(tunnel: OpenConnect) -> tuple[Input, ...]:
    where = {"password": tunnel.login.password, "certificate": tunnel.certificate, "key": tunnel.key}
    return tuple(Input(name, place) for name, place in where.items() if place is not None)


def _launch(tunnel: OpenConnect, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    _check(inputs)
    words = {
        "--server": tunnel.server,
        "--protocol": tunnel.protocol,
        "--user": tunnel.login.username,
        # Fortinet's realm is a part of the address, the others' one of the choices of a form
        "--group": tunnel.group if tunnel.protocol == "fortinet" else tunnel.group or tunnel.realm,
        "--usergroup": tunnel.usergroup or _path(tunnel),
        "--useragent": tunnel.useragent,
        "--os": tunnel.os,
        "--pin": tunnel.server_certificate,
        "--mtu": None if tunnel.mtu is None else str(tunnel.mtu),
        "--dpd": str(_dpd_seconds(tunnel)),
    }
    files = {name: inputs[name] for name in ("certificate", "key", "kept") if name in inputs}
    return Launch(
        argv=(
            place.python,
            "-I",
            "-m",
            "tunnels.kinds.openconnect.driver",
            "--device",
            place.device,
            "--talk",
            KEY,
            *(f"{name}={word}" for name, word in words.items() if word is not None),
            *(f"--{name}={{{name}}}" for name in files),
            *(("--append-code",) if tunnel.login.append_code else ()),
        ),
        files=files,
        management=place.directory / "management.sock",
        writes=INTERFACE_SETTINGS,
    )


def _path(tunnel: OpenConnect) -> str | None:
    if tunnel.protocol != "fortinet" or tunnel.realm is None:
        return None
    return f"?realm={quote(tunnel.realm, safe='')}"


def _check(inputs: Mapping[str, bytes]) -> None:
    certificate, key = inputs.get("certificate"), inputs.get("key", inputs.get("certificate"))
    if certificate is not None and _PEM + b"CERTIFICATE" not in certificate:
        raise ValueError("certificate holds no certificate in PEM form")
    if key is not None and (b"PRIVATE KEY-----" not in key or b"ENCRYPTED" in key):
        raise ValueError("the private key must be in PEM form and without a passphrase")


# --- what they print
# ----------------------------------------------------------------------------------------------------------

# The first row that is found in a line counts, and the first line with a row. What follows `facilitator: `
# are conclusions of our program:
# they come last, when openconnect's own words did not say it.
_LINES = table(
    (r"getaddrinfo failed for host '([^']*)': (.*)", Reason.DNS, "cannot resolve {1}: {2}"),
    (r"Failed to connect to host (\S+)", Reason.NETWORK, "{1} cannot be reached"),
    (
        r"Failed to reconnect to (?:host|proxy) (\S+): (.*)",
        Reason.NETWORK,
        "{1} cannot be reached any more: {2}",
    ),
    (
        r"None of the \d+ fingerprint\(s\) .* match server's certificate: (\S+)",
        Reason.CERTIFICATE,
        "the server's key is not the pinned one but {1}",
    ),
    (r"^ +--servercert (\S+)", Reason.CERTIFICATE, "the server's certificate is not trusted; its key is {1}"),
    (r"(?<=facilitator: )the server's certificate is not trusted", Reason.CERTIFICATE, "{0}"),
    (r"SSL certificate authentication failed", Reason.OUR_CERTIFICATE, "the server rejected our certificate"),
    (r"(?<=facilitator: )our certificate has expired.*", Reason.OUR_CERTIFICATE, "{0}"),
    (
        r"No SSL certificate found to match private key",
        Reason.KEY,
        "the private key does not belong to the certificate",
    ),
    (r"Loading certificate failed: (.*)", Reason.KEY, "our certificate cannot be used: {1}"),
    (
        r"Failed to (?:interpret PEM file|load (?:PKCS|private key|item).*|open (?:private "
        r"key|key/certificate) file.*)",
        Reason.KEY,
        "our certificate or key cannot be used: {0}",
    ),
    (
        r"Loading certificate failed\. Aborting|(?<=facilitator: )the private key needs a passphrase",
        Reason.KEY,
        "our certificate or key cannot be used",
    ),
    (
        r"^Login failed\.?|401 Authentication failed|(?<=facilitator: )the login was refused: .*",
        Reason.AUTH,
        "the server refused the login",
    ),
    (
        r"Auth choice .* (?:not available|matches multiple options)|Server asked us to .*(?:CSD|trojan).*",
        Reason.CLIENT_CONFIG,
        "{0}",
    ),
    (
        r"Cannot follow redirection to non-https URL.*|Failed to (?:parse server response|find or parse "
        r"web form).*|XML response has no .*",
        Reason.CLIENT_CONFIG,
        "the server does not speak this protocol: {0}",
    ),
    (
        r"Authentication failure: Client certificate required",
        Reason.OUR_CERTIFICATE,
        "the server requires a different certificate",
    ),
    (r"Authentication failure: (.*)", Reason.AUTH, "the server refused the login: {1}"),  # Pulse
    (
        r"Unexpected (?:401|403|512) result from server",
        Reason.AUTH,
        "the server refused the login",
    ),  # GlobalProtect: 512
    (r"Unexpected 5\d\d result from server", Reason.FAR_END_FULL, "the server is not in service: {0}"),
    (
        r"Unexpected \d+ result from server",
        Reason.CLIENT_CONFIG,
        "the server does not speak this protocol: {0}",
    ),
    (r"VPN service unavailable; reason: (.*)", Reason.FAR_END_FULL, "the server is not in service: {1}"),
    (r"No IP address received", Reason.FAR_END_FULL, "the server has no address left"),
    (
        r"(?:unrecognized|invalid) option .*|option .* requires an argument|Unknown VPN protocol .*",
        Reason.CLIENT_CONFIG,
        "openconnect: {0}",
    ),
    (r"Failed to bind local tun device \(TUNSETIFF\): .*busy.*", Reason.LOCAL, "{0}"),
    (r"Failed to (?:bind local|open) tun device.*", Reason.MISSING_RIGHT, "{0}"),
    (r"(?<=facilitator: )the interface cannot be set up: .*", Reason.MISSING_RIGHT, "{0}"),
    (
        r"SSO token decryption failed|Failed to decode SSO token|SSO token not alphanumeric",
        Reason.AUTH,
        "the browser's token is not for this login; log in again",
    ),
    (
        r"Failed to listen on local port 29786: (.*)",
        Reason.LOCAL,
        "port 29786 on this host, where the end of a login by browser is awaited: {1}; another tunnel may log in "
        "just now",
    ),
    (r"FileNotFoundError: .*'openconnect'", Reason.MISSING_BINARY, "openconnect is not installed"),
    (r"(?<=facilitator: )the login was refused$", Reason.AUTH, "the server refused the login"),
    (r"(?<=facilitator: )the connection broke during the login", Reason.NETWORK, "{0}"),
    (
        r"(?<=facilitator: )the server hangs up before a word is said",
        Reason.BANNED,
        "{0}: it blocks this host, or is full",
    ),
    (
        r"(?<=facilitator: )the TLS handshake failed|(?<=facilitator: )the server ended the connection "
        r"after the handshake.*",
        Reason.HANDSHAKE,
        "{0}",
    ),
    (r"(?<=facilitator: )the server no longer takes this session", Reason.SESSION_EXPIRED, "{0}"),
    (
        r"(?<=facilitator: )the session has lasted as long as the server lets it",
        Reason.SESSION_EXPIRED,
        "{0}",
    ),
    (r"(?<=facilitator: )the server takes no further session of this account", Reason.FAR_END_FULL, "{0}"),
    (r"(?<=facilitator: )the server ended the session.*", Reason.PEER_CLOSED, "{0}"),
    (r"(?<=facilitator: )the connection to the server broke", Reason.PEER_CLOSED, "{0}"),
)


def _dpd_seconds(tunnel: OpenConnect) -> int:
    return _DPD_SECONDS_WITH_PROBES if tunnel.probe.targets else _DPD_SECONDS


def _dialogue(tunnel: OpenConnect, inputs: Mapping[str, bytes]) -> ProgramDialogue:
    known = {} if tunnel.login.username is None else {"username": tunnel.login.username}
    if "password" in inputs:
        known["password"] = inputs["password"].decode("utf-8", "replace").rstrip("\r\n")
    return ProgramDialogue(known, _LINES)


def _certificates(tunnel: OpenConnect, inputs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    return (inputs["certificate"],) if "certificate" in inputs else ()


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.openconnect.proposal import propose  # which the daemon does without

    return propose(source)


OPENCONNECT = Kind(
    name="openconnect",
    options=OpenConnect,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("openconnect",),
    renew=(RENEW,),
    ends_within=lambda tunnel: 2 * _dpd_seconds(tunnel) + _LAST_TRY_SECONDS,
    logout=(LOGOUT,),
    endpoint=lambda tunnel: tunnel.host,
    tcp_port=lambda tunnel: tunnel.port,
    certificates=_certificates,
    propose=_propose,
)
