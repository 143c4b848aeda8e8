"""The webhook: the same incidents as plain JSON, in order, and its address is told to nobody."""

from __future__ import annotations

import json
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
from supervisor.reports.paging.webhook_formats import shaped
from tests.lab.prometheus import WebhookReceiver
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
        self.pager_config = PagingConfig("vpn1", webhook=Secret(file="url"))
        self.pager = Pager(Webhook(), self.state, self.pager_config, hooks, Secrets(), pauses=FAST)
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


# --- other formats

PAGE = "https://vpn1.example.net"
TRIGGER = {
    "id": "5f",
    "version": 1,
    "action": "trigger",
    "dedup_key": KEY,
    "facilitator": "vpn1",
    "subject": "acme",
    "tunnels": [],
    "severity": "critical",
    "summary": "vpn1: tunnel acme is down: auth: <!channel> & <https://evil.example|click>",
    "reason": "auth",
    "since": "2026-01-01T00:00:00Z",
    "details": {
        "tunnel": "acme",
        "destinations": "10.77.0.0/24",
        "last_error": "auth: <!channel>",
        "runbook_url": "https://wiki.example.net/reasons#auth",
        "status_page": f"{PAGE}/#tunnel-acme",
    },
    "last_lines": [f"line {number} ``` <!here>" for number in range(30)],
}
RESOLVE = {
    "id": "91",
    "version": 1,
    "action": "resolve",
    "dedup_key": KEY,
    "since": "2026-01-01T00:00:00Z",
    "at": "2026-01-01T00:20:00Z",
}
CHANGE = {
    "id": "c0",
    "version": 1,
    "action": "change",
    "dedup_key": None,
    "facilitator": "vpn1",
    "summary": "vpn1: the configuration was reloaded",
    "at": "2026-01-01T01:00:00Z",
    "details": {"done": "acme: added"},
}


def test_a_chat_message_links_and_mentions_nobody() -> None:
    message = shaped(TRIGGER, "slack", "vpn1", PAGE)
    assert message is not None
    [shown] = message["attachments"]
    assert (shown["color"], shown["title_link"], shown["ts"]) == (
        "danger",
        f"{PAGE}/#tunnel-acme",
        1767225600,
    )
    assert [field["title"] for field in shown["fields"]] == ["Destinations", "Last error"]
    assert shown["text"].startswith("```line 20 ")
    assert shown["text"].endswith("```\n<https://wiki.example.net/reasons#auth|Runbook>")
    rest = json.dumps(message).replace("<https://wiki.example.net/reasons#auth|Runbook>", "")
    assert "<" not in rest
    assert rest.count("```") == 2

    resolved = shaped(RESOLVE, "slack", "vpn1", f"{PAGE}/")
    assert resolved == {
        "text": "Resolved: acme on vpn1",
        "attachments": [
            {
                "fallback": "Resolved: acme on vpn1",
                "color": "good",
                "title": "Resolved: acme on vpn1",
                "title_link": f"{PAGE}/",
                "ts": 1767226800,
            }
        ],
    }
    changed = shaped(CHANGE, "slack", "vpn1", "")
    assert changed is not None
    assert changed["text"] == CHANGE["summary"]


def test_what_alertmanager_would_send() -> None:
    receiver = WebhookReceiver()
    for event in (TRIGGER, RESOLVE):
        assert receiver.receive(json.dumps(shaped(event, "alertmanager", "vpn1", PAGE)).encode())
    fired, resolved = receiver.calls
    assert receiver.problems == []
    assert (fired["status"], fired["endsAt"]) == ("firing", "0001-01-01T00:00:00Z")
    assert (resolved["status"], resolved["endsAt"]) == ("resolved", RESOLVE["at"])
    assert fired["labels"] == resolved["labels"]
    assert fired["fingerprint"] == resolved["fingerprint"]
    assert fired["startsAt"] == resolved["startsAt"]
    assert fired["annotations"]["summary"] == TRIGGER["summary"]
    assert shaped(CHANGE, "alertmanager", "vpn1", PAGE) is None
    assert shaped({**RESOLVE, "since": None}, "alertmanager", "vpn1", "") is not None  # of an earlier version


@pytest.mark.parametrize("shape", ["slack", "alertmanager"])
def test_a_webhook_of_another_format(hook: Hook, shape: str) -> None:
    hook.pager.route(replace(hook.pager_config, webhook_format=shape, status_page=PAGE))
    hook.set(acme=FIRING)
    [opened] = hook.posts(1)
    hook.set(acme=CLEAR)
    _, closed = hook.posts(2)
    assert eventually(lambda: hook.pager.status.incidents == ())
    if shape == "slack":
        assert opened["attachments"][0]["title_link"] == f"{PAGE}/#tunnel-acme"
        assert closed["text"] == "Resolved: acme on vpn1"
    else:
        assert [opened["status"], closed["status"]] == ["firing", "resolved"]
        assert opened["groupKey"] == closed["groupKey"] == KEY
    hook.pager.change("vpn1: the configuration was reloaded", {})
    if shape == "slack":
        assert hook.posts(3)[2]["text"] == "vpn1: the configuration was reloaded"


def test_a_test_alert_goes_where_those_of_the_tunnel_go(tmp_path: Path) -> None:
    keys = {"key": "k" * 32, "acme-key": "a" * 32}
    with Double() as double:
        paging = PagingConfig(
            "vpn1", double.url, Secret(file="key"), {"acme": Secret(file="acme-key")}, status_page=PAGE
        )
        pagers = Pagers(tmp_path, paging, PagerHooks(lambda secret: keys[secret.file]), Secrets())
        pagers.start()
        try:
            for tunnel, key in (("", "key"), ("acme", "acme-key"), ("other", "key")):
                sent = len(double.events)
                [(name, future)] = pagers.test(tunnel).items()
                assert name == "pagerduty"
                assert [each.outcome for each in future.result(10)] == [SendOutcome.ACCEPTED] * 2
                trigger, resolve = double.events[sent:]
                assert trigger["routing_key"] == resolve["routing_key"] == keys[key]
                assert trigger["dedup_key"] == resolve["dedup_key"]
                assert trigger["client_url"] == (f"{PAGE}/#tunnel-{tunnel}" if tunnel else f"{PAGE}/")
                assert trigger["payload"]["severity"] == "info"
        finally:
            pagers.close()
