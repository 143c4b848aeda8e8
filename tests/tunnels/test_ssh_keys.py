"""The files of an ssh login as they are sent, made by the real ssh-keygen: what works, what is refused."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.validation import validated
from tunnels.base import FileFinding
from tunnels.examination import findings
from tunnels.kinds.sshuttle.keys import read_certificate, read_private_key
from tunnels.kinds.sshuttle.kind import SSHUTTLE
from tunnels.kinds.sshuttle.known_hosts import knows, read_known_hosts
from tunnels.profiles import ProfileError

PASSPHRASE = (
    "the private key has a passphrase, and nobody is there to type it; make a copy without one: "
    "ssh-keygen -p -N '' -f COPY"
)
DAMAGED = "the private key is damaged: characters are missing or changed; copy the file again, as a whole"


def keygen(*words: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], check=True)


def made(directory: Path, name: str, *words: str) -> bytes:
    keygen(*words, "-C", name, "-f", directory / name)
    return (directory / name).read_bytes()


FORMS = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa": ("-t", "ecdsa"),
    "rsa": ("-t", "rsa", "-b", "2048"),
    "rsa-pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    "rsa-pkcs8": ("-t", "rsa", "-b", "2048", "-m", "PKCS8"),
    "ecdsa-pem": ("-t", "ecdsa", "-m", "PEM"),
}
SPOILT = {
    "crlf": lambda key: key.replace(b"\n", b"\r\n"),
    "cr": lambda key: key.replace(b"\n", b"\r"),
    "bom": lambda key: b"\xef\xbb\xbf" + key,
    "utf-16": lambda key: key.decode().encode("utf-16"),
    "no last line break": lambda key: key.rstrip(),
    "spaces for line breaks": lambda key: key.replace(b"\n", b" "),
    "no line breaks": lambda key: key.replace(b"\n", b""),
    "\\n for line breaks": lambda key: key.replace(b"\n", b"\\n"),
    "one line break lost": lambda key: key.replace(b"\n", b"", 3).replace(b"-----BEGIN", b"\n-----BEGIN"),
    "indented": lambda key: key.replace(b"\n", b"\n    "),
    "text around": lambda key: b"here is the key:\n" + key + b"\nregards\n",
}


Keys = Callable[[str], tuple[bytes, str]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A private key of each form, without a passphrase, and its public one; each is made once."""
    directory = tmp_path_factory.mktemp("keys")

    @functools.cache
    def key(form: str) -> tuple[bytes, str]:
        return made(directory, form, *FORMS[form], "-N", ""), (directory / f"{form}.pub").read_text()

    return key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", SPOILT)
def test_ssh_reads_what_we_make_of_it(tmp_path: Path, keys: Keys, form: str, fault: str) -> None:
    key, wanted = keys(form)
    (tmp_path / "again").write_text(read_private_key(SPOILT[fault](key)).text)
    (tmp_path / "again").chmod(0o600)
    public = subprocess.run(
        ["ssh-keygen", "-y", "-P", "", "-f", tmp_path / "again"], capture_output=True, text=True, check=True
    ).stdout
    assert public.split()[:2] == wanted.split()[:2]


@pytest.mark.parametrize("form", FORMS)
def test_a_passphrase(tmp_path: Path, form: str) -> None:
    key = made(tmp_path, "key", *FORMS[form], "-N", "a passphrase")
    for spoil in (*SPOILT.values(), bytes):
        with pytest.raises(ProfileError) as caught:
            read_private_key(spoil(key))
        assert caught.value.text == PASSPHRASE


@pytest.mark.parametrize("form", FORMS)
def test_a_key_that_is_damaged(keys: Keys, form: str) -> None:
    key = keys(form)[0].decode()
    lines = key.splitlines()
    for damaged in (
        "\n".join([*lines[:2], *lines[3:]]),
        key.replace("A", "\N{CYRILLIC CAPITAL LETTER A}", 20).replace(lines[0].replace("A", "x"), lines[0]),
    ):
        with pytest.raises(ProfileError):
            read_private_key(damaged.encode())


def sentence(data: bytes) -> str:
    with pytest.raises(ProfileError) as caught:
        read_private_key(data)
    return caught.value.text


