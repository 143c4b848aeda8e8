"""Under Nomad: a restart, an update, a lost contact, a kill of the task or an orphan costs no tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from supervisor.clients.cgroup import ClientGroup, of_this_host
from supervisor.core.exits import Exit
from tests.lab import CLOUD_WEB, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import FACILITATOR, HTTP_PORT, REPOSITORY
from tests.lab.traffic import Streams, watched
from tests.lab.wait import NOISE, PATIENCE, eventually
from tests.nomad_double import TaskAPI, task_api
from tests.page import chromium
from tests.system.test_takeover import taken_up_within

pytestmark = pytest.mark.root


# A namespace of `ip netns exec` has a /sys of its own, without control groups.
IN_GROUP = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup && echo $$ > "/sys/fs/cgroup/$1/cgroup.procs" && shift && exec "$@"
"""


class TaskDaemon(LabDaemon):
    """The daemon as a Nomad task: with Nomad's environment, in a control group that is killed with it."""

    environment: Mapping[str, str]
    group: Path | None = None
    options: tuple[str, ...] = ()

    def start(self, within: float = 15.0, ready: int | None = 200) -> None:
        """Start it, and wait until it answers that it is ready; `ready` None: do not wait."""
        argv = [*FACILITATOR, "run", *self.options, "-c", str(self.config_file)]
        if self.group is not None:
            argv = ["sh", "-c", IN_GROUP, "sh", self.group.name, *argv]
        self.launch(argv, self.environment)
        if ready is not None:
            self.wait_ready(within, ready)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TaskAPI]:
    with task_api(tmp_path / "secrets") as api:
        yield api
        assert not api.problems


@pytest.fixture
def task(lab: Lab, config: Config, api: TaskAPI) -> Iterator[TaskDaemon]:
    config["facilitator"]["name"] = f"test-{secrets.token_hex(4)}"
    task = TaskDaemon(lab.network["facilitator"], lab.directory, config)
    task.environment = api.environment
    with task:
        task.wait_well()
        yield task
    assert task.leftovers() == {}


@contextlib.contextmanager
def undisturbed(lab: Lab) -> Iterator[None]:
    """Meanwhile no datagram is lost, no stream breaks in either tunnel, and nothing leaves in clear."""
    with (
        watched(lab.capture()) as in_clear,
        Streams(lab.network["laptop"], DATACENTRE_WEB, count=3) as openvpn,
        Streams(lab.network["laptop"], CLOUD_WEB, count=3) as sshuttle,
        lab.flood(DATACENTRE_WEB, rate=100) as flood,
    ):
        yield
    for streams in (openvpn, sshuttle):
        assert streams.broken == 0
        assert streams.sent == streams.echoed > 0
    assert flood.sent == flood.echoed > 0
    assert in_clear == []


def closed(task: TaskDaemon) -> bool:
    """The kernel refuses the destinations, whoever runs."""
    return "facilitator" in task.namespace.run("nft", "list", "tables", check=False).stdout


@pytest.mark.parametrize("end", ["restart", "update", "lost"])
def test_another_daemon_follows_and_goes_on_with_everything(
    lab: Lab, task: TaskDaemon, api: TaskAPI, end: str
) -> None:
    clients = task.client_pids()
    with undisturbed(lab):
        api.end = end
        began = time.monotonic()
        task.signal(signal.SIGTERM)
        assert task.ended(10) == 0
        assert time.monotonic() - began < 2.0 * NOISE
        assert closed(task)
        task.start()
        task.wait_well()
    assert task.client_pids() == clients
    assert task.status()["last_end"]["reason"] == end


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_no_daemon_follows(lab: Lab, task: TaskDaemon, api: TaskAPI, end: str) -> None:
    """What is under way goes on to its end, and nothing new is let in."""
    api.end = end
    with watched(lab.capture()) as in_clear:
        with Streams(lab.network["laptop"], DATACENTRE_WEB, count=1) as stream:
            task.signal(signal.SIGTERM)
            eventually(lambda: task.get("/readyz")[0] == 503, 10, "it drains")
            assert lab.request(f"http://{DATACENTRE_WEB}/", timeout=2.0).status == 0
            assert task.running
        assert (stream.broken, stream.sent) == (0, stream.echoed)
        assert task.ended(20) == 0
    assert in_clear == []
    assert not task.client_pids()
    assert not closed(task)
    task.start()
    assert task.status()["last_end"]["reason"] == end


