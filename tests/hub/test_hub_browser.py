"""Logins in a browser at an identity provider, with real OpenVPN on both ends."""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path

import pytest

from hub.core.api import EndReason
from tests.hub.identity_provider import CLIENT, SECRET, provider_in
from tests.hub.lab import HubLab
from tests.hub.lab_service import PROVIDER_PORT
from tests.hub.test_sidecar import is_up
from tests.lab.wait import NOISE, eventually

pytestmark = pytest.mark.root
_LINK = re.compile(r"WEB_AUTH::(http\S+token=[\w-]+)")


def browse(lab: HubLab, link: str, jar: Path) -> str:
    """Press the button, log in, come back: the last page."""
    where, _, token = link.partition("?token=")
    curl = ("curl", "-sS", "--cookie", str(jar), "--cookie-jar", str(jar), "--max-time", "20")
    sent = lab.outside.run(*curl, "-D", "-", "--data", f"token={token}&number=", where).stdout
    away = re.search(r"(?im)^refresh: 0; url=(\S+)", sent)
    return lab.outside.run(*curl, "-L", away[1]).stdout if away is not None else sent


def test_a_browser_lets_its_person_in_and_a_restarted_server_asks_nobody_again(tmp_path: Path) -> None:
    key = tmp_path / "token.key"
    body = base64.b64encode(secrets.token_bytes(128)).decode()
    begin, end = (f"-----{each} OpenVPN auth-token server key-----" for each in ("BEGIN", "END"))
    key.write_text("\n".join((begin, *(body[at : at + 64] for at in range(0, len(body), 64)), end, "")))
    typed = tmp_path / "typed"
    typed.write_text("olga\nnothing\n")
    typed.chmod(0o600)
    # OpenVPN 2.6 refuses tokens with `reneg-sec 0`; a month is as good.
    options = ("reneg-sec 2592000", "auth-gen-token 43200 600 external-auth", f"auth-gen-token-secret {key}")
    with HubLab(options) as lab, provider_in(lab.outside, PROVIDER_PORT) as provider:
        provider.redirect = lab.service.add_identity_provider(CLIENT, SECRET)
        lab.service.start()
        node = lab.nodes["a"]
        node.start()
        more = ("--auth-user-pass", str(typed), "--auth-nocache")
        deaf = lab.client("olga", ["a"], more)
        deaf.begin()
        eventually(lambda: deaf.ended, 10 * NOISE, "a client without webauth is refused")
        assert "cannot open one" in deaf.said
        assert lab.service.history("olga")[0].reason == EndReason.METHOD_UNUSABLE
        olga = lab.client("olga", ["a"], (*more, "--setenv", "IV_SSO", "webauth"))
        olga.begin()
        eventually(lambda: _LINK.search(olga.said), 10 * NOISE, "the client has a link")
        link = _LINK.findall(olga.said)[-1]
        provider.person = "mallory"
        assert "another person" in browse(lab, link, tmp_path / "mallory")
        provider.person = "olga"
        assert "is approved" in browse(lab, link, tmp_path / "olga")
        is_up(lab, olga)
        assert "not valid" in browse(lab, link, tmp_path / "mallory")
        for log in (node.log, lab.service.log):
            assert link.partition("token=")[2] not in log.read_text()
        # OpenVPN starts anew; the provider is not asked, nor is she.
        provider.answers.clear()
        asked = provider.asked
        node.openvpn.stop()
        node.openvpn.start()
        eventually(lambda: olga.up_count == 2, 20 * NOISE, "her client is back by its token")
        is_up(lab, olga)
        assert len(set(_LINK.findall(olga.said))) == 1
        assert provider.asked == asked
        provider.answers.set()
