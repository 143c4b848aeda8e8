"""`facilitator try` against a real OpenVPN server: it names the step that fails, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.wait import NOISE
from tests.tunnels.openvpn_lab import PASSWORD, SERVER, USER, OpenVPNLab

pytestmark = pytest.mark.root


class TryLab:
    """A host, beside the servers of the lab, on which tunnels are tried at the same time."""

    def __init__(self, lab: OpenVPNLab, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        # its link-local address appears some time after the interface is up
        lab.client.run("sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=1")

    def trial(
        self, name: str, profile: str, password: str | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Begins; `more`: `targets` of probes, and `totp`, the seed of the codes."""
        directory = self.directory / name
        directory.mkdir()
        (directory / "acme.ovpn").write_text(profile)
        login = ""
        if password is not None:
            (directory / "password").write_text(password)
            (directory / "seed").write_text(more.get("totp", "x"))
            code = ", totp: {file: seed}" if "totp" in more else ""
            login = f"    login: {{username: {USER}, password: {{file: password}}{code}}}\n"
        (directory / "config.yaml").write_text(
            f"facilitator: {{state_dir: {directory}/state, runtime_dir: {directory}/run}}\n"
            "staff: {networks: [10.8.0.0/16]}\ntunnels:\n  acme:\n    kind: openvpn\n    config: acme.ovpn\n"
            f"    destinations: [10.77.0.0/24]\n{login}"
            f"    probe: {{timeout: 2s, targets: {json.dumps(more.get('targets', []))}}}\n"
        )
        words = ("-m", "supervisor", "try", "-c", f"{directory}/config.yaml", "--json", "acme")
        return self.lab.client.popen(
            sys.executable,
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def host(self) -> str:
        """What a trial must not change."""
        commands = ("route show table all", "rule", "-br link", "-br addr")
        return "\n".join(self.lab.client.run("ip", *words.split()).stdout for words in commands)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `try` said about each trial, and `logins`: the passwords that the servers have seen."""
    directory = tmp_path_factory.mktemp("try")
    (directory / "lab").mkdir()
    lab = OpenVPNLab(directory / "lab")
    try:
        host = TryLab(lab, directory)
        login = lab.profile(lab.remote("login"), "auth-user-pass")
        udp, blocked = lab.remote("udp"), lab.remote("limited")
        lab.server.run("nft", "add table ip t; add chain ip t i { type filter hook input priority 0; }")
        lab.server.run("nft", f"add rule ip t i udp dport {lab.PORTS['limited']} drop")
        before, seed = host.host(), "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
        running = {
            "well": host.trial("well", login, PASSWORD, targets=["icmp://10.78.0.1"]),
            "destination": host.trial("destination", login, PASSWORD, targets=["tcp://10.99.0.1:80"]),
            "password": host.trial("password", login, "wrong"),
            "seed": host.trial("seed", login, "ask challenge", totp=seed),
            "dead": host.trial("dead", lab.profile(f"remote {SERVER} 9")),
            "blocked": host.trial("blocked", lab.profile(blocked)),
            "expired": host.trial("expired", lab.profile(lab.remote("tcp"), certificate="expired")),
            "untrusted": host.trial("untrusted", lab.profile(udp, ca=lab.other.text("ca.crt"))),
        }
        said = {name: process.communicate(timeout=120 * NOISE) for name, process in running.items()}
        assert host.host() == before
        assert not list(Path("/run").glob("facilitator-try-*"))
        found: dict[str, Any] = {
            name: json.loads(out or "{}") | {"stderr": err} for name, (out, err) in said.items()
        }
        codes = {name: process.returncode for name, process in running.items()}
        yield found | {"codes": codes, "logins": lab.attempts}
    finally:
        lab.close()


def test_all_steps_of_a_login_and_its_probe(answers: dict[str, Any]) -> None:
    answer = answers["well"]
    assert answer["ok"], answer
    steps = [each["step"] for each in answer["steps"]]
    assert steps == ["name", "server", "tls", "login", "address", "probe"]
    assert "10.78.0." in answer["steps"][4]["text"]
    assert "pushed routes: 10.77.0.0/24" in answer["steps"][4]["text"]
    assert answers["codes"]["well"] == 0


@pytest.mark.parametrize(
    ("name", "step", "reason"),
    [
        ("destination", "probe", "tcp://10.99.0.1:80 does not answer"),
        ("password", "login", "auth: "),
        ("seed", "code", "auth: "),
        ("dead", "server", "network: "),
        ("blocked", "server", ""),
        ("expired", "tls", "our-certificate: "),
        ("untrusted", "tls", "certificate: "),
    ],
)
def test_the_step_that_fails_is_named(answers: dict[str, Any], name: str, step: str, reason: str) -> None:
    answer = answers[name]
    assert [each["step"] for each in answer["steps"] if not each["ok"]] == [step], answer
    assert answer["steps"][-1]["text"].startswith(reason)
    assert answers["codes"][name] == 1


def test_each_trial_is_one_login(answers: dict[str, Any]) -> None:
    logins = sorted(answers["logins"])
    assert logins == sorted([PASSWORD, PASSWORD, "wrong", "ask challenge", "CRV1"])
