"""Each trap of YAML, with its exact text and place."""

from __future__ import annotations

import pytest
import yaml

from common.configuration.problems import Report
from common.configuration.yaml_document import load
from supervisor.config import ConfigErrors
from tests.config.kinds import HEAD, good, problems

SYNTAX = {
    "": ":1:1: the file is empty; see config.example.yaml for how it begins",
    "# nothing\n": ":1:1: the file is empty; see config.example.yaml for how it begins",
    "- a\n- b\n": ":1:1: the file must be a mapping with keys such as staff: and tunnels:",
    "tunnels\n": ":1:1: the file must be a mapping with keys such as staff: and tunnels:",
    "{}": ":1:1: tunnels is missing: the tunnels to run, by name",
    "tunnels:\n": ":1:1: tunnels: has no value; write {} for none",
    "tunnels: []\n": ":1:1: tunnels: a group of settings is expected here",
    "tunnels:\n\tacme: {}\n": ":2:1: YAML does not allow tabs for indentation; use spaces",
    "tunnels:\n  a:\n   \tkind: wire\n": ":3:4: YAML does not allow tabs for indentation; use spaces",
    "tunnels: {}\nhttp: {listen: [::1]:9464}\n": ":2:17: not YAML: a text that begins with [ must be "
    'quoted, as in "[::1]:9464"',
    "on_exit: @keep\n": ":1:10: not YAML: a text that begins with @ must be quoted",
    "tunnels:{}\nhttp: {}": ":2:5: not YAML: a blank must follow the colon after a key",
    "tunnels: {a: 1\n": ":2:1: not YAML: a comma or } is missing; the { stands in line 1",
    "tunnels: {}\nstaff: {networks: [10.8.0.0/16, 10.9.0.0/16\n": ":3:1: not YAML: a comma or ] is "
    "missing; the [ stands in line 2",
    "tunnels: {}\nstaff: ]\n": ":2:8: not YAML: this ] closes nothing",
    "tunnels: {}\non_exit: 'keep\n": ":3:1: not YAML: the quote from line 2 has no end",
    "on_exit: keep: all\n": ":1:14: not YAML: a colon with a blank after it cannot stand here; check "
    "indentation and quotes",
    "tunnels: {}\n- a\n": ":2:1: not YAML: this does not fit what stands before it; check indentation, "
    "colons and quotes",
    "a: 1\n---\nb: 2\n": ":2:1: a second document begins here (---); a configuration is one document",
    "a: \x07\n": ":1:4: this is not readable text (character U+0007); save the file as UTF-8",
    'tunnels: {}\naudit: {file: "a\\0b"}\n': ":2:15: audit.file: holds the character U+0000, which is not "
    "readable text",
    "ok: 1\nname: caf\udce9\n": ":2:10: this is not readable text (character U+DCE9); save the file as UTF-8",
    "#" * 1_000_001: ":1:1: the file is larger than 1 MB",
    "a: *b\n": ":1:4: a: an alias without an anchor; a text that begins with * must be quoted",
    "a: &b [*b]\n": ":1:8: a.0: an alias inside of what it stands for",
    "? [a]\n: b\n": ":1:3: a key must be a plain word; quote a text that begins with one of [ { * &",
    "a: " + "[" * 100_000: ":1:33: a.0.0: nested deeper than 30 levels",
    "- " * 100_000: ":1:61: 0.0.0: nested deeper than 30 levels",
}


@pytest.mark.parametrize(("text", "expected"), SYNTAX.items(), ids=[repr(text[:24]) for text in SYNTAX])
def test_what_cannot_be_read(text: str, expected: str) -> None:
    assert problems(text) == [f"c.yaml{expected}"]


