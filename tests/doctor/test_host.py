"""Real facts: a host of our own making (a network namespace, or files that look like a host's) and what
the doctor says about it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.netlink import text_attribute
from supervisor.app.directories import lock, make_directory
from supervisor.app.files import Files, load
from supervisor.app.preflight import addresses, programs, resolving, stores
from supervisor.app.preflight import host as machine
from supervisor.app.preflight.gather import diagnose
from supervisor.app.preflight.locations import Places
from supervisor.app.preflight.requirements import requirements
from supervisor.clients.processes import TAG
from supervisor.clients.sweep import tag
from supervisor.config import Config
from supervisor.core.preflight.finding import Finding, Severity
from supervisor.kernel.inspect import foreign_rules
from tests.kernel.test_rights import NET_ADMIN, NOBODY, as_nobody
from tests.lab.daemon import FACILITATOR, REPOSITORY, LabDaemon
from tests.netns import Namespace
from tests.openvpn_profile import sound_profile
from tunnels.base import Carrier, Kind, Launch
from tunnels.kinds.openvpn.kind import OpenVPN
from tunnels.registry import KINDS

PROFILE = """client
remote 192.0.2.7 1194
remote vpn.acme.example 1195 tcp
<connection>
remote 192.0.2.8 1194
</connection>
"""
# An ASN.1 SEQUENCE: more of a PEM key is not looked at.
IDENTITY = "-----BEGIN PRIVATE KEY-----\nMAIFAA==\n-----END PRIVATE KEY-----\n"
DOCKER = """
table ip filter {
  chain DOCKER-USER {
    counter return
  }
  chain FORWARD {
    type filter hook forward priority 0; policy drop;
    jump DOCKER-USER
  }
}
"""
FIREWALLD = """
table inet mine {
  chain helpers {
    counter
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    ct state established accept
    jump helpers
    counter reject with icmpx type admin-prohibited
  }
}
"""


class HostTree:
    """A directory with everything that a sound configuration names."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = root, root / "config.yaml"
        root.chmod(0o755)
        for name, mode, text in (
            ("acme.ovpn", 0o640, sound_profile("192.0.2.7 1194")),
            ("hosts", 0o644, "192.0.2.9 ssh-ed25519 AAAA\n"),
            ("key", 0o600, IDENTITY),
        ):
            (root / name).write_text(text)
            (root / name).chmod(mode)
        self.document: dict[str, Any] = {
            "facilitator": {"state_dir": str(root / "state"), "runtime_dir": str(root / "run")},
            "staff": {"networks": ["10.8.0.0/16"]},
            "tunnels": {
                "acme": {
                    "kind": "openvpn",
                    "destinations": ["10.77.0.0/24"],
                    "config": str(root / "acme.ovpn"),
                },
                "own": {
                    "kind": "sshuttle",
                    "destinations": ["10.90.0.0/16"],
                    "remote": "facilitator@192.0.2.9",
                    "identity": {"file": "key"},
                    "known_hosts": str(root / "hosts"),
                },
            },
        }
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.document))

    def config(self) -> Config:
        self.write()
        return load(self.file, KINDS)

    def trouble(self) -> list[Finding]:
        """What is wrong, but for the clock, which is not for the test to set."""
        found = diagnose(self.file, self.config(), KINDS)
        return [
            each
            for each in found
            if each.severity in (Severity.WARNING, Severity.PROBLEM) and each.subject != "clock"
        ]


