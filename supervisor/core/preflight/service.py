"""Preflight checks: the systemd unit or Nomad task that runs the daemon. Does it restart it, and give it time
to end?
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.preflight.facts import HostFacts, Unit
from supervisor.core.preflight.finding import Finding, info, ok, problem, warning

CLOSED_UNIT = "facilitator-closed.service"
_LOG_OFF_SECONDS = 20.0  # that the end of the clients may take
_NOMAD_MARGIN_SECONDS = 300.0  # that Nomad should grant beyond the drain
_NOMAD_DEFAULT_SECONDS = 30.0  # of max_kill_timeout
_RESTARTING = ("on-failure", "on-abnormal", "always")
_SPAN = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)(us|ms|s|min|m|h|d|w)")
_UNITS: Mapping[str, float] = MappingProxyType(
    {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
)
_KILLS: Mapping[str, str] = MappingProxyType(
    {
        "mixed": "a crash of the daemon, and every `systemctl restart`, ends all clients",
        "none": "nothing is stopped, neither the daemon nor its clients",
        "control-group": "the clients are ended together with the daemon, before it can drain them or log "
        "them off, and by each of its crashes",
    }
)


def nomad(facts: HostFacts) -> Iterator[Finding]:
    """Does Nomad say why it ends the task, and wait for the drain? Do the clients outlive the task?

    The task's own kill_timeout cannot be seen from inside.
    """
    found = facts.service
    if found.client_group is not None:
        text = (
            f"clients get no control group of their own ({found.client_group}): a kill of the task ends them"
        )
        yield warning(
            "service", text, "run the daemon as root, with a cgroup file system that it can write to"
        )
    if not found.nomad:
        return
    if found.task_api is not None:
        text = f"a restart or a new version of the job is taken for a stop: {found.task_api}"
        yield warning("service", text, found.task_api_remedy or "docs/deployment.md, Nomad")
    else:
        yield ok("service", "Nomad's task API says why it ends the task")
    wanted = span(facts.requirements.drain + _NOMAD_MARGIN_SECONDS)
    hint = (
        f'kill_timeout = "{wanted}" in the task and client {{ max_kill_timeout = "{wanted}" }} in '
        f"/etc/nomad.d, then restart the agent"
    )
    longest = found.max_kill_timeout
    if longest is None:
        text = (
            "Nomad stops the daemon; its client's max_kill_timeout (30s unless raised; not visible "
            "from here) shortens kill_timeout"
        )
        yield info("service", text, hint)
    elif (
        _NOMAD_DEFAULT_SECONDS if not longest else seconds(longest)
    ) < facts.requirements.drain + _LOG_OFF_SECONDS:
        text = (
            f"Nomad's client has max_kill_timeout {longest or '30s (its default)'}, drain.timeout is "
            f"{span(facts.requirements.drain)}: "
            "Nomad kills the daemon and every client before the drain may be over"
        )
        yield warning("service", text, f"{hint}; or a shorter drain.timeout")
    else:
        yield ok(
            "service",
            f"Nomad's client lets a task have {longest} for its end (the task's kill_timeout must say so "
            f"too)",
        )


def unit(facts: HostFacts) -> Iterator[Finding]:
    """Does the unit that systemd has loaded keep the tunnels up?"""
    found = facts.service.unit
    if found is None:
        return
    wrong = [
        finding
        for judge in (_kind, _killing, _restarting, _watching, _bus)
        for finding in judge(found, facts)
    ]
    yield from wrong
    if not wrong:
        text = (
            f"systemd starts it again ({found.restart}), watches it ({found.watchdog}), and leaves its "
            f"clients to it (KillMode=process)"
        )
        yield ok("service", text)
    yield from _credentials(found, facts)


def closed(facts: HostFacts) -> Iterator[Finding]:
    """Is the host closed before its network is up, whether or not a daemon starts?"""
    found = facts.service.closed
    if found is None:
        return
    enable = f"systemctl enable {CLOSED_UNIT}"
    if not found.loaded:
        text = f"{CLOSED_UNIT} is missing: from boot until the daemon is ready, destinations are open"
        yield warning("service", text, "make install   # on a Nomad host: make install NOMAD=1")
    elif not found.enabled:
        text = f"{CLOSED_UNIT} is not enabled: from boot until the daemon is ready, destinations are open"
        yield warning("service", text, enable)
    elif found.failed:
        text = f"{CLOSED_UNIT} has failed: the host was not closed at boot"
        yield warning("service", text, f"journalctl -u {CLOSED_UNIT}; systemctl restart {CLOSED_UNIT}")
    elif found.closed_at is None:
        text = f"{CLOSED_UNIT} is enabled and has not run since this boot"
        yield info("service", text, f"systemctl start {CLOSED_UNIT}   # at the next boot it runs by itself")
    elif found.network_at is not None and found.closed_at > found.network_at:
        late = found.closed_at - found.network_at
        text = (
            f"{CLOSED_UNIT} ran {late:.1f} s after the network was begun with: so long destinations were open"
        )
        yield warning(
            "service", text, f"systemctl cat {CLOSED_UNIT}   # Before=network-pre.target; a drop-in?"
        )
    else:
        yield ok("service", f"{CLOSED_UNIT} had closed the host before its network was begun with")


def _kind(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    if found.type not in ("notify", "notify-reload"):
        text = (
            f"the unit has Type={found.type}: systemd does not hear when the daemon is ready, and "
            f"cannot be asked for time to drain"
        )
        yield warning("service", text, _drop_in("Type=notify"))
        if seconds(found.stop_timeout) < facts.requirements.drain:
            text = (
                f"systemd kills the daemon after {found.stop_timeout}, drain.timeout is "
                f"{span(facts.requirements.drain)}"
            )
            yield warning(
                "service",
                text,
                _drop_in(f"TimeoutStopSec={math.ceil(facts.requirements.drain + _LOG_OFF_SECONDS)}"),
            )


def _killing(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    if found.kill_mode != "process":
        text = f"the unit has KillMode={found.kill_mode}: {_KILLS.get(found.kill_mode, '')}"
        yield warning("service", text, _drop_in("KillMode=process"))
    elif found.preserved == "no":
        text = (
            "the unit has RuntimeDirectoryPreserve=no: the journal by which the next daemon adopts the "
            "clients is lost with the daemon"
        )
        yield warning("service", text, _drop_in("RuntimeDirectoryPreserve=yes"))
    if seconds(found.stop_timeout) < _LOG_OFF_SECONDS:
        text = (
            f"systemd kills the daemon {found.stop_timeout} after it asked it to stop; to log its "
            f"clients off it may need {_LOG_OFF_SECONDS:g} s"
        )
        yield warning("service", text, _drop_in("TimeoutStopSec=60s"))


def _restarting(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    if found.restart not in _RESTARTING:
        text = f"the unit has Restart={found.restart}: after a crash nobody starts the daemon"
        yield warning("service", text, _drop_in("Restart=on-failure"))
    elif found.restart == "always":
        text = "the unit has Restart=always: what `facilitator drain` ended is started again at once"
        yield warning("service", text, _drop_in("Restart=on-failure"))


def _watching(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    if found.watchdog in ("0", "infinity", ""):
        yield warning(
            "service",
            "the unit has no WatchdogSec=: a daemon that is stuck stays so",
            _drop_in("WatchdogSec=60s"),
        )


def _bus(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    if not found.bus:
        text = (
            "there is no D-Bus, by which the daemon learns why it must stop: `systemctl restart` "
            "drains and drops what a stop would"
        )
        yield warning("service", text, "apt install dbus   # or use `facilitator upgrade`, which needs none")


def _credentials(found: Unit, facts: HostFacts) -> Iterator[Finding]:
    for name, path in found.credentials:
        if path in facts.absent:
            text = (
                f"the unit loads the credential {name} from {path}, which does not exist: the service "
                f"cannot start"
            )
            yield problem("service", text, f"install -D -m 0600 /dev/stdin {path}   # paste it, Ctrl-D")


def _drop_in(line: str) -> str:
    directory = "/etc/systemd/system/facilitator.service.d"
    name = line.partition("=")[0].lower()
    return (
        f"mkdir -p {directory} && printf '[Service]\\n{line}\\n' > {directory}/{name}.conf && "
        f"systemctl daemon-reload"
    )


def seconds(text: str) -> float:
    """A time span of `systemctl show` (`1min 30s`) or Nomad (`1m30s`) in seconds; infinite if it is none."""
    if not re.fullmatch(rf"\s*({_SPAN.pattern}\s*)+", text):
        return math.inf
    return sum(float(number) * _UNITS[word] for number, word in _SPAN.findall(text))


def span(duration: float) -> str:
    """Seconds as Nomad and our own configuration read them: `8h5m`."""
    whole = math.ceil(duration)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{word}" for number, word in parts if number) or "0s"
