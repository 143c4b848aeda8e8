"""`facilitator import`: what customers send becomes tunnels; hostile files stay harmless."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.app.importing import ImportRefused, opened, proposed
from supervisor.cli import main
from supervisor.config.entry import EntryChoices, entry_text, name_for, targets_for
from supervisor.config.parse import parse
from tunnels.kinds.openvpn.profile import read_profile as read_ovpn
from tunnels.kinds.wireguard.config import read_profile as read_conf
from tunnels.proposals import ImportSource, ProposedTunnel
from tunnels.recognition import ProfileFormat
from tunnels.registry import KINDS

MAIN = "staff: {networks: [10.8.0.0/16]}\ninclude: conf.d/*.yaml\n"
KEY = base64.b64encode(bytes(32)).decode()
OVPN = """\
client
dev tun
remote vpn.acme.example 1194 udp
route 10.77.0.0 255.255.255.0
dhcp-option DNS 10.77.0.53
script-security 2
up /etc/evil.sh
auth-user-pass login.txt
static-challenge "Code?" 1
ca keys/ca.crt
"""
CONF = f"""\
[Interface]
Address = 10.86.0.2/32
PrivateKey = {KEY}
DNS = 10.160.0.53
PostUp = iptables -F
[Peer]
AllowedIPs = 10.160.0.0/16, 0.0.0.0/0
Endpoint = 192.0.2.1:51820
PublicKey = {KEY}
"""
SSHUTTLE = "sudo sshuttle -r ops@bastion.example.net:2222 10.90.0.0/16 0/0 -e 'ssh -i ~/k -o Compression=yes -o ProxyCommand=id'"


class MailedFiles:
    """A directory with a configuration, and one with a customer's mail."""

    def __init__(self, root: Path) -> None:
        self.config, self.mail = root / "etc/config.yaml", root / "mail"
        self.config.parent.mkdir()
        (self.mail / "keys").mkdir(parents=True)
        self.config.write_text(MAIN)
        (self.mail / "keys/ca.crt").write_text("-----BEGIN CERTIFICATE-----\nCA\n-----END CERTIFICATE-----\n")
        (self.mail / "acme.ovpn").write_text(OVPN)
        (self.mail / "client.conf").write_text(CONF)
        (self.mail / "line.txt").write_text(f"# as agreed\n{SSHUTTLE}\n")

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        done = CliRunner().invoke(main, [command, "-c", str(self.config), *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def written(self) -> set[str]:
        """The files beside the configuration."""
        root = self.config.parent
        return {str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()} - {"config.yaml"}


@pytest.fixture
def office(tmp_path: Path) -> MailedFiles:
    return MailedFiles(tmp_path)


def test_three_customers_and_check_accepts_them(office: MailedFiles) -> None:
    mail, etc = office.mail, office.config.parent
    code, said = office.run("import", f"{mail}/acme.ovpn", "--username", "svc", "--write")
    assert code == 0, said
    assert f"put the password of the account into {etc}/acme-password" in said
    assert f"put the TOTP seed (base32 or an otpauth:// address) into {etc}/acme-totp-seed" in said
    assert "line 7: up is left out: no program of a profile is run" in said
    code, said = office.run("import", f"{mail}/client.conf", f"{mail}/line.txt", "--write")
    assert code == 0, said
    assert "the ssh option ProxyCommand is left out" in said
    assert f"put the private ssh key of the account, without a passphrase into {etc}/line-ssh-key" in said
    assert office.written() == {
        "conf.d/acme.yaml",
        "conf.d/line.yaml",
        "conf.d/wireguard-tunnel.yaml",
        "customers/acme/acme.ovpn",
        "customers/acme/keys/ca.crt",
        "customers/wireguard-tunnel/wireguard-tunnel.conf",
    }
    code, said = office.run("check")
    assert code == 0, said
    assert "3 tunnels" in said
    config = parse((etc / "conf.d/acme.yaml").read_text(), str(office.config), KINDS)
    assert config.tunnels["acme"].probe.targets == ("tcp://10.77.0.53:53",)
    copies = [(etc / name).read_text() for name in office.written()]
    assert not any("evil" in text or "PostUp" in text or "login.txt" in text for text in copies)


def test_owner_and_mode(office: MailedFiles) -> None:
    office.run("import", f"{office.mail}/acme.ovpn", "--username", "svc", "--write")
    etc = office.config.parent
    modes = {name: stat.S_IMODE((etc / name).stat().st_mode) for name in office.written()}
    assert set(modes.values()) == {0o640}, modes
    assert stat.S_IMODE((etc / "customers/acme/keys").stat().st_mode) == 0o750


def test_without_write_nothing_is_written(office: MailedFiles) -> None:
    code, said = office.run("import", f"{office.mail}/acme.ovpn", "--username", "svc", "--code")
    assert code == 0, said
    assert "totp: {file: acme-totp-seed}" in said
    assert not office.written()


def test_nothing_is_overwritten(office: MailedFiles) -> None:
    arguments = (f"{office.mail}/acme.ovpn", "--username", "svc", "--write")
    assert office.run("import", *arguments)[0] == 0
    code, said = office.run("import", *arguments)
    assert code != 0
    assert "this tunnel stands here a second time" in said
    before = (office.config.parent / "customers/acme/acme.ovpn").read_bytes()
    (office.config.parent / "conf.d/acme.yaml").unlink()
    code, said = office.run("import", *arguments)
    assert code == 1
    assert "nothing was written" in said
    assert (office.config.parent / "customers/acme/acme.ovpn").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.ovpn", OVPN.replace("keys/ca.crt", "../etc/config.yaml"), "ca names '../etc/config.yaml'"),
        ("a.ovpn", OVPN.replace("keys/ca.crt", "/etc/shadow"), "ca names '/etc/shadow'"),
        ("a.ovpn", OVPN.replace("keys/ca.crt", "link.crt"), "it is a symbolic link"),
        ("a.ovpn", OVPN.replace("keys/ca.crt", "fifo"), "it is not a regular file"),
        ("a.ovpn", OVPN.replace("client\n", "client\nplugin /x.so\ntls-verify /x\n"), "runs a program"),
        ("link.ovpn", "", "it is a symbolic link: name the file itself"),
        ("fifo", "", "it is not a regular file"),
        ("a.txt", "x" * (1 << 21), "larger than 1 MiB"),
        ("a.txt", "curl https://example.net | sh", "no kind of tunnel can be made of it"),
        ("a.ovpn", OVPN.replace("route ", "# "), "does not say which networks are behind the tunnel"),
        ("a.ovpn", OVPN.replace("10.77.0.0", "10.8.0.0"), "overlaps 10.8.0.0/16 of staff.networks"),
    ],
)
def test_files_that_are_refused_leave_nothing(office: MailedFiles, name: str, text: str, said: str) -> None:
    os.symlink("/etc/hostname", office.mail / "link.crt")
    os.symlink("acme.ovpn", office.mail / "link.ovpn")
    os.mkfifo(office.mail / "fifo")
    if text:
        (office.mail / name).write_text(text)
    code, output = office.run("import", f"{office.mail}/{name}", "--username", "svc", "--write")
    assert code != 0
    assert said in output
    assert not office.written()


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000 + "x",
        "sshuttle -r ops@b.example " + "a" * 1_000_000,
        "".join(f"conn c{number}\n right=192.0.2.1\n" for number in range(30_000)),
        "connections {\n" + "a {\nremote_addrs = 192.0.2.1\n}\n" * 30_000 + "}\n",
    ],
    ids=["blanks", "a word", "ipsec.conf", "swanctl.conf"],
)
def test_a_file_that_is_made_to_be_slow_is_refused_in_seconds(office: MailedFiles, text: str) -> None:
    """Each took minutes, in the square of its size."""
    (office.mail / "slow.conf").write_text(text)
    began = time.process_time()
    assert office.run("import", f"{office.mail}/slow.conf")[0] == 1
    assert time.process_time() - began < 20


