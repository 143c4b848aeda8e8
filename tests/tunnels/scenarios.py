"""What can happen to a session, made to happen for real: used by the root tests, and by `record` for the
transcripts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.tunnels.driver import ClientRun
from tests.tunnels.openvpn_lab import CODE, PASSWORD, SERVER, USER, OpenVPNLab
from tests.tunnels.ssh_lab import BASTION, FACTORS_PORT, JUMP_PORT, PASSWORD_PORT, SITE, SshLab
from tunnels.base import Reason
from tunnels.kinds.openvpn.kind import OPENVPN as KIND


def _nothing(lab: OpenVPNLab, run: ClientRun) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """One session: how it is started, what its questions are answered with, what is done to it once it is
    connected, and why it must fail.

    Without a reason it is connected at the end.
    """

    name: str
    reason: Reason | None
    profile: Callable[[OpenVPNLab], str]
    password: str | None = None
    disturb: Callable[[OpenVPNLab, ClientRun], object] | None = None
    slow: bool = False
    answers: tuple[str, ...] = ()
    append_code: bool = False
    kept: str | None = None

    def play(self, lab: OpenVPNLab) -> ClientRun:
        """Run it to its observation; the client is gone afterwards."""
        profile = self.profile(lab)
        run = lab.run(
            profile,
            username=None if self.password is None else USER,
            password=self.password,
            append_code=self.append_code,
            kept=self.kept,
        )
        try:
            for answer in self.answers:
                run.asked()
                run.answer(answer)
            if self.disturb is not _approved and (self.disturb is not None or self.reason is None):
                run.connected()
            if self.disturb is not None:
                self.disturb(lab, run)
            if self.reason is not None:
                run.failed(120)
        finally:
            run.stop()
        return run


def _silent(lab: OpenVPNLab, run: ClientRun) -> None:
    lab.server.run(
        "nft",
        "-f",
        "-",
        input="table inet t {\n chain i {\n type filter hook input priority 0; policy drop;\n }\n}\n",
    )
    try:
        run.failed()
    finally:
        lab.server.run("nft", "flush ruleset")


def _approved(lab: OpenVPNLab, run: ClientRun) -> None:
    run.asked()
    with lab.approved():
        run.connected()


def _renewed(lab: OpenVPNLab, run: ClientRun) -> None:
    for say in KIND.renew:
        run.tell(say)
    run.connected()


def _answers(text: str) -> str:
    return f"say {text}"


def _login(lab: OpenVPNLab, *lines: str) -> str:
    return lab.profile(lab.remote("login"), "auth-user-pass", *lines)


def _token(lab: OpenVPNLab, *lines: str) -> str:
    return lab.profile(lab.remote("token"), "auth-user-pass", *lines)


def _static(lab: OpenVPNLab) -> str:
    return _login(lab, 'static-challenge "Your token" 1')


_OLD_TOKEN = "SESS_ID_AT_+h2dDd1MnVN4yn1gAAAAAGsCzWsAAAAAawLNa3ZA0DvWKAC4FoV6tEiNrycCoPRrzaafbknsF3XS7krT"


OPENVPN = (
    Scenario("connected-udp", None, lambda lab: lab.profile(lab.remote("udp"))),
    Scenario("connected-tcp", None, lambda lab: lab.profile(lab.remote("tcp"))),
    Scenario("connected-login", None, _login, PASSWORD),
    Scenario(
        "second-server",
        None,
        lambda lab: lab.profile(f"remote {SERVER} 9 tcp", "remote vpn.invalid 1194 udp", lab.remote("udp")),
    ),
    Scenario("login-refused", Reason.AUTH, _login, "wrong"),
    Scenario("login-refused-text", Reason.AUTH, _login, _answers("the account is locked, call us")),
    Scenario(
        "login-refused-temporarily",
        Reason.PEER_CLOSED,
        _login,
        _answers("TEMP[backoff 7,advance no]:try later"),
    ),
    Scenario(
        "login-refused-full", Reason.FAR_END_FULL, _login, _answers("TEMP:too many concurrent sessions")
    ),
    Scenario(
        "login-refused-banned",
        Reason.BANNED,
        _login,
        _answers("too many failed logins, you are banned for an hour"),
    ),
    Scenario("login-refused-session", Reason.SESSION_EXPIRED, _login, _answers("SESSION:Session expired")),
    Scenario(
        "login-refused-busy", Reason.PEER_CLOSED, _login, _answers("LDAP server is down, try again later")
    ),
    Scenario(
        "login-refused-cipher",
        Reason.HANDSHAKE,
        lambda lab: lab.profile(lab.remote("other-cipher"), "data-ciphers AES-256-GCM", "cipher AES-256-GCM"),
    ),
    Scenario("pushed-odd", None, lambda lab: lab.profile(lab.remote("odd"))),
    Scenario("pushed-unusable", Reason.PROTOCOL, lambda lab: lab.profile(lab.remote("unusable"))),
    Scenario(
        "second-server-usable", None, lambda lab: lab.profile(lab.remote("unusable"), lab.remote("udp"))
    ),
    Scenario("login-challenge", None, _login, "ask challenge", answers=(CODE,)),
    Scenario("login-challenge-wrong", Reason.AUTH, _login, "ask challenge", answers=("000000",)),
    Scenario("login-challenge-again", Reason.AUTH, _login, "ask again", answers=("000000",)),
    Scenario("login-acknowledged", None, _login, "ask acknowledgement"),
    Scenario("login-code", None, _static, PASSWORD, answers=(CODE,)),
    Scenario("login-code-wrong", Reason.AUTH, _static, PASSWORD, answers=("000000",)),
    Scenario("login-code-appended", None, _login, PASSWORD, answers=(CODE,), append_code=True),
    Scenario("login-pending", None, _login, "ask text", answers=(CODE,)),
    Scenario("login-pending-wrong", Reason.AUTH, _login, "ask text", answers=("000000",)),
    Scenario("login-pending-unanswered", Reason.CHALLENGE, _login, "ask text", slow=True),
    Scenario("login-unapproved", Reason.CHALLENGE, _login, "ask browser", slow=True),
    Scenario("login-browser", None, _login, "ask browser", disturb=_approved),
    Scenario("login-undecided", None, _login, "ask nobody", disturb=_approved, slow=True),
    Scenario("token", None, _token, PASSWORD),
    Scenario("token-refused", Reason.SESSION_EXPIRED, _token, PASSWORD, kept=_OLD_TOKEN),
    Scenario("token-renewed", None, _token, PASSWORD, disturb=_renewed),
    Scenario("renewed", None, lambda lab: lab.profile(lab.remote("udp")), disturb=_renewed),
    Scenario("renewed-login", None, _login, PASSWORD, disturb=_renewed),
    Scenario("limited", None, lambda lab: lab.profile(lab.remote("limited"))),
    Scenario(
        "server-untrusted-udp",
        Reason.CERTIFICATE,
        lambda lab: lab.profile(lab.remote("udp"), ca=lab.other.text("ca.crt")),
    ),
    Scenario(
        "server-untrusted-tcp",
        Reason.CERTIFICATE,
        lambda lab: lab.profile(lab.remote("tcp"), ca=lab.other.text("ca.crt")),
    ),
    Scenario(
        "server-wrong-name",
        Reason.CERTIFICATE,
        lambda lab: lab.profile(lab.remote("udp"), "verify-x509-name vpn.example.com name"),
    ),
    Scenario(
        "own-certificate-refused-tcp",
        Reason.HANDSHAKE,
        lambda lab: lab.profile(lab.remote("tcp"), authority=lab.other),
    ),
    Scenario(
        "own-certificate-refused-udp",
        Reason.HANDSHAKE,
        lambda lab: lab.profile(lab.remote("udp"), authority=lab.other),
        slow=True,
    ),
    Scenario(
        "own-certificate-expired",
        Reason.OUR_CERTIFICATE,
        lambda lab: lab.profile(lab.remote("tcp"), certificate="expired"),
    ),
    Scenario(
        "key-encrypted",
        Reason.KEY,
        lambda lab: lab.profile(lab.remote("udp"), key=lab.ca.text("client-encrypted.key")),
    ),
    Scenario(
        "key-of-another",
        Reason.KEY,
        lambda lab: lab.profile(lab.remote("udp"), key=lab.other.text("client.key")),
    ),
    Scenario("key-garbage", Reason.KEY, lambda lab: lab.profile(lab.remote("udp"), key="hello\n")),
    Scenario("closed-tcp", Reason.NETWORK, lambda lab: lab.profile(f"remote {SERVER} 9 tcp")),
    Scenario("no-answer-udp", Reason.NETWORK, lambda lab: lab.profile(f"remote {SERVER} 9 udp"), slow=True),
    Scenario("no-route", Reason.NETWORK, lambda lab: lab.profile("remote 203.0.113.1 1194 udp")),
    Scenario("no-name", Reason.DNS, lambda lab: lab.profile("remote vpn.invalid 1194 udp")),
    Scenario("bad-option", Reason.CLIENT_CONFIG, lambda lab: lab.profile(f"remote {SERVER} 1194 xyz")),
    Scenario("bad-cipher", Reason.CLIENT_CONFIG, lambda lab: lab.profile(lab.remote("udp"), "cipher FOO")),
    Scenario(
        "halted",
        Reason.KICKED,
        lambda lab: lab.profile(lab.remote("udp")),
        disturb=lambda lab, run: lab.serving("udp").tell(
            f"client-kill {lab.serving('udp').client_id()} HALT"
        ),
    ),
    Scenario(
        "thrown-out",
        Reason.PEER_CLOSED,
        lambda lab: lab.profile(lab.remote("udp")),
        disturb=lambda lab, run: lab.serving("udp").tell(f"client-kill {lab.serving('udp').client_id()}"),
    ),
    Scenario(
        "server-killed-tcp",
        Reason.PEER_CLOSED,
        lambda lab: lab.profile(lab.remote("tcp")),
        disturb=lambda lab, run: lab.serving("tcp").kill(),
    ),
    Scenario(
        "server-ended-udp",
        Reason.PEER_CLOSED,
        lambda lab: lab.profile(lab.remote("udp")),
        disturb=lambda lab, run: lab.serving("udp").stop(),
    ),
    # The login has to be over before that: on a busy machine it may take more than a second.
    Scenario(
        "session-timeout",
        Reason.SESSION_EXPIRED,
        lambda lab: lab.profile(lab.remote("udp"), "session-timeout 5"),
        disturb=_nothing,
    ),
    Scenario(
        "inactive",
        Reason.PEER_CLOSED,
        lambda lab: lab.profile(lab.remote("udp"), "inactive 5"),
        disturb=_nothing,
    ),
    Scenario(
        "silent-restart",
        Reason.PEER_TIMEOUT,
        lambda lab: lab.profile(lab.remote("udp"), 'pull-filter ignore "ping"', "ping 1", "ping-restart 2"),
        disturb=_silent,
    ),
    Scenario(
        "silent-exit",
        Reason.PEER_TIMEOUT,
        lambda lab: lab.profile(lab.remote("udp"), 'pull-filter ignore "ping"', "ping 1", "ping-exit 2"),
        disturb=_silent,
    ),
)


# --- sshuttle
# ----------------------------------------------------------------------------------------------------------


def _kill_ssh(lab: SshLab, run: ClientRun) -> None:
    [ssh] = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    os.kill(int(ssh), 9)


def _blackhole(lab: SshLab, run: ClientRun) -> None:
    lab.bastion.run("ip", "link", "set", "eth0", "down")
    try:
        run.failed()
    finally:
        lab.bastion.run("ip", "link", "set", "eth0", "up")


def _end_session(lab: SshLab, run: ClientRun) -> None:
    """The remote gateway's sshd process of this connection goes away."""
    pids = lab.bastion.run("ss", "-Htnp", "state", "established", "sport", "= :22").stdout
    os.kill(max(int(part.partition(",")[0]) for part in pids.split("pid=")[1:]), 9)


