"""The status table on terminals of any width, with anything that a client may say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from supervisor.cli.status_table import status_view


def document(**fields: Any) -> dict[str, Any]:
    entry = {
        "name": "a-customer-with-a-name-of-31-ch",
        "kind": "openvpn",
        "phase": "up",
        "health": "healthy",
        "reason": "healthy",
        "since": "2026-01-01T00:00:00Z",
        "carries": ["10.77.0.0/24", "fd00:77::/64"],
        "probe_rtt_seconds": 0.002,
        "reconnects": 12,
        "session": {"address": "10.78.0.2", "peer": "203.0.113.2"},
        "next_attempt": None,
        "asks": None,
        "waits_for_code": None,
        "not_retried": None,
        "last_error": None,
        "drain": None,
    }
    return {
        "facilitator": "lab",
        "started": "2026-01-01T00:00:00Z",
        "closed_since": "2026-01-01T00:00:00Z",
        "draining": False,
        "tunnels": [entry | fields],
    }


def shown(status: dict[str, Any], width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(status_view(status, width))
    return captured.get()


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_no_column_is_squeezed_into_single_letters(width: int) -> None:
    failed = document(
        phase="failed",
        last_error="missing-input: config: cannot read /etc/facilitator/acme.ovpn: No such file or directory",
    )
    text = shown(failed, width)
    lines = text.splitlines()
    assert len(lines) < 20
    assert all(len(line) <= width for line in lines)
    for column in ("TUNNEL", "STATE", "FOR", "CARRIES", "WHY"):
        assert column in lines[2]
    assert ("RECONNECTS" in lines[2]) == (width >= 160)
    assert failed["tunnels"][0]["name"] in text


@given(st.text(max_size=60), st.integers(40, 220))
def test_whatever_a_client_said_can_be_shown(words: str, width: int) -> None:
    shown(document(phase="failed", last_error=f"exited: {words}"), width)


def test_words_that_look_like_markup_are_words() -> None:
    assert "[/red] :warning: [b]" in shown(document(phase="failed", last_error="[/red] :warning: [b]"), 200)


def test_what_a_tunnel_waits_for_stands_in_its_row() -> None:
    drain = {
        "reason": "stopped",
        "flows_left": 1,
        "longest_idle_seconds": 75.2,
        "until": "2026-01-01T08:00:00Z",
    }
    text = shown(document(drain=drain), 200)
    assert "up, healthy, draining" in text
    assert "1 flow left, silent for at most 1 min 15 s" in text
    assert "draining" in shown(
        document(drain=drain | {"flows_left": None}, phase="backoff", health="unknown"), 200
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"degraded": "6 of the last 24 unanswered"}, ("up, degraded", "6 of the last 24 unanswered")),
        (
            {"health": "unhealthy", "leg": "destination", "last_error": "destination: nothing answers"},
            ("up, unhealthy", "destination dead: destination: nothing answers"),
        ),
        (
            {"phase": "backoff", "health": "unknown", "leg": "endpoint", "last_error": "network: no"},
            ("endpoint dead: network: no",),
        ),
    ],
)
def test_the_dead_leg_and_bad_quality_are_told(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    text = shown(document(**fields), 220)
    assert all(word in text for word in words), text
