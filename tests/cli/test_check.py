"""`facilitator check`: what it says beside the mistakes of the file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from supervisor.app.files import Files
from supervisor.app.profiles import Weight, examine
from supervisor.cli import main
from supervisor.config.validation import validated
from supervisor.core.exits import Exit
from tunnels.base import Input
from tunnels.kinds.openvpn.kind import OpenVPN
from tunnels.registry import KINDS

CONFIG = """\
staff: {networks: [10.8.0.0/16]}
tunnels:
  umbrella:
    kind: openfortivpn
    destinations: [10.150.0.0/16]
    server: vpn.umbrella.example
    login: {username: svc, password: {file: umbrella-password}}
"""


@pytest.mark.skipif(Path("/dev/ppp").exists(), reason="this host has PPP")
def test_a_host_without_ppp_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = CliRunner().invoke(main, ["check", "-c", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0, done.output
    assert (
        "tunnels.umbrella: openfortivpn needs /dev/ppp, which this host does not have; kind: openconnect "
        "with protocol: fortinet" in (done.output)
    )


# --- the customers' files

PROFILES = """\
staff: {networks: [10.8.0.0/16]}
tunnels:
  acme: {kind: openvpn, destinations: [10.150.0.0/16], config: %(directory)s/acme.ovpn}
  globex: {kind: strongswan, destinations: [10.151.0.0/16], config: %(directory)s/globex/swanctl.conf}
  initech: {kind: vpnc, destinations: [10.152.0.0/16], config: %(directory)s/initech.vpnc}
  hooli: {kind: wireguard, destinations: [10.153.0.0/16], config: %(directory)s/hooli.conf}
