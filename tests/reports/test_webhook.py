"""The webhook: the same incidents as plain JSON, in order, and its address is told to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import SendOutcome
from supervisor.reports.paging.notifier import PagerHooks
from supervisor.reports.paging.pager import Pager
from supervisor.reports.paging.pagers import Pagers
from supervisor.reports.paging.routing import PagingConfig
from supervisor.reports.paging.webhook import FILE, Webhook
from tests.pagerduty_double import ROUTING_KEY, Double, ScriptedReply
from tests.reports.pager import FAST
from tests.reports.test_pagerduty import KEY, eventually
from tests.reports.worlds import alert
from tunnels.settings import Secret

TOKEN = "a-token-in-the-path"
FIRING, CLEAR = Verdict.FIRING, Verdict.CLEAR


class Hook:
    """A webhook and the pager that posts to it."""

    def __init__(self, state: Path, double: Double) -> None:
        self.state, self.double = state, double
        self.address = f"{double.url}/hook/{TOKEN}"
        self.open()

    def open(self) -> None:
        hooks = PagerHooks(lambda _: f"{self.address}\n", lambda tunnel: [f"last of {tunnel}"])
        self.pager = Pager(
            Webhook(),
            self.state,
            PagingConfig("vpn1", webhook=Secret(file="url")),
            hooks,
            Secrets(),
            pauses=FAST,
        )
        self.pager.start()

    def set(self, **verdicts: Verdict) -> None:
        self.pager.set({name: alert(verdict, name) for name, verdict in verdicts.items()})

    def quiet(self) -> bool:
        return eventually(lambda: not self.pager.has_new_verdicts and self.pager.status.pending == 0)

    def posts(self, count: int) -> list[dict]:
        assert self.double.wait(lambda d: len(d.posts) >= count)
        assert self.quiet()
        return self.double.posts


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    with Double() as double:
        hook = Hook(tmp_path, double)
        yield hook
        hook.pager.close(5)


def test_an_incident_as_plain_json(hook: Hook) -> None:
    hook.set(acme=FIRING)
    [opened] = hook.posts(1)
    assert opened | {"id": "", "since": ""} == {
        "id": "",
        "version": 1,
        "action": "trigger",
        "dedup_key": KEY,
        "facilitator": "vpn1",
        "subject": "acme",
        "tunnels": [],
        "severity": "critical",
        "summary": "tunnel acme is down",
        "reason": "network",
        "since": "",
        "details": {"tunnel": "acme", "runbook_url": "docs/reasons.md#network"},
        "last_lines": ["last of acme"],
    }
    hook.set(acme=CLEAR)
    _, closed = hook.posts(2)
    assert (closed["action"], closed["dedup_key"], len(closed["id"])) == ("resolve", KEY, 32)
    assert eventually(lambda: hook.pager.status.incidents == ())


@pytest.mark.parametrize(
    "step",
    [
        ScriptedReply(500),
        ScriptedReply(503),
        ScriptedReply(429),
        ScriptedReply(cut="answer"),
        ScriptedReply(408),
    ],
    ids=["500", "503", "429", "cut", "408"],
)
def test_sent_until_it_is_taken_and_a_repetition_can_be_told(hook: Hook, step: ScriptedReply) -> None:
    hook.double.script(*[replace(step) for _ in range(3)])
    hook.set(acme=FIRING)
    assert hook.double.wait(lambda d: bool(d.posts))
    assert eventually(lambda: hook.pager.status.pending == 0 and bool(hook.pager.status.incidents))
    hook.set(acme=CLEAR)
    assert hook.double.wait(lambda d: d.posts[-1]["action"] == "resolve")
    assert len({post["id"] for post in hook.double.posts}) == 2
    assert [post["action"] for post in hook.double.posts] == ["trigger"] * (len(hook.double.posts) - 1) + [
        "resolve"
    ]


def test_another_run_goes_on(hook: Hook) -> None:
    hook.set(acme=FIRING)
    hook.posts(1)
    hook.pager.close(5)
    hook.open()
    hook.set(acme=CLEAR)
    assert [post["action"] for post in hook.posts(2)] == ["trigger", "resolve"]


def test_the_address_is_neither_logged_nor_stored(hook: Hook) -> None:
    with capture_logs() as logs:
        hook.double.script(ScriptedReply(500), ScriptedReply(404))
        hook.set(acme=FIRING)
        assert eventually(lambda: bool(hook.pager.status.dead_letters))
        hook.address = f"http://127.0.0.1:1/hook/{TOKEN}"
        hook.set(acme=FIRING)
        assert eventually(lambda: "no answer" in hook.pager.status.last_error)
    said = str(logs) + str(hook.pager.status)
    assert TOKEN not in said
    for path in hook.state.glob(f"{FILE}*"):
        assert TOKEN.encode() not in path.read_bytes()


def test_both_receivers_and_what_is_shown_of_them(tmp_path: Path) -> None:
    keys = {"key": ROUTING_KEY}
    with Double() as double:
        keys["url"] = f"{double.url}/hook/{TOKEN}"
        paging = PagingConfig("vpn1", double.url, Secret(file="key"), webhook=Secret(file="url"))
        pagers = Pagers(tmp_path, paging, PagerHooks(lambda secret: keys[str(secret.file)]), Secrets())
        assert pagers.open_incidents() == frozenset()
        pagers.start()
        group = Alert(
            "group:gateway:gw",
            FIRING,
            "critical",
            "3 tunnels",
            1.0,
            {},
            "network",
            {"since": 1.0},
            ("a", "b", "c"),
        )
        pagers.set({"acme": alert(FIRING), group.tunnel: group})
        assert double.wait(lambda d: len(d.open()) == 2 and len(d.posts) == 2)
        assert {tuple(post["tunnels"]) for post in double.posts} == {(), ("a", "b", "c")}
        pagers.change("vpn1: the configuration was reloaded", {"done": "acme: added"})
        assert double.wait(lambda d: len(d.changes) == 1 and len(d.posts) == 3)
        assert double.changes[0]["payload"]["custom_details"] == {"done": "acme: added"}
        results = {name: future.result(30) for name, future in pagers.test().items()}
        assert {name: [a.outcome for a in answers] for name, answers in results.items()} == {
            "pagerduty": [SendOutcome.ACCEPTED] * 2,
            "webhook": [SendOutcome.ACCEPTED] * 2,
        }
        assert eventually(lambda: [r["pending"] for r in pagers.receivers] == [0, 0])
        shown = pagers.receivers
        assert [(r["name"], {i["name"]: i["there"] for i in r["incidents"]}) for r in shown] == [
            (name, {"acme": "open", "group:gateway:gw": "open"}) for name in ("pagerduty", "webhook")
        ]
        pagers.close()
        assert Pagers(tmp_path, paging, PagerHooks(lambda secret: ""), Secrets()).open_incidents() == {
            "acme",
            "group:gateway:gw",
        }
        assert double.refusals == []


def test_nobody_is_told_where_nothing_is_configured(tmp_path: Path) -> None:
    pagers = Pagers(tmp_path, PagingConfig("vpn1"), PagerHooks(lambda secret: ""), Secrets())
    pagers.start()
    pagers.change("reloaded", {})
    assert (pagers.test(), pagers.receivers) == ({}, [])
    pagers.close()
