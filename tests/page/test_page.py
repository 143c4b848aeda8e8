"""The status page as a function of its document: it is complete without JavaScript, and nothing that a
stranger says becomes part of it.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.control.charts import bars, curves, day_in_words, misses
from supervisor.control.page import content_security_policy, piece_id, pieces, render_page, templates, verdict
from tests.page.sample_pages import bad_night, down, tunnel, with_tunnels

VOID = {"meta", "link", "br", "rect", "polyline"}
HOSTILE = (
    "</style></script><script>alert(1)</script><img src=x onerror=\"alert('2')\">&lt;b&gt;\u202e\x1b[31m"
)


class PageTree(HTMLParser):
    """Elements in order; refuses what is not properly closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute stands twice: {tag} {attrs}"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def test_everything_that_one_must_know_stands_there_without_javascript() -> None:
    words = PageTree(render_page(bad_night())).words
    for said in (
        "vpn1-eu-west-1",
        "2 of 8 up",
        "4 need attention",
        "1 degraded",
        "1 stopped",
        "destination dead",
        "degraded",
        "tunnel delta-logistics needs attention",
        "our certificate for acme-dc",
        "ACME's Frankfurt data centre · openvpn",
        "10.77.0.0/24, 100.64.0.0/16",
        "3 h 20 min old (10.78.0.2, fac-acme-dc)",
        "facilitator answer cascade",
        "Enter the code from your token:",
        "facilitator start delta-logistics",
        "Next attempt in 48 s",
        "97.13 % available",
        "1.2 MB/s",
        "AUTH_FAILED: the server refuses the password",
    ):
        assert said in words, said


def test_what_needs_attention_comes_first() -> None:
    names = re.findall(r'<h3 id="name-([a-z-]+)"', render_page(bad_night()))
    assert names == [
        "borealis",
        "cascade",
        "delta-logistics",
        "umbrella",
        "wayne-tower",
        "acme-dc",
        "own-cloud",
        "zephyr",
    ]


def test_no_element_has_the_name_of_another_and_all_pieces_can_be_found() -> None:
    page = bad_night()
    ids = [attributes["id"] for _, attributes in PageTree(render_page(page)).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for key, piece in pieces(page).items():
        assert piece.id == piece_id(key)
        assert piece.id in ids
        assert PageTree(piece.html()).elements[0][1]["id"] == piece.id, (
            "a piece replaces the element of its id"
        )


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    text = render_page(bad_night())
    for element in ("style", "script"):
        inside = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
        assert len(inside) == 1
        checksum = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{checksum}'" in content_security_policy()
    assert content_security_policy().startswith("default-src 'none'; ")
    assert "unsafe" not in content_security_policy()
    for tag, attributes in PageTree(text).elements:
        assert not {"style", "src"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag


def poisoned(value: Any, poison: str) -> Any:
    """The same with something hostile in every text that a stranger can influence."""
    if isinstance(value, dict):
        kept = (
            "phase",
            "health",
            "since",
            "started",
            "closed_since",
            "silent_since",
            "until",
            "at",
            "next_attempt",
            "name",
            "severity",
            "wanted",
            "last_day",
        )
        return {key: each if key in kept else poisoned(each, poison) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, poison) for each in value]
    return value + poison if isinstance(value, str) else value


def test_hostile_text_stays_text() -> None:
    clean, hostile = PageTree(render_page(bad_night())), PageTree(render_page(poisoned(bad_night(), HOSTILE)))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in clean.elements], (
        "no element more, no element less"
    )
    assert [sorted(attributes) for _, attributes in hostile.elements] == [
        sorted(attributes) for _, attributes in clean.elements
    ]
    assert hostile.text.count("<script>alert(1)</script>") > 20


