"""strongSwan: IPsec with IKEv2 (or IKEv1), one charon per session, driven by
tunnels/kinds/strongswan/driver.py.

The swanctl.conf goes through tunnels.kinds.strongswan.config into an anonymous file, from which swanctl loads
it into charon; so does each key and certificate beside it: neither program opens a path that a customer has
chosen. The pre-shared key and the login go from the daemon to charon over sockets only. Routes are the
daemon's: charon's own are in a table that no rule refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from common.settings import setting
from tunnels.base import KEY, Carrier, FileFinding, Input, Kind, Launch, Placement, Reason, Secret, Tunnel
from tunnels.driver_dialogue import ASK_SIGN_OF_LIFE, INTERFACE_SETTINGS, ProgramDialogue
from tunnels.failure_patterns import table
from tunnels.kinds.strongswan.config import Swanctl, not_asked_for, read_swanctl
from tunnels.profiles import PREFIX, folder, of_file, referenced_file
from tunnels.proposals import ImportSource, ProposedTunnel

# Of keys and certificates, beside a swanctl.conf. Of each of these swanctl loads every file.
PRIVATE_FOLDERS = frozenset({"bliss", "ecdsa", "pkcs12", "pkcs8", "private", "rsa"})  # of keys
FOLDERS = (
    "bliss",
    "ecdsa",
    "pkcs12",
    "pkcs8",
    "private",
    "pubkey",
    "rsa",
    "x509",
    "x509aa",
    "x509ac",
    "x509ca",
    "x509crl",
    "x509ocsp",
)


class StrongSwan(Tunnel):
    """A tunnel of kind strongswan."""

    kind: Literal["strongswan"] = setting(
        default="strongswan", description="strongSwan: IPsec with IKEv2 or IKEv1"
    )
    config: Path = setting(
        description="swanctl.conf; its keys and certificates are in the same directory (x509, x509ca, private, ...)"
    )
    psk: Secret | None = setting(
        default=None, description="pre-shared key, if the swanctl.conf does not contain it"
    )


def _inputs(tunnel: StrongSwan) -> tuple[Input, ...]:
    secrets = {"password": tunnel.login.password, "psk": tunnel.psk}
    return (
        Input("config", tunnel.config),
        *(Input(name, where) for name, where in secrets.items() if where is not None),
    )


def _referenced_inputs(tunnel: StrongSwan, inputs: Mapping[str, bytes]) -> tuple[Input, ...]:
    named = [
        referenced_file(tunnel.config, file.name, file.option, file.line)
        for file in _configuration(tunnel, inputs).files
    ]
    folders = (folder(tunnel.config, name, secret=name in PRIVATE_FOLDERS) for name in FOLDERS)
    return (*folders, *named)


def _configuration(tunnel: StrongSwan, inputs: Mapping[str, bytes], remote: int = 0) -> Swanctl:
    with of_file(tunnel.config):
        return read_swanctl(inputs["config"], tunnel.login.username, remote)


def _examine(tunnel: StrongSwan, inputs: Mapping[str, bytes]) -> Iterator[FileFinding]:
    if "config" in inputs:
        config = _configuration(tunnel, inputs)
        yield from (replace(note, where=tunnel.config) for note in config.notes)
        for network, line in not_asked_for(config, (each.network for each in tunnel.destinations)):
            text = f"{network} of destinations is in no remote_ts, so no packet to it would be carried; add it there"
            yield FileFinding(text, tunnel.config, line)


def _launch(tunnel: StrongSwan, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    config = _configuration(tunnel, inputs, place.remote)
    beside = {
        f"file{number}": name
        for number, name in enumerate(name for name in inputs if name.startswith(PREFIX))
    }
    logs_in = "password" in inputs or tunnel.login.append_code
    if logs_in and tunnel.login.username is None:
        raise ValueError("login.password needs a login.username")
    return Launch(
        argv=(
            place.python,
            "-I",
            "-m",
            "tunnels.kinds.strongswan.driver",
            "--device",
            place.device,
            "--config",
            "{config}",
            "--talk",
            KEY,
            *(
                word
                for number, name in beside.items()
                for word in ("--file", f"{name.removeprefix(PREFIX)}={{{number}}}")
            ),
            *(("--mtu", str(tunnel.mtu)) if tunnel.mtu is not None else ()),
            *(word for address in dict.fromkeys(config.addresses) for word in ("--address", address)),
            *(word for at in config.locals for word in ("--local", f"{tunnel.config}:{at.line}={at}")),
            *(word for gateway in config.gateways for word in ("--gateway", "=".join(map(str, gateway)))),
            *(("--several",) if config.several else ()),
            *(("--probed",) if tunnel.probe.targets else ()),
            *(("--psk",) if "psk" in inputs else ()),
            *(("--login",) if logs_in else ()),
            *(("--append-code",) if tunnel.login.append_code else ()),
            *(f"{connection}/{child}" for connection, child in config.children),
        ),
        files={"config": config.text.encode(), **{number: inputs[name] for number, name in beside.items()}},
        management=place.directory / "management.sock",
        writes=INTERFACE_SETTINGS,
        reads=(Path("/etc/strongswan.conf"), Path("/etc/strongswan.d")),
    )


# First match wins. What charon prints is preceded by a thread and a group, such as `06[IKE] `.
_LINES = table(
    (
        r"plugin 'kernel-libipsec': failed to load.*",
        Reason.MISSING_BINARY,
        "{0}; apt install libcharon-extra-plugins",
    ),
    (
        r"loading \S+ (?:method|XAuth method \S+) failed.*",
        Reason.MISSING_BINARY,
        "{0}; apt install libcharon-extauth-plugins",
    ),
    (
        r"failed to (?:create|configure) TUN device|feature CUSTOM:kernel-ipsec .*failed.*",
        Reason.MISSING_RIGHT,
        "charon: {0}",
    ),
    (
        r"loading (?:connection|authority) '.*' failed: .*|facilitator: swanctl .*",
        Reason.CLIENT_CONFIG,
        "{0}",
    ),
    (r"(?<=facilitator: ).*: local_addrs .* is no address of this host.*", Reason.CLIENT_CONFIG, "{0}"),
    (r"facilitator: the remote gateway assigns no address.*", Reason.CLIENT_CONFIG, "{0}"),
    (r"resolving '.*' failed: .*|unable to resolve \S+, initiate aborted", Reason.DNS, "{0}"),
    (
        r"no trusted .* public key found for .*|no issuer certificate found for .*|subject certificate "
        r"invalid .*|certificate was revoked .*",
        Reason.CERTIFICATE,
        "{0}",
    ),
    (r"constraint check failed: .*|selected peer config '.*' inacceptable: .*", Reason.CERTIFICATE, "{0}"),
    (r"no private key found for .*", Reason.KEY, "{0}"),
    (
        r"no (?:shared key|EAP key|XAuth (?:secret|password)) found for .*",
        Reason.CLIENT_CONFIG,
        "{0}; set psk or login.password",
    ),
    (
        r"EAP-MS-CHAPv2 failed with error|EAP_\w+ method failed|received EAP_FAILURE|XAuth authentication "
        r".*failed",
        Reason.AUTH,
        "the remote gateway refused user name or password",
    ),
    (
        r"tried \d+ shared keys? for .*, but MAC mismatched",
        Reason.AUTH,
        "the remote gateway has a different pre-shared key",
    ),
    # A gateway that has started and not yet read its configuration says the same.
    (
        r"received NO_PROPOSAL_CHOSEN notify error",
        Reason.HANDSHAKE,
        "no cryptography in common, or the gateway is only just starting: {0}",
    ),
    (
        r"received NO_PROPOSAL_CHOSEN.*|received INVALID_KE_PAYLOAD notify error|no acceptable .* found",
        Reason.CLIENT_CONFIG,
        "no cryptography in common: {0}",
    ),
    (
        r"received TS_UNACCEPTABLE.*",
        Reason.CLIENT_CONFIG,
        "the remote gateway does not accept these networks: {0}",
    ),
    (
        r"received FAILED_CP_REQUIRED",
        Reason.CLIENT_CONFIG,
        "the remote gateway wants to assign an address: vips = 0.0.0.0 is missing",
    ),
    (
        r"received INTERNAL_ADDRESS_FAILURE.*",
        Reason.FAR_END_FULL,
        "the remote gateway has no address left: {0}",
    ),
    (r"peer not responding", Reason.NETWORK, "the remote gateway does not answer"),
    (
        r"received DELETE for IKE_SA|received DELETE for .* CHILD_SA .*",
        Reason.PEER_CLOSED,
        "the remote gateway ended the session",
    ),
    (r"facilitator: the session has ended", Reason.PEER_TIMEOUT, "the remote gateway stopped answering"),
    (r"(?<=facilitator: )establishing CHILD_SA .* failed.*", Reason.HANDSHAKE, "{0}"),
    (r"(?<=facilitator: ).*", Reason.LOCAL, "{0}"),
)
_REFUSED = r"received AUTHENTICATION_FAILED (?:notify error|error notify)"
_LOGIN_REFUSED = (*table((_REFUSED, Reason.AUTH, "the remote gateway refused our login")), *_LINES)
_CERTIFICATE_REFUSED = (
    *table((_REFUSED, Reason.OUR_CERTIFICATE, "the remote gateway refused our certificate")),
    *_LINES,
)


def _dialogue(tunnel: StrongSwan, inputs: Mapping[str, bytes]) -> ProgramDialogue:
    secrets = {name: _text(inputs[name], name) for name in ("password", "psk") if name in inputs}
    username = {} if tunnel.login.username is None else {"username": tunnel.login.username}
    # where there is no password, the code alone is what the remote gateway takes for one
    password = {"password": ""} if tunnel.login.append_code else {}
    certified = read_swanctl(inputs["config"]).certificate and "password" not in inputs
    return ProgramDialogue(
        username | password | secrets, _CERTIFICATE_REFUSED if certified else _LOGIN_REFUSED
    )


def _text(secret: bytes, name: str) -> str:
    try:
        return secret.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.strongswan.proposal import propose  # which the daemon does without

    return propose(source)


STRONGSWAN = Kind(
    name="strongswan",
    options=StrongSwan,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("charon-systemd", "swanctl", "setpriv"),
    examine=_examine,
    referenced_inputs=_referenced_inputs,
    ask_sign_of_life=(ASK_SIGN_OF_LIFE,),
    propose=_propose,
)
