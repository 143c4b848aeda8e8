"""vpnc: Cisco's IPsec (IKEv1, aggressive mode, XAuth), driven by tunnels/kinds/vpnc/driver.py.

The customer's configuration is rebuilt with the daemon's own settings and passed through an anonymous file,
so that neither group secret nor password is written to disk or argv. Passwords and codes are sent when vpnc
asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from common.settings import setting
from tunnels.base import KEY, Carrier, Input, Kind, Launch, Placement, Reason, Secret, Tunnel
from tunnels.driver_dialogue import INTERFACE_SETTINGS, ProgramDialogue
from tunnels.failure_patterns import table
from tunnels.profile_text import text_of
from tunnels.profiles import EmptySecret, ProfileError, Value, of_file, referenced_file
from tunnels.proposals import ImportSource, ProposedTunnel
from tunnels.recognition import ProfileFormat

# dead peer detection after so much silence; the least that vpnc accepts
DPD_SECONDS = 10

# Names of vpnc's configuration. It compares them without regard to case, and the first line of a name counts.
GATEWAY = "IPSec gateway"
_KEPT = (
    GATEWAY,
    "IPSec ID",
    "IPSec secret",
    "IPSec obfuscated secret",
    "Xauth username",
    "Xauth password",
    "Xauth obfuscated password",
    "Domain",
    "Vendor",
    "NAT Traversal Mode",
    "IKE DH Group",
    "Perfect Forward Secrecy",
    "Enable Single DES",
    "Enable weak encryption",
    "Enable no encryption",
    "Enable weak authentication",
    "Application version",
    "Interface MTU",
    "Local Addr",
    "IKE Authmode",
    "IPSEC target network",
    "Cisco UDP Encapsulation Port",
)
_CA_FILE = "CA-File"  # the only option of a client that names a file
_CA_FOLDER = "CA-Dir"
_OWNED = (  # the daemon's; a higher `Debug` prints secrets
    "Script",
    "Interface name",
    "Interface mode",
    "No Detach",
    "Pidfile",
    "Local Port",
    "DPD idle timeout (our side)",
    "Noninteractive",
    "Xauth interactive",
    "Password helper",
    "Debug",
)
PASSWORDS = ("Xauth password", "Xauth obfuscated password")
SECRETS = ("IPSec secret", "IPSec obfuscated secret")


class Vpnc(Tunnel):
    """A tunnel of kind vpnc."""

    kind: Literal["vpnc"] = setting(
        default="vpnc", description="vpnc: Cisco's IPsec with group name, group secret and XAuth"
    )
    config: Path = setting(
        description="vpnc's own configuration; what the daemon owns in it (interface, script, process) is "
        "left out"
    )
    group_secret: Secret | None = setting(
        default=None, description="group secret, if the configuration does not contain it"
    )


def _inputs(tunnel: Vpnc) -> tuple[Input, ...]:
    secrets = {"password": tunnel.login.password, "group_secret": tunnel.group_secret}
    return (
        Input("config", tunnel.config),
        *(Input(name, where) for name, where in secrets.items() if where is not None),
    )


def _referenced_inputs(tunnel: Vpnc, inputs: Mapping[str, bytes]) -> tuple[Input, ...]:
    with of_file(tunnel.config):
        named = read_config(inputs["config"]).get(_CA_FILE)
    return () if named is None else (referenced_file(tunnel.config, named, _CA_FILE, named.line),)


def _launch(tunnel: Vpnc, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    authorities = [inputs[item.name] for item in _referenced_inputs(tunnel, inputs)]
    with of_file(tunnel.config):
        config = configuration(tunnel, place.device, inputs)
        gateway = read_config(inputs["config"])[GATEWAY]
    return Launch(
        argv=(
            place.python,
            "-I",
            "-m",
            "tunnels.kinds.vpnc.driver",
            "--device",
            place.device,
            "--config",
            "{config}",
            "--talk",
            KEY,
            f"--gateway={gateway}",
            "--remote",
            str(place.remote),
            *(("--mtu", str(tunnel.mtu)) if tunnel.mtu is not None else ()),
            *(("--append-code",) if tunnel.login.append_code else ()),
            *(("--ca-file", "{ca_file}") if authorities else ()),
        ),
        files={"config": config.encode(), **({"ca_file": authorities[0]} if authorities else {})},
        management=place.directory / "management.sock",
        writes=INTERFACE_SETTINGS,
    )


# --- the configuration
# ----------------------------------------------------------------------------------------------------------


def read_config(data: bytes) -> dict[str, Value]:
    """The options of a vpnc configuration that are not the daemon's: value by name, empty for a switch.
    ProfileError.
    """
    found = _options(data)
    if _CA_FOLDER in found:
        raise ProfileError(
            f"{_CA_FOLDER} names a directory; put its certificates into one file and say {_CA_FILE}",
            found[_CA_FOLDER].line,
        )
    return {name: value for name, value in found.items() if name in (*_KEPT, _CA_FILE)}


def owned_in(data: bytes) -> Iterator[tuple[str, int]]:
    """The options of a vpnc configuration that are the daemon's, with their lines. ProfileError."""
    yield from ((name, value.line) for name, value in _options(data).items() if name in _OWNED)


