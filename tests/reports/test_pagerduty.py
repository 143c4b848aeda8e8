"""Incidents against the double: what is said, in which order, and through which key."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from supervisor.core.alerting.verdict import Verdict
from supervisor.core.backoff import Backoff
from supervisor.reports.log.redact import MASK, Secrets
from supervisor.reports.paging.http import Sender
from supervisor.reports.paging.incident import SendOutcome, SendResult, dedup_key
from supervisor.reports.paging.notifier import PagerHooks, RetryPauses
from supervisor.reports.paging.pager import Pager
from supervisor.reports.paging.pagerduty import MAX_BODY_BYTES, PagerDuty
from supervisor.reports.paging.routing import EventRateLimit, PagingConfig
from tests.pagerduty_double import ROUTING_KEY, Double, ScriptedReply, problems
from tests.reports.pager import FAST
from tests.reports.worlds import alert
from tunnels.settings import Secret

RUNBOOKS = "https://wiki.example.net/reasons"
KEY = "facilitator/vpn1/acme"
OTHER_KEY = "S" * 32
FIRING, CLEAR, HOLD = Verdict.FIRING, Verdict.CLEAR, Verdict.HOLD


def eventually(condition: Callable[[], bool], timeout: float = 60.0) -> bool:
    """Poll with a deadline: for what has no event to wait for."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return condition()


class Office:
    """A pager, its secrets and its PagerDuty."""

    def __init__(self, state: Path, double: Double) -> None:
        self.state = state
        self.double = double
        self.keys: dict[str | None, str] = {"key": ROUTING_KEY}
        self.lines: list[str] = ["one", "two"]
        self.counted: list[str] = []
        self.secrets = Secrets()
        self.key_limit: EventRateLimit | None = None
        self.trigger_limit = EventRateLimit(1000, 1.0)
        self.pauses = FAST
        self.paging = PagingConfig("vpn1", double.url, Secret(file="key"), runbooks=RUNBOOKS)
        self._open: Pager | None = None

    @property
    def pager(self) -> Pager:
        if self._open is None:
            hooks = PagerHooks(
                lambda secret: self.keys[secret.file],
                lambda _: self.lines,
                lambda *words: self.counted.append(" ".join(words)),
            )
            self._open = Pager(
                PagerDuty(),
                self.state,
                self.paging,
                hooks,
                self.secrets,
                pauses=self.pauses,
                key_limit=self.key_limit,
                trigger_limit=self.trigger_limit,
            )
            self._open.start()
        return self._open

    def set(self, **verdicts: Verdict) -> None:
        self.pager.set(
            {
                name.replace("_", "-"): alert(verdict, name.replace("_", "-"))
                for name, verdict in verdicts.items()
            }
        )

    def restart(self) -> None:
        self.close()
        assert self.pager

    def close(self) -> None:
        if self._open is not None:
            self._open.close(5)
            self._open = None

    def settled(self, *dedup_keys: str) -> bool:
        """Exactly these are open, and nothing waits to be sent."""
        return eventually(
            lambda: set(self.double.open()) == set(dedup_keys) and self.pager.status.pending == 0
        )

    def actions(self) -> list[str]:
        return [event["event_action"] for event in self.double.events]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with Double() as double:
        office = Office(tmp_path, double)
        yield office
        office.close()
        assert double.parallel == []
        assert [errors for errors in double.refusals if errors != ["too many"]] == []


def test_an_incident_from_trigger_to_resolve(office: Office) -> None:
    office.set(acme=FIRING, own=HOLD)
    assert office.settled(KEY)
    event = office.double.open()[KEY].event
    assert event["routing_key"] == ROUTING_KEY
    assert event["payload"] | {"timestamp": ""} == {
        "summary": "tunnel acme is down",
        "source": "vpn1",
        "severity": "critical",
        "timestamp": "",
        "component": "acme",
        "group": "vpn1",
        "class": "network",
        "custom_details": {
            "tunnel": "acme",
            "last_lines": ["one", "two"],
            "runbook_url": f"{RUNBOOKS}#network",
        },
    }
    assert [link["href"] for link in event["links"]] == [f"{RUNBOOKS}#network"]
    office.set(acme=CLEAR, own=HOLD)
    assert office.settled()
    assert office.double.events[1] == {
        "routing_key": ROUTING_KEY,
        "event_action": "resolve",
        "dedup_key": KEY,
    }
    assert office.counted == ["trigger accepted", "resolve accepted"]
    assert office.pager.status.incidents == ()


