"""A real openfortivpn against a double of a FortiGate: TLS and every login. Where PPP begins it ends: this
kernel may have none.

With FACILITATOR_RECORD in the environment the transcripts are written anew.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from supervisor.config.validation import validated
from tests.lab.fortigate import PORT, FortiGate
from tests.lab.name_server import LabNameServer
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD
from tests.netns import Namespace, link
from tests.tunnels.driver import ClientRun
from tunnels.base import Failed, Placement, Question, Reason, Wanted
from tunnels.kinds.openfortivpn.kind import OPENFORTIVPN, OpenFortiVpn

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("openfortivpn", path="/usr/bin:/usr/sbin") is None, reason="openfortivpn is missing"
    ),
]

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "openfortivpn"
CLIENT, SERVER = "198.18.3.1", "198.18.3.2"
# a /dev of our own, in which PPP seems to be there: what follows the login ends with the first word to the
# kernel
PRETEND = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    """
  set -e; mount -t tmpfs tmpfs /mnt; mkdir /mnt/pts /mnt/net
  for node in null ppp; do mknod -m 666 /mnt/$node c 1 3; done
  for node in urandom:9 random:8; do mknod -m 666 /mnt/${node%:*} c 1 ${node#*:}; done
  ln -s pts/ptmx /mnt/ptmx; mount -t devpts -o newinstance,ptmxmode=0666 devpts /mnt/pts; mount --move /mnt /dev; exec "$@"
""",
    "sh",
)


class FortinetSite:
    """A gateway, and us."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client, self.server = Namespace("forti-client"), Namespace("forti-server")
        link(self.client, "wan", self.server, "wan")
        # no network of its own: getaddrinfo would put addresses in it first (RFC 6724, rule 9)
        self.client.run("ip", "address", "add", f"{CLIENT}/32", "dev", "wan")
        self.client.run("ip", "route", "add", f"{SERVER}/32", "dev", "wan")
        self.server.run("ip", "address", "add", f"{SERVER}/30", "dev", "wan")
        self.gateway = FortiGate(self.server, directory, Authority(directory), IPv4Address(SERVER))
        self.gateway.start()
        self._runs = 0

    def close(self) -> None:
        self.client.remove()
        self.server.remove()

    def run(
        self,
        password: str = PASSWORD,
        *,
        digest: str | None = None,
        server: str = f"{SERVER}:{PORT}",
        ppp: bool = True,
    ) -> ClientRun:
        self._runs += 1
        place = Placement(self.directory / f"run-{self._runs}", "t-forti", 0, sys.executable)
        place.directory.mkdir(mode=0o700)
        tunnel = validated(
            OpenFortiVpn,
            {
                "name": "acme",
                "kind": "openfortivpn",
                "destinations": ["10.77.0.0/24"],
                "server": server,
                "trusted_certificate": digest or self.gateway.digest,
                "login": {"username": "svc-facilitator", "password": {"file": "password"}},
            },
        )
        return ClientRun(
            OPENFORTIVPN,
            tunnel,
            place,
            {"password": password.encode()},
            self.client,
            *(PRETEND if ppp else ()),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FortinetSite]:
    site = FortinetSite(tmp_path_factory.mktemp("forti"))
    yield site
    site.close()


def ended(run: ClientRun, name: str) -> Failed:
    """Its failure, after its end; recorded if wanted."""
    try:
        failed = run.failed()
        run.to_end()
    finally:
        run.stop()
    if "FACILITATOR_RECORD" in os.environ:
        TRANSCRIPTS.mkdir(exist_ok=True)
        (TRANSCRIPTS / f"{name}.txt").write_text("".join(f"{line}\n" for line in run.transcript))
    return failed


def test_a_certificate_that_nobody_vouches_for(site: FortinetSite) -> None:
    failed = ended(site.run(digest="0" * 64), "untrusted")
    assert (failed.reason, site.gateway.digest in failed.text) == (Reason.CERTIFICATE, True)
    assert site.gateway.seen == []


def test_a_wrong_password(site: FortinetSite) -> None:
    before = len(site.gateway.seen)
    assert ended(site.run("wrong"), "password-refused").reason is Reason.AUTH
    assert site.gateway.seen[before:] == ["refused"]


@pytest.mark.parametrize(
    ("code", "name", "verdict", "reasons"),
    [
        ("123456", "pppd-fails", "accepted", {Reason.MISSING_BINARY, Reason.LOCAL}),
        ("000000", "code-refused", "refused", {Reason.AUTH}),
    ],
)
def test_a_code_is_asked_for(
    site: FortinetSite, code: str, name: str, verdict: str, reasons: set[Reason]
) -> None:
    """A right one leads as far as it goes without PPP: to pppd, which has only been pretended a /dev/ppp."""
    before = len(site.gateway.seen)
    run = site.run("with a code")
    question = run.asked()
    assert question == Question(Wanted.CODE, "Two-factor authentication token: ")
    run.answer(code)
    assert ended(run, name).reason in reasons
    assert site.gateway.seen[before:][:2] == ["asked", verdict]
    assert not [line for line in site.gateway.seen if line.startswith("wrong")]


def test_without_ppp_nobody_logs_in(site: FortinetSite) -> None:
    if Path("/dev/ppp").exists():
        pytest.skip("this host has /dev/ppp")
    before = len(site.gateway.seen)
    failed = ended(site.run(ppp=False), "no-ppp-device")
    assert (failed.reason, "openconnect" in failed.text) == (Reason.MISSING_BINARY, True)
    assert len(site.gateway.seen) == before


@pytest.mark.parametrize(
    ("server", "name", "reason"),
    [(f"{SERVER}:9", "closed", Reason.NETWORK), ("gateway.invalid", "no-name", Reason.DNS)],
)
def test_a_gateway_that_cannot_be_reached(site: FortinetSite, server: str, name: str, reason: Reason) -> None:
    assert ended(site.run(server=server), name).reason is reason


def test_the_first_addresses_of_the_name_may_be_dead(site: FortinetSite, tmp_path: Path) -> None:
    """openfortivpn would try only the first one. The certificate is known by its digest."""
    site.client.run("ip", "route", "add", "203.0.113.0/24", "via", SERVER)  # which passes nothing on
    before = len(site.gateway.seen)
    with LabNameServer(site.client, tmp_path) as resolver:
        resolver.set("vpn.acme.example", *(f"203.0.113.{number}" for number in range(1, 8)), SERVER)
        run = site.run("wrong", server=f"vpn.acme.example:{PORT}")
        try:
            assert run.failed(30).reason is Reason.AUTH
        finally:
            run.stop()
    assert site.gateway.seen[before:] == ["refused"]
