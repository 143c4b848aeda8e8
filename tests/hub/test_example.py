"""The example configuration is one that is accepted, and the text of what is wrong names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.configuration.problems import ConfigErrors
from hub.config.model import AdminSettings, SessionsSettings
from hub.config.reading import HubSettings, section
from hub.config.sidecar import SidecarSettings

EXAMPLE = Path(__file__).parents[2] / "examples/facilitator-hub.yaml"
GROUPS = {"sessions": SessionsSettings, "sidecar": SidecarSettings, "admin": AdminSettings}


@pytest.mark.parametrize("key", GROUPS)
def test_the_example_is_valid(key: str) -> None:
    found = section(EXAMPLE.read_text(), "/etc/facilitator-hub/config.yaml", key, GROUPS[key])
    assert isinstance(found, HubSettings)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "quarantine: 10m",
            "quarantine: 10",
            "config.yaml:17:17: sessions.addresses.quarantine: 10 is not a duration",
        ),
        ("quarantine:", "quarantene:", "unknown key (did you mean quarantine?)"),
        ("timeout: 90s", "timeout: 10s", "timeout must be 60s to 180s"),
        ("{file: notifier-key}", "s3cret", "a secret is never written here"),
        ("sqlite:////var", "sqlite://var", "write sqlite:///PATH"),
        ("[CN=ops]", "[ops]", "is not the subject of a certificate"),
        (
            "default: totp",
            "default: totpp",
            "'totpp' is none of certificate, totp, notification, oidc (did you mean totp?)",
        ),
        ("\nsessions:", "\nsesions:", "unknown key (did you mean sessions?)"),
        ("  pages:", "  #", "login.notification needs `pages`"),
        ("listen: 0.0.0.0:8443", "x: 1", "listen is missing"),
    ],
)
def test_a_mistake_is_told_with_its_place(before: str, after: str, said: str) -> None:
    text = EXAMPLE.read_text()
    assert before in text
    with pytest.raises(ConfigErrors) as caught:
        section(text.replace(before, after, 1), "config.yaml", "sessions", SessionsSettings)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
