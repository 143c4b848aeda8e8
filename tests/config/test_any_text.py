"""Whatever stands in the file: a configuration or ConfigErrors, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.quantities import parse_duration
from supervisor.config import ConfigErrors
from supervisor.config.parse import parse
from tests.config.kinds import HEAD, KINDS
from tunnels.targets import parse_target
from tunnels.text import clean

FRAGMENTS = (
    "tunnels:",
    "defaults:",
    "staff:",
    "networks:",
    "destinations:",
    "kind: wire",
    "kind:",
    "config: c",
    "login:",
    "password:",
    "probe:",
    "targets:",
    "acme:",
    "http: {listen: ",
    "alerts:",
    "reconnect: {first: ",
    "10.77.0.0/24",
    "no",
    "10:30",
    "012",
    "1_000",
    "3.10",
    "2026-01-01",
    "0x",
    "0b_",
    "-.inf",
    "~",
    "*a",
    "&a ",
    "!x ",
    "<<: ",
    "? ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "'",
    '"',
    "|\n",
    ">\n",
    "#",
    "\t",
    "---\n",
    "...",
    "%YAML 1.1\n",
    "tcp://[::1]:80",
    "[::1]:9464",
    "5s",
    "é",
    "\u2028",
    "\x85",
    "\x00",
    "\ud800",
    '"\\n"',
    '"\\e[31m"',
)
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
words = st.one_of(
    st.sampled_from(FRAGMENTS), st.text(max_size=8), st.none(), st.booleans(), st.integers(), st.floats()
)
keys = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        (
            "kind",
            "config",
            "destinations",
            "network",
            "presented_as",
            "login",
            "password",
            "totp",
            "file",
            "env",
            "probe",
            "targets",
            "interval",
            "reconnect",
            "planned",
            "every",
            "window",
            "allow",
            "segment",
            "ports",
            "device",
            "mtu",
            "priority",
            "alert",
            "name",
            "remote",
        )
    ),
)
values: st.SearchStrategy[Any] = st.recursive(
    words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4)
)


def survives(text: str) -> None:
    """A configuration comes out, or problems that are in order, inside of the file and fit for a terminal."""
    try:
        parse(text, "c.yaml", KINDS)
        return
    except ConfigErrors as errors:
        problems = errors.problems
    assert problems
    assert list(problems) == sorted(problems, key=lambda problem: problem.position)
    lines = len(text.splitlines()) + 1
    assert all(1 <= problem.position.line <= lines and str(problem).isprintable() for problem in problems)


@given(texts)
@settings(max_examples=150, deadline=None)
def test_any_text(text: str) -> None:
    survives(text)


@given(texts)
@settings(max_examples=80, deadline=None)
def test_any_text_inside_of_a_tunnel(text: str) -> None:
    survives(HEAD + "    login: " + text)


sections = st.sampled_from(("tunnels", "defaults", "staff", "http", "alerts", "facilitator", "drain", "x"))


@given(st.dictionaries(sections, values, max_size=4))
@settings(max_examples=80, deadline=None)
def test_any_structure(value: Any) -> None:
    survives(json.dumps(value))


@pytest.mark.slow
@given(st.dictionaries(keys, values, max_size=5), st.dictionaries(keys, values, max_size=3))
@settings(max_examples=150, deadline=None)
def test_any_tunnel(tunnel: Any, defaults: Any) -> None:
    survives(json.dumps({"tunnels": {"acme": {"kind": "wire", **tunnel}}, "defaults": defaults}))


durations = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 300), st.sampled_from(("s", "m", "h")))
names = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
tunnels: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"kind": st.just("pipe"), "remote": st.text(st.characters(categories=("L",)), min_size=1, max_size=10)},
    optional={
        "description": st.text(st.characters(categories=("L", "N", "P", "Zs"))),
        "priority": st.integers(0, 65535),
        "probe": st.fixed_dictionaries({}, optional={"interval": durations, "timeout": durations}),
        "alert": st.fixed_dictionaries(
            {}, optional={"after": durations, "severity": st.sampled_from(("critical", "info"))}
        ),
        "identity": st.one_of(st.just({"file": "k"}), st.just({"env": "K"})),
    },
)


@given(st.dictionaries(names, tunnels, max_size=5))
@settings(max_examples=50, deadline=None)
def test_right_configurations_are_accepted(entries: dict[str, dict[str, Any]]) -> None:
    for number, entry in enumerate(entries.values()):
        entry["destinations"] = [f"10.{number}.0.0/16"]
    config = parse(
        json.dumps({"staff": {"networks": ["192.168.0.0/16"]}, "tunnels": entries}, ensure_ascii=False),
        "c.yaml",
        KINDS,
    )
    assert list(config.tunnels) == list(entries)
    for name, entry in entries.items():
        tunnel = config.tunnels[name]
        assert (tunnel.description, tunnel.priority) == (
            clean(entry.get("description", "")),
            entry.get("priority", 100),
        )
        if "interval" in entry.get("probe", {}):
            assert tunnel.probe.interval == parse_duration(entry["probe"]["interval"])


pieces = st.sampled_from(
    ("tcp", "icmp", "http", "://", "10.0.0.1", ":", "80", "[", "]", "/", "::1", "%", "é")
)


@given(st.one_of(st.text(), st.lists(pieces).map("".join)))
@settings(max_examples=150)
def test_any_probe_target(text: str) -> None:
    try:
        target = parse_target(text)
    except ValueError:
        return
    assert (target.port is None) == (target.scheme == "icmp")