"""
OURS = (
    "<cert>\n-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n</cert>\n"
    "<key>\n-----BEGIN PRIVATE KEY-----\nA\n-----END PRIVATE KEY-----\n</key>\n"
)
FILES = {
    "acme.ovpn": "client\nremote 192.0.2.1 1194\nca ca.crt\n<connection>\nremote 192.0.2.2 1194\ntls-auth "
    "keys/ta.key 1\n</connection>\n" + OURS,
    "ca.crt": "-----BEGIN CERTIFICATE-----\nCA\n-----END CERTIFICATE-----\n",
    "keys/ta.key": "-----BEGIN OpenVPN Static key V1-----\nTA\n-----END OpenVPN Static key V1-----\n",
    "globex/swanctl.conf": "connections { globex { remote_addrs = 192.0.2.1\n local { certs = ours.pem "
    "}\n vips = 0.0.0.0\n children { net { } } } }\n",
    "globex/x509/ours.pem": "PEM",
    "globex/private/ours.pem": "KEY",
    "initech.vpnc": "IPSec gateway 192.0.2.1\nIPSec ID staff\nCA-File ca.crt\nIPSec secret s\nXauth username u\n",
    "hooli.conf": f"[Interface]\nAddress=10.86.0.2\nPrivateKey={'A' * 43}=\n[Peer]\nAllowedIPs=10.153.0.0/16\n"
    f"Endpoint=192.0.2.1:51820\nPublicKey={'A' * 43}=\n",
}


def checked(directory: Path, *options: str, **changed: str) -> tuple[int, list[str]]:
    """Exit code and lines of a check of all of these files, some of them changed."""
    for name, text in {**FILES, **changed, "config.yaml": PROFILES % {"directory": directory}}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    done = CliRunner().invoke(main, ["check", "-c", str(directory / "config.yaml"), *options])
    return done.exit_code, done.output.replace(f"{directory}/", "").splitlines()


def test_each_file_that_a_profile_reads_is_listed(tmp_path: Path) -> None:
    code, lines = checked(tmp_path)
    assert code == 0, lines
    assert lines == [
        "acme: acme.ovpn:3: ca: reads ca.crt",
        "acme: acme.ovpn:6: tls-auth: reads keys/ta.key",
        "globex: globex/swanctl.conf: reads globex/private/ours.pem",
        "globex: globex/swanctl.conf: reads globex/x509/ours.pem",
        "globex: globex/swanctl.conf:2: certs: reads globex/x509/ours.pem",
        "initech: initech.vpnc:3: CA-File: reads ca.crt",
        "config.yaml: configuration OK (4 tunnels)",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "acme.ovpn",
            "remote a 1\nhttp-proxy 203.0.113.10 3128 /etc/facilitator/globex-password basic\n",
            "acme.ovpn:2: http-proxy names a file, whose first lines would be sent to the proxy",
        ),
        (
            "acme.ovpn",
            "remote a 1\nkey /etc/facilitator/own-cloud-ssh-key\n",
            "acme.ovpn:2: key names '/etc/facilitator/own-cloud-ssh-key'",
        ),
        (
            "acme.ovpn",
            "remote a 1\n\ncert none.crt\n",
            "acme.ovpn:3: cert: cannot read none.crt: No such file or directory",
        ),
        ("acme.ovpn", "remote a 1\nfrobnicate\n", "acme.ovpn:2: 'frobnicate' is not an option"),
        (
            "globex/swanctl.conf",
            "connections { g { remote_addrs = a\n local { certs = ../../ca.crt }\n children { n { } } } }",
            "globex/swanctl.conf:2: certs names 'x509/../../ca.crt'",
        ),
        (
            "globex/swanctl.conf",
            "connections { g { remote_addrs = a\n remote { CACERTS = a.pem, /etc/b.pem }\n children { n { "
            "} } } }",
            "globex/swanctl.conf:2: cacerts names 'a.pem, /etc/b.pem'",
        ),
        (
            "globex/swanctl.conf",
            "connections { g { remote_addrs = a\n local { cert1 {\n File = /etc/b.pem } }\n children { n "
            "{ } } } }",
            "globex/swanctl.conf:3: file names '/etc/b.pem'",
        ),
        (
            "globex/swanctl.conf",
            "connections { g { remote_addrs = a\n children { n { } } } }\nauthorities { x { cacert = "
            "/etc/b.pem } }",
            "globex/swanctl.conf:3: cacert names '/etc/b.pem'",
        ),
        (
            "globex/swanctl.conf",
            "connections { g { remote_addrs = a\n children { n { } } } }\nsecrets { token1 { handle = 1 } }",
            "globex/swanctl.conf:3: token1 is a key on a smart card",
        ),
        (
            "globex/swanctl.conf",
            "include /etc/swanctl/*.conf",
            "globex/swanctl.conf:1: another file is included",
        ),
        (
            "initech.vpnc",
            "IPSec gateway a\nIPSec ID b\nCA-File /etc/ssl/ca.pem\n",
            "initech.vpnc:3: CA-File names '/etc/ssl/ca.pem'",
        ),
        (
            "initech.vpnc",
            "IPSec gateway a\nca-dir /etc/ssl/certs\n",
            "initech.vpnc:2: CA-Dir names a directory",
        ),
        ("hooli.conf", "[Interface]\nFrob = 1\n", "hooli.conf:2: "),
        (
            "initech.vpnc",
            "[main]\nHost=192.0.2.1\nAuthType=1\nGroupName=staff\n",
            "initech.vpnc:1: this is a profile of Cisco's old VPN Client (.pcf)",
        ),
        ("initech.vpnc", "<html>\n", "initech.vpnc:1: this is a web page (HTML)"),
        (
            "globex/swanctl.conf",
            "conn acme\n  left=%any\n  right=192.0.2.1\n",
            "globex/swanctl.conf:1: this is an ipsec.conf",
        ),
        (
            "hooli.conf",
            "client\ndev tun\nremote 192.0.2.1 1194\n",
            "hooli.conf:1: this is an OpenVPN profile",
        ),
    ],
)
def test_a_profile_that_cannot_be_run_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    code, lines = checked(tmp_path, **{name: text})
    assert code == 78
    assert [line for line in lines if line.partition(": ")[2].startswith(said)], lines
    assert checked(tmp_path, "--no-files", **{name: text}) == (
        0,
        ["config.yaml: configuration OK (4 tunnels)"],
    )


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    checked(tmp_path)
    (tmp_path / "globex" / "x509ca").symlink_to("/etc/ssl/certs")
    code, lines = checked(tmp_path)
    assert code == 78
    assert (
        "globex: globex/swanctl.conf: cannot read x509ca: a symbolic link leads out of the profile's directory; "
        "copy the file" in lines
    )


def test_what_is_not_there_yet_or_hidden_from_who_asks_is_no_mistake(tmp_path: Path) -> None:
    checked(tmp_path)
    (tmp_path / "hooli.conf").unlink()
    done = CliRunner().invoke(main, ["check", "-c", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0
    assert f"hooli: config: cannot read {tmp_path}/hooli.conf: No such file or directory" in done.output


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may read; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory(prefix="fct") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.root
def test_what_who_asks_may_not_read_is_a_warning(open_path: Path) -> None:
    """The daemon's user may."""
    checked(open_path)
    for name in ("keys/ta.key", "initech.vpnc"):
        (open_path / name).chmod(0o600)
    os.seteuid(65534)
    try:
        done = CliRunner().invoke(main, ["check", "-c", str(open_path / "config.yaml")])
    finally:
        os.seteuid(0)
    assert done.exit_code == 0, done.output
    assert (
        f"acme: {open_path}/acme.ovpn:6: tls-auth: cannot read keys/ta.key: Permission denied" in done.output
    )
    assert f"initech: config: cannot read {open_path}/initech.vpnc: Permission denied" in done.output


