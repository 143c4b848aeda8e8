"""Every query of the dashboard against a real Prometheus that holds a quarter of an hour of a bad day, in
which each of them has an answer: also those that are empty on a healthy host.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.lab.wait import eventually
from tests.monitoring.shipped import dashboard, exposition, expressions

PROGRAMS = ("prometheus", "promtool")
pytestmark = pytest.mark.skipif(
    any(shutil.which(program) is None for program in PROGRAMS),
    reason=f"not installed: {' or '.join(PROGRAMS)}",
)

BEGAN = 1_767_225_600  # Unix time of the first sample
STEP_SECONDS = 15
STEPS = 60
RESTARTED, RELOADED = 12, 40  # steps at which the daemon started again, and read its configuration
GROWING = ("_total", "_bucket", "_count", "_sum")


def history() -> str:
    """OpenMetrics with time stamps: the series of a daemon to which everything has happened, and counters
    that grow.
    """
    lines = []
    for family in parse(exposition()):
        for sample in family.samples:
            labels = sample.labels | {"job": "facilitator", "instance": "vpn1:9464"}
            series = (
                f"{sample.name}{{{','.join(f'{key}={json.dumps(text)}' for key, text in labels.items())}}}"
            )
            lines += [
                f"{series} {_value(sample.name, sample.value, step)} {BEGAN + step * STEP_SECONDS}"
                for step in range(STEPS)
            ]
    return "\n".join((*lines, "# EOF", ""))


def _value(name: str, value: float, step: int) -> float:
    if name == "process_start_time_seconds":
        return value + (step >= RESTARTED)
    if name == "facilitator_config_last_reload_success_timestamp_seconds":
        return value + (step >= RESTARTED) + (step >= RELOADED)
    return value + step if name.endswith(GROWING) else value


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that holds it and scrapes nothing."""
    (tmp_path / "history").write_text(history())
    (tmp_path / "empty.yml").write_text("{}")
    made = subprocess.run(
        ("promtool", "tsdb", "create-blocks-from", "openmetrics", "history", "series"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = (
        "prometheus",
        f"--config.file={tmp_path}/empty.yml",
        f"--storage.tsdb.path={tmp_path}/series",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: _ready(address), 30, "Prometheus is ready")
        yield address
    finally:
        process.kill()
        process.wait()


def _ready(address: str) -> bool:
    try:
        with urlopen(f"{address}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _series(address: str, query: str) -> int:
    """How many series the query has in that time."""
    asked = {"query": query, "start": BEGAN, "end": BEGAN + STEPS * STEP_SECONDS, "step": STEP_SECONDS}
    with urlopen(f"{address}/api/v1/query_range?{urlencode(asked)}", timeout=30) as answer:
        return len(json.load(answer)["data"]["result"])


def test_every_query_of_the_dashboard_has_an_answer(prometheus: str) -> None:
    queries = list(expressions(dashboard()))
    assert [query for query in queries if not _series(prometheus, query)] == []
    assert _series(prometheus, "facilitator_tunnel_up > 1") == 0  # an empty answer would be noticed