def test_an_incident_whose_cause_changes_is_told_under_its_key(office: Office) -> None:
    for count, reason, summary in ((1, "unhealthy", "is down"), (2, "certificate", "needs attention")):
        office.pager.set({"acme": alert(Verdict.FIRING, reason=reason, summary=summary)})
        assert eventually(lambda count=count: len(office.double.events) == count)
    office.pager.set({"acme": alert(Verdict.FIRING, reason="certificate", summary="the same again")})
    office.set(acme=Verdict.CLEAR)
    assert office.settled()
    *told, _ = office.double.events
    shown = [(it["dedup_key"], it["payload"]["summary"], it["payload"]["class"]) for it in told]
    assert shown == [(KEY, "is down", "unhealthy"), (KEY, "needs attention", "certificate")]
    assert len(office.double.alerts) == 1


def test_a_repeated_verdict_says_nothing_new(office: Office) -> None:
    for _ in range(3):
        office.set(acme=FIRING)
        assert office.settled(KEY)
    office.set(acme=HOLD)
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.close()
    assert office.actions() == ["trigger"]


def test_a_tunnel_that_is_gone_and_a_facilitator_of_another_name_leave_nothing_open(office: Office) -> None:
    office.set(acme=FIRING, own=FIRING)
    assert office.settled(KEY, "facilitator/vpn1/own")
    office.set(own=FIRING)
    assert office.settled("facilitator/vpn1/own")
    office.pager.route(replace(office.paging, facilitator="vpn2"))
    office.set(own=FIRING)
    assert office.settled("facilitator/vpn2/own")


def test_what_was_not_sent_yet_cancels_out(office: Office) -> None:
    office.double.script(ScriptedReply(hang=True))
    office.set(first=FIRING)
    assert office.double.wait(lambda d: d.requests == 1)  # the thread is busy with it
    office.set(first=FIRING, acme=FIRING)
    office.set(first=FIRING, acme=CLEAR)
    office.set(first=FIRING, acme=HOLD)
    office.double.release()
    assert office.settled("facilitator/vpn1/first")
    office.close()
    assert office.actions() == ["trigger"]


def test_hold_does_not_take_a_call_back(office: Office) -> None:
    office.double.script(ScriptedReply(hang=True))
    office.set(first=FIRING)
    assert office.double.wait(lambda d: d.requests == 1)
    office.set(first=FIRING, acme=FIRING)
    office.set(first=FIRING, acme=HOLD)
    office.double.release()
    assert office.settled("facilitator/vpn1/first", KEY)


def test_a_trigger_that_was_throttled_is_as_good_as_unsent(office: Office) -> None:
    office.pauses = replace(FAST, throttled=Backoff(60.0, 60.0, 60.0))
    office.double.script(ScriptedReply(429))
    office.set(acme=FIRING)
    assert eventually(lambda: office.counted == ["trigger throttled"])
    office.set(acme=CLEAR)
    assert eventually(lambda: office.pager.status.incidents == ())
    assert office.double.requests == 1


def test_a_trigger_that_may_have_been_taken_is_resolved(office: Office) -> None:
    office.pauses = replace(FAST, failed=Backoff(60.0, 60.0, 60.0))
    office.double.script(ScriptedReply(500, process=True))
    office.set(acme=FIRING)
    assert eventually(lambda: office.counted == ["trigger failed"])
    assert office.double.open()
    office.set(acme=CLEAR)
    assert office.settled()


@pytest.mark.parametrize(
    "step",
    [
        ScriptedReply(500),
        ScriptedReply(500, process=True),
        ScriptedReply(503),
        ScriptedReply(429),
        ScriptedReply(408),
        ScriptedReply(cut="answer"),
        ScriptedReply(cut="answer", process=False),
    ],
    ids=["500", "500-taken", "503", "429", "408", "cut-taken", "cut"],
)
def test_tried_again_until_taken(office: Office, step: ScriptedReply) -> None:
    office.double.script(*[step] * 3)
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.double.script(*[step] * 3)
    office.set(acme=CLEAR)
    assert office.settled()
    assert len(office.double.alerts) == 1  # never a second page for the same trouble
    assert office.counted.count("trigger accepted") == office.counted.count("resolve accepted") == 1
    assert len(office.counted) == 8