# --- ten customers, each with another mistake

BROKEN = {
    "a.ovpn": ("openvpn", "client\nremote vpn.a.example:1194\n", 2),
    "b.ovpn": ("openvpn", "client\nremote YOUR_SERVER 1194\n", 2),
    "c.ovpn": ("openvpn", "client\nremote 192.0.2.1 1194\n\nca C:\\vpn\\ca.crt\n", 4),
    "d.ovpn": ("openvpn", "\n<html><body>Please log in</body></html>\n", 2),
    "e.ovpn": ("openvpn", "[Interface]\nPrivateKey = AAAA\n[Peer]\n", 1),
    "f.conf": ("wireguard", "[Interface]\nFrob = 1\n", 2),
    "g.conf": ("strongswan", "connections {\n  g {\n", 2),
    "h.vpnc": ("vpnc", "IPSec gateway 192.0.2.1\nFrob 1\n", 2),
    "i.ovpn": ("openvpn", "client\nremote 192.0.2.1 1194\n<ca>\nnothing\n</ca>\n", 3),
    "j.ovpn": ("openvpn", "client\nremote 192.0.2.1 1194\n# B\xfcro\nsetenv UV_X B\xfcro\n", 4),
}


def test_ten_broken_files_are_ten_lines_with_tunnel_file_and_line(tmp_path: Path) -> None:
    lines = ["staff: {networks: [10.8.0.0/16]}", "tunnels:"]
    for number, (name, (kind, text, _)) in enumerate(BROKEN.items()):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        entry = f"kind: {kind}, destinations: [172.20.{number}.0/24], config: {tmp_path / name}"
        lines.append(f"  {name[0]}x: {{{entry}}}")
    (tmp_path / "config.yaml").write_text("\n".join(lines) + "\n")
    config = str(tmp_path / "config.yaml")
    done = CliRunner().invoke(main, ["check", "-c", config])
    assert done.exit_code == 78, done.output
    said = done.output.splitlines()
    assert len(said) == 10, done.output
    for line, (name, (_, _, number)) in zip(said, BROKEN.items(), strict=True):
        assert line.startswith(f"{name[0]}x: {tmp_path / name}:{number}: "), line
    assert CliRunner().invoke(main, ["check", "-c", config, "--no-files"]).exit_code == 0


def test_what_a_profile_loses_is_said_and_is_no_mistake(tmp_path: Path) -> None:
    code, lines = checked(
        tmp_path,
        **{
            "acme.ovpn": "client\nremote a 1\nlport 1194\nup /etc/x\nshaper 100\ndhcp-option DNS 10.0.0.1\n"
            f"ca ca.crt\n{OURS}"
        },
    )
    assert code == 0, lines
    for start in ("3: lport is", "4: up is", "5: shaper is", "6: dhcp-option is"):
        assert [line for line in lines if line.startswith(f"warning: acme: acme.ovpn:{start} left out: ")], (
            lines
        )


