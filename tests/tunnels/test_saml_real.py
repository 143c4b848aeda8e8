"""A login by browser with the real openconnect, against a double of a Cisco ASA (ocserv has no SAML)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.lab.servers import Server
from tests.tunnels import saml_double
from tests.tunnels.driver import ClientRun
from tests.tunnels.openconnect_lab import SERVER, OpenConnectLab, laboratory
from tunnels.base import Keep, Reason, Wanted

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[OpenConnectLab]:
    with laboratory() as made:
        yield made


@pytest.fixture
def double(lab: OpenConnectLab) -> Iterator[Server]:
    identity = lab.authority.issue("vpn.example.net", "serverAuth")
    argv = (sys.executable, saml_double.__file__, SERVER, str(identity.certificate), str(identity.key))
    server = Server(lab.server, lab.directory, "saml", argv, saml_double.READY)
    server.start()
    yield server
    server.stop()


def browsed(lab: OpenConnectLab, address: str) -> str:
    """Where a browser ends that opens this address."""
    words = ("curl", "-sk", "-o", "/dev/null", "-w", "%{redirect_url}", address)
    return lab.client.run(*words).stdout


def login_address(run: ClientRun) -> str:
    asked = run.asked()
    assert asked.wanted is Wanted.TEXT
    return next(word for word in asked.text.split() if word.startswith("https://"))


def test_a_person_logs_in_with_a_browser(lab: OpenConnectLab, double: Server) -> None:
    lab.client.run("ip", "link", "set", "lo", "up")
    run = lab.run(server_certificate=pin(lab), useragent="AnyConnect", os="win", usergroup="staff")
    try:
        address = login_address(run)
        assert address == f"https://{SERVER}/+CSCOE+/saml/sp/login?ctx=42"
        run.answer("123456")
        again = run.asked()
        assert again.text.startswith("that was not the address at which the browser ended; log in with a")
        run.answer(browsed(lab, address))
        run.pump(lambda: any(isinstance(each, Keep) and each.secret for each in run.observations))
        kept = next(each.secret for each in run.observations if isinstance(each, Keep))
        assert saml_double.SESSION in kept
        failed = run.failed()  # the double lets nobody in
    finally:
        run.stop()
    assert failed.reason is Reason.FAR_END_FULL, failed
    log = double.log.read_text()
    assert "/staff init win {'User-Agent': 'AnyConnect'" in log
    assert "auth-reply" in log


def test_an_old_answer_is_not_taken(lab: OpenConnectLab, double: Server) -> None:
    """A token that was encrypted for an earlier login."""
    first = lab.run(server_certificate=pin(lab))
    end = browsed(lab, login_address(first))
    first.stop()
    second = lab.run(server_certificate=pin(lab))
    try:
        login_address(second)
        second.answer(end)
        failed = second.failed()
    finally:
        second.stop()
    assert failed.reason is Reason.AUTH
    assert failed.text.startswith("the browser's token is not for this login; log in again (")


def pin(lab: OpenConnectLab) -> str:
    """The key of the server that answers, as openconnect names it."""
    found = lab.client.run("openconnect", "--authenticate", "--non-inter", SERVER, check=False)
    return next(word for word in found.stderr.split() if word.startswith("pin-sha256:"))
