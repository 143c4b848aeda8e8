"""`facilitator import` of strongswan, vpnc, openconnect and openfortivpn; hostile sources stay harmless."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.cli import main
from supervisor.config.entry import EntryChoices, entry_text, name_for, targets_for
from supervisor.config.parse import parse
from tunnels.kinds.strongswan.config import read_swanctl, without_owned
from tunnels.kinds.strongswan.syntax import parse as parse_tree
from tunnels.kinds.vpnc.kind import owned_in, read_config
from tunnels.proposals import ImportSource, ProposedTunnel
from tunnels.recognition import ProfileFormat
from tunnels.registry import KINDS

MAIN = "staff: {networks: [10.8.0.0/16]}\ninclude: conf.d/*.yaml\n"
SWANCTL = """\
connections {
  acme {
    remote_addrs = vpn.acme.example
    vips = 0.0.0.0
    unique = replace
    local { auth = psk }
    local-2 { auth = eap-mschapv2 }
    remote { auth = psk }
    children { net {
      remote_ts = 10.77.0.0/24[tcp/443], 10.78.0.0/16
      updown = /etc/evil.sh
    } }
  }
}
"""
IPSEC_CONF = """\
config setup
    uniqueids=no
conn %default
    keyexchange=ikev2
    ike=aes256-sha256-modp2048!
conn acme
    right=vpn.acme.example
    rightsubnet=10.77.0.0/24,10.78.0.0/16
    leftsourceip=%config
    leftupdown=/etc/evil.sh
    authby=secret
    auto=start
"""
VPNC = """\
IPSec gateway vpn.acme.example
IPSec ID staff
Xauth username jane
IPSEC target network 10.77.0.0/255.255.255.0
Script /etc/evil.sh
Password helper /etc/evil.sh
"""
PCF = """\
[main]
Host=vpn.acme.example
AuthType=1
GroupName=staff
enc_GroupPwd=00AA11BB
!Username=jane
UserPassword=hunter2
DHGroup=2
"""
FORTI = (
    """\
