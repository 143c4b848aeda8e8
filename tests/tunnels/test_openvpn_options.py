"""Our lists of options and our command line, against the parser of the installed openvpn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.config.validation import validated
from tests.tunnels.driver import explained
from tests.tunnels.test_openvpn import PLACE, TUNNEL
from tunnels.base import Launch, Login
from tunnels.kinds.openvpn.kind import OPENVPN
from tunnels.kinds.openvpn.options import COMMANDS, KEPT, MAY_MATTER, OWNED_BY_DAEMON, REFUSED, SOME_VERSIONS

PROGRAM = shutil.which("openvpn", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="openvpn is not installed")

LISTS = (KEPT, SOME_VERSIONS, OWNED_BY_DAEMON, COMMANDS, frozenset(REFUSED))
# written as options, and read in a way of their own
SPECIAL = frozenset({"ignore-unknown-option", "port", "setenv"})
OTHER_SYSTEMS = frozenset({"capath", "cd", "chroot", "daemon"})  # not to be tried here
MOST_PARAMETERS = 5


def parsed(directory: Path, text: str, *options: str) -> str:
    """What openvpn says of a configuration before it does anything: without --dev it goes no further."""
    path = directory / f"{abs(hash((text, options)))}.ovpn"
    path.write_text(text)
    done = subprocess.run(
        [str(PROGRAM), "--config", str(path), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=20,
        cwd=directory,
        check=False,
    )
    return done.stdout + done.stderr


def taken(directory: Path, name: str) -> bool:
    """Whether the installed parser knows this option, with any number of parameters."""
    return any(
        "Unrecognized option or missing or extra parameter"
        not in parsed(directory, f"{name}{' 1' * count}\n")
        for count in range(MOST_PARAMETERS)
    )


def words_of_the_program() -> set[str]:
    """All texts in the program that may be names of options."""
    found = re.findall(rb"(?<=\0)[a-z][a-z0-9-]{1,45}(?=\0)", Path(str(PROGRAM)).read_bytes())
    return {word.decode() for word in found}


@pytest.mark.slow
def test_every_option_of_the_installed_openvpn_is_in_one_of_our_lists(tmp_path: Path) -> None:
    listed = frozenset().union(*LISTS)
    names = sorted((words_of_the_program() | listed) - OTHER_SYSTEMS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known = {
            name
            for name, it_is in zip(names, pool.map(lambda name: taken(tmp_path, name), names), strict=True)
            if it_is
        }
    assert len(known) > 200  # the words of the program were found
    assert known - listed - SPECIAL == set()
    unknown = KEPT - known - OTHER_SYSTEMS  # openvpn would die of them
    assert unknown == set()


def test_no_option_is_in_two_lists() -> None:
    for position, names in enumerate(LISTS):
        for others in LISTS[position + 1 :]:
            assert names & others == set()
    assert set(MAY_MATTER) <= OWNED_BY_DAEMON


# --- the whole command line, for each mode

CERTIFICATES = Path("/usr/share/doc/openvpn/examples/sample-keys")
TLS = "<ca>\n{ca}</ca>\n<cert>\n{cert}</cert>\n<key>\n{key}</key>\n"
STATIC = "<{tag}>\n{static}</{tag}>\n"
MODES = {
    "client udp": "client\nproto udp\n" + TLS,
    "client tcp": "client\nproto tcp\n" + TLS,
    "client udp4": "client\nproto udp4\n" + TLS,
    "client tcp6-client": "client\nproto tcp6-client\n" + TLS,
    "tls-client, no pull": "tls-client\nifconfig 10.8.0.2 10.8.0.1\n" + TLS,
    "mode p2p": "mode p2p\ntls-client\nifconfig 10.8.0.2 10.8.0.1\n" + TLS,
    "login without certificate": "client\nauth-user-pass\n<ca>\n{ca}</ca>\n",
    "static key udp": "ifconfig 10.8.0.2 10.8.0.1\n<secret>\n{static}</secret>\ncipher AES-256-CBC\n",
    "static key tcp": "proto tcp-client\nifconfig 10.8.0.2 10.8.0.1\n<secret>\n{static}</secret>\ncipher AES-256-CBC\n",
    "static key, allowed": "allow-deprecated-insecure-static-crypto\nifconfig 10.8.0.2 10.8.0.1\n"
    "<secret>\n{static}</secret>\ncipher AES-256-CBC\nauth SHA256\nkey-direction 1\nkeepalive 10 60\n",
    "static key, route": "ifconfig 10.8.0.2 10.8.0.1\nroute 10.1.0.0 255.255.0.0\n<secret>\n{static}</secret>\n"
    "cipher AES-128-CBC\npersist-tun\nping-timer-rem\n",
    "tls-auth": "client\nkey-direction 1\n" + TLS + STATIC.replace("{tag}", "tls-auth"),
    "tls-crypt": "client\n" + TLS + STATIC.replace("{tag}", "tls-crypt"),
    "tls-crypt-v2": "client\n" + TLS + "<tls-crypt-v2>\n{v2}</tls-crypt-v2>\n",
    "http-proxy": "client\nproto tcp\nhttp-proxy 192.0.2.9 3128\nhttp-proxy-retry\nhttp-proxy-timeout 5\n"
    + TLS,
    "http-proxy with login": "client\nproto tcp\nhttp-proxy 192.0.2.9 3128 auto basic\n" + TLS,
    "http-proxy for some": "client\nproto tcp\nhttp-proxy-option AGENT x\nhttp-proxy 192.0.2.9 3128\n" + TLS,
    "socks-proxy": "client\nsocks-proxy 192.0.2.9 1080\n" + TLS,
    "connection blocks": "client\n<connection>\nremote 192.0.2.2 1194 udp\n</connection>\n"
    "<connection>\nremote 192.0.2.3 443 tcp\nconnect-timeout 3\n</connection>\n" + TLS,
    "cipher alone": "client\ncipher AES-256-CBC\n" + TLS,
    "cipher none": "client\ncipher none\n" + TLS,
    "cipher of long ago": "client\ncipher BF-CBC\n" + TLS,
    "cipher and list": "client\ncipher AES-128-CBC\ndata-ciphers AES-256-GCM:AES-256-CBC\n" + TLS,
    "cipher and old list": "client\ncipher AES-128-CBC\nncp-ciphers AES-256-GCM\n" + TLS,
    "cipher, list and fallback": "client\ncipher AES-128-CBC\ndata-ciphers AES-256-GCM\n"
    "data-ciphers-fallback AES-256-CBC\n" + TLS,
    "options of older versions": "client\nkey-method 2\nncp-disable\nkeysize 256\nno-iv\ncomp-noadapt\ntun-ipv6\n"
    "max-routes 1000\ndh none\ncipher AES-256-CBC\ncomp-lzo no\nns-cert-type server\n" + TLS,
    "options of newer versions": "client\nsetenv FORWARD_COMPATIBLE 1\nquantum-safe on\n" + TLS,
    "static-challenge": 'client\nauth-user-pass\nstatic-challenge "Your code" 1\nauth-retry interact\n<ca>\n{ca}</ca>\n',
    "peer-fingerprint": "client\n<peer-fingerprint>\n" + ":".join(["00"] * 32) + "\n</peer-fingerprint>\n"
    "<cert>\n{cert}</cert>\n<key>\n{key}</key>\n",
    "verification": "client\nremote-cert-tls server\nverify-x509-name vpn.example name\ntls-version-min 1.2\n"
    "tls-cipher TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384\nauth SHA512\n" + TLS,
    "sizes": "client\nfragment 1300\nmssfix 1300\ntun-mtu 1400\nsndbuf 0\nrcvbuf 0\n" + TLS,
    "subnet without pull": "tls-client\ntopology subnet\nifconfig 10.8.0.2 255.255.255.0\n" + TLS,
}


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates that come with the program, and new static keys, by the names in MODES."""
    directory = tmp_path_factory.mktemp("keys")
    if not (CERTIFICATES / "ca.crt").exists():
        pytest.skip("the examples of the package openvpn are not installed")
    for kind, options in (
        ("secret", ()),
        ("tls-crypt-v2-server", ()),
        ("tls-crypt-v2-client", ("--tls-crypt-v2", "tls-crypt-v2-server")),
    ):
        subprocess.run([str(PROGRAM), *options, "--genkey", kind, kind], cwd=directory, check=True)
    files = {name: (CERTIFICATES / f"{it}").read_text() for name, it in
             (("ca", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))}  # fmt: skip
    return files | {
        "static": (directory / "secret").read_text(),
        "v2": (directory / "tls-crypt-v2-client").read_text(),
    }