@pytest.mark.parametrize("fault", ["403", "silence", "half"])
def test_nobody_says_why(lab: Lab, task: TaskDaemon, api: TaskAPI, fault: str) -> None:
    """As a stop, but what is closed stays so until the next start, or `cleanup`."""
    api.fault = fault
    with watched(lab.capture()) as in_clear:
        task.signal(signal.SIGTERM)
        assert task.ended(20) == 0
        assert not task.client_pids()
        assert lab.request(f"http://{DATACENTRE_WEB}/", timeout=2.0).status == 0
        assert closed(task)
        task.start()
        end = task.status()["last_end"]
        assert end["reason"] == "unknown"
        assert end["text"].startswith("Nomad")
        task.wait_well()
        task.signal(signal.SIGTERM)
        assert task.ended(20) == 0
    assert in_clear == []
    assert closed(task)
    assert task.cleanup() == 0
    assert not closed(task)


@pytest.mark.timed
def test_the_task_is_killed_with_its_group(lab: Lab, config: Config, api: TaskAPI) -> None:
    config["facilitator"]["name"] = f"test-{secrets.token_hex(4)}"
    unified = [each for each in of_this_host() if each.unified]
    clients_group = ClientGroup(config["facilitator"]["name"], unified)
    group = clients_group.paths[0].parent.parent / f"task-{secrets.token_hex(4)}"
    group.mkdir()
    task = TaskDaemon(lab.network["facilitator"], lab.directory, config)
    task.environment, task.group = api.environment, group
    try:
        with task:
            task.wait_well()
            clients = task.client_pids()
            assert set(clients) <= clients_group.members()
            with undisturbed(lab):
                (group / "cgroup.kill").write_text("1")
                task.ended(10)
                began = time.time()
                task.start()
                took = taken_up_within(task, since=began)
                print(f"all clients adopted {took:.2f} s after the start")
                assert took < 1.0 * NOISE
                task.wait_well()
            assert task.client_pids() == clients
            api.end = "stop"
            assert task.stop() == 0
        assert task.leftovers() == {}
        assert not any(path.exists() for path in clients_group.paths)
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def test_an_orphan_is_taken_over(lab: Lab, task: TaskDaemon) -> None:
    """SIGTERM reaches the daemon that the supervisor knows: at the end of the fixture."""
    clients, other = task.client_pids(), task.successor()
    began = time.monotonic()
    with undisturbed(lab):
        other.start(ready=None)
        assert task.ended(15) == 0
        eventually(
            lambda: other.get("/readyz")[0] == 200 and other.status()["pid"] == other.pid, 15, "it serves"
        )
        assert time.monotonic() - began < 5.0 * NOISE
        other.wait_well()
    assert other.client_pids() == clients
    other.signal(signal.SIGTERM)
    assert other.ended(20) == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [(None, "Nomad's task API says why it ends the task"), ("403", 'capabilities = ["read-job"]')],
)
def test_the_doctor_in_the_task_asks(task: TaskDaemon, api: TaskAPI, fault: str | None, said: str) -> None:
    api.fault = fault
    argv = task.namespace.argv(*FACILITATOR, "doctor", "-c", str(task.config_file))
    done = subprocess.run(
        argv,
        env={**os.environ, **api.environment},
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=PATIENCE,
    )
    api.fault = None
    assert said in " ".join(done.stdout.split()), done


def test_a_foreign_owner_does_not_get_it(task: TaskDaemon) -> None:
    other = task.successor()
    other.environment = {**task.environment, "NOMAD_JOB_ID": "another-job"}
    other.start(ready=None)
    assert other.ended(15) == Exit.RUNNING
    said = task.log.read_text().splitlines()[-1]
    assert "the Nomad job facilitator" in said
    assert "the Nomad job another-job" in said
    assert task.status()["pid"] == task.pid


def test_a_person_does_not_get_it_either(task: TaskDaemon) -> None:
    done = task.cli("run")
    assert done.returncode == Exit.RUNNING
    assert "belongs to the Nomad job facilitator" in done.stderr


