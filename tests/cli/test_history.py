"""The history for a person: on terminals of any width, with anything that a client may have said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from supervisor.cli.history_table import history_view, percent
from supervisor.core.views.availability import Standing, StandingChange, Timeline
from supervisor.core.views.history_json import HistoryRows, TunnelHistory, history_document

DAY = 86400.0


def document(text: str = "client ended by signal 9", problem: str | None = None) -> dict[str, Any]:
    line = Timeline()
    for at, what, reason in (
        (0.0, Standing.UP, "healthy"),
        (50_000.0, Standing.DOWN, "killed"),
        (50_007.0, Standing.UP, "healthy"),
    ):
        line.add(StandingChange(at, what, reason))
    line.died(50_000.0, "killed")
    known = {"1h": line.over(DAY - 3600.0, DAY), "24h": line.over(0.0, DAY)}
    session = {
        "tunnel": "acme",
        "id": "688c5675e2ad43e1a76f5ef4b11f75aa",
        "kind": "openvpn",
        "device": "t-acme",
        "port": None,
        "address": "10.78.0.2",
        "peer": "203.0.113.2",
        "started": 0.0,
        "connected": 1.5,
        "ended": 50_000.0,
        "lasted": 50_000.0,
        "reason": "killed",
        "text": text,
        "flows": 17,
        "received": 5264,
        "sent": 84_280_000,
    }
    moved = {
        "at": 50_000.0,
        "tunnel": "acme",
        "session": 1,
        "before": "up",
        "after": "backoff",
        "health": "unknown",
        "standing": "down",
        "reason": "killed",
        "text": text,
        "lasted": 49_999.5,
        "rung": None,
    }
    incident = {
        "name": "acme",
        "severity": "critical",
        "summary": f"tunnel acme is down: {text}",
        "opened": 50_000.0,
        "closed": None,
    }
    rows = HistoryRows([session], [moved], [incident], problem)
    strip = [*[Standing.UP] * 27, Standing.DOWN, *[Standing.UP] * 20]
    told = [TunnelHistory("acme", "openvpn", known, strip), TunnelHistory("new", "sshuttle", {}, [None] * 48)]
    return history_document("vpn1", told, rows, 0.0, 10)


def shown(answer: dict[str, Any], tunnel: str | None, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(history_view(answer, tunnel, width))
    return captured.get()


def test_the_document_has_numbers_and_moments() -> None:
    day = document()["tunnels"][0]["availability"]["24h"]
    assert (day["down_seconds"], day["mttr_seconds"], day["mtbf_seconds"]) == (7.0, 7.0, DAY - 7.0)
    assert (day["failures"], day["healed"], day["by_hand"], day["deaths"]) == (
        1,
        1,
        0,
        {"transient": {"killed": 1}},
    )
    assert document()["tunnels"][0]["outages"] == [
        {
            "began": "1970-01-01T13:53:20Z",
            "ended": "1970-01-01T13:53:27Z",
            "seconds": 7.0,
            "reason": "killed",
            "planned": False,
            "by_hand": False,
        }
    ]
    assert document()["sessions"][0]["ended"] == "1970-01-01T13:53:20Z"


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
@pytest.mark.parametrize("tunnel", [None, "acme"])
def test_it_fits_the_terminal(width: int, tunnel: str | None) -> None:
    lines = shown(document(), tunnel, width).splitlines()
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "99.991 %" in text
    assert "1 killed" in text
    assert ("LAST DAY" in text or "last day" in text) is (width >= 160 or tunnel is not None)
    assert ("events" in text) is (tunnel is not None)
    assert len(lines) < 40


def test_all_of_it_is_there_where_there_is_room() -> None:
    text = shown(document(problem="history.db cannot be written"), "acme", 200)
    for word in (
        "history.db cannot be written",
        "84.3 MB",
        "5.3 kB",
        "13 h 53 min",
        "688c5675",
        "█" * 27 + "▁" + "█" * 20,
        "critical",
    ):
        assert word in text


@given(st.text(max_size=60), st.integers(40, 220), st.sampled_from([None, "acme"]))
def test_whatever_a_client_said_can_be_shown(words: str, width: int, tunnel: str | None) -> None:
    shown(document(words), tunnel, width)


def test_words_that_look_like_markup_are_words() -> None:
    assert "[/red] :warning: [b]" in shown(document("[/red] :warning: [b]"), "acme", 200)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(1.0, "100 %"), (0.9999999, "99.999 %"), (0.0, "0 %"), (0.5, "50 %"), (None, "-"), (1e-9, "0 %")],
)
def test_a_hundred_percent_means_that_nothing_is_missing(ratio: float | None, said: str) -> None:
    assert percent(ratio) == said


def test_a_ratio_waits_for_enough_observed_time_and_since_is_said() -> None:
    line, hour = Timeline(), 3600.0
    line.add(StandingChange(0.0, Standing.DOWN, "no-answer"))
    line.add(StandingChange(60.0, Standing.UP, "healthy"))
    known = {"1h": line.over(0.0, hour), "24h": line.over(hour - DAY, hour)}
    it = history_document(
        "vpn1", [TunnelHistory("acme", "openvpn", known, [None] * 48)], HistoryRows([], [], [], None), 0.0, 10
    )
    windows = it["tunnels"][0]["availability"]
    assert (windows["1h"]["enough"], windows["1h"]["since"]) == (True, None)
    assert (windows["24h"]["enough"], windows["24h"]["since"]) == (False, "1970-01-01T00:00:00Z")
    assert windows["24h"]["ratio"] == pytest.approx(1.0 - 60.0 / hour)
    for tunnel in (None, "acme"):
        text = shown(it, tunnel, 200)
        assert text.count("98.333 %") == 1, "of the hour, and not of the day"
        assert "1970-01-01 00:00" in text
