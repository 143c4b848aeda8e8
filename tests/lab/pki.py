"""The lab's own certificate authority: fast elliptic-curve certificates made by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = KeyPair(directory / "ca.crt", directory / "ca.key")
        _openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-days",
            "30",
            "-subj",
            "/CN=lab authority",
            "-keyout",
            str(self.root.key),
            "-out",
            str(self.root.certificate),
        )

    def issue(self, name: str, usage: str, *addresses: str) -> KeyPair:
        """A certificate for `name`; `usage` is serverAuth or clientAuth. `addresses`: IP addresses of the
        server, which clients of HTTPS compare.
        """
        alternative = ",".join(f"IP:{address}" for address in addresses)
        more = ("-addext", f"subjectAltName={alternative}") if addresses else ()
        issued = KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        _openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-days",
            "30",
            "-subj",
            f"/CN={name}",
            "-CA",
            str(self.root.certificate),
            "-CAkey",
            str(self.root.key),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            f"extendedKeyUsage={usage}",
            "-addext",
            "keyUsage=critical,digitalSignature,keyAgreement",
            *more,
            "-keyout",
            str(issued.key),
            "-out",
            str(issued.certificate),
        )
        return issued

    def redate(self, issued: KeyPair, begins: timedelta, ends: timedelta) -> bytes:
        """The certificate once more, valid from and until these times from now."""
        known = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
        key = serialization.load_pem_private_key(self.root.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            known.issuer,
            known.subject,
            known.public_key(),
            x509.random_serial_number(),
            now + begins,
            now + ends,
        )
        for each in known.extensions:
            builder = builder.add_extension(each.value, each.critical)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
