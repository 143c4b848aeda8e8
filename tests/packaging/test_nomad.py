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

JOB = (Path(__file__).parents[2] / "nomad" / "facilitator.nomad.hcl").read_text()

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
    ('delay    = "5s"', 'delay    = "2m"', "do not fit into the interval"),
    ('driver = "raw_exec"', 'driver = "exec"', "only raw_exec"),
    ('kill_signal    = "SIGTERM"', "", "kill_signal must be SIGTERM"),
    ('kill_timeout   = "8h5m"', "", "kill_timeout is shorter"),
    ('kill_timeout   = "8h5m"', 'kill_timeout   = "12h"', "longer than the clients allow"),
    ('kill_timeout   = "8h5m"', 'kill_timeout   = "60"', "kill_timeout is shorter"),
    ("memory_max = 1024", "memory_max = 128", "memory_max is less"),
    (
        'driver = "raw_exec"',
        'driver = "raw_exec"\n      env {\n        PASSWORD = "x"\n      }',
        "environment is inherited",
    ),
    ("trap '' HUP; exec ", "exec ", "SIGHUP during the start"),
    ('command = "/bin/sh"', 'command = "/opt/facilitator/bin/facilitator"', "SIGHUP during the start"),
    ("$NOMAD_SECRETS_DIR/config.yaml", "/etc/facilitator/config.yaml", "does not read the configuration"),
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
        'destination   = "secrets/config.yaml"',
        'destination   = "secrets/facilitator.yaml"',
        "nothing writes secrets/config.yaml",
    ),
    (
        'destination   = "secrets/${template.value}"',
        'destination   = "local/${template.value}"',
        "belongs into secrets/",
    ),
    (
        'destination   = "secrets/${template.value}"',
        'destination   = "secrets/../../${template.value}"',
        "belongs into secrets/",
    ),
    (
        'perms         = "0600"\n        change_mode   = "signal"',
        'change_mode   = "signal"',
        "perms must be 0600",
    ),
    ('splay         = "10s"', 'splay         = "10s"\n        env = true', "env cannot go with"),
    (
        'change_mode   = "signal"\n        change_signal = "SIGHUP"',
        'change_mode   = "restart"',
        "must send SIGHUP",
    ),
    ('          change_signal = "SIGHUP"', '          change_signal = "SIGINT"', "must send SIGHUP"),
    ("shutdown_delay =", "shutdown_dealy =", "shutdown_dealy is not known there"),
    ("max_files     =", "max_fiels     =", "logs: max_fiels is not known there"),
    ("attempts = 10", "attempts = 10\n      retries = 3", "restart: retries is not known there"),
]
# what is replaced, by what, and where the parser must point
UNPARSABLE = [
    ('kill_timeout   = "8h5m"', "kill_timeout   = 8h5m", "Missing newline after argument"),
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
    texts = [JOB, *(_variant(old, new) for old, new, _ in (*BROKEN, *UNPARSABLE))]
    return dict(zip(texts, hcl.parse(texts), strict=True))


def test_hashicorps_parser_accepts_the_job_and_no_rule_complains(parsed: dict[str, Parsed]) -> None:
    job = parsed[JOB]
    assert job.error is None
    assert job.tree is not None
    assert problems(job.tree) == []


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