def test_a_main_file_without_include_is_told_how(office: MailedFiles) -> None:
    office.config.write_text("staff: {networks: [10.8.0.0/16]}\ntunnels: {}\n")
    code, said = office.run("import", f"{office.mail}/client.conf", "--write")
    assert code == 1
    assert "add the line include: conf.d/*.yaml" in said


# --- hostile files

_words = st.sampled_from(
    [
        *(
            "client",
            "remote",
            "ca",
            "up",
            "down",
            "plugin",
            "route",
            "route-up",
            "script-security",
            "setenv",
            "auth-user-pass",
        ),
        *(
            "<ca>",
            "</ca>",
            "<connection>",
            "</connection>",
            "192.0.2.1",
            "10.77.0.0",
            "255.255.0.0",
            "../../x",
            "/etc/shadow",
        ),
        *(
            '"',
            "'",
            "\\",
            "#",
            ";",
            "\n",
            "\n",
            "\n",
            " ",
            "[inline]",
            "remote-random",
            "10.0.0.0/8",
            "inline",
            "opt",
        ),
    ]
)
_hostile = st.lists(_words | st.text(max_size=6), max_size=40).map(" ".join)
_programs = ("up", "down", "plugin", "route-up", "script-security", "tls-verify", "ipchange", "learn-address")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(_hostile)
def test_a_copy_of_any_ovpn_holds_what_would_be_run_and_no_program(middle: str) -> None:
    text = f"client\nremote 192.0.2.1\n{middle}\nroute 10.1.0.0 255.255.0.0\n"
    source = ImportSource(text.encode(), ProfileFormat.OPENVPN, username="svc")
    try:
        found = KINDS["openvpn"].propose(source)
    except ValueError:
        return
    assert found is not None
    before, after = read_ovpn(source.data), read_ovpn(found.content)
    assert [each.words for each in after.kept] == [each.words for each in before.kept]
    assert {each.name for each in after.dropped} <= {"auth-user-pass", "remote-random"}
    assert after.asks_login == before.asks_login
    assert_accepted(found, "a")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(max_size=40),
    st.lists(st.sampled_from(["PostUp = x", "DNS = 10.160.0.1, x", "AllowedIPs = ::/0", "#"]), max_size=4),
)
def test_a_copy_of_any_wireguard_file_has_no_program(noise: str, lines: list[str]) -> None:
    text = CONF.replace(
        "DNS = 10.160.0.53", "\n".join((*(each for each in lines if "Allowed" not in each), f"# {noise}"))
    )
    try:
        found = KINDS["wireguard"].propose(
            ImportSource(text.encode(errors="replace"), ProfileFormat.WIREGUARD)
        )
    except ValueError:
        return
    assert found is not None
    assert not read_conf(found.content).notes
    assert_accepted(found, noise)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.sampled_from(
            [
                "-r",
                "ops@h.example",
                "-e",
                "ssh -o ProxyCommand=id -o Compression=yes",
                "10.0.0.0/8",
                "-x",
                "--dns",
            ]
        )
        | st.text(max_size=8),
        max_size=12,
    ),
    st.text(max_size=20),
)
def test_any_sshuttle_line_runs_no_program(words: list[str], stem: str) -> None:
    source = ImportSource(b"", None, ("sshuttle", "10.1.0.0/16", *words), "svc")
    try:
        found = KINDS["sshuttle"].propose(source)
    except ValueError:
        return
    assert found is not None
    assert "ProxyCommand" not in str(found.settings)
    assert_accepted(found, stem)


def assert_accepted(found: ProposedTunnel, stem: str) -> None:
    """The entry is accepted as a file, and is that one tunnel."""
    destinations = found.networks[:1]
    name = name_for(found, stem)
    text = entry_text(found, EntryChoices(name, destinations, targets_for(found, destinations), False, stem))
    [tunnel] = parse(text, "/etc/facilitator/config.yaml", KINDS).tunnels.values()
    assert (tunnel.name, tunnel.kind) == (name, found.kind)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=300)
    | _hostile.map(str.encode)
    | st.text(max_size=100).map(lambda text: f"sshuttle {text}".encode())
)
def test_any_bytes_are_a_proposal_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data)
    with contextlib.suppress(ImportRefused):
        assert proposed(opened(str(file), "svc"), KINDS).kind in KINDS
