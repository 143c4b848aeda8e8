"""Our certificates' last days: who is told, when, and what ends it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from supervisor.app.watchers.certificates import Certificates, read
from supervisor.core.alerting.verdict import Verdict, condition_alerts
from supervisor.core.events import Event, InputsChanged, Noticed
from supervisor.core.faults import Faults
from tests.fakes import KIND
from tests.settings import configured
from tunnels.base import AnyKind, Input, Tunnel, inputs_of

WIRE = replace(
    KIND,
    inputs=lambda tunnel: (Input("pem", Path(tunnel.name)),),
    certificates=lambda tunnel, inputs: (inputs["pem"],),
)


def certificate(days: float, name: str = "svc") -> bytes:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(
        subject, subject, key.public_key(), 1, now - timedelta(days=400), now + timedelta(days=days)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class FixedFiles(dict[str, bytes]):
    def read(self, kind: AnyKind, tunnel: Tunnel) -> dict[str, bytes]:
        if not all(str(item.where) in self for item in inputs_of(kind, tunnel)):
            raise OSError("no such file")
        return {item.name: self[str(item.where)] for item in inputs_of(kind, tunnel)}


def tunnels(*names: str) -> Mapping[str, Tunnel]:
    return {name: configured(Tunnel, name=name, kind="test", destinations=("10.0.0.0/24",)) for name in names}


@pytest.fixture
def files() -> FixedFiles:
    return FixedFiles()


def looking(files: FixedFiles, posted: list[Event]) -> Certificates:
    return Certificates({"test": WIRE}, files.read, posted.append, Faults(time.monotonic))


def test_the_first_that_expires_counts_and_is_told_two_weeks_before(files: FixedFiles) -> None:
    posted: list[Event] = []
    watched = looking(files, posted)
    files |= {"soon": certificate(100) + certificate(13.5, "leaf"), "later": certificate(15), "none": b""}
    files["broken"] = b"-----BEGIN CERTIFICATE-----"
    watched.set(tunnels("soon", "later", "broken", "none", "missing"))
    assert set(watched.expiries) == {"soon", "later"}
    assert set(watched.conditions) == {"certificate:soon"}
    assert posted == [Noticed("")]
    alert = condition_alerts("vpn1", watched.conditions, 0.0)["certificate:soon"]
    assert (alert.verdict, alert.severity) == (Verdict.FIRING, "warning")
    assert re.search(r"CN=leaf\) expires in 1\d days", alert.summary)


def test_an_expired_one_is_an_error_and_a_new_one_ends_it(files: FixedFiles) -> None:
    posted: list[Event] = []
    watched = looking(files, posted)
    files["acme"] = certificate(-1)
    watched.set(tunnels("acme"))
    (condition,) = watched.conditions.values()
    assert (condition.severity, "has expired" in condition.text) == ("error", True)
    files["acme"] = certificate(365)
    watched.changed(InputsChanged("acme"))
    assert watched.conditions == {}
    assert posted == [Noticed(""), Noticed("")]


def test_a_tunnel_that_is_gone_takes_its_certificate_along(files: FixedFiles) -> None:
    watched = looking(files, [])
    files |= {"acme": certificate(1), "other": certificate(1)}
    watched.set(tunnels("acme", "other"))
    watched.set(tunnels("other"))
    assert set(watched.expiries) == {"other"}
    watched.changed(InputsChanged("acme"))
    assert set(watched.expiries) == {"other"}


@pytest.mark.parametrize(
    "junk", [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate(junk: bytes) -> None:
    assert list(read(junk)) == []
