"""TLS of the HTTP server: certificates that are renewed while it listens, and which clients may enter.

New files hold for every handshake from then on; connections that stand keep what they were made with.
"""

from __future__ import annotations

import ssl
from asyncio import BaseTransport
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


class ServerTls:
    """The certificate, its key and the CA of the clients, as they are in their files now."""

    def __init__(
        self, certificate: Path, key: Path, client_ca: Path | None = None, subjects: Sequence[str] = ()
    ) -> None:
        """`subjects`: RFC 4514 names of the clients that may enter; none means all that the CA has signed.
        OSError or ValueError.
        """
        self.files = tuple(path for path in (certificate, key, client_ca) if path is not None)
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._subjects = frozenset(map(canonical_subject, subjects))
        self._latest = self.context = self._load()
        self.context.sni_callback = self._choose  # is called in every handshake, be a name asked for or not

    def renew(self) -> None:
        """Read the files again. When they are not usable, what was read before stays: OSError."""
        self._latest = self._load()

    def refusal(self, transport: BaseTransport | None) -> str | None:
        """Why the client at the other end may not enter; None: it may."""
        if not self._subjects:
            return None
        shown = peer_subject(transport)
        return (
            None if shown in self._subjects else f"{shown or 'nobody'} is not among http.tls.client_subjects"
        )

    def _load(self) -> ssl.SSLContext:
        for path in self.files:
            path.open("rb").close()  # whose error names the file, which OpenSSL's does not
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= (
            ssl.OP_NO_TICKET
        )  # a resumed session would not show its certificate again, nor see ours
        context.num_tickets = 0
        context.load_cert_chain(self._certificate, self._key)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._latest


def canonical_subject(subject: str) -> str:
    """The name in one spelling. ValueError."""
    from cryptography import x509  # costs a fifth of a second, and is rarely wanted

    try:
        return x509.Name.from_rfc4514_string(
            subject, {"emailAddress": x509.NameOID.EMAIL_ADDRESS}
        ).rfc4514_string()
    except ValueError:
        raise ValueError(
            f"http.tls.client_subjects: {subject!r} is no subject; write it as in CN=prometheus,O=Example"
        ) from None


def peer_subject(transport: BaseTransport | None) -> str | None:
    """The RFC 4514 name in the certificate that the client at the other end has shown; None: it has not."""
    session = transport.get_extra_info("ssl_object") if transport is not None else None
    shown = session.getpeercert(binary_form=True) if session is not None else None
    return _subject(shown) if shown else None


@lru_cache(256)
def _subject(certificate: bytes) -> str:
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
