"""What a Nomad server would refuse, and what it would accept to our harm, read from a parsed job.

The HCL parser knows syntax only: a job with `on_update = "ignore_warnings"` parses well and is then refused
by the server. The rules are those of Nomad's own validation (nomad/structs) that our job could meet, and the
decisions of docs/deployment.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Block = dict[str, Any]
Rule = Callable[[Block], Iterator[str]]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DRAIN = 8 * 3600.0  # drain.timeout, unless the configuration says otherwise
_RECONCILE = ("best_score", "keep_original", "keep_replacement", "longest_running")
_LOST_AFTER = 3600.0  # seconds
_MAX_KILL_TIMEOUT = 9 * 3600.0  # what docs/deployment.md makes the clients allow

# The arguments and blocks that Nomad knows at each place (of those that make sense here).
_KNOWN = {
    "job": "type datacenters node_pool namespace region priority all_at_once meta constraint update group "
    "affinity spread reschedule periodic",
    "group": "count constraint meta restart network service task update shutdown_delay affinity spread "
    "reschedule disconnect max_client_disconnect",
    "task": "driver user config env meta constraint template dynamic resources logs restart service vault "
    "identity artifact "
    "kill_signal kill_timeout shutdown_delay leader affinity",
    "update": "max_parallel stagger health_check min_healthy_time healthy_deadline progress_deadline "
    "auto_revert canary auto_promote",
    "disconnect": "lost_after replace reconcile stop_on_client_after",
    "identity": "name aud change_mode change_signal env file ttl filepath",
    "constraint": "attribute operator value",
    "restart": "interval attempts delay mode render_templates",
    "network": "mode port dns hostname",
    "service": "name provider port tags canary_tags check check_restart on_update address address_mode "
    "meta task",
    "check": "name type path port method protocol interval timeout header body tls_skip_verify "
    "address_mode initial_status check_restart "
    "on_update success_before_passing failures_before_critical failures_before_warning tls_server_name",
    "template": "data source destination perms uid gid change_mode change_signal change_script splay env "
    "once error_on_missing_key "
    "left_delimiter right_delimiter wait vault_grace",
    "resources": "cpu cores memory memory_max device",
    "logs": "max_files max_file_size disabled",
}
_CONSUL_ONLY = (
    "success_before_passing",
    "failures_before_critical",
    "failures_before_warning",
    "tls_server_name",
)


def problems(tree: Block) -> list[str]:
    """Everything that is wrong with the job, one sentence each."""
    jobs = [job for labelled in tree.get("job", {}).values() for job in labelled]
    if len(jobs) != 1:
        return ["a job file holds exactly one job"]
    return [problem for rule in _RULES for problem in rule(jobs[0])]


def _known_keys(job: Block) -> Iterator[str]:
    for kind, block in _all_blocks(job):
        for key in sorted(set(block) - set(_KNOWN[kind].split())):
            yield f"{kind}: {key} is not known there"


def _system_job(job: Block) -> Iterator[str]:
    if job.get("type") != "system":
        yield "the job must be of type system: one facilitator on every marked host"
    if not job.get("datacenters"):
        yield "datacenters is empty"
    if "periodic" in job:
        yield "only a batch job may be periodic"
    for kind, block in _all_blocks(job):
        for key in sorted({"affinity", "spread", "reschedule"} & set(block)):
            yield f"{kind}: a system job may not have {key}"
        if kind == "group" and block.get("count", 1) > 1:
            yield "a system job's count is at most 1"


def _placement(job: Block) -> Iterator[str]:
    if {"attribute": "${meta.role}", "value": "facilitator"} not in job.get("constraint", []):
        yield "without the constraint on meta.role it would run on every client"


def _update(job: Block) -> Iterator[str]:
    for update in job.get("update", []):
        if update.get("max_parallel") != 1:
            yield "update: two facilitators must never restart at the same time"
        if update.get("health_check") not in ("checks", "task_states", "manual"):
            yield "update: health_check is checks, task_states or manual"
        steady, healthy = (
            _seconds(update.get("min_healthy_time", "10s")),
            _seconds(update.get("healthy_deadline", "5m")),
        )
        progress = _seconds(update.get("progress_deadline", "10m"))
        if not steady < healthy < progress:
            yield (
                "update: min_healthy_time < healthy_deadline < progress_deadline (default 10m) does not hold"
            )


def _restart(job: Block) -> Iterator[str]:
    for group in _groups(job):
        restart = _only(group, "restart")
        if restart.get("mode") != "delay":
            yield "restart: only mode delay keeps trying; fail leaves the host without tunnels"
        if _seconds(restart.get("delay", "15s")) > 1:
            yield "restart: until the next daemon runs nobody supervises the clients; the delay is 1s"
        if _seconds(restart.get("interval", "0s")) <= _seconds(restart.get("delay", "0s")) * restart.get(
            "attempts", 0
        ):
            yield "restart: so many attempts with such a delay do not fit into the interval"


def _task(job: Block) -> Iterator[str]:
    for task in _tasks(job):
        if task.get("driver") != "raw_exec":
            yield "task: only raw_exec gives the rights and the VPN clients of the host"
        if task.get("kill_signal") != "SIGTERM":
            yield "task: kill_signal must be SIGTERM; Nomad's default is SIGINT"
        if not _DRAIN + 30 <= _seconds(task.get("kill_timeout", "5s")) <= _MAX_KILL_TIMEOUT:
            yield (
                "task: kill_timeout is shorter than a drain and a proper stop, or longer than the "
                "clients allow"
            )
        resources = _only(task, "resources")
        if resources.get("memory_max", 0) < resources.get("memory", 0):
            yield "resources: memory_max is less than memory"
        if "env" in task:
            yield "task: the environment is inherited by every VPN client; give files"


def _command(job: Block) -> Iterator[str]:
    for task in _tasks(job):
        config = _only(task, "config")
        if config.get("command", "").endswith("/sh"):
            yield "config: a shell in between gets the signals that are meant for the daemon"
        args = config.get("args", [])
        if "run" not in args or "--watch" not in args:
            yield "config: without --watch nobody tells the daemon that its configuration has changed"
        if args[-2:] != ["-c", "${NOMAD_SECRETS_DIR}/config.yaml"]:
            yield "config: the daemon does not read the configuration that the template writes"


def _stop(job: Block) -> Iterator[str]:
    """What the daemon needs to know why it ends, and what must not delay it."""
    for task in _tasks(job):
        identity = _only(task, "identity")
        if not (identity.get("file") or identity.get("env")):
            yield "task: without an identity the daemon cannot ask why it is ended, and takes an update for a stop"
        if identity.get("change_mode", "noop") != "noop":
            yield "identity: a renewed token must not signal or restart the task"
    for kind, block in _all_blocks(job):
        if "shutdown_delay" in block:
            yield f"{kind}: shutdown_delay leaves the host without a daemon, for a load balancer that is not there"


def _contact(job: Block) -> Iterator[str]:
    """A lost contact between client and servers changes nothing."""
    for group in _groups(job):
        disconnect, old = _only(group, "disconnect"), group.get("max_client_disconnect")
        if not disconnect and old is None:
            yield "group: without disconnect a lost contact ends every tunnel on the host"
        if disconnect and old is not None:
            yield "group: max_client_disconnect does not go with disconnect"
        if disconnect and disconnect.get("replace", True):
            yield "disconnect: a replacement would run beside the daemon that goes on"
        if disconnect.get("reconcile", "keep_original") not in _RECONCILE:
            yield f"disconnect: reconcile is one of {', '.join(_RECONCILE)}"
        elif disconnect.get("reconcile", "best_score") != "keep_original" and disconnect:
            yield "disconnect: reconcile must be keep_original"
        lasts = old if old is not None else disconnect.get("lost_after", "24h")
        if _seconds(lasts) < _LOST_AFTER:
            yield "disconnect: after less than an hour the host is called lost"
        if "stop_on_client_after" in disconnect:
            yield "disconnect: stop_on_client_after ends every tunnel when the servers are away"


def _versions(job: Block) -> Iterator[str]:
    """Agents that do not know a block refuse it or, worse, ignore it."""
    wanted = {
        c.get("value") for c in job.get("constraint", []) if c.get("attribute") == "${attr.nomad.version}"
    }
    new = any("disconnect" in group for group in _groups(job))
    if wanted != ({">= 1.8.0"} if new else {">= 1.6.0, < 1.8.0"}):
        yield "constraint: the version of Nomad does not fit the blocks that are used (disconnect: 1.8)"


def _service(job: Block) -> Iterator[str]:
    for group in _groups(job):
        ports = {label for network in group.get("network", []) for label in network.get("port", {})}
        for service in group.get("service", []):
            yield from _one_service(service, ports)


def _one_service(service: Block, ports: set[str]) -> Iterator[str]:
    if service.get("provider") not in ("nomad", "consul"):
        yield "service: provider is nomad or consul"
    if not re.fullmatch(r"(?i)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", service.get("name", "")):
        yield "service: the name is not a DNS label"
    if service.get("port") not in ports:
        yield "service: its port has no such label in network"
    if "metrics" not in service.get("tags", []):
        yield "service: Prometheus finds it by the tag metrics"
    if not service.get("check"):
        yield "service: no check, so an update cannot tell whether the new daemon works"
    for check in service.get("check", []):
        yield from _check(check, service)


def _check(check: Block, service: Block) -> Iterator[str]:
    if (check.get("type"), check.get("path")) != ("http", "/readyz"):
        yield "check: readiness of the daemon is GET /readyz"
    if min(_seconds(check.get("interval", "0s")), _seconds(check.get("timeout", "0s"))) < 1:
        yield "check: interval and timeout are at least 1s"
    if "check_restart" in check or "check_restart" in service:
        yield "check: check_restart would restart every tunnel"
    if service.get("provider") == "nomad":
        if {check.get("on_update"), service.get("on_update")} & {"ignore_warnings"}:
            yield "check: on_update = ignore_warnings needs Consul"
        if check.get("address_mode") == "driver":
            yield "check: address_mode = driver needs Consul"
        yield from (f"check: {key} needs Consul" for key in _CONSUL_ONLY if key in check)


def _templates(job: Block) -> Iterator[str]:
    for task in _tasks(job):
        templates = list(_template_blocks(task))
        if not any(template.get("destination") == "secrets/config.yaml" for template in templates):
            yield "template: nothing writes secrets/config.yaml"
        for template in templates:
            yield from _template(template)


def _template(template: Block) -> Iterator[str]:
    destination = template.get("destination", "")
    if not destination.startswith("secrets/") or ".." in destination:
        yield f"template {destination}: belongs into secrets/, which is kept in memory"
    if template.get("perms") != "0600":
        yield f"template {destination}: perms must be 0600"
    if template.get("env"):
        yield f"template {destination}: children would inherit the environment"
    if template.get("change_mode") != "noop":
        yield f"template {destination}: a change must not restart or signal the task (change_mode noop)"


_RULES: tuple[Rule, ...] = (
    _known_keys,
    _system_job,
    _placement,
    _update,
    _restart,
    _task,
    _command,
    _stop,
    _contact,
    _versions,
    _service,
    _templates,
)


def _groups(job: Block) -> list[Block]:
    return [group for labelled in job.get("group", {}).values() for group in labelled]


def _tasks(job: Block) -> list[Block]:
    return [
        task for group in _groups(job) for labelled in group.get("task", {}).values() for task in labelled
    ]


def _template_blocks(task: Block) -> Iterator[Block]:
    """Templates written out, and the contents of `dynamic "template"`."""
    yield from task.get("template", [])
    for dynamic in task.get("dynamic", {}).get("template", []):
        yield from dynamic.get("content", [])


def _only(parent: Block, kind: str) -> Block:
    """The one block of that kind; empty when there is none."""
    blocks: list[Block] = parent.get(kind, [])
    return blocks[0] if blocks else {}


def _all_blocks(job: Block) -> Iterator[tuple[str, Block]]:
    """Every block whose arguments we know, with its kind."""
    yield "job", job
    for kind in ("update", "constraint"):
        yield from ((kind, block) for block in job.get(kind, []))
    for group in _groups(job):
        yield "group", group
        for kind in ("restart", "network", "service", "disconnect"):
            yield from ((kind, block) for block in group.get(kind, []))
        for service in group.get("service", []):
            yield from (("check", check) for check in service.get("check", []))
    for task in _tasks(job):
        yield "task", task
        for kind in ("resources", "logs", "restart", "identity"):
            yield from ((kind, block) for block in task.get(kind, []))
        yield from (("template", template) for template in _template_blocks(task))


def _seconds(duration: str) -> float:
    """A Go duration such as 1m30s; -1 for anything else."""
    if not re.fullmatch(r"(\d+(ms|s|m|h))+", duration):
        return -1.0
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smh])", duration))
