"""sshuttle: staff's TCP connections, carried over one ssh to a host of our own, as a proxy without an
interface.

Runs tunnels/kinds/sshuttle/driver.py, a process without privileges; the private key and the known hosts reach
it as anonymous files. READY=1 on its NOTIFY_SOCKET means that the remote host has answered. Why it ends is
read from the output of ssh and sshuttle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunnels.base import (
    Carrier,
    Connected,
    Failed,
    Full,
    Input,
    Kind,
    Launch,
    LineSource,
    Observation,
    Placement,
    Reason,
    Secret,
    Tunnel,
)
from tunnels.failure_patterns import explanation, table
from tunnels.kinds.sshuttle.limits import NOT_FULL, WORKER_CONNECTIONS_PER_SOURCE

PROGRAM = Path(__file__).with_name("driver.py")

_REMOTE = re.compile(
    r"(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)

# What operators may set. Everything else would break the tunnel, weaken it, or run something beside it.
SSH_OPTIONS = frozenset(
    {
        "AddressFamily",
        "BindAddress",
        "BindInterface",
        "CASignatureAlgorithms",
        "Ciphers",
        "Compression",
        "ConnectTimeout",
        "ConnectionAttempts",
        "HostKeyAlgorithms",
        "HostKeyAlias",
        "HostName",
        "IPQoS",
        "KexAlgorithms",
        "MACs",
        "ProxyCommand",
        "PubkeyAcceptedAlgorithms",
        "RekeyLimit",
        "RequiredRSASize",
        "ServerAliveCountMax",
        "ServerAliveInterval",
        "TCPKeepAlive",
    }
)
_CANONICAL = MappingProxyType({name.lower(): name for name in SSH_OPTIONS})


class Sshuttle(Tunnel):
    """A tunnel of kind sshuttle."""

    kind: Literal["sshuttle"] = Field("sshuttle", description="sshuttle: TCP over ssh, no network device")
    remote: str = Field(
        description="USER@HOST[:PORT] of the far side; the account needs a shell and Python 3"
    )
    identity: Secret = Field(description="where the private ssh key lies; without a passphrase")
    known_hosts: Path = Field(description="file with the far side's host key, as ssh-keyscan prints it")
    workers: Annotated[int, Field(strict=True, ge=1, le=16)] = Field(
        1,
        description="processes that share the load, each with an ssh of its own and for 960 connections; "
        "one's end costs only its own",
    )
    ssh_options: tuple[str, ...] = Field(
        (), description="options of ssh to tune, as Name=value, such as Compression=yes"
    )

    @field_validator("remote")
    @classmethod
    def _is_remote(cls, value: str) -> str:
        match = _REMOTE.fullmatch(value)
        if match is None or not 0 < int(match["port"] or 22) < 65536:
            raise ValueError(
                f"{value!r} is not a remote; write it as facilitator@bastion.example.net or "
                f"facilitator@192.0.2.1:2222"
            )
        return value

    @field_validator("ssh_options")
    @classmethod
    def _tunable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_ssh_option(option) for option in value)

    @model_validator(mode="after")
    def _probes_that_pass(self) -> Self:
        for target in self.probe.targets:
            if target.startswith("icmp:"):
                raise ValueError(
                    f"probe target {target} cannot pass: sshuttle carries TCP only; use tcp:// or http://"
                )
        return self

    @property
    def host(self) -> str:
        """Name or address of the remote host."""
        match = _REMOTE.fullmatch(self.remote)
        return match["host"].strip("[]") if match else self.remote

    @property
    def port(self) -> int:
        """TCP port of its ssh server."""
        match = _REMOTE.fullmatch(self.remote)
        return int((match and match["port"]) or 22)


def _ssh_option(option: str) -> str:
    """The option as Name=value. ValueError: it may not be set."""
    name, separator, value = re.sub(r"^\s*(\w+)(?:\s*=\s*|\s+)", r"\1=", option).partition("=")
    if not separator or not value.strip() or not value.isprintable():
        raise ValueError(f"{option!r} is not an ssh option; write it as Name=value")
    known = _CANONICAL.get(name.lower())
    if known is None:
        raise ValueError(
            f"the ssh option {name} cannot be set here; these can: {', '.join(sorted(SSH_OPTIONS))}"
        )
    return f"{known}={value.strip()}"


def _inputs(tunnel: Sshuttle) -> tuple[Input, ...]:
    return Input("identity", tunnel.identity), Input("known_hosts", tunnel.known_hosts)


def _launch(tunnel: Sshuttle, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    if b"PRIVATE KEY" not in inputs["identity"]:
        raise ValueError("identity is not a private ssh key")
    return Launch(
        argv=(
            # isolated: the program is called like the package that it imports
            place.python,
            "-I",
            str(PROGRAM),
            "--port",
            str(place.port),
            "--remote",
            tunnel.remote,
            "--identity",
            "{identity}",
            "--known-hosts",
            "{known_hosts}",
            "--workers",
            str(tunnel.workers),
            *(() if place.user is None else ("--user", "{}:{}".format(*place.user))),
            *(word for option in (*tunnel.ssh_options, *_keepalive(tunnel)) for word in ("--option", option)),
            *(
                word
                for d in tunnel.destinations
                if d.presented_as
                for word in ("--map", f"{d.presented_as}={d.network}")
            ),
        ),
        # ssh wants a newline at the end of a key
        files={"identity": inputs["identity"].rstrip() + b"\n", "known_hosts": inputs["known_hosts"]},
        notify=True,
        capabilities=("chown", "setgid", "setpcap", "setuid"),  # until it has given up root
    )


def _keepalive(tunnel: Sshuttle) -> tuple[str, ...]:
    """If probes detect a dead tunnel sooner, ssh shall not give up by itself: then a session survives a
    minute without an uplink. Of several workers only ssh itself tells which one is dead.
    """
    return ("ServerAliveCountMax=12",) if tunnel.probe.targets and tunnel.workers == 1 else ()


# --- what they print
# ----------------------------------------------------------------------------------------------------------

# Pattern, reason, sentence ({0} is the match); the first match counts. ssh prints before sshuttle does, and
# knows more. If neither explains why the remote host did not answer, the driver's last line does: exit code
# 255 is ssh's own failure, any other comes from the remote shell.
_LINES = table(
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        Reason.CERTIFICATE,
        "the far side's host key is not the known one",
    ),
    (r"No \S+ host key is known for \S+", Reason.CERTIFICATE, "{0}"),
    (
        r"Host key verification failed|Certificate invalid: .*",
        Reason.CERTIFICATE,
        "the far side's host key is not known",
    ),
    (r"Load key .*", Reason.KEY, "the private key cannot be used"),
    (r"Permission denied \(.*\)", Reason.KEY, "the far side refused our key"),
    (r"No user exists for uid \d+", Reason.MISSING_RIGHT, "{0} on this host, which ssh insists on"),
    (r"Too many authentication failures", Reason.KEY, "the far side refused our key"),
    (r"Could not resolve hostname .*", Reason.DNS, "{0}"),
    (r"ssh: connect to host \S+ port \d+: .*", Reason.NETWORK, "{0}"),
    (r"Connection timed out during banner exchange", Reason.NETWORK, "{0}"),
    (r"Unable to negotiate with .*", Reason.CLIENT_CONFIG, "{0}"),
    (
        r"Bad configuration option: .*|command-line:? line \d+: .*|keyword \S+ extra arguments.*",
        Reason.CLIENT_CONFIG,
        "ssh: {0}",
    ),
    (r"Timeout, server \S+ not responding", Reason.PEER_TIMEOUT, "{0}"),
    (r"kex_exchange_identification: .*|Connection (?:closed|reset) by \S+ port \d+", Reason.HANDSHAKE, "{0}"),
    (r"Connection to \S+ closed by remote host", Reason.PEER_CLOSED, "{0}"),
    (r"client_loop: send disconnect: .*|Received disconnect from .*", Reason.PEER_CLOSED, "{0}"),
    (
        r"facilitator: the Python package sshuttle is missing.*|fatal: Failed to find .*",
        Reason.MISSING_BINARY,
        "{0}",
    ),
    (r"(?<=facilitator: )this version of sshuttle .*", Reason.MISSING_BINARY, "{0}"),
    (
        r"(?<=facilitator: )(?:started as root|cannot become|cannot give up|cannot mark).*",
        Reason.MISSING_RIGHT,
        "{0}",
    ),
    (r"cannot listen on port .*|facilitator: NOTIFY_SOCKET.*", Reason.LOCAL, "{0}"),
    (r"(?<=fatal: )the other end (?:floods|breaks) .*", Reason.PROTOCOL, "{0}"),
    (r"(?<=fatal: )the other end has ended the session", Reason.PEER_CLOSED, "{0}"),
    (r"sshuttle: error: .*", Reason.CLIENT_CONFIG, "{0}"),
    (
        r"SSH connection lost|(?:server died with error|facilitator: ssh ended with) code (?:255|-\d+)",
        Reason.HANDSHAKE,
        "ssh ended before the far side answered",
    ),
    (
        r"(?:server died with error|facilitator: ssh ended with) code \d+|expected server init string .* "
        r"got b(?:'.+'|\".+\")",
        Reason.CLIENT_CONFIG,
        "the far side cannot run Python 3 for us: is it installed, and has the account a shell?",
    ),
    (r"facilitator: sshuttle ended: (?!Broken pipe|Connection reset).*", Reason.LOCAL, "{0}"),
    (
        r"ssh connection to server \(pid \d+\) exited|fatal: ssh is gone|facilitator: (?:ssh is "
        r"gone|sshuttle ended)",
        Reason.PEER_CLOSED,
        "ssh ended",
    ),
)

_FULL = re.compile(rf"facilitator: (?:(full: .*)|{NOT_FULL})")

# output of the remote end about its connections; output of one worker of several, as long as others are ready
_NO_NEWS = re.compile(r" s: |worker \d+: ")


class SshuttleDialogue:
    """The dialogue of one sshuttle process. Reports each failure once and is silent after it."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._connected = False
        self._failed = False

    def receive(self, source: LineSource, line: str) -> Iterator[Observation]:
        """Take one line and return what it means."""
        if self._failed:
            return
        if source is LineSource.NOTIFY and line == "READY=1":
            self._connected = True
            yield Connected(peer=self._host)
        elif source is LineSource.OUTPUT and (said := _FULL.fullmatch(line)):
            yield Full(said[1])
        elif source is LineSource.OUTPUT and (failed := _explanation(line)):
            self._failed = True
            # the same message, but the handshake was long ago
            broke = self._connected and failed.reason is Reason.HANDSHAKE
            yield Failed(Reason.PEER_CLOSED, "the connection to the far side broke") if broke else failed

    def answer(self, text: str) -> Iterator[Observation]:
        """ssh asks nothing: it is told to fail instead (BatchMode)."""
        return iter(())


def _explanation(line: str) -> Failed | None:
    return None if _NO_NEWS.match(line) else explanation(_LINES, line)


def _dialogue(tunnel: Sshuttle, inputs: Mapping[str, bytes]) -> SshuttleDialogue:
    return SshuttleDialogue(tunnel.host)


SSHUTTLE = Kind(
    name="sshuttle",
    options=Sshuttle,
    carrier=Carrier.PROXY,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("ssh",),
    drops_root=True,
    uses=lambda tunnel: frozenset(),
    tcp_port=lambda tunnel: tunnel.port,
    connections_per_source=lambda tunnel: tunnel.workers * WORKER_CONNECTIONS_PER_SOURCE,
    inner_probe=lambda tunnel: (
        f"tcp://127.0.0.1:{tunnel.port}"
    ),  # as the far side sees itself: the very ssh server speaks first
)
