"""The command lines of ssh: to the remote host, and to a jump host on the way.

ssh takes the first value of each option: so first what must be, then the operator's, then our defaults. Files
are descriptors of this process, which ssh opens by their paths below /proc.
"""

from __future__ import annotations

import argparse
import os
import shlex

from tunnels.kinds.sshuttle.account import SshAccount
from tunnels.kinds.sshuttle.ssh_output import SshOutput, check_options

# of the operator's options those that are about the remote host alone
_NOT_FOR_JUMP = ("HostKeyAlias", "HostName", "ProxyCommand")
_MUST = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PreferredAuthentications=publickey",
    "ControlMaster=no",
    "ControlPath=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "RequestTTY=no",
    "LogLevel=VERBOSE",  # says whether a refused login was half accepted
)
_MAY = ("ConnectTimeout=10", "ConnectionAttempts=1", "ServerAliveInterval=5", "ServerAliveCountMax=3")


def to_remote(options: argparse.Namespace, ciphers: str, output: SshOutput) -> tuple[str, ...]:
    """The ssh command that ends before the host; sshuttle adds that, and the remote command."""
    return (
        *_ssh(options.identity, options, options.option, ciphers),
        *("-E", output.log),
        *(() if options.jump is None else ("-o", f"ProxyCommand={_through_jump(options, ciphers, output)}")),
        *("-l", SshAccount.parse(options.remote).user),
    )


def check(options: argparse.Namespace, ciphers: str) -> None:
    """Unfit: ssh refuses the options."""
    check_options(_ssh(options.identity, options, options.option, ciphers))


def _through_jump(options: argparse.Namespace, ciphers: str, output: SshOutput) -> str:
    """The ProxyCommand: a shell runs it, and ssh replaces %h and %p by the remote host and its port."""
    jump = SshAccount.parse(options.jump)
    identity = options.identity if options.jump_identity is None else options.jump_identity
    its = [option for option in options.option if option.partition("=")[0] not in _NOT_FOR_JUMP]
    command = (
        *_ssh(identity, options, its, ciphers),
        *("-E", output.jump_log, "-p", str(jump.port), "-l", jump.user, jump.host),
    )
    return f"{shlex.join(command).replace('%', '%%')} -W '[%h]:%p'"


def _ssh(identity: int, options: argparse.Namespace, operators: list[str], ciphers: str) -> tuple[str, ...]:
    here = f"/proc/{os.getpid()}/fd"
    files = (
        f"UserKnownHostsFile={here}/{options.known_hosts}",
        f"IdentityFile={here}/{identity}",
        *(
            ()
            if options.certificate is None or identity != options.identity
            else (f"CertificateFile={here}/{options.certificate}",)
        ),
    )
    every = (*_MUST, *files, *operators, f"Ciphers={ciphers}", *_MAY)
    return ("ssh", "-F", "none", *(word for option in every for word in ("-o", option)))