ENTRY = {
    # a text is wanted
    "description: no": "18: tunnels.acme.description: no is read as the boolean false by YAML; quote it: "
    '"no"',
    "description: Off": "18: tunnels.acme.description: Off is read as the boolean false by YAML; quote "
    'it: "Off"',
    "description: true": '18: tunnels.acme.description: true is read as a boolean by YAML; quote it: "true"',
    "description: 10:30": "18: tunnels.acme.description: 10:30 is read as the number 630 by YAML; quote "
    'it: "10:30"',
    "description: 012": '18: tunnels.acme.description: 012 is read as the number 10 by YAML; quote it: "012"',
    "description: 1_000": "18: tunnels.acme.description: 1_000 is read as the number 1000 by YAML; quote "
    'it: "1_000"',
    "description: 0x1f": "18: tunnels.acme.description: 0x1f is read as the number 31 by YAML; quote it: "
    '"0x1f"',
    "description: 3.10": "18: tunnels.acme.description: 3.10 is read as the number 3.1 by YAML; quote it: "
    '"3.10"',
    "description: .inf": "18: tunnels.acme.description: .inf is read as the number inf by YAML; quote it: "
    '".inf"',
    "description: 7": '18: tunnels.acme.description: 7 is read as a number by YAML; quote it: "7"',
    "description: 2026-01-01": "18: tunnels.acme.description: 2026-01-01 is read as a date by YAML; quote "
    'it: "2026-01-01"',
    "description:": "5: tunnels.acme.description: has no value; a text is expected",
    "description: [a]": "5: tunnels.acme.description: a text is expected here, not a list",
    "description: {a: b}": "5: tunnels.acme.description: a text is expected here, not a group of settings",
    "description: !!binary aGk=": "18: tunnels.acme.description: tags are not supported; a text that "
    "begins with ! must be quoted",
    # a number is wanted
    "priority: 010": "15: tunnels.acme.priority: a whole number is expected here; 010 is read as the number "
    "8 by YAML",
    "priority: yes": "15: tunnels.acme.priority: a whole number is expected here; yes is read as the "
    "boolean true by YAML",
    "priority: '5'": "15: tunnels.acme.priority: a whole number is expected here, not the text '5'",
    "priority: 1.5": "15: tunnels.acme.priority: a whole number is expected here; 1.5 is read as the number "
    "1.5 by YAML",
    "priority: 65536": "15: tunnels.acme.priority: must be at most 65535",
    "mtu: 100": "10: tunnels.acme.mtu: must be at least 576",
    # a choice is wanted
    "alert: {severity: critcal}": "23: tunnels.acme.alert.severity: 'critcal' is none of critical, error, "
    "warning, info (did you mean critical?)",
    "alert: {severity: off}": "23: tunnels.acme.alert.severity: one of critical, error, warning, info is "
    "expected here; off is read as the boolean false by YAML",
    "login: {reconnect_on_change: maybe}": "34: tunnels.acme.login.reconnect_on_change: true or false is "
    "expected here, not the text 'maybe'",
    # a group or a list is wanted
    "probe: 5s": "12: tunnels.acme.probe: a group of settings is expected here, not the text '5s'",
    "probe:": "5: tunnels.acme.probe: has no value; a group of settings is expected",
    "probe: {targets: tcp://10.77.0.1:80}": "22: tunnels.acme.probe.targets: a list is expected; write "
    "[tcp://10.77.0.1:80]",
    # durations
    "alert: {after: 5}": "20: tunnels.acme.alert.after: 5 is not a duration; "
    "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d (probably 5s)",
    "alert: {after: 5 min}": "20: tunnels.acme.alert.after: '5 min' is not a duration; "
    "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d (probably 5m)",
    "alert: {after: 10:30}": "20: tunnels.acme.alert.after: 10:30 is read as the number 630 by YAML; "
    "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d",
    "alert: {after: -5s}": "20: tunnels.acme.alert.after: '-5s' is not a duration; "
    "write a number with a unit, such as 250ms, 5s, 2m, 4h or 1d",
    "alert: {after: 9999d}": "20: tunnels.acme.alert.after: '9999d' is longer than ten years",
    "probe: {interval: 0s}": "23: tunnels.acme.probe.interval: must be at least 10ms: anything shorter is "
    "a busy loop",
    "reconnect: {first: 5s, max: 1s}": "5: tunnels.acme.reconnect: max (1s) is shorter than first (5s)",
    # keys
    "descripton: x": "5: tunnels.acme.descripton: unknown key (did you mean description?)",
    "targets: []": "5: tunnels.acme.targets: unknown key (did you mean probe.targets?)",
    "remote: x": "5: tunnels.acme.remote: unknown key (an option of kind pipe)",
    "name: x": "5: tunnels.acme.name: unknown key (the name of a tunnel is its key under tunnels:)",
    "probe: {xyz: 1}": "13: tunnels.acme.probe.xyz: unknown key; known here: degraded, interval, targets, "
    "timeout, traffic",
    "config: b.conf": "5: tunnels.acme.config: this key stands here a second time; the first is in line 5",
    "on: x": '5: tunnels.acme.on: on is read as the boolean true by YAML; quote it: "on"',
    "<<: {mtu: 1400}": "5: tunnels.acme.<<: merge keys are not supported; what tunnels share goes under "
    "defaults:",
    # names
    "device: averyverylongname": "13: tunnels.acme.device: 'averyverylongname' is not an interface name; "
    "at most 15 letters, digits, '_', '.', '-', a letter first",
    "device: lo": "13: tunnels.acme.device: 'lo' belongs to the kernel; choose another name for the interface",
}


