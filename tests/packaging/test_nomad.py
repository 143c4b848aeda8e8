"""The Nomad job: HashiCorp's parser accepts it, no rule has a complaint, and each rule bites when its part
of the job is broken.

A Nomad agent itself cannot be had here, so nothing of the job is run.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.packaging import hcl, nomad_rules
from tests.packaging.hcl import Parsed
from tests.packaging.nomad_rules import problems

pytestmark = pytest.mark.slow  # `npm ci` may ask a registry

NOMAD = Path(__file__).parents[2] / "nomad"
JOB = (NOMAD / "facilitator.nomad.hcl").read_text()
JOB_1_6 = (NOMAD / "facilitator-1.6.nomad.hcl").read_text()

# what is replaced in the job, by what, and the complaint
BROKEN = [
    ('job "facilitator" {', 'job "other" {\n}\njob "facilitator" {', "exactly one job"),
    ('type        = "system"', 'type        = "service"', "must be of type system"),
    ('datacenters = ["*"]', "datacenters = []", "datacenters is empty"),
    ('datacenters = ["*"]', 'datacenters = ["*"]\n  periodic {\n    crons = ["@daily"]\n  }', "periodic"),
    (
        'datacenters = ["*"]',
        'datacenters = ["*"]\n  affinity {\n    attribute = "a"\n  }',
        "job: a system job may not have affinity",
    ),
    (
        'mode = "host"',
        'mode = "host"\n    }\n    spread {\n      attribute = "a"',
        "group: a system job may not have spread",
    ),
    (
        'mode = "host"',
        'mode = "host"\n    }\n    reschedule {\n      unlimited = true',
        "group: a system job may not have reschedule",
    ),
    ('group "facilitator" {', 'group "facilitator" {\n    count = 2', "count is at most 1"),
    ('value     = "facilitator"', 'value     = "web"', "constraint on meta.role"),
    ("max_parallel     = 1", "max_parallel     = 2", "restart at the same time"),
    ('health_check     = "checks"', 'health_check     = "check"', "health_check is"),
    ('healthy_deadline = "5m"', 'healthy_deadline = "10m"', "does not hold"),
    ('min_healthy_time = "30s"', 'min_healthy_time = "6m"', "does not hold"),
    ('mode     = "delay"', 'mode     = "fail"', "only mode delay"),
    ('delay    = "1s"', 'delay    = "2m"', "do not fit into the interval"),
    ('delay    = "1s"', 'delay    = "5s"', "nobody supervises the clients"),
    ("disconnect {", "meta {", "a lost contact ends every tunnel"),
    ("disconnect {", 'max_client_disconnect = "24h"\n    disconnect {', "does not go with disconnect"),
    ("replace    = false", "replace    = true", "would run beside the daemon"),
    ('reconcile  = "keep_original"', 'reconcile  = "keep_both"', "reconcile is one of"),
    ('reconcile  = "keep_original"', 'reconcile  = "keep_replacement"', "reconcile must be keep_original"),
    ('lost_after = "24h"', 'lost_after = "10m"', "the host is called lost"),
    ("replace    = false", 'stop_on_client_after = "1m"\n      replace = false', "when the servers are away"),
    ('">= 1.8.0"', '">= 1.2.0"', "does not fit the blocks that are used"),
    ("identity {\n        file = true", "meta {\n        file = true", "takes an update for a stop"),
    ("file = true", 'file = true\n        change_mode = "restart"', "must not signal or restart the task"),
    (
        'kill_signal  = "SIGTERM"',
        'kill_signal  = "SIGTERM"\n      shutdown_delay = "5s"',
        "without a daemon, for a load balancer",
    ),
    ('driver = "raw_exec"', 'driver = "exec"', "only raw_exec"),
    ('kill_signal  = "SIGTERM"', "", "kill_signal must be SIGTERM"),
    ('kill_timeout = "8h5m"', "", "kill_timeout is shorter"),
    ('kill_timeout = "8h5m"', 'kill_timeout = "12h"', "longer than the clients allow"),
    ('kill_timeout = "8h5m"', 'kill_timeout = "60"', "kill_timeout is shorter"),
    ("memory_max = 1024", "memory_max = 128", "memory_max is less"),
    (
        'driver = "raw_exec"',
        'driver = "raw_exec"\n      env {\n        PASSWORD = "x"\n      }',
        "environment is inherited",
    ),
    ('command = "/opt/facilitator/bin/facilitator"', 'command = "/bin/sh"', "a shell in between"),
    ('"--watch", ', "", "its configuration has changed"),
    ("${NOMAD_SECRETS_DIR}/config.yaml", "/etc/facilitator/config.yaml", "does not read the configuration"),
    ('provider = "nomad"', 'provider = "zookeeper"', "provider is nomad or consul"),
    ('name     = "facilitator"', 'name     = "facilitator_vpn"', "not a DNS label"),
    ('port     = "http"', 'port     = "https"', "no such label"),
    ('tags     = ["metrics", ', "tags     = [", "by the tag metrics"),
    ('      check {\n        name     = "ready"', '      meta {\n        name     = "ready"', "no check"),
    ('path     = "/readyz"', 'path     = "/"', "GET /readyz"),
    ('type     = "http"', 'type     = "grpc"', "GET /readyz"),
    ('timeout  = "2s"', 'timeout  = "500ms"', "at least 1s"),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        check_restart {\n          limit = 3\n        }',
        "check_restart",
    ),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        on_update = "ignore_warnings"',
        "on_update = ignore_warnings needs Consul",
    ),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        address_mode = "driver"',
        "address_mode = driver needs Consul",
    ),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        success_before_passing = 2',
        "success_before_passing needs Consul",
    ),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        failures_before_critical = 2',
        "failures_before_critical needs Consul",
    ),
    (
        'timeout  = "2s"',
        'timeout  = "2s"\n        failures_before_warning = 2',
        "failures_before_warning needs Consul",
    ),
    ('timeout  = "2s"', 'timeout  = "2s"\n        tls_server_name = "a"', "tls_server_name needs Consul"),
    (
        'destination = "secrets/config.yaml"',
        'destination = "secrets/facilitator.yaml"',
        "nothing writes secrets/config.yaml",
    ),
    (
        'destination = "secrets/${template.value}"',
        'destination = "local/${template.value}"',
        "belongs into secrets/",
    ),
    (
        'destination = "secrets/${template.value}"',
        'destination = "secrets/../../${template.value}"',
        "belongs into secrets/",
    ),
    ('perms       = "0600"\n        change_mode = "noop"', 'change_mode = "noop"', "perms must be 0600"),
    (
        'change_mode = "noop"',
        'change_mode = "noop"\n        env = true',
        "children would inherit the environment",
    ),
    ('change_mode = "noop"', 'change_mode = "restart"', "must not restart or signal"),
    (
        'change_mode = "noop"',
        'change_mode = "signal"\n        change_signal = "SIGHUP"',
        "must not restart or signal",
    ),
    ("kill_timeout =", "kill_timeoot =", "kill_timeoot is not known there"),
    ("max_files     =", "max_fiels     =", "logs: max_fiels is not known there"),
    ("attempts = 100", "attempts = 100\n      retries = 3", "restart: retries is not known there"),
]
# what is replaced, by what, and where the parser must point
UNPARSABLE = [
    ('kill_timeout = "8h5m"', "kill_timeout = 8h5m", "Missing newline after argument"),
    ('type        = "system"', 'type        = "system"\n  type        = "system"', "Attribute redefined"),
    ('driver = "raw_exec"', 'driver = "raw_exec" user = "root"', "Missing newline after argument"),
    ("max_file_size = 20\n      }", "max_file_size = 20\n", "Unclosed configuration block"),
]


@pytest.fixture(scope="module")
def parsed() -> dict[str, Parsed]:
    """The job and all its variants, by text: the parser is started once."""
    reason = hcl.unavailable()
    if reason is not None:
        pytest.skip(reason)
    texts = [JOB, JOB_1_6, *(_variant(old, new) for old, new, _ in (*BROKEN, *UNPARSABLE))]
    return dict(zip(texts, hcl.parse(texts), strict=True))


@pytest.mark.parametrize("text", [JOB, JOB_1_6], ids=["1.8", "1.6"])
def test_hashicorps_parser_accepts_the_job_and_no_rule_complains(
    parsed: dict[str, Parsed], text: str
) -> None:
    job = parsed[text]
    assert job.error is None
    assert job.tree is not None
    assert problems(job.tree) == []


def test_the_two_jobs_differ_in_what_the_versions_know_only() -> None:
    lines = {text: {line.strip() for line in text.splitlines() if line.strip()} for text in (JOB, JOB_1_6)}
    only = {line for line in lines[JOB] ^ lines[JOB_1_6] if not line.startswith("#")}
    assert only == {
        "disconnect {",
        'lost_after = "24h"',
        "replace    = false",
        'reconcile  = "keep_original"',
        'max_client_disconnect = "24h"',
        'value     = ">= 1.8.0"',
        'value     = ">= 1.6.0, < 1.8.0"',
    }


@pytest.mark.parametrize(("old", "new", "complaint"), BROKEN)
def test_each_rule_bites(parsed: dict[str, Parsed], old: str, new: str, complaint: str) -> None:
    variant = parsed[_variant(old, new)]
    assert variant.error is None, "the variant is meant to be well-formed"
    assert variant.tree is not None
    found = problems(variant.tree)
    assert any(complaint in problem for problem in found), found


def test_no_rule_is_left_unbroken() -> None:
    """Each sentence that a rule can say is expected of some broken job."""
    source = ast.parse(Path(nomad_rules.__file__).read_text())
    texts = [node for node in ast.walk(source) if isinstance(node, ast.Yield | ast.YieldFrom)]
    constants = [
        [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
        for node in texts
    ]
    sentences = [parts for parts in constants if any(" " in part for part in parts)]
    assert len(sentences) > 20
    unbroken = [
        parts for parts in sentences if not any(_among(complaint, parts) for _, _, complaint in BROKEN)
    ]
    assert unbroken == []


def _among(complaint: str, parts: list[str]) -> bool:
    """The complaint is part of this sentence, or the sentence's longest piece is part of the complaint."""
    return any(complaint in part for part in parts) or max(parts, key=len).strip(": ") in complaint


@pytest.mark.parametrize(("old", "new", "complaint"), UNPARSABLE)
def test_the_parser_is_a_real_one(parsed: dict[str, Parsed], old: str, new: str, complaint: str) -> None:
    error = parsed[_variant(old, new)].error
    assert error is not None
    assert complaint in error
    assert "job.hcl:" in error


def _variant(old: str, new: str) -> str:
    assert old in JOB, f"the job has no {old!r} to break"
    return JOB.replace(old, new, 1)