# --- a configuration that cannot be read


@pytest.mark.root
@pytest.mark.parametrize("command", ["check", "doctor", "plan", "run"])
@pytest.mark.parametrize("closed", ["file", "directory"])
def test_a_configuration_that_its_user_may_not_read(tmp_path: Path, command: str, closed: str) -> None:
    """A right is missing (77), and the sentence says who may not read what, and what to do."""
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        config = Path(outer, "etc", "config.yaml")
        config.parent.mkdir()
        config.write_text(CONFIG)
        config.chmod(0o600 if closed == "file" else 0o644)
        config.parent.chmod(0o755 if closed == "file" else 0o700)
        done = command_as_nobody([command, "-c", str(config)])
    assert done.returncode == Exit.NO_RIGHT, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"nobody may not read the configuration {config}" in done.stderr
    todo = f"chgrp facilitator {config} && chmod 0640 {config}"
    assert (todo if closed == "file" else f"chmod 0755 {config.parent}") in done.stderr


@pytest.mark.parametrize("command", ["check", "doctor", "plan", "run"])
def test_a_configuration_that_is_not_there(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(main, [command, "-c", str(tmp_path / "none.yaml")])
    assert done.exit_code == Exit.CONFIG
    assert f"there is no configuration {tmp_path}/none.yaml; write it" in done.output


def command_as_nobody(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A command of this checkout, run by the user nobody. Skips the test where that user may not read it."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, capture_output=True, text=True, user="nobody", group="nogroup", extra_groups=[], check=False
        )

    if run("test", "-x", sys.executable).returncode != 0:
        pytest.skip(
            f"the user nobody may not read {sys.executable}: clone into a directory that is open to all"
        )
    return run(sys.executable, "-m", "supervisor", *arguments)


def test_each_file_is_read_once_and_each_tunnel_adds_the_same_work(tmp_path: Path) -> None:
    """Work is counted, not timed: reads of files for 10 and for 40 tunnels."""
    checked(tmp_path)

    class CountingFiles(Files):
        reads = 0

        def read(self, item: Input) -> bytes:
            self.reads += 1
            return super().read(item)

    def reads(count: int) -> int:
        files = CountingFiles(tmp_path, lambda _: None, {})
        tunnel = validated(
            OpenVPN, {"name": "t", "destinations": ["10.77.0.0/24"], "config": tmp_path / "acme.ovpn"}
        )
        found = list(examine({f"t{number}": tunnel for number in range(count)}, KINDS, files))
        assert not [each for each in found if each.weight is Weight.ERROR]
        return files.reads

    assert reads(10) == 10 * 3  # the profile and the two files that it names
    assert reads(40) == 40 * 3


def test_hooks_that_cannot_be_run(tmp_path: Path) -> None:
    """A program that is missing, not executable or no program is a warning; one without a path a mistake."""
    (tmp_path / "text").write_text("#!/bin/sh\n")
    hooks = f"hooks: {{up: [{tmp_path}/missing], down: [{tmp_path}/text], changed: [{tmp_path}]}}"
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG + f"    {hooks}\n")
    done = CliRunner().invoke(main, ["check", "-c", str(file)])
    assert done.exit_code == 0, done.output
    assert f"warning: tunnels.umbrella.hooks.up: {tmp_path}/missing does not exist" in done.output
    assert f"warning: tunnels.umbrella.hooks.down: {tmp_path}/text is not executable" in done.output
    assert f"warning: tunnels.umbrella.hooks.changed: {tmp_path} is not a program" in done.output
    file.write_text(CONFIG + "    hooks: {up: [notify]}\n")
    done = CliRunner().invoke(main, ["check", "-c", str(file)])
    assert done.exit_code == Exit.CONFIG
    assert "tunnels.umbrella.hooks.up" in done.output