@dataclass(frozen=True)
class SshScenario:
    """One session of sshuttle."""

    name: str
    reason: Reason | None
    settings: Callable[[SshLab], Mapping[str, object]] = field(default=lambda lab: {})
    disturb: Callable[[SshLab, ClientRun], object] | None = None
    slow: bool = False

    def play(self, lab: SshLab) -> ClientRun:
        """Run it to its observation; the client is gone afterwards."""
        run = lab.run(**self.settings(lab))  # type: ignore[arg-type]
        try:
            if self.disturb is not None or self.reason is None:
                run.connected()
            if self.disturb is not None:
                self.disturb(lab, run)
            if self.reason is not None:
                run.failed()
        finally:
            run.stop()
        return run


def _jumping(
    lab: SshLab,
    *,
    jump: str = f"root@{BASTION}:{JUMP_PORT}",
    identity: str = "jump",
    remote: str = f"root@{SITE}",
    key: str = "identity",
) -> Mapping[str, object]:
    """The site itself is not to be reached from the facilitator; its host key is known under its own name."""
    return {
        "remote": remote,
        "identity": key,
        "jump": jump,
        "jump_identity": {"file": "jump"},
        "beside": {"jump_identity": (lab.directory / identity).read_bytes()},
    }


SSHUTTLE = (
    SshScenario("connected", None),
    SshScenario("key-refused", Reason.KEY, lambda lab: {"identity": "stranger"}),
    SshScenario("account-unknown", Reason.KEY, lambda lab: {"remote": f"nosuch@{BASTION}"}),
    SshScenario("second-factor", Reason.CHALLENGE, lambda lab: {"remote": f"root@{BASTION}:{FACTORS_PORT}"}),
    SshScenario("passwords-only", Reason.KEY, lambda lab: {"remote": f"root@{BASTION}:{PASSWORD_PORT}"}),
    SshScenario(
        "certificate",
        None,
        lambda lab: {
            "remote": f"root@{BASTION}:{JUMP_PORT}",
            "identity": "stranger",
            "certificate": "id-cert.pub",
            "beside": {"certificate": lab.certificate()},
        },
    ),
    SshScenario(
        "certificate-refused",
        Reason.KEY,
        lambda lab: {
            "remote": f"root@{BASTION}:{JUMP_PORT}",
            "identity": "stranger",
            "certificate": "id-cert.pub",
            "beside": {"certificate": lab.certificate("alice", validity="20260101:20260201")},
        },
    ),
    SshScenario("jump", None, _jumping),
    SshScenario("jump-key-refused", Reason.KEY, lambda lab: _jumping(lab, identity="stranger")),
    SshScenario("jump-closed", Reason.NETWORK, lambda lab: _jumping(lab, jump=f"root@{BASTION}:23")),
    SshScenario("behind-jump-closed", Reason.NETWORK, lambda lab: _jumping(lab, remote=f"root@{SITE}:23")),
    SshScenario("behind-jump-refused", Reason.KEY, lambda lab: _jumping(lab, key="stranger")),
    SshScenario("host-unknown", Reason.CERTIFICATE, lambda lab: {"known_hosts": b""}),
    SshScenario("host-changed", Reason.CERTIFICATE, lambda lab: {"known_hosts": lab.known_hosts("stranger")}),
    SshScenario("closed", Reason.NETWORK, lambda lab: {"remote": f"root@{BASTION}:23"}),
    SshScenario("no-route", Reason.NETWORK, lambda lab: {"remote": "root@203.0.113.9"}),
    SshScenario(
        "no-answer",
        Reason.NETWORK,
        lambda lab: {"remote": "root@198.18.1.77", "ssh_options": ["ConnectTimeout=1"]},
    ),
    SshScenario("no-name", Reason.DNS, lambda lab: {"remote": "root@nowhere.invalid"}),
    SshScenario(
        "no-common-cipher", Reason.CLIENT_CONFIG, lambda lab: {"ssh_options": ["Ciphers=aes128-cbc"]}
    ),
    SshScenario("bad-option", Reason.CLIENT_CONFIG, lambda lab: {"ssh_options": ["Ciphers=foo"]}),
    SshScenario("no-shell", Reason.CLIENT_CONFIG, lambda lab: {"identity": "forced"}),
    SshScenario("ssh-killed", Reason.PEER_CLOSED, disturb=_kill_ssh),
    SshScenario("session-ended", Reason.PEER_CLOSED, disturb=_end_session),
    SshScenario(
        "silent",
        Reason.PEER_TIMEOUT,
        lambda lab: {"ssh_options": ["ServerAliveInterval=1", "ServerAliveCountMax=1"]},
        disturb=_blackhole,
    ),
)