def test_the_status_line_says_that_it_was_taken(office: Office) -> None:
    office.double.script(ScriptedReply(cut="body"))
    office.set(acme=FIRING)
    assert office.settled(KEY)
    assert office.counted == ["trigger accepted"]


def test_nobody_listens_then_somebody_does(office: Office) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        office.paging = replace(office.paging, url=f"http://127.0.0.1:{placeholder.getsockname()[1]}")
        office.set(acme=FIRING)
        assert eventually(lambda: office.counted.count("trigger failed") >= 2)
        assert office.pager.status.pending == 1
        assert (office.pager.status.oldest or 0) > time.time() - 30
    office.pager.route(replace(office.paging, url=office.double.url))
    assert office.settled(KEY)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_refused_for_good_is_kept_and_said(office: Office, status: int) -> None:
    office.double.script(ScriptedReply(status))
    with capture_logs() as logs:
        office.set(acme=FIRING)
        assert eventually(lambda: office.counted == ["trigger rejected"])
        office.set(acme=FIRING)
        office.set(acme=CLEAR)
        assert eventually(lambda: office.pager.status.incidents == ())
    office.close()
    assert office.double.requests == 1
    [refusal] = [log for log in logs if "refused" in log["event"]]
    assert "scripted" in refusal["text"]
    assert ("routing key" in refusal["text"]) == (status in (401, 403, 404))
    with sqlite3.connect(office.state / "facilitator.db") as db:
        [(action, body, error)] = db.execute("SELECT action, body, error FROM dead_letter").fetchall()
    assert (action, json.loads(body)["dedup_key"]) == ("trigger", KEY)
    assert ROUTING_KEY not in body + error


