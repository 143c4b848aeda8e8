"""sshuttle's settings and what its output means."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.config.validation import validated
from supervisor.core.network.lanes import SHARES
from tests.tunnels.driver import explained
from tests.tunnels.test_kinds import IDENTITY
from tunnels.base import Connected, Failed, Full, LineSource, Placement, Reason
from tunnels.kinds.sshuttle.account import SshAccount
from tunnels.kinds.sshuttle.kind import Sshuttle, SshuttleDialogue
from tunnels.kinds.sshuttle.limits import NOT_FULL
from tunnels.registry import KINDS

PROBE = {"targets": ["tcp://10.90.0.10:80"]}


def settings(**changes: object) -> Sshuttle:
    return validated(
        Sshuttle,
        {
            "name": "own-cloud",
            "destinations": ["10.90.0.0/16"],
            "remote": "svc@bastion.example.net",
            "identity": {"file": "key"},
            "known_hosts": "/etc/known_hosts",
            **changes,
        },
    )


@pytest.mark.parametrize(
    ("remote", "host"),
    [
        ("svc@bastion", "bastion"),
        ("svc@192.0.2.1:2222", "192.0.2.1"),
        ("s.v-c_1@b.example.net:22", "b.example.net"),
        ("a@[2001:db8::1]:22", "2001:db8::1"),
        ("a@[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_remotes(remote: str, host: str) -> None:
    assert settings(remote=remote).first_hop.host == host


@pytest.mark.parametrize("user", ["ops@example.net", "EXAMPLE\\ops", "host$", "a.b-c_d+e"])
def test_users_of_a_directory(user: str) -> None:
    assert SshAccount.parse(f"{user}@b:2222") == SshAccount(user, "b", 2222)


@pytest.mark.parametrize(
    ("said", "patient"), [({}, False), ({"probe": PROBE}, True), ({"probe": PROBE, "workers": 2}, False)]
)
def test_ssh_is_patient_where_probes_tell_that_it_is_dead(said: dict[str, object], patient: bool) -> None:
    inputs = {"identity": IDENTITY, "known_hosts": b""}
    place = Placement(Path("/run/x"), "", 17000, "python3")
    argv = (
        KINDS["sshuttle"].launch(settings(ssh_options=["ServerAliveCountMax=7"], **said), place, inputs).argv
    )
    options = [word for before, word in zip(argv, argv[1:], strict=False) if before == "--option"]
    assert options == ["ServerAliveCountMax=7", *(["ServerAliveCountMax=180"] if patient else [])], (
        "of one option ssh takes the first"
    )


@pytest.mark.parametrize(
    "remote",
    [
        "bastion",
        "@bastion",
        "svc@",
        "svc:pw@bastion",
        "-oProxyCommand=x@b",
        "svc@-b",
        "svc@b:0",
        "svc@b:70000",
        "svc@b:x",
        "svc@b ; x",
        "a@b\n",
        "a@b/c",
    ],
)
def test_no_remotes(remote: str) -> None:
    with pytest.raises(ValidationError, match="remote"):
        settings(remote=remote)


@pytest.mark.parametrize(
    ("option", "canonical"),
    [
        ("Compression=yes", "Compression=yes"),
        ("compression yes", "Compression=yes"),
        ("ConnectTimeout = 3", "ConnectTimeout=3"),
        ("ProxyCommand=nc -X connect -x proxy:3128 %h %p", "ProxyCommand=nc -X connect -x proxy:3128 %h %p"),
    ],
)
def test_ssh_options(option: str, canonical: str) -> None:
    assert settings(ssh_options=[option]).ssh_options == (canonical,)


@pytest.mark.parametrize(
    "option",
    [
        "LocalCommand=rm -rf /",
        "PermitLocalCommand=yes",
        "ControlMaster=auto",
        "ControlPersist=1",
        "StrictHostKeyChecking=no",
        "RemoteCommand=x",
        "KnownHostsCommand=x",
        "Include=/x",
        "UserKnownHostsFile=/dev/null",
        "ForkAfterAuthentication=yes",
        "LogLevel=QUIET",
        "DynamicForward=1",
        "PKCS11Provider=/x.so",
        "Compression",
        "Compression=",
        "=yes",
        "",
        "Ciphers=a\nLocalCommand=b",
    ],
)
def test_ssh_options_that_are_refused(option: str) -> None:
    with pytest.raises(ValidationError, match="ssh option"):
        settings(ssh_options=[option])


@pytest.mark.parametrize("workers", [0, 17, "2", 1.5, True])
def test_workers(workers: object) -> None:
    assert settings(workers=16).workers == 16
    with pytest.raises(ValidationError, match="workers"):
        settings(workers=workers)


def test_a_ping_cannot_pass_a_proxy() -> None:
    with pytest.raises(ValidationError, match="TCP only"):
        settings(probe={"targets": ["tcp://10.90.0.10:80", "icmp://10.90.0.1"]})


def test_an_identity_that_is_no_key() -> None:
    from tests.tunnels.test_kinds import PLACE

    with pytest.raises(ValueError, match="this is the public key"):
        KINDS["sshuttle"].launch(
            settings(), PLACE, {"identity": b"ssh-ed25519 AAAA me\n", "known_hosts": b""}
        )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('Load key "/proc/7/fd/4": error in libcrypto', Reason.KEY),
        ("No user exists for uid 64002", Reason.MISSING_RIGHT),
        ("svc@b: Permission denied (publickey).", Reason.KEY),
        ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures", Reason.KEY),
        ("Host key verification failed.", Reason.CERTIFICATE),
        ("ssh: connect to host b port 22: Connection timed out", Reason.NETWORK),
        ("ssh: connect to host b port 22: No route to host", Reason.NETWORK),
        ("kex_exchange_identification: Connection closed by remote host", Reason.HANDSHAKE),
        ("Connection reset by 192.0.2.1 port 22", Reason.HANDSHAKE),
        ("Timeout, server 192.0.2.1 not responding.", Reason.PEER_TIMEOUT),
        ("Connection to 192.0.2.1 closed by remote host.", Reason.PEER_CLOSED),
        ("client_loop: send disconnect: Broken pipe", Reason.PEER_CLOSED),
        ("c : fatal: ssh connection to server (pid 7) exited with returncode 255", Reason.PEER_CLOSED),
        ("c : fatal: server died with error code 97", Reason.CLIENT_CONFIG),
        ("c : fatal: server died with error code 255", Reason.HANDSHAKE),
        ("c : fatal: server died with error code -9", Reason.HANDSHAKE),
        ("facilitator: ssh ended with code 127", Reason.CLIENT_CONFIG),
        ("facilitator: ssh ended with code 255", Reason.HANDSHAKE),
        (
            "c : fatal: expected server init string b'SSHUTTLE0001'; got b'This account '",
            Reason.CLIENT_CONFIG,
        ),
        ("c : fatal: Failed to find 'ssh' in path ['/bin']", Reason.MISSING_BINARY),
        ("c : fatal: cannot listen on port 12311: Address already in use", Reason.LOCAL),
        ("facilitator: sshuttle ended: Broken pipe", Reason.PEER_CLOSED),
        ("facilitator: sshuttle ended: Too many open files", Reason.LOCAL),
        ("facilitator: ssh is gone", Reason.PEER_CLOSED),
        ("c : fatal: ssh is gone", Reason.PEER_CLOSED),
        (
            "facilitator: the Python package sshuttle is missing: No module named 'sshuttle'",
            Reason.MISSING_BINARY,
        ),
        ("facilitator: this version of sshuttle cannot be used", Reason.MISSING_BINARY),
        ("facilitator: started as root without another user to become", Reason.MISSING_RIGHT),
        ("facilitator: cannot become the user 61234: Operation not permitted", Reason.MISSING_RIGHT),
        (
            "facilitator: cannot mark the listening sockets as transparent: that needs CAP_NET_ADMIN",
            Reason.MISSING_RIGHT,
        ),
        ("facilitator: sshuttle ended: it needs more memory than it may have", Reason.LOCAL),
        ("c : fatal: the other end floods this one: more than 16 MiB wait to be sent to it", Reason.PROTOCOL),
        ("c : fatal: the other end breaks the protocol: AssertionError()", Reason.PROTOCOL),
        ("c : fatal: the other end has ended the session", Reason.PEER_CLOSED),
    ],
)
def test_output(line: str, reason: Reason) -> None:
    [failed] = explained(SshuttleDialogue("b"), line)
    assert failed.reason is reason


@pytest.mark.parametrize(
    "line",
    [
        "c : Connected to server.",
        "c : fatal: expected server init string b'SSHUTTLE0001'; got b''",
        "c : fatal: failed to establish ssh session (2)",
        "Warning: Permanently added 'b' to the list of known hosts.",
        "Welcome to the bastion",
        " s: warning: connect to ('10.90.0.9', 80): Connection refused",
        "",
        " s: fatal: the other end breaks the protocol: ValueError()",
        "facilitator: 10.8.0.2 holds 480 connections, as many as one may",
        "worker 1: facilitator: full: 960 connections are open",
        "worker 2: Connection to 192.0.2.1 closed by remote host.",
        "worker 1: svc@b: Permission denied (publickey).",
    ],
)
def test_output_that_means_nothing(line: str) -> None:
    assert not explained(SshuttleDialogue("b"), line)


def test_ready() -> None:
    assert list(SshuttleDialogue("b").receive(LineSource.NOTIFY, "READY=1")) == [Connected(peer="b")]
    assert not list(SshuttleDialogue("b").receive(LineSource.OUTPUT, "READY=1"))


def test_an_end_that_is_read_before_the_beginning_keeps_its_reason() -> None:
    """READY=1 comes through another socket than the output."""
    dialogue = SshuttleDialogue("b")
    assert not list(dialogue.receive(LineSource.OUTPUT, "c : fatal: the other end has ended the session"))
    assert list(dialogue.receive(LineSource.NOTIFY, "READY=1")) == [Connected(peer="b")]
    assert list(dialogue.receive(LineSource.END, "")) == [
        Failed(Reason.PEER_CLOSED, "the other end has ended the session")
    ]


def test_full_and_not_full_any_more() -> None:
    dialogue = SshuttleDialogue("b")
    assert list(dialogue.receive(LineSource.OUTPUT, "facilitator: full: 2 of 2 workers are")) == [
        Full("full: 2 of 2 workers are")
    ]
    assert list(dialogue.receive(LineSource.OUTPUT, f"facilitator: {NOT_FULL}")) == [Full(None)]


@pytest.mark.parametrize(("workers", "share"), [(1, 480), (16, 7680)])
def test_a_source_gets_half(workers: int, share: int) -> None:
    assert KINDS["sshuttle"].connections_per_source(settings(workers=workers)) == share
    assert share in SHARES


@given(st.text())
def test_junk_as_an_option_is_refused_or_canonical(option: str) -> None:
    try:
        [kept] = settings(ssh_options=[option]).ssh_options
    except ValidationError:
        return
    assert "=" in kept
    assert kept.isprintable()