@pytest.fixture
def host(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


# --- without root: files that look like a host's
# ---------------------------------------------------------------------------------------


def test_devices_that_are_missing_or_not_ours(tmp_path: Path) -> None:
    assert machine.tun(tmp_path / "tun") is None
    (tmp_path / "tun").mkdir()
    assert machine.tun(tmp_path / "tun") == "Is a directory"
    (tmp_path / "usable").touch()
    assert machine.tun(tmp_path / "usable") == ""


def test_settings_and_whether_they_can_be_written(tmp_path: Path) -> None:
    forward = tmp_path / "net/ipv4/ip_forward"
    forward.parent.mkdir(parents=True)
    forward.write_text("0\n")
    (tmp_path / "net/ipv4/ping_group_range").write_text("1\t0\n")
    found = machine.settings(tmp_path)
    assert (found["net.ipv4.ip_forward"].value, found["net.ipv4.ip_forward"].writable) == ("0", True)
    assert found["net.ipv4.ping_group_range"].value == "1 0"
    assert found["net.ipv4.conf.all.rp_filter"].value is None
    assert forward.read_text() == "0\n"


def test_secrets_are_read_and_never_shown(host: HostTree) -> None:
    acme = host.document["tunnels"]["acme"]
    acme["login"] = {"username": "svc", "password": {"file": "password"}, "totp": {"env": "SEED"}}
    acme["alert"] = {"routing_key": {"file": "routing-key"}}
    (host.root / "password").write_text("hunter2-hunter2")
    (host.root / "password").chmod(0o644)
    (host.root / "routing-key").touch()
    (host.root / "acme.ovpn").write_text("<key>\n-----BEGIN PRIVATE KEY-----\n</key>\n")
    (host.root / "acme.ovpn").chmod(0o644)
    files = Files(host.root, lambda _: None, {})
    found = {secret.what: secret for secret in stores.secrets(host.config(), KINDS, files, privileged=True)}
    assert found["acme: password"].mode == 0o644
    assert found["acme: config"].mode == 0o644  # a private key stands in it
    assert (found["own: identity"].mode, found["own: known_hosts"].mode) == (0o600, None)
    assert found["acme: totp"].error == "the environment variable SEED is not set"
    assert found["acme: alert.routing_key"].error == f"{host.root}/routing-key is empty"
    (host.root / "key").unlink()
    missing = {
        secret.what: secret for secret in stores.secrets(host.config(), KINDS, files, privileged=True)
    }["own: identity"]
    assert (missing.error, missing.path) == (f"no file {host.root}/key", f"{host.root}/key")
    assert "hunter2" not in repr(diagnose(host.file, host.config(), KINDS))


def test_files_that_a_profile_names_are_read_too(host: HostTree) -> None:
    (host.root / "acme.ovpn").write_text(PROFILE + "key client.key\nca none.crt\n")
    (host.root / "client.key").write_text("-----BEGIN PRIVATE KEY-----")
    (host.root / "client.key").chmod(0o644)
    found = {
        secret.what: secret
        for secret in stores.secrets(
            host.config(), KINDS, Files(host.root, lambda _: None, {}), privileged=True
        )
    }
    assert found["acme: beside/client.key"].mode == 0o644
    line = PROFILE.count("\n") + 2
    assert (
        found["acme: beside/none.crt"].error
        == f"{host.root}/acme.ovpn:{line}: ca: cannot read none.crt: No such file or directory"
    )


def test_directories_are_judged_by_what_exists_of_them(host: HostTree) -> None:
    host.document["facilitator"]["state_dir"] = str(host.file / "state")
    state, runtime = stores.directories(host.config(), privileged=True)
    assert state.error == f"{host.file} is not a directory"
    assert (runtime.error, runtime.free is not None and runtime.free > 0) == (None, True)
    assert not (host.root / "run").exists()


def test_the_far_sides_of_every_kind(host: HostTree) -> None:
    (host.root / "acme.ovpn").write_text(PROFILE)
    files = Files(host.root, lambda _: None, {})
    assert [name for _, name in resolving.names(host.config(), files)] == [
        "192.0.2.7",
        "vpn.acme.example",
        "192.0.2.8",
        "192.0.2.9",
    ]
    (host.root / "acme.ovpn").write_text(PROFILE + "http-proxy proxy.acme.example 3128\n")
    host.document["tunnels"]["own"]["ssh_options"] = ["HostName=jump.example.net"]
    assert [name for _, name in resolving.names(host.config(), files)] == [
        "proxy.acme.example",
        "jump.example.net",
    ]
    (host.root / "acme.ovpn").unlink()
    host.document["tunnels"]["own"]["ssh_options"] = ["ProxyCommand=nc %h %p"]
    host.document["alerts"] = {
        "pagerduty": {"routing_key": {"file": "key"}, "url": "https://events.eu.pagerduty.com"}
    }
    assert resolving.names(host.config(), files) == (("alerts.pagerduty", "events.eu.pagerduty.com"),)


def test_names_are_resolved_and_wrong_ones_are_told() -> None:
    with resolving.Resolver((("a", "127.0.0.1"), ("b", "::1"), ("c", "a..b"))) as resolver:
        one, two, wrong = resolver.endpoints()
    assert [str(address) for endpoint in (one, two) for address in endpoint.addresses] == ["127.0.0.1", "::1"]
    assert wrong.error is not None


@pytest.mark.parametrize(
    ("script", "version", "error"),
    [
        ("echo 'Client v7.08-2 (x)'", "7.08", None),
        ("echo hello", None, None),
        ("exec sleep 60", None, "no answer within 1.5 s"),
        ("echo client: broken library >&2; exit 127", None, "broken library"),
    ],
)
def test_programs_are_asked_for_their_versions(
    host: HostTree, script: str, version: str | None, error: str | None
) -> None:
    client = host.root / "client"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    kind = Kind(
        "openvpn",
        OpenVPN,
        Carrier.DEVICE,
        lambda _: (),
        lambda *_: Launch(()),
        lambda *_: None,
        (str(client),),
    )
    del host.document["tunnels"]["own"]
    (program,) = programs.installed(host.config(), {"openvpn": kind})
    assert (program.version, program.tunnels) == (version, ("acme",))
    assert error is None if program.error is None else error in program.error
    client.unlink()
    (program,) = programs.installed(host.config(), {"openvpn": kind})
    assert "is not installed" in str(program.missing)


def test_a_program_that_would_begin_to_serve_is_not_asked(host: HostTree) -> None:
    charon = host.root / "charon-systemd"
    charon.write_text("#!/bin/sh\ntouch began\n")
    charon.chmod(0o755)
    kind = Kind(
        "openvpn",
        OpenVPN,
        Carrier.DEVICE,
        lambda _: (),
        lambda *_: Launch(()),
        lambda *_: None,
        (str(charon),),
    )
    del host.document["tunnels"]["own"]
    (program,) = programs.installed(host.config(), {"openvpn": kind})
    assert (program.version, program.missing, program.error) == (None, None, None)
    assert not Path("began").exists()


def test_our_own_packages_are_in_their_ranges() -> None:
    found = {package.name: package for package in programs.packages()}
    assert found["sshuttle"].version is not None
    assert "pytest" not in found
    assert not programs.supervisord()


def test_what_the_configuration_asks_for(host: HostTree) -> None:
    host.document["tunnels"]["acme"]["destinations"] = [
        {"network": "10.0.0.0/16", "presented_as": "100.64.0.0/16"}
    ]
    asked = requirements(host.config(), KINDS)
    assert (asked.devices, asked.proxies) == (("acme",), ("own",))
    assert [str(network) for _, network in asked.destinations] == ["100.64.0.0/16", "10.90.0.0/16"]


# --- with root: a namespace
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(netns: Namespace, host: HostTree) -> HostTree:
    """The sound host in a namespace of its own."""
    return host


def nft(netns: Namespace, text: str) -> None:
    netns.run("nft", "-f", "-", input=text)


@pytest.mark.root
def test_nothing_is_wrong_and_nothing_is_left(alone: HostTree, netns: Namespace) -> None:
    def state() -> list[str]:
        commands = (
            ("nft", "list", "ruleset"),
            ("ip", "rule"),
            ("ip", "route", "show", "table", "all"),
            ("ip", "link"),
        )
        settings = [f"{name} {setting.value}" for name, setting in machine.settings(Places().sysctls).items()]
        return (
            [netns.run(*command).stdout for command in commands] + settings + sorted(os.listdir(alone.root))
        )

    before = state()
    assert alone.trouble() == []
    assert state() == before
    assert foreign_rules.owner_persist()
    assert foreign_rules.missing_modules() == ()
    assert foreign_rules.missing_modules({**foreign_rules.NEEDED, "nft_none": text_attribute(1, "none")}) == (
        "nft_none",
    )
    assert state() == before


@pytest.mark.root
@pytest.mark.parametrize(
    ("ruleset", "place", "how"),
    [
        (DOCKER, "table ip filter, chain FORWARD", "policy drop"),
        (FIREWALLD, "table inet mine, chain forward", "its last rule is reject"),
    ],
)
def test_a_foreign_firewall_is_found_named_and_satisfied(
    alone: HostTree, netns: Namespace, ruleset: str, place: str, how: str
) -> None:
    nft(netns, ruleset)
    (finding,) = alone.trouble()
    assert finding.severity is Severity.PROBLEM
    assert f"{place}: {how}" in finding.text
    if ruleset is FIREWALLD:
        netns.run("sh", "-c", finding.hint)
    else:
        assert finding.text.startswith("Docker ")
        assert "iptables -I DOCKER-USER " in finding.hint
        nft(netns, "insert rule ip filter DOCKER-USER ct mark 173001-174999 accept comment facilitator")
    assert alone.trouble() == []


@pytest.mark.root
def test_a_proxy_needs_the_hosts_own_door(alone: HostTree, netns: Namespace) -> None:
    nft(netns, "table inet mine {\n chain input {\n type filter hook input priority 0; policy drop;\n }\n}\n")
    (finding,) = alone.trouble()
    assert "connections that are redirected to a proxy" in finding.text
    assert "own" in finding.text
    netns.run("sh", "-c", finding.hint)
    assert alone.trouble() == []


@pytest.mark.root
def test_third_party_policy_rules(alone: HostTree, netns: Namespace) -> None:
    for table in ("77", "78"):
        netns.run("ip", "route", "add", "default", "dev", "lo", "table", table)
    for rule in (
        "pref 100 fwmark 0x1/0x1 lookup 77",
        "pref 120 from 10.8.0.0/16 iif lo lookup 78",
        "pref 5210 lookup main",
        "pref 173 fwmark 173001 lookup 173001 protocol 173",
    ):
        netns.run("ip", "rule", "add", *rule.split())
    caught, narrow = alone.trouble()
    assert "`100: fwmark 0x1/0x1 lookup 77`" in caught.text
    assert "`120: from 10.8.0.0/16 iif lo lookup 78`" in narrow.text
    assert (caught.severity, narrow.severity) == (Severity.PROBLEM, Severity.WARNING)
    netns.run("sh", "-c", caught.hint)
    assert alone.trouble() == [narrow]


@pytest.mark.root
def test_addresses_that_the_host_lives_by(alone: HostTree, netns: Namespace) -> None:
    for command in (
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "addr add 10.77.0.5/24 dev eth0",
        "route add default via 10.77.0.1",
        "link add t-acme type veth peer name far",
        "addr add 10.90.0.1/24 dev t-acme",
    ):
        netns.run("ip", *command.split())
    resolvers = alone.root / "resolv.conf"
    resolvers.write_text("search x\nnameserver 10.90.0.53\nnameserver 127.0.0.53\nnameserver ::1\n")
    found = {
        (own.what, str(own.network))
        for own in addresses.own(alone.config(), [resolvers, alone.root / "none"])
    }
    assert found == {
        ("this host's network on eth0", "10.77.0.0/24"),
        ("this host's gateway on eth0", "10.77.0.1/32"),
        ("a name server of this host", "10.90.0.53/32"),
    }
    assert {finding.subject for finding in alone.trouble()} == {"addresses", "reverse path"}
    netns.run("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
    assert {finding.subject for finding in alone.trouble()} == {"addresses"}


@pytest.mark.root
def test_foreign_listeners(alone: HostTree) -> None:
    with socket.create_server(("127.0.0.1", 17301)), socket.create_server(("127.0.0.1", 9464)):
        found = alone.trouble()
    assert [finding.severity for finding in found] == [Severity.PROBLEM, Severity.WARNING]
    assert all(f"(pid {os.getpid()}) listens on port" in finding.text for finding in found)


@pytest.mark.root
def test_clients_of_a_daemon_with_another_runtime_dir(alone: HostTree, tmp_path: Path) -> None:
    """Nobody supervises them, until somebody holds the lock of that directory."""
    old = tmp_path / "old"
    make_directory(old, "facilitator.runtime_dir")
    environment = {TAG: tag(old, "acme", "beef")}
    with subprocess.Popen(["sleep", "60"], env=environment) as orphan:
        try:
            (found,) = alone.trouble()
            assert found.severity is Severity.PROBLEM
            assert f"acme (pid {orphan.pid}, {old})" in found.text
            assert found.hint.startswith(f"kill {orphan.pid}")
            held = lock(old)
            assert alone.trouble() == []
            os.close(held)
        finally:
            orphan.kill()


@pytest.mark.root
def test_a_container_without_tun_and_with_settings_that_nobody_may_write(
    alone: HostTree, netns: Namespace
) -> None:
    netns.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.ip_forward=0")
    assert alone.trouble() == []  # the daemon will see to it
    mounts = (
        "mount -t tmpfs none /dev/net && mount --bind /proc/sys /proc/sys && mount -o "
        "remount,bind,ro /proc/sys"
    )
    shell = f'{mounts} && cd {REPOSITORY} && exec "$@"'
    argv = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        shell,
        "sh",
        *FACILITATOR,
        "doctor",
        "--json",
        "-c",
        str(alone.file),
    )
    done = netns.run(*argv, check=False)
    assert done.returncode == 1, done.stderr
    tun, forward, reverse = (
        finding["text"] for finding in json.loads(done.stdout)["findings"] if finding["severity"] == "problem"
    )
    assert tun == "/dev/net/tun does not exist: these tunnels cannot start: acme"
    assert forward.startswith("net.ipv4.ip_forward is 0, must be 1, and cannot be written")
    assert reverse.startswith("net.ipv4.conf.all.rp_filter is 1, must be 0, and cannot be written")


@pytest.mark.root
def test_an_unprivileged_user_hears_what_cannot_be_seen(alone: HostTree, netns: Namespace) -> None:
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    config = alone.config()

    async def work() -> str:
        return json.dumps([asdict(finding) for finding in diagnose(alone.file, config, KINDS)])

    said = [Finding(**finding) for finding in json.loads(as_nobody(work))]
    rights = next(finding for finding in said if finding.subject == "rights")
    assert rights.text.startswith(f"this process (uid {NOBODY}) lacks CAP_NET_ADMIN: no route")
    blind = [finding for finding in said if "cannot be" in finding.text or "not known" in finding.text]
    unseen = {finding.subject for finding in blind if finding.severity == "info"}
    assert unseen >= {"kernel", "kernel settings", "firewall", "secrets", "directories"}
    assert {finding.subject for finding in said if finding.severity == "problem"} - {"devices"} == {"rights"}
    able = [Finding(**finding) for finding in json.loads(as_nobody(work, NET_ADMIN))]
    assert {finding.subject for finding in able if finding.severity == "problem"} - {"devices"} == {
        "secrets",
        "directories",
    }
    assert "nftables tables can have an owner" in next(
        finding.text for finding in able if finding.subject == "kernel"
    )


@pytest.mark.root
def test_a_running_daemon_is_seen_and_a_crashed_one_too(alone: HostTree, netns: Namespace) -> None:
    def said() -> list[str]:
        return [
            finding.text for finding in diagnose(daemon.config_file, load(daemon.config_file, KINDS), KINDS)
        ]

    with LabDaemon(netns, alone.root, alone.document) as daemon:
        texts = said()
        assert f"a facilitator runs with this configuration's runtime_dir (pid {daemon.pid})" in texts
        assert any(
            text.startswith(f"the running daemon (pid {daemon.pid}) (uid 0) has CAP_NET_ADMIN")
            for text in texts
        )
        assert "ports are free" in texts
        daemon.kill9()
        texts = said()
        assert any("left its firewall table" in text for text in texts)
        assert any(
            text.startswith("an earlier facilitator left clients running: ") for text in texts
        ) == bool(daemon.client_pids())
