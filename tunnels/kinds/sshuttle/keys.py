"""The user's private key and certificate as they are sent: read, judged, and rewritten for ssh.

    bytes of the file -> PrivateKey.read / Certificate.read -> text for ssh, or ProfileError

Formats: openssh's PROTOCOL.key and PROTOCOL.certkeys, RFC 7468 (PEM). No error text repeats a part of a key.
"""

from __future__ import annotations

import base64
import re
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tunnels.profiles import ProfileError

_PEM = re.compile(r"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)
_HEADER = re.compile(r"^[A-Za-z0-9-]+: .*(?:\n[ \t].*)*\n", re.MULTILINE)  # of traditional PEM (RFC 1421)
_MAGIC = b"openssh-key-v1\0"
_CERTIFICATE = re.compile(r"\s*(\S+-cert-v01@openssh\.com)[ \t]+([A-Za-z0-9+/=]+)")
_USER_CERTIFICATE, _HOST_CERTIFICATE = 1, 2
_FOR_EVER = (1 << 64) - 1  # "valid before" of a certificate without an end

# What is sent instead of a private key in a form that ssh takes: how it begins, and a sentence.
_INSTEAD = (
    (
        re.compile(r"PuTTY-User-Key-File-"),
        "is a key of PuTTY; convert it: puttygen FILE -O private-openssh -o NEW",
    ),
    (
        re.compile(
            r"---- BEGIN SSH2 PUBLIC KEY|(?:ssh|sk-ssh|ecdsa|sk-ecdsa)-\S+ AAAA|-----BEGIN .*PUBLIC KEY"
        ),
        "is the public key; the private one is in the file whose name does not end with .pub",
    ),
    (
        re.compile(r"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY"),
        "is a key of ssh.com's SSH; convert it: ssh-keygen -i -f FILE > NEW",
    ),
    (re.compile(r"-----BEGIN CERTIFICATE"), "is an X.509 certificate, which ssh does not use"),
)


def text_of_key(data: bytes) -> str:
    """The text of a key file, of a list of keys or of a certificate: UTF-8 or UTF-16, with or without a byte
    order mark; any line ends.
    """
    utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if utf_16 else "utf-8-sig", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key that ssh can use without asking anybody."""

    text: str = field(repr=False)  # the lines as ssh wants them
    public: bytes | None = field(repr=False)  # the public key in ssh's own form; None: a PEM key hides it
    repaired: bool  # its line breaks were lost


def read_private_key(data: bytes) -> PrivateKey:
    """The key in this file. ProfileError: it cannot be used; the sentence says what to do."""
    text = text_of_key(data)
    if not text.strip():
        raise ProfileError("the file is empty; the private ssh key belongs into it", 1)
    found = _PEM.search(text)
    if found is None:
        raise ProfileError(_no_key(text), 1)
    label, body = found.groups()
    line = text.count("\n", 0, found.start()) + 1
    if label == "ENCRYPTED PRIVATE KEY" or "ENCRYPTED" in body:
        raise _passphrase(line)
    # shells and YAML write a line break as \n
    inner = _HEADER.sub("", body.replace("\\n", "\n"))
    repaired = inner.strip("\n ").count("\n") < len(inner) // 100
    content = _content("".join(inner.split()), line)
    public = None
    if label == "OPENSSH PRIVATE KEY":
        public = _openssh(content, line)
    else:
        _check_der(content, line)
    wrapped = "\n".join(textwrap.wrap(base64.b64encode(content).decode(), 64))
    return PrivateKey(f"-----BEGIN {label}-----\n{wrapped}\n-----END {label}-----\n", public, repaired)


def _no_key(text: str) -> str:
    for pattern, sentence in _INSTEAD:
        if pattern.match(text.lstrip()):
            return f"this {sentence}"
    if "PRIVATE KEY-----" in text:
        return "the private key is cut off: its line -----END ... PRIVATE KEY----- is missing; copy the file again"
    return "this is not a private ssh key (-----BEGIN OPENSSH PRIVATE KEY-----)"


def _passphrase(line: int) -> ProfileError:
    return ProfileError(
        "the private key has a passphrase, and nobody is there to type it; make a copy without one: "
        "ssh-keygen -p -N '' -f COPY",
        line,
    )


def _damaged(line: int) -> ProfileError:
    return ProfileError(
        "the private key is damaged: characters are missing or changed; copy the file again, as a whole", line
    )


def _content(text: str, line: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise _damaged(line) from None


def _openssh(content: bytes, line: int) -> bytes:
    """The public key in a key of openssh's own format (PROTOCOL.key)."""
    try:
        if not content.startswith(_MAGIC):
            raise ValueError
        fields = _Fields(content[len(_MAGIC) :])
        cipher = fields.string()
        fields.string(), fields.string(), fields.number(4)  # key derivation, its options, number of keys
        public = fields.string()
        fields.string()  # the private part
    except ValueError:
        raise _damaged(line) from None
    if cipher != b"none":
        raise _passphrase(line)
    if _Fields(public).string().startswith(b"sk-"):
        raise ProfileError(
            "the private key needs a security key that somebody touches; make one without: "
            "ssh-keygen -t ed25519 -N '' -f NEW",
            line,
        )
    return public


def _check_der(content: bytes, line: int) -> None:
    """ProfileError: a PEM key is not one ASN.1 SEQUENCE of the right length (X.690)."""
    if len(content) < 4 or content[0] != 0x30:
        raise _damaged(line)
    length, start = content[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(content[2:start], "big")
    if start + length != len(content):
        raise _damaged(line)


class _Fields:
    """Reads the fields of ssh's wire format (RFC 4251, section 5). ValueError: the data end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("the data end too soon")
        self._at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.number(4))

    def strings(self, count: int) -> bytes:
        """So many strings, with their lengths."""
        start = self._at
        for _ in range(count):
            self.string()
        return self._data[start : self._at]


# --- certificates
# ----------------------------------------------------------------------------------------------------------

_KEY_FIELDS = {b"ssh-ed25519": 1, b"ssh-rsa": 2, b"ssh-dss": 4}  # of a public key; ECDSA has 2


@dataclass(frozen=True, slots=True)
class UserCertificate:
    """A user certificate of OpenSSH."""

    text: str  # the line
    public: bytes  # the key that it certifies
    principals: tuple[str, ...]  # accounts for which it is; empty: any
    valid_before: datetime | None  # None: for ever


def read_certificate(data: bytes) -> UserCertificate:
    """The certificate in this file (ssh-keygen -s makes NAME-cert.pub). ProfileError: there is none."""
    text = text_of_key(data)
    found = _CERTIFICATE.match(text)
    if found is None:
        wrong = (
            "a public key without a signature" if re.match(r"\s*\S+ AAAA", text) else "no certificate of ssh"
        )
        raise ProfileError(
            f"this is {wrong}; the certificate is in the file whose name ends with -cert.pub", 1
        )
    try:
        return _certificate(f"{found[1]} {found[2]}\n", base64.b64decode(found[2], validate=True))
    except ProfileError:
        raise
    except (ValueError, OverflowError, OSError):  # of a time far away
        raise ProfileError("the certificate is damaged; copy the file again, as a whole", 1) from None


def _certificate(text: str, content: bytes) -> UserCertificate:
    fields = _Fields(content)
    name = fields.string().removesuffix(b"-cert-v01@openssh.com")
    fields.string()  # nonce
    public = len(name).to_bytes(4, "big") + name + fields.strings(_KEY_FIELDS.get(name, 2))
    fields.number(8)  # serial number
    if fields.number(4) != _USER_CERTIFICATE:
        raise ProfileError("this is the certificate of a host, not of a user; ask for a user certificate", 1)
    fields.string()  # key id
    names = _Fields(fields.string())
    principals = []
    while True:
        try:
            principals.append(names.string().decode(errors="replace"))
        except ValueError:
            break
    fields.number(8)  # valid after
    before = fields.number(8)
    end = None if before == _FOR_EVER else datetime.fromtimestamp(before, UTC)
    return UserCertificate(text, public, tuple(principals), end)
