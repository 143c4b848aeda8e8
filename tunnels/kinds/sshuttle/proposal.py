"""What `facilitator import` makes of a command line of sshuttle."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunnels.kinds.sshuttle.account import SshAccount
from tunnels.networks import IPNetwork
from tunnels.profiles import ProfileError
from tunnels.proposals import (
    ImportSource,
    NeededSecret,
    ProposedTunnel,
    network_of,
    option_names,
    option_pairs,
    routable,
)

_IDENTITY = NeededSecret(("identity",), "ssh-key", "the private ssh key of the account, without a passphrase")


# options of sshuttle(8) and ssh(1) with a value; all others have none
_WITH_VALUE = option_names("""
    -r --remote -e --ssh-cmd -x --exclude -X --exclude-from -s --subnets --ns-hosts --to-ns -l --listen --python -m
    --method --seed-hosts --latency-buffer-size --tmark --user --group --pidfile --sudoers-user --sudoers-filename
    --namespace --namespace-pid
""")
_SSH_WITH_VALUE = option_names("-i -p -l -o -J -F -b -c -m -B -D -E -e -I -L -O -Q -R -S -W -w")
_PORTS = re.compile(r":\d{1,5}(-\d{1,5})?$", re.ASCII)


@dataclass(slots=True)
class _Line:
    """What the words say."""

    remote: str = ""
    user: str | None = None  # ssh -l
    port: str | None = None  # ssh -p
    jump: str | None = None  # ssh -J
    options: list[str] = field(default_factory=list)  # ssh -o
    networks: list[IPNetwork] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def propose(source: ImportSource) -> ProposedTunnel | None:
    """The tunnel in a command line. ProfileError: it cannot be run."""
    if source.words[:1] != ("sshuttle",):
        return None
    line = _Line()
    _read(line, source.words[1:])
    account = _account(line, source.username)
    settings: dict[str, Any] = {"remote": account}
    if line.jump is not None:
        settings["jump"] = _complete(line.jump, source.username)
    if options := _allowed(line):
        settings["ssh_options"] = options
    return ProposedTunnel(
        kind="sshuttle",
        server=SshAccount.parse(account).host,
        settings=settings,
        networks=routable(line.networks),
        secrets=(_IDENTITY,),
        files=("known_hosts",),
        notes=tuple(line.notes),
    )


def _read(line: _Line, words: Sequence[str]) -> None:
    for name, value in option_pairs(words, _WITH_VALUE):
        if name in ("-r", "--remote"):
            line.remote = value
        elif name in ("-e", "--ssh-cmd"):
            _read_ssh(line, value)
        elif name in ("-x", "--exclude"):
            line.notes.append(f"{name} {value} is left out: only the destinations below enter the tunnel")
        elif name == "":
            _add_network(line, value)
        elif name not in ("-v", "--verbose", "-D", "--daemon", "--syslog"):
            line.notes.append(f"{name} is left out: the daemon decides this")


def _read_ssh(line: _Line, command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError:
        raise ProfileError("the quotes in the ssh command do not close") from None
    for name, value in option_pairs(words[1:], _SSH_WITH_VALUE):
        if name == "-p":
            line.port = value
        elif name == "-l":
            line.user = value
        elif name == "-J":
            line.jump = value
        elif name == "-o":
            line.options.append(value)
        elif name == "-i":
            line.notes.append(f"the key {value} is not copied; put it into the file of the secret below")
        elif name:
            line.notes.append(f"ssh {name} is left out")


def _add_network(line: _Line, text: str) -> None:
    network = network_of(_PORTS.sub("", text) if text.count(":") <= 1 else text)
    if network is None:
        line.notes.append(f"{text} is left out: it is no network")
    elif network.prefixlen == 0:
        line.notes.append(f"{text} is left out: it is the whole internet")
    else:
        line.networks.append(network)


def _account(line: _Line, username: str | None) -> str:
    if not line.remote:
        raise ProfileError("no -r USER@HOST: the line names no host to connect to")
    host = line.remote
    if line.port is not None and SshAccount.parse(_complete(host, line.user or username)).port == 22:
        host = f"{host}:{line.port}"
    return _complete(host, line.user or username)


def _complete(remote: str, username: str | None) -> str:
    """USER@HOST[:PORT]. ProfileError: there is no user, or it is no account."""
    if "@" not in remote:
        if username is None:
            raise ProfileError(f"{remote} has no user; name the account with --username")
        remote = f"{username}@{remote}"
    try:
        SshAccount.parse(remote)
    except ValueError as error:
        raise ProfileError(str(error)) from None
    return remote


def _allowed(line: _Line) -> list[str]:
    """The options of ssh that may be set; of a command line from outside no program is run."""
    from tunnels.kinds.sshuttle.kind import SSH_OPTIONS

    known = {name.lower(): name for name in SSH_OPTIONS - {"ProxyCommand"}}
    found = []
    for option in line.options:
        name, _, value = re.sub(r"[ \t]+", "=", option.strip(), count=1).partition("=")
        if name.lower() in known and value.strip() and value.isprintable():
            found.append(f"{known[name.lower()]}={value.strip()}")
        else:
            line.notes.append(f"the ssh option {name} is left out: it cannot be set")
    return found