def test_a_refused_configuration_is_shown_and_survived(lab: Lab, api: TaskAPI, tmp_path: Path) -> None:
    """By a changed file, a reload, a crash and a restart: the last good one is in force, and it shows."""
    with lab.pagerduty() as pagerduty:
        config = lab.configuration(pagerduty)
        config["facilitator"]["name"] = f"test-{secrets.token_hex(4)}"
        task = TaskDaemon(lab.network["facilitator"], lab.directory, config)
        task.environment, task.options = api.environment, ("--watch",)
        with task:
            task.wait_well()
            clients, good = task.client_pids(), task.config_file.read_text()
            line = 1 + good.splitlines().index("staff:")
            where = f"{task.config_file}:{line}:"
            task.config_file.write_text(good.replace("staff:", "stuff:"))
            eventually(lambda: refusal(task), 10, "the changed file is refused, without a signal")
            code, text = task.get("/readyz")
            assert (code, text.splitlines()[0]) == (200, "ok")
            assert where in text
            told = refusal(task)["text"]
            assert told.startswith("the configuration file is refused since 20")
            assert task.cli("reload").returncode != 0
            assert refusal(task)["text"] == told
            on_the_page(task, tmp_path / "reload", where)
            task.kill9()
            task.start()
            on_the_page(task, tmp_path / "crash", where)
            api.end = "restart"
            task.signal(signal.SIGTERM)
            assert task.ended(10) == 0
            task.start()
            on_the_page(task, tmp_path / "restart", where)
            assert refusal(task)["text"] == told
            assert task.client_pids() == clients
            task.wait_well()
            alerts = [
                (alert["dedup_key"].rpartition("/")[2], alert["event"]["payload"]["severity"])
                for alert in eventually(lambda: pagerduty.state()["alerts"], 20, "an incident")
            ]
            assert alerts == [("configuration-refused", "warning")]
            task.config_file.write_text(good)
            eventually(lambda: not refusal(task), 10, "the good file is taken over, without a signal")
            eventually(lambda: not pagerduty.open(), 20, "the incident is over")
            assert task.client_pids() == clients
    assert task.leftovers() == {}


def refusal(task: TaskDaemon) -> Any:
    """The condition of the status; None: the configuration is good."""
    return next(
        (each for each in task.status()["conditions"] if each["name"] == "configuration-refused"), None
    )


def on_the_page(task: TaskDaemon, profile: Path, text: str) -> None:
    """A browser beside the daemon shows the text, and complains of nothing."""
    if chromium.unavailable() is not None:
        return

    async def look() -> list[str]:
        async with chromium.browse(f"http://127.0.0.1:{HTTP_PORT}/", profile) as tab:
            await tab.until(f"document.body.innerText.includes({json.dumps(text)})")
            return tab.complaints

    with task.namespace.entered():
        assert asyncio.run(look()) == []


def test_a_first_start_with_a_broken_file_is_refused(lab: Lab, config: Config, api: TaskAPI) -> None:
    task = TaskDaemon(lab.network["facilitator"], lab.directory, config)
    task.environment = api.environment
    task.config_file.write_text(task.config_file.read_text().replace("staff:", "stuff:"))
    task.start(ready=None)
    assert task.ended(15) == Exit.CONFIG


@pytest.mark.timed
def test_a_stuck_loop_is_ended_by_nobody_else(lab: Lab, tmp_path: Path) -> None:
    with lab.pagerduty() as pagerduty:
        config = lab.configuration(pagerduty)
        config["facilitator"]["name"] = f"test-{secrets.token_hex(4)}"
        daemon = lab.daemon(config)
        blocked = tmp_path / "blocked"
        daemon.launch([sys.executable, "-m", "tests.system.stuck", str(daemon.config_file), str(blocked)])
        try:
            daemon.wait_ready()
            daemon.wait_well()
            clients = daemon.client_pids()
            blocked.touch()
            daemon.signal(signal.SIGHUP)  # reads the certificates again
            began = time.monotonic()
            assert daemon.ended(60) == -signal.SIGALRM
            assert 29 < time.monotonic() - began < 36
            blocked.unlink()
            daemon.start()
            daemon.wait_well()
            assert daemon.client_pids() == clients
            keys = [
                alert["dedup_key"]
                for alert in eventually(lambda: pagerduty.state()["alerts"], 20, "one page")
            ]
            assert len(keys) == 1
            assert keys[0].endswith("/event-loop-stuck")
        finally:
            daemon.end()
