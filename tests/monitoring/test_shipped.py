"""The rules, their tests and the dashboard: right by Prometheus' own tools, and about series that the
daemon really exports.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.shipped import (
    DASHBOARD,
    MONITORING,
    RULES,
    RULES_TEST,
    dashboard,
    exported,
    exposition,
    expressions,
    mentioned,
    rules,
    unknown,
)

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
DOCUMENT = MONITORING.parent / "docs" / "monitoring.md"
PANELS = {"row", "stat", "table", "timeseries", "state-timeline"}
LABELLED = re.compile(r"\$labels\.(\w+)")


def promtool(*arguments: str, given: str | None = None, directory: Path = MONITORING) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, cwd=directory, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def named(rule: dict[str, Any]) -> str:
    return str(rule["alert"])


# --- what promtool thinks ---


@pytest.mark.slow
@needs_promtool
@pytest.mark.parametrize(
    "arguments", [("check", "rules", RULES.name), ("test", "rules", RULES_TEST.name)], ids=" ".join
)
def test_promtool_is_content_with_the_rules(arguments: tuple[str, ...]) -> None:
    code, said = promtool(*arguments)
    assert code == 0, said


@needs_promtool
def test_promtool_is_content_with_the_metrics() -> None:
    assert promtool("check", "metrics", given=exposition()) == (0, "")


@pytest.mark.slow
@needs_promtool
def test_a_rule_that_never_fires_would_be_noticed(tmp_path: Path) -> None:
    """All at once: promtool names each alert that was expected and did not come."""
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for each in group["rules"]:
            each["expr"] = "vector(0) > 1"
    (tmp_path / RULES.name).write_text(yaml.safe_dump(document))
    shutil.copy(RULES_TEST, tmp_path)
    code, said = promtool("test", "rules", RULES_TEST.name, directory=tmp_path)
    assert code == 1
    missed = set(re.findall(r"alertname(?:: |=\\?\")(\w+)", said))
    assert missed == {rule["alert"] for rule in rules()}


@needs_promtool
def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [
        {"record": f"query:{number}", "expr": query} for number, query in enumerate(expressions(dashboard()))
    ]
    (tmp_path / "queries.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]})
    )
    code, said = promtool("check", "rules", "queries.yml", directory=tmp_path)
    assert code == 0, said


# --- what is really there ---


@pytest.mark.parametrize("rule", rules(), ids=named)
def test_a_rule_asks_for_what_the_daemon_exports(rule: dict[str, Any]) -> None:
    known = exported()
    assert mentioned(rule["expr"])
    assert unknown(rule["expr"], known) == []
    labels = set().union(*(known[name] for name in mentioned(rule["expr"])))
    assert set(LABELLED.findall(str(rule["annotations"]))) <= labels


def test_the_dashboard_asks_for_what_the_daemon_exports() -> None:
    known = exported()
    assert [problem for query in expressions(dashboard()) for problem in unknown(query, known)] == []


def test_what_nobody_exports_is_noticed() -> None:
    known = exported()
    assert unknown('rate(facilitator_tunnel_bytes{tunnel="a"}[5m])', known) == ["facilitator_tunnel_bytes"]
    assert unknown('facilitator_tunnel_up{phase="up"} and up == 1', known) == ["facilitator_tunnel_up: phase"]


def test_every_rule_is_silent_in_a_quiet_night() -> None:
    """What no rule's test shows otherwise: the last of them has all series that the rules ask for, and
    nothing fires in it.
    """
    night = yaml.safe_load(RULES_TEST.read_text())["tests"][-1]
    assert night["promql_expr_test"][0]["exp_samples"] == []
    there = {series["series"].partition("{")[0] for series in night["input_series"]}
    appears_when_needed = {
        "facilitator_tunnel_recoveries_total",
        "facilitator_tunnel_reconnects_total",
        "facilitator_internal_errors_total",
    }
    assert set().union(*(mentioned(rule["expr"]) for rule in rules())) - appears_when_needed <= there


# --- what a tired engineer reads ---


@pytest.mark.parametrize("rule", rules(), ids=named)
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Facilitator")
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"]["about"] in ("tunnel", "daemon")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert len(rule["annotations"]["summary"]) <= 120
    assert not rule["annotations"]["summary"].endswith(".")


def test_the_document_explains_every_alert_and_no_other() -> None:
    explained = re.findall(r"^\| `(Facilitator\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(map(named, rules()))


# --- the dashboard's model ---


def test_the_dashboard_can_be_imported() -> None:
    model = dashboard()
    assert model["id"] is None  # Grafana gives it one
    assert model["uid"]
    assert model["title"]
    assert model["schemaVersion"] >= 36  # data sources are objects
    ids = [panel["id"] for panel in model["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in model["templating"]["list"]} | {"__rate_interval"}
    assert (
        set(re.findall(r"\$\{?(\w+)", json.dumps([p.get("targets") for p in model["panels"]]))) <= variables
    )
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(model["panels"]))
    assert set(sources) == {"${datasource}"}


@pytest.mark.parametrize("panel", dashboard()["panels"], ids=lambda panel: str(panel["title"]))
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    assert panel["type"] in PANELS
    place = panel["gridPos"]
    assert place["x"] >= 0
    assert place["x"] + place["w"] <= 24
    if panel["type"] != "row":
        assert panel["description"].endswith(".")
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
        assert all(target["expr"] for target in panel["targets"])


def test_panels_do_not_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        return {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }

    overlapping = [
        (a["title"], b["title"]) for a, b in combinations(dashboard()["panels"], 2) if cells(a) & cells(b)
    ]
    assert overlapping == []


def test_the_dashboard_is_kept_as_a_person_can_compare_it() -> None:
    assert DASHBOARD.read_text() == json.dumps(dashboard(), indent=1, ensure_ascii=True) + "\n"