def _options(data: bytes) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for number, line in enumerate(text_of(data, ProfileFormat.VPNC).split("\n"), 1):
        if line and not line.startswith("#"):
            name, value = _taken_apart(line, number)
            found.setdefault(name, Value(value, number))
    return found


def _taken_apart(line: str, number: int) -> tuple[str, str]:
    """Name and value of a line, by vpnc's own rules. The error does not repeat the line, which may contain a
    secret.
    """
    for name in (*_KEPT, *_OWNED, _CA_FILE, _CA_FOLDER):
        rest = line[len(name) :]
        if line.lower().startswith(name.lower()) and (not rest or rest[0] in " \t"):
            value = rest.strip(" \t")
            if any(ord(letter) < 32 for letter in value):
                raise ProfileError(f"control characters in {name}", number)
            return name, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    raise ProfileError("this is not an option of vpnc", number)


def configuration(tunnel: Vpnc, device: str, inputs: Mapping[str, bytes]) -> str:
    """The whole configuration of one session, except for its script and gateway, which the driver adds.
    ValueError says what is missing.
    """
    read = read_config(inputs["config"])
    said: dict[str, str] = {name: value for name, value in read.items() if name != _CA_FILE}
    if "group_secret" in inputs:
        said = {name: value for name, value in said.items() if name not in SECRETS}
        said["IPSec secret"] = _text(inputs["group_secret"], "group_secret")
    if tunnel.login.username is not None:
        said["Xauth username"] = tunnel.login.username
    asks = tunnel.login.password is not None or not any(name in said for name in PASSWORDS)
    if asks:
        said = {name: value for name, value in said.items() if name not in PASSWORDS}
    _refuse_empty(read, said)
    for name, instead in ((GATEWAY, ""), ("IPSec ID", ""), ("Xauth username", " or login.username")):
        if not said.get(name):
            raise ProfileError(f"the configuration has no {name}{instead}")
    if not any(said.get(name) for name in SECRETS) and said.get("IKE Authmode") != "cert":
        raise ProfileError("the configuration has no IPSec secret, and there is no group_secret")
    return "".join(
        f"{line}\n"
        for line in (
            *rendered({name: value for name, value in said.items() if name != GATEWAY}),
            *_ours(device),
            *(("Xauth interactive",) if asks else ()),
        )
    )


def _refuse_empty(read: Mapping[str, Value], said: Mapping[str, str]) -> None:
    """EmptySecret: one of the secrets that are said is empty in the configuration."""
    for name in (*PASSWORDS, *SECRETS):
        if said.get(name) == "":
            raise EmptySecret(f"{name} is empty", read[name].line)


def rendered(said: Mapping[str, str]) -> Iterator[str]:
    """The lines of a configuration that says this."""
    for name, value in said.items():
        yield f'{name} "{value}"' if value else name


def _ours(device: str) -> tuple[str, ...]:
    return (
        f"Interface name {device}",
        "Interface mode tun",
        "No Detach",
        "Pidfile none",
        "Local Port 0",
        f"DPD idle timeout (our side) {DPD_SECONDS}",
        "Debug 2",
    )


def _text(secret: bytes, name: str) -> str:
    try:
        text = secret.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None
    if "\n" in text or "\r" in text:
        raise ValueError(f"{name} has more than one line")
    return text


# --- what it prints
# ----------------------------------------------------------------------------------------------------------

_LINES = table(
    (r"authentication unsuccessful", Reason.AUTH, "the remote gateway refused user name or password"),
    (
        r"facilitator: (the password was asked for again)",
        Reason.AUTH,
        "the remote gateway refused user name or password",
    ),
    (r"check group password!", Reason.AUTH, "the remote gateway refused the group's secret"),
    (r"no response from target", Reason.NETWORK, "the remote gateway does not answer"),
    (r"unknown host", Reason.DNS, "the gateway's name cannot be resolved"),
    (
        r"connection terminated by dead peer detection",
        Reason.PEER_TIMEOUT,
        "the remote gateway stopped answering",
    ),
    (
        r"connection terminated by peer|the remote gateway has deleted the session",
        Reason.PEER_CLOSED,
        "the remote gateway ended the session",
    ),
)


def _dialogue(tunnel: Vpnc, inputs: Mapping[str, bytes]) -> ProgramDialogue:
    known = {"password": _text(inputs["password"], "login.password")} if "password" in inputs else {}
    # where there is no password, the code alone is what the remote gateway takes for one
    return ProgramDialogue({"password": ""} | known if tunnel.login.append_code else known, _LINES)


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.vpnc.proposal import propose  # which the daemon does without

    return propose(source)


VPNC = Kind(
    name="vpnc",
    options=Vpnc,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("vpnc", "stdbuf"),
    referenced_inputs=_referenced_inputs,
    propose=_propose,
)