def test_what_is_no_private_key(tmp_path: Path) -> None:
    key = made(tmp_path, "key", "-t", "ed25519", "-N", "")
    public = (tmp_path / "key.pub").read_bytes()
    assert sentence(public) == (
        "this is the public key; the private one is in the file whose name does not end with .pub"
    )
    assert "puttygen" in sentence(b"PuTTY-User-Key-File-3: ssh-ed25519\r\nEncryption: none\r\n")
    assert "ssh-keygen -i" in sentence(b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n")
    assert "X.509" in sentence(b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    assert "cut off" in sentence(key[:-20])
    assert sentence(b"\n") == "the file is empty; the private ssh key belongs into it"
    assert sentence(b"hello") == "this is not a private ssh key (-----BEGIN OPENSSH PRIVATE KEY-----)"
    half = key.splitlines()
    assert sentence(b"\n".join((*half[:3], *half[4:]))) == DAMAGED


@given(st.binary(max_size=60), st.sampled_from(["OPENSSH ", "", "RSA "]))
def test_no_file_upsets_it(junk: bytes, label: str) -> None:
    for data in (
        junk,
        b"-----BEGIN %bPRIVATE KEY-----\n%b\n-----END %bPRIVATE KEY-----"
        % (label.encode(), junk, label.encode()),
    ):
        for read in (read_private_key, read_certificate, read_known_hosts):
            with contextlib.suppress(ProfileError):
                read(data)


# --- all files of a tunnel


def found(inputs: dict[str, bytes], **settings: object) -> tuple[FileFinding, ...]:
    tunnel = validated(
        SSHUTTLE.options,
        {
            "name": "acme",
            "kind": "sshuttle",
            "destinations": ["10.90.0.0/16"],
            "remote": "ops@bastion.example.net",
            "identity": {"file": "id"},
            "known_hosts": "known_hosts",
            **settings,
        },
    )
    return findings(SSHUTTLE, tunnel, inputs, complete=True)


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4mnXX0000000000000000000000000000000000000"


def test_files_that_fit(tmp_path: Path) -> None:
    inputs = {
        "identity": made(tmp_path, "key", "-t", "ed25519", "-N", ""),
        "known_hosts": f"\ufeff# ours\r\nbastion.example.net {HOST_KEY}\r\n".encode(),
    }
    assert found(inputs) == ()
    lost = {**inputs, "identity": inputs["identity"].replace(b"\n", b" ")}
    assert list(map(str, found(lost))) == [
        "id:1: the private key has lost its line breaks; it is used as if they were there"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"other.example.net {HOST_KEY}",
            "known_hosts:1: the file has no key of bastion.example.net; add what",
        ),
        (
            f"# one\n{HOST_KEY}",
            "known_hosts:2: the host's name is missing before the key; write HOST before it",
        ),
        ("bastion.example.net ssh-ed25519", "known_hosts:1: not of the form HOST TYPE KEY, as ssh-keyscan"),
    ],
)
def test_hosts_that_are_not_known(tmp_path: Path, text: str, said: str) -> None:
    identity = made(tmp_path, "key", "-t", "ed25519", "-N", "")
    (finding,) = found({"identity": identity, "known_hosts": text.encode()})
    assert finding.fatal
    assert str(finding).startswith(said)


def test_the_jump_host_is_to_be_known_too(tmp_path: Path) -> None:
    identity = made(tmp_path, "key", "-t", "ed25519", "-N", "")
    (finding,) = found(
        {"identity": identity, "known_hosts": f"bastion.example.net {HOST_KEY}".encode()},
        jump="ops@gate.example.net:2222",
    )
    assert "the file has no key of gate.example.net; add what `ssh-keyscan -p 2222 gate" in finding.text


def test_ssh_finds_a_host_as_we_do(tmp_path: Path) -> None:
    """Hashed names, ports, wildcards and exceptions, each against `ssh-keygen -F`."""
    path = tmp_path / "known_hosts"
    names = ["b.example.net", "[b.example.net]:2222", "*.example.org,!x.example.org", "192.0.2.1"]
    key = made(tmp_path, "key", "-t", "ed25519", "-N", "") and (tmp_path / "key.pub").read_text()
    path.write_text("".join(f"{name} {' '.join(key.split()[:2])}\n" for name in names))
    for hashed in (False, True):
        if hashed:
            keygen("-H", "-f", path)
        patterns = read_known_hosts(path.read_bytes())
        for host in ("b.example.net", "B.example.net", "a.example.org", "x.example.org", "192.0.2.1", "c"):
            oracle = subprocess.run(
                ["ssh-keygen", "-F", host.lower(), "-f", path], capture_output=True, check=False
            )
            assert knows(patterns, host, 22) is (oracle.returncode == 0), (host, hashed)
        assert knows(patterns, "b.example.net", 2222)


def test_certificates(tmp_path: Path) -> None:
    identity = made(tmp_path, "key", "-t", "ed25519", "-N", "")
    other = made(tmp_path, "other", "-t", "rsa", "-N", "")
    made(tmp_path, "authority", "-t", "ed25519", "-N", "")
    for name in ("key", "other"):
        keygen(
            "-s",
            tmp_path / "authority",
            "-I",
            "x",
            "-n",
            "ops,dev",
            "-V",
            "-1d:20300101Z",
            tmp_path / f"{name}.pub",
        )
    hosts = f"bastion.example.net {HOST_KEY}".encode()
    certificate = (tmp_path / "key-cert.pub").read_bytes()
    assert read_certificate(certificate).principals == ("ops", "dev")
    for data in (certificate, b"\xef\xbb\xbf" + certificate.replace(b"\n", b"\r\n")):
        assert (
            found({"identity": identity, "known_hosts": hosts, "certificate": data}, certificate="c.pub")
            == ()
        )
    said = {
        "c.pub:1: the certificate is for another key than `identity`; ask for one of that key": (
            other,
            certificate,
            "ops",
        ),
        "c.pub:1: the certificate is for ops, dev; the remote host may refuse it for root": (
            identity,
            certificate,
            "root",
        ),
        "c.pub:1: this is a public key without a signature; the certificate is in the file whose name ends with "
        "-cert.pub": (identity, (tmp_path / "key.pub").read_bytes(), "ops"),
    }
    for text, (key, data, user) in said.items():
        inputs = {"identity": key, "known_hosts": hosts, "certificate": data}
        assert list(map(str, found(inputs, certificate="c.pub", remote=f"{user}@bastion.example.net"))) == [
            text
        ]


def test_a_certificate_of_a_host(tmp_path: Path) -> None:
    made(tmp_path, "key", "-t", "ecdsa", "-N", "")
    keygen("-s", tmp_path / "key", "-h", "-I", "x", "-n", "host", tmp_path / "key.pub")
    with pytest.raises(ProfileError, match="certificate of a host"):
        read_certificate((tmp_path / "key-cert.pub").read_bytes())