# from acme
host = vpn.acme.example
port = 10443
username = jane
password = hunter2
pppd-plugin = /etc/evil.so
trusted-cert = """
    + "ab" * 32
    + "\n"
)
PIN = "pin-sha256:" + "A" * 43 + "="
OPENCONNECT = (
    f"sudo openconnect --protocol=gp -u jane --servercert {PIN} -s /etc/evil.sh "
    "--token-mode=totp --token-secret hunter2 https://vpn.acme.example:4443/staff"
)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "config.yaml").write_text(MAIN)
    return directory


def run(etc: Path, command: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = CliRunner().invoke(main, [command, "-c", str(etc / "config.yaml"), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


BEHIND = ("--destination", "10.77.0.0/24")


@pytest.mark.parametrize(
    ("text", "arguments", "kind", "said"),
    [
        (
            SWANCTL,
            ("--username", "jane"),
            "strongswan",
            ["updown is left out: no program", "-psk", "-password"],
        ),
        (IPSEC_CONF, (), "strongswan", ["leftupdown is left out: no program", "acme-psk"]),
        (VPNC, (), "vpnc", ["Script is left out", "Password helper is left out", "acme-group-secret"]),
        (PCF, BEHIND, "vpnc", []),
        (FORTI, BEHIND, "openfortivpn", ["pppd-plugin is left out: no program", "acme-password"]),
        (
            FORTI + "realm = staff\n",
            BEHIND,
            "openconnect",
            ["kind openconnect instead", "trusted-cert is left out"],
        ),
        (OPENCONNECT, BEHIND, "openconnect", ["--script is left out: no program", "acme-totp-seed"]),
        (
            "openconnect -c a.pem -k a.key vpn.acme.example",
            BEHIND,
            "openconnect",
            ["customers/acme/certificate"],
        ),
        (
            "openfortivpn vpn.acme.example:10443 -u jane -p hunter2",
            BEHIND,
            "openfortivpn",
            ["password is left out: a secret"],
        ),
    ],
)
def test_check_accepts_what_is_written(
    etc: Path, tmp_path: Path, text: str, arguments: tuple[str, ...], kind: str, said: list[str]
) -> None:
    source = tmp_path / "acme.txt"
    source.write_text(text)
    code, output = run(etc, "import", str(source), *arguments, "--write")
    assert code == 0, output
    assert not [each for each in said if each not in output], output
    assert "hunter2" not in output
    entry = (etc / "conf.d/acme.yaml").read_text()
    assert f"kind: {kind}" in entry
    assert not [each for each in etc.rglob("*") if each.is_file() and "evil" in each.read_text()]
    assert "hunter2" not in entry
    code, output = run(etc, "check")
    assert code == 0, output


def test_what_a_line_of_openconnect_says(etc: Path) -> None:
    code, output = run(etc, "import", OPENCONNECT, *BEHIND)
    assert code == 0, output
    assert 'server: "vpn.acme.example:4443"' in output
    assert "protocol: gp" in output
    assert "usergroup: staff" in output
    assert f'server_certificate: "{PIN}"' in output
    assert "totp: {file: acme-totp-seed}" in output


def test_networks_and_obfuscated_secrets() -> None:
    swanctl = propose("strongswan", SWANCTL, ProfileFormat.SWANCTL)
    assert [str(each) for each in swanctl.networks] == ["10.77.0.0/24", "10.78.0.0/16"]
    vpnc = propose("vpnc", VPNC, ProfileFormat.VPNC)
    assert [str(each) for each in vpnc.networks] == ["10.77.0.0/24"]
    pcf = read_config(propose("vpnc", PCF, ProfileFormat.PCF).content)
    assert pcf["IPSec obfuscated secret"] == "00AA11BB"
    assert pcf["IKE DH Group"] == "dh2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "conn acme\n  right=192.0.2.1\n  also=base\n",
            "acme.txt:3: also cannot be imported; write the connection as swanctl",
        ),
        ("conn acme\n  right=192.0.2.1\n", "as swanctl.conf: no inner address for this host"),
        (PCF.replace("AuthType=1", "AuthType=3"), "AuthType asks for certificates"),
        (PCF.replace("Host=", "Hast="), "names no IPSec gateway"),
        (VPNC.replace("Xauth username jane\n", ""), "name the account with --username"),
        (SWANCTL.replace("vips = 0.0.0.0", ""), "no inner address"),
        ("openconnect -u jane vpn.example.net hunter2", "the line has 2 words besides its options"),
        ("openfortivpn -u jane", "the line has 0 words besides its options"),
        ("openfortivpn -c acme.conf", "import that file instead"),
        ("openconnect vpn.example.net", "name the account with --username"),
    ],
)
def test_refused_with_a_sentence(etc: Path, tmp_path: Path, text: str, said: str) -> None:
    source = tmp_path / "acme.txt"
    source.write_text(text)
    code, output = run(etc, "import", str(source), "--write")
    assert code == 1
    assert said in output
    assert "hunter2" not in output
    assert not (etc / "conf.d").exists()


def propose(kind: str, text: str, format: ProfileFormat) -> ProposedTunnel:
    """The proposal of a kind."""
    found = KINDS[kind].propose(ImportSource(text.encode(), format, (), "svc"))
    assert found is not None
    return found


def assert_accepted(found: ProposedTunnel, stem: str) -> None:
    """The entry is accepted as a file, and is that one tunnel."""
    name = name_for(found, stem)
    networks = found.networks[:1] or (ip_network("10.77.0.0/24"),)
    text = entry_text(found, EntryChoices(name, networks, targets_for(found, networks), True, stem))
    [tunnel] = parse(text, "/etc/facilitator/config.yaml", KINDS).tunnels.values()
    assert (tunnel.name, tunnel.kind) == (name, found.kind)


# --- hostile sources

_FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
_LINE = st.text(st.characters(codec="utf-8"), max_size=12)


_OPENCONNECT = ("server", "protocol", "server_certificate", "group", "useragent", "os", "usergroup", "realm")


def _mixed(words: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words.split()) | _LINE, max_size=10)


@_FUZZ
@given(
    _mixed(
        "-u jane -s/evil --script=/evil --protocol=fortinet --protocol=nc --os=win -g --authgroup --useragent -c a.pem "
        f"--servercert={PIN} --token-mode=totp https://h.example/?realm=x h.example:4443/a/b [2001:db8::1]:443"
    ),
    _LINE,
)
def test_any_line_of_openconnect(words: list[str], stem: str) -> None:
    try:
        found = KINDS["openconnect"].propose(ImportSource(b"", None, ("openconnect", *words), "svc"))
    except ValueError:
        return
    assert found is not None
    assert set(found.settings) <= {*_OPENCONNECT, "login"}
    assert_accepted(found, stem)


@_FUZZ
@given(_mixed("-u jane --realm=x --user-cert=c.pem --pinentry=/evil --trusted-cert=" + "ab" * 32), _LINE)
def test_any_line_of_openfortivpn(words: list[str], stem: str) -> None:
    source = ImportSource(b"", None, ("openfortivpn", "h.example", *words), "svc")
    try:
        found = KINDS["openfortivpn"].propose(source)
    except ValueError:
        return
    assert found is not None
    assert set(found.settings) <= {"server", "protocol", "realm", "trusted_certificate", "login"}
    assert_accepted(found, stem)


@_FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(["realm", "user-cert", "port", "pppd-call", "username"]), _LINE), max_size=5
    )
)
def test_any_file_of_openfortivpn(lines: list[tuple[str, str]]) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in lines) + FORTI
    try:
        found = propose("openfortivpn", text, ProfileFormat.OPENFORTIVPN)
    except ValueError:
        return
    assert "hunter2" not in str(found)
    assert_accepted(found, "")


@_FUZZ
@given(
    st.lists(st.sampled_from(VPNC.split("\n")) | _LINE.map("Domain {}".format) | _LINE, max_size=10), _LINE
)
def test_a_copy_of_any_vpnc_file(lines: list[str], stem: str) -> None:
    text = "\n".join(("IPSec gateway 192.0.2.1", *lines, "IPSec ID x"))
    try:
        found = propose("vpnc", text, ProfileFormat.VPNC)
    except ValueError:
        return
    assert not list(owned_in(found.content))
    before = read_config(text.encode())
    assert {name: before[name] for name in read_config(found.content)} == read_config(found.content)
    assert_accepted(found, stem)


@_FUZZ
@given(
    st.lists(
        st.tuples(st.sampled_from(["Host", "GroupPwd", "enc_GroupPwd", "Username", "NTDomain"]), _LINE),
        max_size=5,
    )
)
def test_a_copy_of_any_pcf(lines: list[tuple[str, str]]) -> None:
    text = PCF + "".join(f"{name}={value}\n" for name, value in lines)
    try:
        found = propose("vpnc", text, ProfileFormat.PCF)
    except ValueError:
        return
    assert not list(owned_in(found.content))
    assert read_config(found.content)["IPSec ID"] == "staff"
    assert_accepted(found, "")


@_FUZZ
@given(
    st.lists(
        st.sampled_from(["leftid", "ike", "also", "dpddelay", "leftauth"]).flatmap(
            lambda name: _LINE.map(lambda value: f"    {name}={value}")
        )
        | _LINE,
        max_size=5,
    )
)
def test_any_ipsec_conf(lines: list[str]) -> None:
    text = IPSEC_CONF + "\n".join(lines)
    try:
        found = propose("strongswan", text, ProfileFormat.IPSEC_CONF)
    except ValueError:
        return
    assert b"evil" not in found.content
    assert read_swanctl(found.content).children
    assert_accepted(found, "")


@_FUZZ
@given(
    st.lists(
        st.sampled_from(
            ["updown = /evil", "mode = transport", "mark_in = 1", "local_ts = 10.1.0.0/16", "}", "{"]
        )
        | _LINE,
        max_size=5,
    )
)
def test_a_copy_of_any_swanctl(lines: list[str]) -> None:
    text = SWANCTL.replace("updown = /etc/evil.sh", "\n".join(lines))
    try:
        found = propose("strongswan", text, ProfileFormat.SWANCTL)
    except ValueError:
        return
    assert without_owned(found.content)[1] == ()
    assert parse_tree(read_swanctl(found.content).text) == parse_tree(read_swanctl(text.encode()).text)
    assert_accepted(found, "")
