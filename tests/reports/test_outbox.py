"""Incidents over crashes and bad disks: at quiet, what is open at PagerDuty is what is wanted, once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from supervisor.core.alerting.verdict import Verdict
from supervisor.reports.paging.incident import (
    UPDATE_SECONDS,
    Action,
    Incident,
    IncidentMessage,
    RemoteState,
    SendOutcome,
    after_attempt,
    after_crash,
    after_key_change,
    needed_action,
    reconcile,
)
from supervisor.reports.paging.store import FILE, Store
from tests.pagerduty_double import Double, ScriptedReply
from tests.reports.test_pagerduty import KEY, Office, eventually

pytestmark = pytest.mark.slow

FIRING, CLEAR, HOLD = Verdict.FIRING, Verdict.CLEAR, Verdict.HOLD


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as double:
        yield double
        assert double.parallel == []
        assert double.refusals == []


@pytest.fixture
def office(tmp_path: Path, double: Double) -> Iterator[Office]:
    office = Office(tmp_path, double)
    yield office
    office.close()


class PagerProcess:
    """The pager as a process."""

    def __init__(self, state: Path, url: str, *options: str, prefix: tuple[str, ...] = ()) -> None:
        command = [
            *prefix,
            sys.executable,
            "-m",
            "tests.reports.pager",
            "--state",
            str(state),
            "--url",
            url,
            *options,
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def set(self, **verdicts: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(verdicts) + "\n")
        self.process.stdin.flush()

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        deadline = threading.Timer(60, self.process.kill)
        deadline.start()
        try:
            if any(line.strip() == word for line in self.process.stdout):
                return
        finally:
            deadline.cancel()
        raise AssertionError(
            f"it ended without saying {word!r}: {self.process.stderr and self.process.stderr.read()}"
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> str:
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out


@pytest.fixture
def pagers() -> Iterator[list[PagerProcess]]:
    started: list[PagerProcess] = []
    yield started
    for pager in started:
        if pager.process.poll() is None:
            pager.kill()


# --- SIGKILL


@pytest.mark.parametrize(
    "point",
    [
        "before the write",
        "before the send",
        "under way",
        "before the answer",
        "before the answer is written",
        "afterwards",
    ],
)
def test_killed_at_each_point_of_the_trigger_and_again_of_the_resolve(
    tmp_path: Path, double: Double, pagers: list[PagerProcess], point: str
) -> None:
    """One incident, opened once and closed once, in this order, though its pager was killed twice."""
    for action, verdict, there in (("trigger", "firing", RemoteState.OPEN), ("resolve", "clear", None)):
        pagers.append(killed := PagerProcess(tmp_path, double.url, "--halt", point, "--action", action))
        if point == "under way":
            double.hang_again()
            double.script(ScriptedReply(hang=True, process=False))
        killed.set(acme=verdict)
        if point == "under way":
            assert double.wait(lambda d: d.in_flight > 0)
        elif point == "afterwards":
            killed.wait_for(f"{action} accepted")
            assert eventually(
                lambda there=there: (
                    [i.remote for i in Store(tmp_path).load() if i.message is None] == [there] * bool(there)
                )
            )
        else:
            killed.wait_for("halted")
        killed.kill()
        double.release()
        pagers.append(again := PagerProcess(tmp_path, double.url))
        again.set(acme=verdict)
        assert double.wait(lambda d, open_now=bool(there): bool(d.open()) is open_now)
        assert eventually(lambda: not [i for i in Store(tmp_path).load() if i.message is not None])
        again.finish()
    assert [(alert.dedup_key, alert.open) for alert in double.alerts] == [(KEY, False)]
    actions = [event["event_action"] for event in double.events]
    assert actions == sorted(actions, key=["trigger", "resolve"].index)


# --- the disk


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else holds the database for as long as this connection has its transaction."""
    Store(tmp_path).load()
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield connection
    connection.close()


