"""The shipped rules and dashboard, and what the daemon really exports, for comparing them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from supervisor.core.network.wanted import RouteCounts
from supervisor.core.state import Phase, RecoveryStep
from supervisor.reports.metrics.exporter import Metrics
from supervisor.reports.metrics.series import ScrapeSources
from supervisor.reports.paging.outbox import OutboxStatus
from tests.reports.test_metrics import Use
from tests.reports.worlds import snapshot, transition, up
from tunnels.base import Reason

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES, RULES_TEST, DASHBOARD = (
    MONITORING / name for name in ("rules.yml", "rules_test.yml", "dashboard.json")
)

# What Prometheus adds to every series of ours, and the one series about a scrape that it makes itself.
TARGET = {"job", "instance"}
OF_PROMETHEUS = {"up": set[str]()}

Exported = dict[str, set[str]]  # label names by series name
_SELECTED = re.compile(r"\b((?:facilitator|process)_\w+|up)\b(?!\()(?:\{([^}]*)\})?")


def exposition() -> str:
    """What is scraped from a daemon to which everything has happened."""
    metrics = Metrics(
        "0.1.0",
        1_000_000.0,
        ScrapeSources(
            link_bytes={"t-acme": (1000, 500)}.get,
            usage=lambda tunnel, session: Use() if tunnel == "acme" else None,
            routes=lambda: {"acme": RouteCounts(2, 1)},
            repairs=lambda: {"route": 1},
            pagerduty=OutboxStatus,
            sent_events=lambda: {("trigger", "accepted"): 1},
            log_dropped=lambda: 3,
            members=lambda: {"vpn2": True},
            refused=lambda: {("acme", "support"): 7},
            certificates=lambda: {"acme": 2e9},
            availability=lambda tunnels: {(name, "24h"): 0.5 for name in tunnels},
            history_usable=lambda: True,
            incidents=lambda: ("acme",),
            upgrades=lambda: 1,
            internal_errors=lambda: {"recorder:History": 1},
        ),
    )
    snap = snapshot(acme=up())
    metrics.record(transition(Phase.STARTING, Phase.UP, Reason.CONNECTED), snap)
    metrics.record(
        replace(transition(Phase.UP, Phase.BACKOFF, Reason.PEER_TIMEOUT), rung=RecoveryStep.LOGIN), snap
    )
    return metrics.render(snap, "")[0].decode()


def exported() -> Exported:
    """Every series that a rule or a panel may ask for, with its labels."""
    found: Exported = {name: labels | TARGET for name, labels in OF_PROMETHEUS.items()}
    for family in parse(exposition()):
        for sample in family.samples:
            found.setdefault(sample.name, set(TARGET)).update(sample.labels)
    return found


def unknown(expression: str, known: Exported) -> list[str]:
    """Series of an expression that nobody exports, and labels that a series does not have."""
    problems = []
    for name, selector in _SELECTED.findall(expression):
        labels = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector))
        if name not in known:
            problems.append(name)
        elif labels - known[name]:
            problems.append(f"{name}: {', '.join(sorted(labels - known[name]))}")
    return problems


def mentioned(expression: str) -> set[str]:
    """The series of an expression."""
    return {name for name, _ in _SELECTED.findall(expression)}


def rules() -> list[dict[str, Any]]:
    """All alert rules, as they stand in the file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard's model."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions(model: dict[str, Any]) -> Iterator[str]:
    """Every query of a dashboard: panels, annotations and variables; its variables replaced by what
    Grafana would put there.
    """
    queries = [target["expr"] for panel in model["panels"] for target in panel.get("targets", ())]
    queries += [annotation["expr"] for annotation in model["annotations"]["list"]]
    queries += [
        re.sub(r"label_values\((.*), \w+\)", r"\1", v["definition"])
        for v in model["templating"]["list"]
        if v["type"] == "query"
    ]
    for query in queries:
        yield query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$tunnel", ".*")