@pytest.mark.parametrize(("line", "expected"), ENTRY.items(), ids=ENTRY)
def test_one_wrong_line_in_a_tunnel(line: str, expected: str) -> None:
    assert problems(f"{HEAD}    {line}\n") == [f"c.yaml:7:{expected}"]


@pytest.mark.parametrize("text", SYNTAX, ids=[repr(text[:24]) for text in SYNTAX])
def test_both_parsers_of_yaml_lead_to_the_same_words(text: str) -> None:
    """Their own words and limits differ, from each other and from version to version."""
    assert said(text, yaml.SafeLoader) == said(text, yaml.CSafeLoader)


def said(text: str, loader: type) -> list[str]:
    report = Report("c.yaml")
    load(text, report, loader)
    try:
        report.finish()
    except ConfigErrors as errors:
        return list(map(str, errors))
    return []


def test_a_wrong_escape_is_named() -> None:
    (only,) = problems('tunnels: {}\nname: "a\\q"\n')
    assert only.endswith("not YAML: unknown escape after \\; single quotes take it as it is")


def test_yaml_words_that_are_no_trap_where_they_stand() -> None:
    text = (
        HEAD
        + "    description: 'no'\n    login: {reconnect_on_change: no, username: \"010\"}\n    mtu: 1400\n"
    )
    tunnel = good(text).tunnels["acme"]
    assert (tunnel.description, tunnel.login.reconnect_on_change, tunnel.login.username, tunnel.mtu) == (
        "no",
        False,
        "010",
        1400,
    )


def test_anchors_work_and_a_mistake_in_one_is_reported_once() -> None:
    second = HEAD.replace("10.77.", "10.78.").replace("acme:", "other:").split("tunnels:\n")[1]
    text = f"{HEAD}    probe: &p {{interval: 5}}\n{second}    probe: *p\n"
    assert len(problems(text)) == 1
    assert good(text.replace("5}", "7s}")).tunnels["other"].probe.interval == 7.0


def test_alias_bombs_end_early() -> None:
    layers = "".join(f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 30))
    (only,) = problems(f"bomb:\n  - &l0 [x, x, x]\n{layers}")
    assert only.endswith("aliases bring in more than 20000 values")


def test_a_chain_of_aliases_cannot_nest_deeper_than_text() -> None:
    deep = "[" * 20 + "{}" + "]" * 20
    (only,) = problems(f"a:\n  - &a {deep.format('x')}\n  - &b {deep.format('*a')}\n")
    assert only.endswith("nested deeper than 30 levels")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    assert good("\ufeff" + HEAD.replace("\n", "\r\n")) == good(HEAD)