def whole_command_line(directory: Path, launch: Launch) -> str:
    """What openvpn says of it, with a file in place of the descriptor of the management's key."""
    key = directory / "key"
    key.write_text("key\n")
    words = (word.replace("/proc/self/fd/{management_key}", str(key)) for word in launch.argv[3:])
    return parsed(directory, launch.files["config"].decode(), *words)


@pytest.mark.parametrize("mode", MODES)
def test_our_whole_command_line_is_taken_in_each_mode(
    tmp_path: Path, materials: dict[str, str], mode: str
) -> None:
    """It ends where it would open the management socket, whose directory does not exist: all options are
    read, and compared with each other, before.
    """
    text = MODES[mode].format_map(materials)
    text = text if "<connection>" in text else f"remote 192.0.2.1 1194\n{text}"
    login = {"username": "svc", "password": {"file": "pw"}} if "auth-user-pass" in text else {}
    tunnel = replace(TUNNEL, **{"login": validated(Login, login)})
    inputs = {"config": text.encode(), "password": b"p"}
    found = [each for each in OPENVPN.examine(tunnel, inputs) if each.fatal]
    assert found == []
    launch = OPENVPN.launch(tunnel, replace(PLACE, directory=tmp_path / "none"), inputs)
    assert launch.argv[1:3] == ("--config", "/proc/self/fd/{config}")
    said = whole_command_line(tmp_path, launch)
    assert "Options error" not in said, said
    assert re.search(r"MANAGEMENT: Socket bind\S* failed", said), said


def test_a_message_about_our_text_names_the_customers_file_and_line(
    tmp_path: Path, materials: dict[str, str]
) -> None:
    """What only the installed version can know: here a value that it refuses."""
    text = (
        "# comment\n\nclient\nremote 192.0.2.1 1194\ncipher AES-256-CBC\n"
        + TLS
        + "\n# more\nfragment none 1 2\n"
    )
    profile = text.format_map(materials).encode()
    line = profile.decode().splitlines().index("fragment none 1 2") + 1
    inputs = {"config": profile, "password": b"p"}
    launch = OPENVPN.launch(TUNNEL, replace(PLACE, directory=tmp_path / "none"), inputs)
    said = whole_command_line(tmp_path, launch)
    error = next(each for each in said.splitlines() if "Options error" in each)
    shown = re.sub(r"in \S+\.ovpn:", "in /proc/self/fd/7:", error)
    found = explained(OPENVPN.dialogue(TUNNEL, inputs), shown)
    assert f"{TUNNEL.config}:{line}: fragment" in str(found), (shown, found)
