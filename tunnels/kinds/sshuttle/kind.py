"""sshuttle: staff's TCP connections, carried over one ssh to a host of our own, as a proxy without an
interface.

Runs tunnels/kinds/sshuttle/driver.py, a process without privileges; the private key and the known hosts reach
it as anonymous files. READY=1 on its NOTIFY_SOCKET means that the remote host has answered. Why it ends is
read from the output of ssh and sshuttle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from common.constraints import CheckedBy, Whole
from common.settings import setting
from tunnels.base import (
    Carrier,
    Connected,
    Failed,
    FileFinding,
    Full,
    Input,
    Inputs,
    Kind,
    Launch,
    LineSource,
    Observation,
    Placement,
    Reason,
    Secret,
    Tunnel,
)
from tunnels.failure_patterns import Explanations
from tunnels.kinds.sshuttle.account import SshAccount
from tunnels.kinds.sshuttle.failures import ended, explained
from tunnels.kinds.sshuttle.keys import UserCertificate, read_certificate, read_private_key, text_of_key
from tunnels.kinds.sshuttle.known_hosts import knows, read_known_hosts
from tunnels.kinds.sshuttle.limits import NOT_FULL, WORKER_CONNECTIONS_PER_SOURCE
from tunnels.profiles import of_file
from tunnels.proposals import ImportSource, ProposedTunnel

PROGRAM = Path(__file__).with_name("driver.py")

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

# ssh tries the addresses of a name one after the other and gives each its ConnectTimeout of 10 s, as measured
# with OpenSSH 9.2: the last of eight must still get its turn.
START_SECONDS = 100.0


def _checked_account(value: str) -> str:
    SshAccount.parse(value)
    return value


def _ssh_options(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_ssh_option, values))


class Sshuttle(Tunnel):
    """A tunnel of kind sshuttle."""

    kind: Literal["sshuttle"] = setting(
        default="sshuttle", description="sshuttle: TCP over ssh, no network interface"
    )
    remote: Annotated[str, CheckedBy(_checked_account)] = setting(
        description="USER@HOST[:PORT] of the remote host; the account needs a shell and Python 3"
    )
    identity: Secret = setting(description="private ssh key without a passphrase")
    known_hosts: Path = setting(
        description="file with the remote host's host key, and that of `jump`, as ssh-keyscan prints them"
    )
    certificate: Path | None = setting(
        default=None,
        description="OpenSSH user certificate of `identity` (NAME-cert.pub, as ssh-keygen -s makes it)",
    )
    jump: Annotated[str, CheckedBy(_checked_account)] | None = setting(
        default=None, description="USER@HOST[:PORT] jump host through which the remote host is reached"
    )
    jump_identity: Secret | None = setting(
        default=None, description="private ssh key for `jump`; default: `identity`"
    )
    workers: Annotated[int, Whole(1, 16)] = setting(
        default=1,
        description="processes that share the load, each with an ssh of its own and for 960 connections; "
        "one's end costs only its own",
    )
    ssh_options: Annotated[tuple[str, ...], CheckedBy(_ssh_options)] = setting(
        default=(), description="options of ssh to tune, as Name=value, such as Compression=yes"
    )

    def check(self) -> None:
        """Its probes pass, and there is one way to the remote host."""
        for target in self.probe.targets:
            if target.startswith("icmp:"):
                raise ValueError(
                    f"probe target {target} cannot pass: sshuttle carries TCP only; use tcp:// or http://"
                )
        if self.jump_identity is not None and self.jump is None:
            raise ValueError("a jump_identity without a jump is of no use; set jump too")
        if self.jump is not None and self.option("ProxyCommand") is not None:
            raise ValueError(
                "jump and the ssh option ProxyCommand are two ways to the remote host; remove one"
            )

    @property
    def first_hop(self) -> SshAccount:
        """The account to which the first connection goes."""
        return SshAccount.parse(self.jump or self.remote)

    def option(self, name: str) -> str | None:
        """The value of an ssh option, by its canonical name."""
        pairs = (option.partition("=") for option in self.ssh_options)
        return next((value for each, _, value in pairs if each == name), None)


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
    where: dict[str, Secret | Path | None] = {
        "identity": tunnel.identity,
        "known_hosts": tunnel.known_hosts,
        "certificate": tunnel.certificate,
        "jump_identity": tunnel.jump_identity,
    }
    return tuple(Input(name, place) for name, place in where.items() if place is not None)


def _launch(tunnel: Sshuttle, place: Placement, inputs: Inputs) -> Launch:
    files = _files(tunnel, inputs)
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
            *(word for name in files for word in (f"--{name.replace('_', '-')}", f"{{{name}}}")),
            *(() if tunnel.jump is None else ("--jump", tunnel.jump)),
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
        files=files,
        notify=True,
        capabilities=("chown", "setgid", "setpcap", "setuid"),  # until it has given up root
    )


def _files(tunnel: Sshuttle, inputs: Inputs) -> dict[str, bytes]:
    """The inputs as ssh takes them. ProfileError."""
    files = {"known_hosts": text_of_key(inputs["known_hosts"]).encode()}
    for name, where in (("identity", tunnel.identity), ("jump_identity", tunnel.jump_identity)):
        if where is not None and name in inputs:
            with of_file(where):
                files[name] = read_private_key(inputs[name]).text.encode()
    if (certificate := _certificate(tunnel, inputs)) is not None:
        files["certificate"] = certificate.text.encode()
    return files


def _certificate(tunnel: Sshuttle, inputs: Inputs) -> UserCertificate | None:
    if tunnel.certificate is None or "certificate" not in inputs:
        return None
    with of_file(tunnel.certificate):
        return read_certificate(inputs["certificate"])


def _examine(tunnel: Sshuttle, inputs: Inputs) -> Iterator[FileFinding]:
    if "known_hosts" in inputs:
        yield from _unknown_hosts(tunnel, inputs["known_hosts"])
    for name, where in (("identity", tunnel.identity), ("jump_identity", tunnel.jump_identity)):
        if where is not None and name in inputs:
            with of_file(where):
                if read_private_key(inputs[name]).repaired:
                    text = "the private key has lost its line breaks; it is used as if they were there"
                    yield FileFinding(text, where, fatal=False)
    if (certificate := _certificate(tunnel, inputs)) is not None:
        yield from _doubtful(certificate, tunnel, inputs)


def _unknown_hosts(tunnel: Sshuttle, data: bytes) -> Iterator[FileFinding]:
    """A finding for each host that we connect to and the file does not know."""
    with of_file(tunnel.known_hosts):
        patterns = read_known_hosts(data)
    remote = SshAccount.parse(tunnel.remote)
    name = tunnel.option("HostKeyAlias") or tunnel.option("HostName") or remote.host
    for host, port in (
        (name, remote.port),
        *(((h := tunnel.first_hop).host, h.port),) * (tunnel.jump is not None),
    ):
        if not knows(patterns, host, port):
            text = (
                f"the file has no key of {host}; add what `ssh-keyscan -p {port} {host}` prints, after its "
                f"owner has confirmed the fingerprint"
            )
            yield FileFinding(text, tunnel.known_hosts)


def _doubtful(certificate: UserCertificate, tunnel: Sshuttle, inputs: Inputs) -> Iterator[FileFinding]:
    """Why the remote host will not, or may not, accept the certificate."""
    public = read_private_key(inputs["identity"]).public if "identity" in inputs else None
    if public is not None and public != certificate.public:
        yield FileFinding(
            "the certificate is for another key than `identity`; ask for one of that key", tunnel.certificate
        )
    user = SshAccount.parse(tunnel.remote).user
    if certificate.principals and user not in certificate.principals:
        names = ", ".join(certificate.principals)
        yield FileFinding(
            f"the certificate is for {names}; the remote host may refuse it for {user}",
            tunnel.certificate,
            fatal=False,
        )


def _keepalive(tunnel: Sshuttle) -> tuple[str, ...]:
    """If probes detect a dead tunnel sooner, ssh should not give up by itself: then a session survives a
    silence for as long as TCP does (15 min). Of several workers only ssh itself tells which one is dead.
    """
    return ("ServerAliveCountMax=180",) if tunnel.probe.targets and tunnel.workers == 1 else ()


# --- what they print
# ----------------------------------------------------------------------------------------------------------

_FULL = re.compile(rf"facilitator: (?:(full: .*)|{NOT_FULL})")


class SshuttleDialogue:
    """The dialogue of one sshuttle process. A failure is reported when the process has ended."""

    def __init__(self, host: str, certificate: str = "") -> None:
        """`host`: where our connection goes. `certificate`: what is to be added where the key is refused."""
        self._host, self._certificate = host, certificate
        self._connected = False
        self._ended = False  # sshuttle has said why; its READY=1 may be read later, as it comes another way
        self._explanations = Explanations(explained)

    def receive(self, source: LineSource, line: str) -> Iterator[Observation]:
        """Take one line and return what it means."""
        if source is LineSource.NOTIFY and line == "READY=1":
            self._connected = True
            if not self._ended:
                self._explanations.connected()
            yield Connected(peer=self._host)
        elif source is LineSource.OUTPUT and (said := _FULL.fullmatch(line)):
            yield Full(said[1])
        elif source is LineSource.OUTPUT:
            self._ended = self._ended or ended(line)
            self._explanations.hear(line)
        elif source is LineSource.END and (failed := self._explanations.failure):
            # the same message, but the handshake was long ago
            broke = self._connected and failed.reason is Reason.HANDSHAKE
            if failed.reason is Reason.KEY:
                failed = replace(failed, text=failed.text + self._certificate)
            yield Failed(Reason.PEER_CLOSED, "the connection to the remote host broke") if broke else failed

    def answer(self, text: str) -> Iterator[Observation]:
        """ssh asks nothing: it is told to fail instead (BatchMode)."""
        return iter(())


def _dialogue(tunnel: Sshuttle, inputs: Inputs) -> SshuttleDialogue:
    certificate = _certificate(tunnel, inputs)
    return SshuttleDialogue(tunnel.first_hop.host, "" if certificate is None else _described(certificate))


def _described(certificate: UserCertificate) -> str:
    """The facts for which a certificate may be refused."""
    end = (
        "for ever"
        if certificate.valid_before is None
        else f"until {certificate.valid_before:%Y-%m-%d %H:%M} UTC"
    )
    return (
        f", with its certificate for {', '.join(certificate.principals) or 'any account'} that is valid {end}"
    )


def _propose(source: ImportSource) -> ProposedTunnel | None:
    from tunnels.kinds.sshuttle.proposal import propose  # which the daemon does without

    return propose(source)


SSHUTTLE = Kind(
    name="sshuttle",
    options=Sshuttle,
    carrier=Carrier.PROXY,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=("ssh",),
    examine=_examine,
    drops_root=True,
    start_timeout=START_SECONDS,
    uses=lambda tunnel: frozenset(),
    tcp_port=lambda tunnel: tunnel.first_hop.port,
    connections_per_source=lambda tunnel: tunnel.workers * WORKER_CONNECTIONS_PER_SOURCE,
    inner_probe=lambda tunnel: (
        f"tcp://127.0.0.1:{SshAccount.parse(tunnel.remote).port}"
    ),  # as the remote host sees itself: the very ssh server speaks first
    propose=_propose,
)