@given(st.text())
def test_whatever_is_said_stays_text(said: str) -> None:
    deaths = [{"at": "2026-09-21T12:00:00Z", "reason": said, "text": said}]
    acme = down("acme", description=said, last_error=said, deaths=deaths)
    clean = with_tunnels(bad_night(), [poisoned(acme, "x")])
    assert len(PageTree(render_page(with_tunnels(bad_night(), [acme]))).elements) == len(
        PageTree(render_page(clean)).elements
    )


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({}, "good"),
        ({"health": "unknown"}, "good"),
        ({"health": "unhealthy"}, "bad"),
        ({"phase": "starting"}, "wait"),
        ({"phase": "stopping"}, "wait"),
        ({"phase": "backoff"}, "bad"),
        ({"phase": "failed"}, "bad"),
        ({"phase": "stopped"}, "off"),
        ({"health": "unhealthy", "leg": "destination"}, "bad"),
        ({"degraded": "9 of 24 unanswered"}, "wait"),
        (
            {"phase": "starting", "asks": {"wanted": "code", "text": "?", "until": "2026-01-01T00:00:00Z"}},
            "bad",
        ),
    ],
)
def test_one_word_says_what_to_think_of_a_tunnel(said: dict[str, Any], kind: str) -> None:
    assert verdict(tunnel("acme", **said)).kind == kind


def test_measures_change_without_the_tunnel() -> None:
    before, after = bad_night(), copy.deepcopy(bad_night())
    after["measures"]["acme-dc"]["rtts"][-1] = 0.2
    known = pieces(before)
    changed = [key for key, piece in pieces(after).items() if known[key].value != piece.value]
    assert changed == [("measures", "acme-dc")]


def test_nothing_configured_is_a_page_too() -> None:
    assert "None is configured." in PageTree(render_page(with_tunnels(bad_night(), []))).words


def test_what_was_down_once_is_not_a_hundred_percent() -> None:
    acme = tunnel("acme", availability={"ratio": 0.99999, "last_day": []})
    assert "99.99 % available" in PageTree(render_page(with_tunnels(bad_night(), [acme]))).words


# --- pictures
# ----------------------------------------------------------------------------------------------------------


def chart(name: str, *values: object) -> str:
    """A macro of charts.html."""
    return str(getattr(templates().get_template("charts.html").module, name)(*values))


def rects(svg: str) -> Iterator[tuple[str, float, float]]:
    for what, x, width in re.findall(r'<rect class="(\w+)" x="([\d.-]+)" y="[\d.]+" width="([\d.]+)"', svg):
        yield what, float(x), float(width)


@given(st.lists(st.sampled_from(["up", "down", "degraded", "unwatched", "stopped", None]), max_size=96))
def test_the_strip_shows_each_part_of_the_day(slots: list[str | None]) -> None:
    shown: list[str | None] = [None] * len(slots)
    for what, x, width in rects(chart("day", slots)):
        shown[int(x) : int(x + width)] = [what] * int(width)
    assert shown == slots
    assert all(bar.y + bar.height == 20 for bar in bars(slots))
    PageTree(chart("day", slots))


def test_the_strip_is_told_in_words() -> None:
    assert (
        day_in_words(["up"] * 90 + ["down"] * 2 + ["up"] * 4)
        == "Last 24 hours: down at times in 30 min 0 s, 1 h 0 min ago"
    )
    assert day_in_words([None, "up"]) == "Last 24 hours: up in all 12 h 0 min that are known"
    assert day_in_words([]) == "Last 24 hours: nothing is known yet"
    assert day_in_words(["up", "down"] * 20).endswith("and 15 times before")


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=1, max_size=60))
def test_the_curve_stays_inside_of_its_field(rtts: list[float | None]) -> None:
    svg = chart("latency", rtts, 300.0)
    PageTree(svg)
    points = [
        tuple(map(float, point.split(",")))
        for points in re.findall(r'points="([^"]*)"', svg)
        for point in points.split()
    ]
    assert all(0 <= x <= len(rtts) - 1 and 0 <= y <= 20 for x, y in points)
    assert {x for x, _ in points} == {float(x) for x, rtt in enumerate(rtts) if rtt is not None}
    assert len(list(rects(svg))) == len(misses(rtts)) == rtts.count(None)
    assert svg.count("<polyline") == len(curves(rtts))


def test_a_drain_is_shown_with_what_it_waits_for() -> None:
    page = bad_night()
    drain = {
        "reason": "shutdown",
        "flows_left": 3,
        "longest_idle_seconds": 12.0,
        "until": "2026-01-01T08:00:00Z",
    }
    page["tunnels"][0]["drain"] = drain
    page["draining"] = True
    words = PageTree(render_page(page)).words
    assert "3 flows left, silent for at most 12 s" in words
    assert "accepts no new flows" in words