def test_a_database_that_is_locked_from_the_start(office: Office, locked: sqlite3.Connection) -> None:
    with capture_logs() as logs:
        office.set(acme=FIRING)
        assert office.settled(KEY)
        assert not office.pager.status.usable
        locked.execute("ROLLBACK")
        assert eventually(lambda: office.pager.status.usable)
    assert [log["event"] for log in logs if "store" in log["event"]] == [
        "incident store is unusable, incidents are sent from memory",
        "incident store is usable again",
    ]
    office.restart()  # it is on disk now
    office.set(acme=CLEAR)
    assert office.settled()


def test_a_database_that_is_locked_later(office: Office) -> None:
    office.set(own=FIRING)
    assert office.settled("facilitator/vpn1/own")
    with contextlib.closing(sqlite3.connect(office.state / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        office.set(own=CLEAR, acme=FIRING)
        assert office.settled(KEY)
        assert not office.pager.status.usable
        other.execute("ROLLBACK")
        assert eventually(lambda: office.pager.status.usable)
    office.close()
    assert [incident.tunnel for incident in Store(office.state).load()] == ["acme"]


def test_what_an_earlier_run_left_is_found_when_the_lock_is_gone(office: Office) -> None:
    office.set(acme=FIRING, own=FIRING)
    assert office.settled(KEY, "facilitator/vpn1/own")
    office.close()
    with contextlib.closing(sqlite3.connect(office.state / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        office.set(acme=CLEAR, own=FIRING)
        assert eventually(lambda: not office.pager.status.usable)
        other.execute("ROLLBACK")
        assert office.settled("facilitator/vpn1/own")
    assert [alert.dedup_key for alert in office.double.alerts] == [KEY, "facilitator/vpn1/own"]


def test_nothing_is_sent_about_a_tunnel_that_was_removed_meanwhile(office: Office) -> None:
    """As after the example's tunnels: their triggers could not be sent (no key), and they are gone now."""
    key = office.keys.pop("key")
    office.set(acme=FIRING, own=FIRING)
    assert eventually(lambda: office.counted.count("trigger no_key") >= 2)
    office.close()
    office.keys["key"] = key
    first = len(office.counted)
    assert office.pager.running  # it has begun, and nobody has said yet which tunnels there are
    assert eventually(lambda: office.pager.status.pending == 2)
    assert office.counted[first:] == []
    office.set(own=HOLD)
    assert office.settled("facilitator/vpn1/own")
    assert [alert.dedup_key for alert in office.double.alerts] == ["facilitator/vpn1/own"]


def test_a_find_under_an_incident_that_has_begun_anew_is_not_forgotten(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.close()
    key = office.keys.pop("key")
    with contextlib.closing(sqlite3.connect(office.state / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        office.set(acme=FIRING)
        assert eventually(lambda: "trigger no_key" in office.counted and not office.pager.status.usable)
        other.execute("ROLLBACK")
        assert eventually(lambda: office.pager.status.usable)
    office.set(acme=CLEAR)
    office.keys["key"] = key
    assert office.settled()


def test_a_file_that_is_no_database_is_set_aside(office: Office) -> None:
    office.state.mkdir(exist_ok=True)
    (office.state / FILE).write_bytes(b"this is not a database " * 1000)
    with capture_logs() as logs:
        office.set(acme=FIRING)
        assert office.settled(KEY)
        assert eventually(lambda: office.pager.status.usable)
    assert any("set aside" in str(log.get("error")) for log in logs)
    [aside] = office.state.glob(f"{FILE}.corrupt-*")
    assert aside.read_bytes().startswith(b"this is not")
    office.restart()
    office.set(acme=CLEAR)
    assert office.settled()


def test_a_database_that_is_damaged_while_in_use(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.close()
    path = office.state / FILE
    with open(path, "r+b") as file:  # the header stays, the pages behind it do not
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    office.set(acme=FIRING, own=FIRING)
    assert office.settled(KEY, "facilitator/vpn1/own")
    assert eventually(lambda: office.pager.status.usable)
    assert list(office.state.glob(f"{FILE}.corrupt-*"))
    assert len(office.double.alerts) == 2  # the dedup key kept it at one incident each


def test_a_state_directory_that_cannot_be(office: Office) -> None:
    (office.state / "file").touch()
    office.state /= "file/below"
    office.set(acme=FIRING)
    assert office.settled(KEY)
    assert not office.pager.status.usable
    office.set(acme=CLEAR)
    assert office.settled()


@pytest.mark.root
def test_a_full_disk(tmp_path: Path, double: Double, pagers: list[PagerProcess]) -> None:
    mount = (
        f'mount -t tmpfs -o size=100k none {tmp_path} && cp /bin/sh {tmp_path}/ballast 2>/dev/null; exec "$@"'
    )
    pagers.append(
        pager := PagerProcess(tmp_path, double.url, prefix=("unshare", "--mount", "sh", "-c", mount, "sh"))
    )
    pager.set(acme="firing", own="firing")
    for _ in range(2):
        pager.wait_for("trigger accepted")
    pager.set(acme="clear", own="firing")
    pager.wait_for("resolve accepted")
    assert list(double.open()) == ["facilitator/vpn1/own"]
    assert "usable False" in pager.finish()


# --- any history

STEPS = st.sampled_from(
    [
        ScriptedReply(),
        ScriptedReply(),
        ScriptedReply(),
        ScriptedReply(500),
        ScriptedReply(500, process=True),
        ScriptedReply(503),
        ScriptedReply(429),
        ScriptedReply(cut="answer"),
        ScriptedReply(cut="answer", process=False),
        ScriptedReply(cut="body"),
    ]
)
VERDICTS = st.dictionaries(st.sampled_from(["acme", "own", "third"]), st.sampled_from(Verdict), max_size=3)
HISTORY = st.lists(VERDICTS | st.just("restart"), min_size=1, max_size=10)


def expected(history: list[dict[str, Verdict] | str]) -> set[str]:
    """What must be open at quiet: each tunnel's last word that is not HOLD; unnamed means closed."""
    wanted: dict[str, bool] = {}
    for verdicts in history:
        if isinstance(verdicts, dict):
            wanted = {
                name: wanted.get(name, False) if v is HOLD else v is FIRING for name, v in verdicts.items()
            }
    return {f"facilitator/vpn1/{name}" for name, is_wanted in wanted.items() if is_wanted}


@settings(deadline=None)
@given(HISTORY, st.lists(STEPS, max_size=12))
def test_at_quiet_what_is_open_is_what_is_wanted(
    history: list[dict[str, Verdict] | str], steps: list[ScriptedReply]
) -> None:
    state = Path(tempfile.mkdtemp(prefix="outbox-"))
    with Double(per_minute=10_000) as double:
        office = Office(state, double)
        double.script(*(replace(step) for step in steps))
        try:
            for verdicts in history:
                if isinstance(verdicts, dict):
                    office.set(**verdicts)
                    eventually(
                        lambda: not office.pager.has_new_verdicts
                    )  # the latest verdicts win: what was never taken does not count
                else:
                    office.restart()
            open_now = expected(history)
            # a daemon that has begun says something about each of its tunnels
            office.set(**{key.rpartition("/")[2]: HOLD for key in open_now})
            assert office.settled(*open_now)
            office.close()
            assert set(double.open()) == expected(history)
            assert double.parallel == []
            assert double.refusals == []
        finally:
            office.close()
            shutil.rmtree(state)


# --- the rules

FRESH = Incident(KEY, "acme", "file:key", 0.0)


def compose(action: Action) -> str:
    return action.value


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([None, *SendOutcome])), max_size=12))
def test_a_message_is_always_the_one_that_is_needed(story: list[tuple[bool, SendOutcome | None]]) -> None:
    incident = FRESH
    for wanted, outcome in story:
        incident = reconcile(incident, wanted, compose, 0.0)
        assert (incident.message.action if incident.message else None) == needed_action(incident)
        if outcome is not None:
            incident = after_attempt(incident, outcome, "", 5.0)
    closed = after_attempt(reconcile(incident, False, compose, 0.0), SendOutcome.ACCEPTED, "", 0.0)
    assert closed.finished


def test_doubt_only_grows_from_what_may_have_been_taken() -> None:
    sent = reconcile(FRESH, True, compose, 0.0)
    assert after_attempt(sent, SendOutcome.THROTTLED, "", 0.0).remote is RemoteState.CLOSED
    assert after_attempt(sent, SendOutcome.NO_KEY, "", 0.0).remote is RemoteState.CLOSED
    assert after_attempt(sent, SendOutcome.FAILED, "", 0.0).remote is RemoteState.UNKNOWN
    assert after_crash(sent).remote is RemoteState.UNKNOWN
    assert after_crash(FRESH) == FRESH


def test_a_refused_key_is_not_tried_twice() -> None:
    refused = after_attempt(
        replace(reconcile(FRESH, True, compose, 0.0), fingerprint="f1"), SendOutcome.REJECTED, "", 0.0
    )
    assert needed_action(refused) is None
    assert reconcile(after_key_change(refused, "f1"), True, compose, 0.0).message is None
    assert reconcile(after_key_change(refused, "f2"), True, compose, 0.0).message == IncidentMessage(
        Action.TRIGGER, "trigger", 0.0
    )


def opened(cause: str) -> Incident:
    """The incident after its trigger was accepted."""
    return after_attempt(reconcile(FRESH, True, compose, 0.0, cause), SendOutcome.ACCEPTED, "", 0.0)


def caused(incident: Incident, now: float, cause: str, grave: bool) -> Incident:
    return reconcile(incident, True, lambda action: f"{action}: {cause}", now, cause, grave)


def test_an_open_incident_whose_cause_somebody_has_to_cure_is_updated_at_once_and_once() -> None:
    updated = caused(opened("unhealthy"), 1.0, "certificate", True)
    assert updated.message == IncidentMessage(Action.TRIGGER, "trigger: certificate", 1.0)
    assert caused(updated, 2.0, "certificate", True) == updated, "it waits to be sent"
    sent = after_attempt(updated, SendOutcome.ACCEPTED, "", 3.0)
    assert (sent.remote, caused(sent, 4.0, "certificate", True)) == (RemoteState.OPEN, sent)


def test_causes_in_a_row_that_cure_themselves_are_one_update_in_ten_minutes() -> None:
    incident, told = opened("unhealthy"), []
    for second in range(int(3 * UPDATE_SECONDS)):
        incident = caused(incident, float(second), ("network", "peer-closed")[second % 2], False)
        if incident.message is not None:
            told.append(second)
            incident = after_attempt(incident, SendOutcome.ACCEPTED, "", float(second))
    assert 2 <= len(told) <= 3


def test_a_trigger_that_was_not_sent_yet_names_the_latest_cause() -> None:
    waiting = reconcile(FRESH, True, compose, 0.0, "unhealthy")
    assert caused(waiting, 1.0, "key", True).message == IncidentMessage(Action.TRIGGER, "trigger: key", 0.0)


def test_an_update_that_was_not_sent_is_dropped_when_the_incident_is_over() -> None:
    updated = caused(opened("unhealthy"), 1.0, "certificate", True)
    over = reconcile(updated, False, compose, 2.0)
    assert over.message == IncidentMessage(Action.RESOLVE, "resolve", 2.0)
    assert after_attempt(over, SendOutcome.ACCEPTED, "", 3.0).finished


def test_an_incident_of_an_earlier_run_is_not_triggered_again_only_because_its_cause_is_not_known() -> None:
    found = replace(opened("unhealthy"), cause="", told=0.0)
    known = caused(found, 5.0, "certificate", True)
    assert (known.message, known.cause) == (None, "certificate")


# --- the double as a program


def test_the_double_runs_as_a_program(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.pagerduty_double", "--port", "0", "--port-file", str(port_file)]
    )
    try:
        assert eventually(port_file.exists)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        assert requests.post(f"{url}/script", json=[{"status": 500}], timeout=60).status_code == 200
        office = Office(tmp_path / "state", Double())  # its server is not started: only the program's counts
        office.paging = replace(office.paging, url=url)
        office.set(acme=FIRING)
        assert eventually(lambda: requests.get(f"{url}/state", timeout=60).json()["open"] == [KEY])
        assert requests.get(f"{url}/state", timeout=60).json()["requests"] == 2
        office.close()
        office.double.server.server_close()
        bad = requests.post(f"{url}/v2/enqueue", json={"event_action": "resolve", "extra": 1}, timeout=60)
        assert (bad.status_code, bad.json()["errors"][0]) == (400, "extra: unknown field")
    finally:
        process.kill()
        process.wait()
