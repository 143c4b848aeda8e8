"""Planted secrets are looked for wherever they must not be: in /proc, in files, in every answer, in logs
and incidents.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyotp
import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import ROUTING_KEY, Config
from tests.lab.daemon import LabPagerDuty
from tests.lab.servers import PASSWORD, ServerLogin
from tests.lab.wait import eventually

pytestmark = pytest.mark.root


def forms(secret: str) -> set[str]:
    """How it could appear: line by line, and in base64."""
    lines = {
        line.strip() for line in secret.splitlines() if len(line.strip()) > 7 and not line.startswith("-----")
    }
    return lines | {base64.b64encode(line.encode()).decode().rstrip("=") for line in lines}


def keys_of(profile: str) -> str:
    """The private parts of an .ovpn."""
    return "".join(re.findall(r"<(?:key|tls-crypt)>(.*?)</", profile, re.DOTALL))


def config_with_every_login(lab: Lab, config: Config, pagerduty: LabPagerDuty, seed: str) -> Config:
    server = lab.login_server(ServerLogin.STATIC)
    server.change_seed(seed)
    lab.set_secret("planted-seed", f"{seed}\n")
    login = {"username": "svc-facilitator", "password": {"file": str(lab.directory / "acme-static-password")}}
    static = {
        "kind": "openvpn",
        "destinations": [{"network": "10.77.0.0/24", "presented_as": "100.64.1.0/24"}],
        "config": str(lab.directory / "acme-static.ovpn"),
        "login": {**login, "totp": {"file": str(lab.directory / "planted-seed")}},
    }
    asked = {
        **static,
        "destinations": [{"network": "10.77.0.0/24", "presented_as": "100.64.2.0/24"}],
        "login": login,
    }
    alerting = lab.configuration(pagerduty)["alerts"]
    return {**config, "alerts": alerting, "tunnels": {**config["tunnels"], "static": static, "asked": asked}}


def tree(pid: int) -> Iterator[psutil.Process]:
    daemon = psutil.Process(pid)
    yield daemon
    yield from daemon.children(recursive=True)


def places(daemon: LabDaemon, pagerduty: LabPagerDuty) -> Iterator[tuple[str, bytes]]:
    """Everything that other people could look at."""
    for process in tree(daemon.pid):
        for what in ("cmdline", "environ"):
            yield (
                f"/proc/{process.pid} ({process.name()}) {what}",
                Path(f"/proc/{process.pid}/{what}").read_bytes(),
            )
    for path in daemon.directory.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for url in ("/metrics", "/api/v1/status", "/healthz", "/readyz"):
        yield url, daemon.get(url)[1].encode()
    for command in (
        ("status", "--json"),
        ("why", "100.64.1.10"),
        ("plan",),
        ("logs", "static"),
        ("logs", "acme-dc"),
        ("doctor",),
    ):
        answer = daemon.cli(*command)
        yield " ".join(command), (answer.stdout + answer.stderr).encode()
    yield "PagerDuty without its routing key", json.dumps(pagerduty.state()).replace(ROUTING_KEY, "").encode()


def test_no_secret_is_found_anywhere(lab: Lab, config: Config, pagerduty: LabPagerDuty) -> None:
    seed = pyotp.random_base32()
    config = config_with_every_login(lab, config, pagerduty, seed)
    planted = {
        "password": PASSWORD,
        "seed": seed,
        "routing key": ROUTING_KEY,
        "ssh key": lab.sshd.client_key.read_text(),
        "openvpn key": keys_of((lab.directory / "acme.ovpn").read_text()),
        "tls key": keys_of((lab.directory / "acme-static.ovpn").read_text()),
    }
    assert all(forms(secret) for secret in planted.values()), "each is really looked for"
    daemon = lab.daemon(config)
    with daemon:
        for name in ("acme-dc", "own-cloud", "static"):
            daemon.wait_for(name, phase="up")
        daemon.wait_for("asked", phase="starting")
        code = lab.login_server(ServerLogin.STATIC).code
        eventually(
            lambda: any("asked" in key for key in pagerduty.open()), 20, "an incident says what is asked"
        )
        found = [
            (what, where)
            for where, content in places(daemon, pagerduty)
            for what, secret in planted.items()
            if any(form.encode() in content for form in forms(secret))
        ]
        assert found == []
        daemon.cli(
            "answer", "asked", typed=f"{code}\n"
        )  # the server may have seen this code already: that is not the point here
        assert code.encode() not in b"".join(
            content for where, content in places(daemon, pagerduty) if "logs" in where or "/log" in where
        )
        assert {core_limit(process) for process in tree(daemon.pid)} <= {("0", "0"), ("1", "1")}, (
            "no core dumps"
        )


def core_limit(process: psutil.Process) -> tuple[str, ...]:
    found = re.search(r"Max core file size +(\S+) +(\S+)", Path(f"/proc/{process.pid}/limits").read_text())
    assert found is not None
    return found.groups()