def test_a_refused_resolve_gives_up_but_not_for_the_next_incident(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.double.script(ScriptedReply(400))
    office.set(acme=CLEAR)
    assert eventually(
        lambda: office.counted[-1:] == ["resolve rejected"] and office.pager.status.incidents == ()
    )
    office.set(acme=FIRING)
    office.set(acme=FIRING)
    assert eventually(lambda: office.double.alerts[0].triggers == 2)


def test_a_missing_key_is_waited_for(office: Office) -> None:
    del office.keys["key"]
    office.set(acme=FIRING)
    assert eventually(lambda: office.counted.count("trigger no_key") >= 2)
    assert office.double.requests == 0
    office.keys["key"] = ROUTING_KEY + "\n"
    assert office.settled(KEY)


def test_a_corrected_key_is_tried_as_soon_as_a_verdict_comes(office: Office) -> None:
    office.double.script(ScriptedReply(403))
    office.set(acme=FIRING)
    assert eventually(lambda: office.counted == ["trigger rejected"])
    office.keys["key"] = OTHER_KEY
    office.set(acme=FIRING)
    assert office.settled(KEY)
    assert office.double.open()[KEY].routing_key == OTHER_KEY


def test_rotation_while_running_resolves_through_the_old_key(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.keys["key"] = OTHER_KEY
    office.set(acme=CLEAR)
    assert office.settled()
    office.set(acme=FIRING)
    assert office.settled(KEY)
    assert office.double.open()[KEY].routing_key == OTHER_KEY


def test_rotation_and_restart_with_the_old_key_on_the_second_line(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.close()
    office.keys["key"] = f"{OTHER_KEY}\n{ROUTING_KEY}\n"
    office.set(acme=CLEAR)
    assert office.settled()
    assert office.double.events[-1]["routing_key"] == ROUTING_KEY


def test_rotation_and_restart_without_the_old_key_is_said(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.close()
    office.keys["key"] = OTHER_KEY
    with capture_logs() as logs:
        office.set(acme=CLEAR)
        assert eventually(
            lambda: office.actions() == ["trigger", "resolve"] and office.pager.status.incidents == ()
        )
    assert [log for log in logs if "by hand" in log["event"] and log["dedup_key"] == KEY]


def test_no_routing_key_on_disk_or_in_the_log(office: Office) -> None:
    with capture_logs() as logs:
        office.double.script(ScriptedReply(500), ScriptedReply(403))
        office.set(acme=FIRING)
        assert eventually(lambda: "trigger rejected" in office.counted)
        office.close()
    assert ROUTING_KEY not in str(logs)
    for path in office.state.iterdir():
        assert ROUTING_KEY.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert office.secrets.mask(f"key {ROUTING_KEY}") == f"key {MASK}"


def test_a_tunnel_with_a_service_of_its_own(office: Office) -> None:
    office.keys["other"] = OTHER_KEY
    office.paging = replace(office.paging, tunnels={"own": Secret(file="other")})
    office.set(acme=FIRING, own=FIRING)
    assert office.settled(KEY, "facilitator/vpn1/own")
    assert {a.dedup_key: a.routing_key for a in office.double.alerts} == {
        KEY: ROUTING_KEY,
        "facilitator/vpn1/own": OTHER_KEY,
    }


def test_without_pagerduty_the_log_says_it_once(office: Office) -> None:
    office.paging = PagingConfig("vpn1")
    with capture_logs() as logs:
        for verdict in (FIRING, FIRING, CLEAR, FIRING):
            office.set(acme=verdict)
            assert eventually(lambda: not office.pager.has_new_verdicts)
        office.close()
    assert [log["tunnel"] for log in logs if "pages nobody" in log["event"]] == ["acme", "acme"]
    assert office.double.requests == 0


def test_at_most_so_many_events_per_key(office: Office) -> None:
    office.key_limit = EventRateLimit(5, 0.3)
    started = time.monotonic()
    office.set(**{f"t{number}": FIRING for number in range(12)})
    assert office.settled(*(f"facilitator/vpn1/t{number}" for number in range(12)))
    assert time.monotonic() - started >= 0.6
    assert office.counted == ["trigger accepted"] * 12


def test_one_key_over_its_budget_does_not_hold_up_another(office: Office) -> None:
    office.key_limit = EventRateLimit(1, 3600.0)
    office.keys["other"] = OTHER_KEY
    office.paging = replace(office.paging, tunnels={"own": Secret(file="other")})
    office.set(acme=FIRING, acme2=FIRING, own=FIRING)
    assert office.double.wait(lambda d: "facilitator/vpn1/own" in d.open())
    assert len(office.double.alerts) == 2


@given(st.lists(st.floats(0, 300), min_size=1, max_size=60), st.integers(1, 5))
def test_rate_limit_in_any_window(moments: list[float], events: int) -> None:
    limit, sent = EventRateLimit(events, 60.0), []
    for moment in sorted(moments):
        allowed_at = limit.allowed_at("key", moment)
        if allowed_at <= moment:
            limit.record("key", moment)
            sent.append(moment)
        else:
            assert limit.allowed_at("key", allowed_at) <= allowed_at  # the promise is kept
    for first, beyond in zip(sent, sent[events:], strict=False):
        assert beyond - first >= 60.0 - 1e-6


def test_silence_that_was_asked_for() -> None:
    limit = EventRateLimit()
    limit.block("key", 50.0)
    assert limit.allowed_at("key", 10.0) == 50.0
    assert limit.allowed_at("other", 10.0) <= 10.0


def test_closing_while_pagerduty_hangs(office: Office) -> None:
    office.double.script(ScriptedReply(hang=True))
    office.set(acme=FIRING)
    assert office.double.wait(lambda d: d.requests == 1)
    started = time.monotonic()
    office.pager.close(0.3)
    assert time.monotonic() - started < 20.0
    office.double.release()
    assert eventually(lambda: not office.pager.running)


def test_the_end_of_the_daemon_resolves_nothing(office: Office) -> None:
    office.set(acme=FIRING)
    assert office.settled(KEY)
    office.restart()
    office.set(acme=HOLD)
    office.close()
    assert office.actions() == ["trigger"]
    office.set(acme=CLEAR)  # the next run knows it
    assert office.settled()


def test_the_real_path_can_be_tried(office: Office) -> None:
    opened, closed = office.pager.test().result(10)
    assert (opened.outcome, closed.outcome) == (SendOutcome.ACCEPTED, SendOutcome.ACCEPTED)
    assert [a.open for a in office.double.alerts] == [False]
    assert office.double.events[0]["payload"]["severity"] == "info"
    del office.keys["key"]
    with pytest.raises(LookupError):
        office.pager.test().result(10)


def test_an_error_of_our_own_does_not_silence_the_pager(office: Office) -> None:
    office.pauses = replace(FAST, fault_seconds=0.01)
    office.lines = None  # type: ignore[assignment]      # the callable misbehaves
    with capture_logs() as logs:
        office.set(acme=FIRING)
        assert eventually(lambda: any("stumbled" in log["event"] for log in logs))
        office.lines = []
        assert office.settled(KEY)


# --- what is said

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3000)


@given(
    TEXT.filter(bool), st.dictionaries(TEXT, TEXT, max_size=5), st.lists(st.text(max_size=200), max_size=30)
)
def test_every_body_is_valid(summary: str, details: dict[str, str], lines: list[str]) -> None:
    body = PagerDuty().trigger("vpn1", alert(FIRING, summary=summary, details=details), 0.0, lines)
    assert problems({"routing_key": ROUTING_KEY, **json.loads(body)}) == []


def test_a_body_is_never_too_large() -> None:
    body = PagerDuty().trigger("vpn1", alert(FIRING), 0.0, ["\u2028" * 5000] * 100)
    assert 50_000 < len(body) <= MAX_BODY_BYTES
    huge = PagerDuty().trigger("vpn1", alert(FIRING, details={"x": "y" * 1_000_000}), 0.0, [])
    assert len(huge) <= MAX_BODY_BYTES
    assert json.loads(huge)["payload"]["custom_details"]["note"]


def test_the_newest_lines_stay() -> None:
    body = json.loads(
        PagerDuty().trigger("vpn1", alert(FIRING), 0.0, [f"{n} {'x' * 20_000}" for n in range(20)])
    )
    lines = body["payload"]["custom_details"]["last_lines"]
    assert lines[-1].startswith("19 ")
    assert 5 < len(lines) < 20


def test_only_so_many_lines_and_masked(office: Office) -> None:
    office.secrets.add("hunter22")
    office.lines = [f"line {n} hunter22" for n in range(50)]
    office.set(acme=FIRING)
    assert office.settled(KEY)
    lines = office.double.open()[KEY].event["payload"]["custom_details"]["last_lines"]
    assert lines == [f"line {n} {MASK}" for n in range(30, 50)]


def test_dedup_keys_fit() -> None:
    assert dedup_key("vpn1", "acme") == KEY
    long = dedup_key("v" * 300, "acme")
    assert len(long) <= 255
    assert long != dedup_key("v" * 301, "acme")


# --- answers


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("99999", 3600, 3600),
        ("-5", 0, 0),
        ("nan", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("a date in ten minutes", 400, 600),
    ],
)
def test_retry_after(header: str, low: float, high: float) -> None:
    if header.startswith("a date"):
        header = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 600))
    with Double() as double:
        double.script(ScriptedReply(429, headers={"Retry-After": header}))
        answer = Sender().send_event(double.url, ROUTING_KEY, PagerDuty().resolve(KEY, 0.0, 0.0))
    assert answer.outcome is SendOutcome.THROTTLED
    assert low <= answer.retry_after <= high


def test_pauses_have_a_floor_jitter_and_an_end() -> None:
    pauses = RetryPauses()
    for attempts in (1, 2, 10, 100_000):
        failed = [pauses.after(SendResult(SendOutcome.FAILED), attempts) for _ in range(50)]
        throttled = [pauses.after(SendResult(SendOutcome.THROTTLED), attempts) for _ in range(50)]
        assert 1 <= min(failed) <= max(failed) <= 121
        assert 30 <= min(throttled) <= max(throttled) <= 300
        assert len(set(failed)) > 1
    assert pauses.after(SendResult(SendOutcome.FAILED, retry_after=500), 1) == 500


def test_a_wrong_address_is_an_answer_too() -> None:
    assert Sender().send_event("not an address", ROUTING_KEY, "{}").outcome is SendOutcome.FAILED
