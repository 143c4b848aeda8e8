"""The published description of the API is what the daemon does: its files, its routes and its answers."""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from supervisor.app.api.daemon_api import RunningDaemonAPI
from supervisor.app.api.status_page_model import StatusPageInputs, StatusPageModel
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.config.validation import validated
from supervisor.control.api import HTTPApi
from supervisor.control.openapi import api_schema, openapi
from supervisor.control.peer_credentials import ClientGuard
from supervisor.control.server_sent_events import StreamLimits
from supervisor.control.sockets import Servers
from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.conditions import Condition
from supervisor.core.diagnosis.answer import PacketOutcome, document
from supervisor.core.diagnosis.checks import CheckStatus
from supervisor.core.diagnosis.query import PacketQuery
from supervisor.core.events import ClientSaid
from supervisor.core.snapshot import Snapshot, Uplink
from supervisor.core.state import Asking, Drain, Health, Leg, Phase, Reach, RecoveryStep, Second, Want
from supervisor.core.views import documents
from supervisor.core.views.audit_lines import Accounts, ChangeRequest, FlowChange, FlowRecord
from supervisor.core.views.availability import Standing
from supervisor.core.views.documents import AuditDocument, WhyDocument
from supervisor.core.views.status_json import DaemonIdentity, status_document
from supervisor.reports.history.archive import Archive
from supervisor.reports.history.last_failures import LastFailures
from supervisor.reports.history.recorder import History, HistorySources
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import Action, RemoteState
from supervisor.reports.paging.notifier import PagerHooks
from supervisor.reports.paging.pagers import Pagers
from supervisor.reports.paging.routing import PagingConfig
from tests.control.published import DOCS, PublishedApi
from tests.control.test_api import FakeDaemon
from tests.fakes import Habits, World
from tests.page.sample_pages import bad_night
from tests.settings import configured
from tests.simulation.test_worlds import tunnel
from tests.why.worlds import NOW, STATES, TUNNELS, asked, facts
from tunnels.base import Failed, Question, Reason, Wanted
from tunnels.settings import Planned, Reconnect, Secret

GUARD = ClientGuard(lambda pid: False, "key")
IDENTITY = DaemonIdentity("vpn1", "0.1.0", 1, 1_790_000_000.0, 1_790_000_000.0)


@pytest.fixture(scope="module")
def published() -> PublishedApi:
    return PublishedApi()


# --- the files
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "made"), [("api.schema.json", api_schema), ("openapi.json", openapi)])
def test_the_files_are_current(file: str, made: typing.Callable[[], dict[str, typing.Any]]) -> None:
    assert json.loads((DOCS / file).read_text()) == made(), "run: make docs"


def test_the_schemas_are_schemas(published: PublishedApi) -> None:
    schema = api_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$defs"].keys() == published.document["components"]["schemas"].keys()
    for each in schema["$defs"].values():
        assert each["description"], each
    Draft202012Validator(schema).validate({"done": [], "errors": [], "problems": []})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("PhaseName", Phase),
        ("HealthName", Health),
        ("WantName", Want),
        ("LegName", Leg),
        ("EndpointName", Reach),
        ("SecondSessionName", Second),
        ("QuestionName", Wanted),
        ("RecoveryName", RecoveryStep),
        ("StandingName", Standing),
        ("OutcomeName", PacketOutcome),
        ("CheckName", CheckStatus),
    ],
)
def test_the_values_of_a_text_are_those_of_its_enumeration(name: str, values: type[enum.Enum]) -> None:
    (found,) = getattr(documents, name).__metadata__
    assert set(found.texts) == {each.value for each in values}


@pytest.mark.parametrize(
    ("entry", "key", "values"),
    [
        (documents.ReceiverIncidentEntry, "there", RemoteState),
        (documents.WaitingMessageEntry, "action", Action),
    ],
)
def test_the_values_of_a_key_are_those_of_its_enumeration(
    entry: type, key: str, values: type[enum.Enum]
) -> None:
    (found,) = typing.get_type_hints(entry, include_extras=True)[key].__metadata__
    assert set(found.texts) == {each.value for each in values}


# --- the routes
# ----------------------------------------------------------------------------------------------------------


def test_every_route_is_described_and_every_description_has_a_route(published: PublishedApi) -> None:
    api = HTTPApi(FakeDaemon())
    for app, tags in ((api.public(), {"public"}), (api.control(GUARD), {"public", "control"})):
        served = {
            (route.method, route.resource.canonical)
            for route in app.router.routes()
            if route.method != "HEAD"
        }
        assert served == {
            (method, path)
            for method, path, operation in published.operations()
            if tags & {*operation["tags"]}
        }


def test_the_parameters_of_a_path_are_described(published: PublishedApi) -> None:
    for method, path, operation in published.operations():
        described = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
        assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}, (method, path)


# --- documents
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_the_status_of_a_tunnel_in_any_state(published: PublishedApi, state: str) -> None:
    base = STATES[state]
    variants = [base, replace(base, planned=NOW + 60)]
    if base.active is not None:
        question, drain = Question(Wanted.CODE, "Enter the code from your token:"), Drain(Reason.PLANNED, NOW)
        variants += [
            replace(base, active=replace(base.active, asking=Asking(question, NOW + 60))),
            replace(base, active=replace(base.active, drain=drain)),
        ]
    tunnels = {each.name: (each, it) for each, it in zip(TUNNELS, variants, strict=False)}
    snapshot = Snapshot(tunnels, NOW, uplink=Uplink(alive=False))
    shown = status_document(IDENTITY, snapshot, facts("10.77.0.10").plan, {"uplink": Condition("it is dead")})
    assert published.document_errors("StatusDocument", json.loads(json.dumps(shown))) == []


def test_the_status_while_one_session_replaces_another(published: PublishedApi) -> None:
    planned = configured(Reconnect, planned=validated(Planned, {"every": "1h", "before": "5m"}))
    habits = Habits(second=Second.ALLOWED, flows=lambda name, now: 3, connects_in=lambda: 5.0)
    world = World({"acme": tunnel(reconnect=planned)}, habits)
    roles = set()
    world.run(until=1800.0)
    while roles != {"coming", "leaving"}:
        assert world.now < 3700.0, "it did not happen"
        world.run(until=world.now + 4.0)
        engine = world.engine
        shown = status_document(IDENTITY, engine.snapshot, engine.plan, engine.conditions)
        other = shown["tunnels"][0]["other_session"]
        if other is not None and other["role"] not in roles:
            roles.add(other["role"])
            assert published.document_errors("StatusDocument", shown) == []


@pytest.mark.parametrize("address", ["10.77.0.10", "10.0.3.4", "8.8.8.8", "100.65.3.4"])
@pytest.mark.parametrize("source", [None, "10.8.2.7"])
def test_the_answer_to_why(published: PublishedApi, address: str, source: str | None) -> None:
    given = facts(address, source, 443)
    assert published.document_errors("WhyDocument", document(given, asked(given))) == []


def test_a_wrong_document_is_found(published: PublishedApi) -> None:
    def errors(name: str, **keys: object) -> str:
        return " ".join(published.document_errors(name, keys))

    assert errors("ReloadDocument", done=[], errors=[], more=1).count("Additional properties") == 1
    assert "'errors' is a required property" in errors("ReloadDocument", done=[])
    assert "is not of type" in errors("ReloadDocument", done="all", errors=[])
    drain = {"reason": "stopped", "flows_left": None, "longest_idle_seconds": 1.0}
    assert "is not a 'date-time'" in errors("DrainEntry", **drain, until="tomorrow")
    question = {"text": "?", "until": "2026-01-01T00:00:00Z"}
    assert "is not one of" in errors("QuestionEntry", **question, wanted="blood")


# --- answers
# ----------------------------------------------------------------------------------------------------------


class ClientOutput:
    """The last words of a tunnel's client."""

    def tail(self, tunnel: str, lines: int) -> list[str]:
        return ["one", "two"][-lines:]

    def answer(self, tunnel: str, text: str) -> None:
        """It takes it."""


class Kernel:
    """A kernel that lacks a route."""

    closed_since = 1_790_000_000.0

    async def compare(self) -> tuple[Sequence[str], Sequence[str]]:
        return ["route 10.77.0.0/24 dev t-acme"], ["+ route 10.77.0.0/24 dev t-acme"]


class ExplainedFacts:
    """Explains from the facts of another test."""

    async def answer(self, question: PacketQuery) -> WhyDocument:
        given = facts(str(question.address), None if question.source is None else str(question.source))
        return document(given, asked(given))


OWNER = "the Nomad job facilitator (namespace default)"


@dataclass
class CountedFlows:
    """An audit that has counted one flow."""

    kept: bool = True

    def acted(self, request: ChangeRequest) -> None:
        """It is no line of a file."""

    def document(self, tunnel: str | None, source: str | None, limit: int) -> AuditDocument:
        if not self.kept:
            raise LookupError("no audit is kept")
        accounts, address = Accounts(), bytes((10, 8, 0, 2))
        accounts.add(FlowRecord(FlowChange.OPEN, 0.0, 1, 1, 6, address, 1, address, 2, address, 2), "acme")
        totals = accounts.document(tunnel, source, limit)
        return {"file": "audit.log", "problem": None, "events": {"open": 1}, "lost": 0, "totals": totals}


class Recorders:
    """History and last failures together."""

    def __init__(self, *all) -> None:
        self._all = all

    def record(self, transition, snapshot) -> None:
        for each in self._all:
            each.record(transition, snapshot)


@dataclass
class AnsweringDaemon:
    """A daemon in virtual time whose views are the real ones, and its control socket."""

    world: World
    auditing: CountedFlows
    model: StatusPageModel
    http: aiohttp.ClientSession
    published: PublishedApi

    async def check(self, method: str, target: str, body: str | None = None, status: int = 200) -> None:
        """Ask, and compare the answer with what is published."""
        async with self.http.request(method, f"http://facilitator{target}", data=body) as answer:
            assert answer.status == status, await answer.text()
            self.published.check(method, target, answer.status, answer.content_type, await answer.text())


@pytest.fixture
async def answering(tmp_path: Path, published: PublishedApi) -> AsyncIterator[AnsweringDaemon]:
    """Its only tunnel has lost a session and has another one; an incident waits to be sent."""
    lives = iter((100.0,))
    failures, worlds = LastFailures(), []
    sources = HistorySources(
        clock=lambda: worlds[0].now if worlds else 0.0, offset=lambda: IDENTITY.wall_offset
    )
    history = History(Archive(tmp_path, "0"), sources)
    history.start()
    world = World(
        {"acme": tunnel()}, Habits(lives=lambda: next(lives, 1e9)), recorder=Recorders(history, failures)
    )
    worlds.append(world)
    world.run(until=200.0)
    paging = PagingConfig("vpn1", "http://127.0.0.1:9", Secret(file="key"))
    pagers = Pagers(tmp_path, paging, PagerHooks(lambda secret: "R" * 32), Secrets())
    pagers.start()
    alert = Alert("acme", Verdict.FIRING, "critical", "acme is down", 10.0, {})
    pagers.set({"acme": alert})
    model = StatusPageModel(
        StatusPageInputs(
            lambda: world.engine.snapshot,
            lambda: failures.by_tunnel,
            lambda name, session: (0, 0),
            history,
            IDENTITY.wall_offset,
        )
    )
    model.set({"acme": alert})
    auditing, servers, path = CountedFlows(), Servers(), tmp_path / "control.sock"

    async def refused() -> dict[str, list[str]]:
        return {"done": [], "errors": ["line 1: wrong"], "problems": []}

    async def not_upgraded() -> dict[str, list[str]]:
        return {"errors": ["the new program does not start"]}

    daemon = RunningDaemonAPI(
        identity=IDENTITY,
        inbox=world.inbox,
        engine=world.engine,
        runner=ClientOutput(),
        network=Kernel(),
        metrics_exporter=None,  # see tests/system/test_openapi.py
        recorder=history,
        stopped_tunnels=StoppedTunnels(tmp_path),
        explain=ExplainedFacts().answer,
        page_model=model,
        pagers=pagers,
        auditing=auditing,
        file_problem=lambda tunnel: None,
        stalled=lambda: None,
        on_reload=refused,
        on_drain=lambda now: world.engine.drain(),
        on_upgrade=not_upgraded,
        on_hand_over=lambda owner: None if owner == OWNER else "this daemon belongs to another",
    )
    await servers.listen_unix(HTTPApi(daemon, StreamLimits(pause_seconds=0.01)).control(GUARD), path)
    await servers.serve()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        yield AnsweringDaemon(world, auditing, model, http, published)
    await servers.close()
    pagers.close()
    history.close()


async def test_answers_are_as_published(answering: AnsweringDaemon) -> None:
    check = answering.check
    for path in ("/", "/healthz", "/readyz", "/api/v1/status", "/api/v1/plan", "/api/v1/alerts"):
        await check("GET", path)
    for query in ("", "?tunnel=acme&limit=3"):
        await check("GET", f"/api/v1/history{query}")
        await check("GET", f"/api/v1/audit{query}")
    await check("GET", "/api/v1/why?address=10.77.0.10&from=10.8.2.7&port=443")
    await check("POST", "/api/v1/alerts/test")
    await check("POST", "/api/v1/alerts/test?tunnel=acme")
    await check("POST", "/api/v1/alerts/test?tunnel=none", status=404)
    await check("GET", "/api/v1/tunnels/acme/logs?lines=1")
    await check("GET", "/api/v1/tunnels/acme/question")
    for verb in ("restart", "stop?drain=1", "start", "stop"):
        await check("POST", f"/api/v1/tunnels/acme/{verb}")
    await check("POST", "/api/v1/reload")
    await check("POST", "/api/v1/upgrade")
    await check("POST", "/api/v1/hand-over", body=OWNER)


async def test_a_tunnel_that_asks_and_is_answered(answering: AnsweringDaemon) -> None:
    world = answering.world
    await answering.check("POST", "/api/v1/tunnels/acme/restart")
    world.run(until=world.now + 0.3)
    state = world.engine.snapshot.tunnels["acme"][1]
    assert state.phase is Phase.STARTING
    world.post(ClientSaid("acme", state.session.number, Question(Wanted.CODE, "Code:")))
    world.run(until=world.now + 0.01)
    assert world.engine.snapshot.tunnels["acme"][1].asking is not None
    await answering.check("GET", "/api/v1/tunnels/acme/question")
    await answering.check("GET", "/api/v1/status")
    await answering.check("POST", "/api/v1/tunnels/acme/answer", "123456")
    await answering.check("POST", "/api/v1/tunnels/acme/answer", "", 400)


async def test_refusals_are_as_published(answering: AnsweringDaemon) -> None:
    check = answering.check
    await check("GET", "/api/v1/why?address=here", status=400)
    await check("GET", "/api/v1/history?limit=many", status=400)
    await check("GET", "/api/v1/history?tunnel=nobody", status=404)
    await check("GET", "/api/v1/audit?limit=many", status=400)
    await check("GET", "/api/v1/tunnels/acme/logs?lines=many", status=400)
    await check("POST", "/api/v1/tunnels/acme/start?wait=long", status=400)
    await check("POST", "/api/v1/tunnels/acme/answer", "123456", status=409)
    answering.auditing.kept = False
    await check("GET", "/api/v1/audit", status=404)
    for method, what in (("GET", "logs"), ("GET", "question"), ("POST", "answer"), ("POST", "start")):
        await check(method, f"/api/v1/tunnels/nobody/{what}", status=404)
    await check("POST", "/api/v1/drain?now=1")
    await check("GET", "/readyz", status=503)
    for order in ("tunnels/acme/start", "reload", "upgrade"):
        await check("POST", f"/api/v1/{order}", status=503)


async def test_events_are_as_published(answering: AnsweringDaemon) -> None:
    world = answering.world
    for query, name in (("", "StatusEvent"), ("?as=html", "StatusPageEvent")):
        async with answering.http.get(f"http://facilitator/api/v1/events{query}") as answer:
            answering.published.check("GET", "/api/v1/events", answer.status, answer.content_type, "")
            told = _data(answer)
            snapshot = await anext(told)
            assert answering.published.document_errors(name, snapshot) == []
            world.post(ClientSaid("acme", world.runner.sessions("acme")[0], Failed(Reason.NETWORK, "gone")))
            world.run(until=world.now + 30)
            answering.model.set({})
            change = await anext(told)
            assert answering.published.document_errors(name, change) == []
            assert change.keys() - {"facilitator"} <= snapshot.keys()


async def _data(answer: aiohttp.ClientResponse) -> AsyncIterator[typing.Any]:
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def test_the_sample_page_is_as_published(published: PublishedApi) -> None:
    """What the tests of the page show could be an answer."""
    page = bad_night()
    for it in page["tunnels"]:
        assert published.document_errors("TunnelOnPage", it) == []
        assert published.document_errors("MeasuresEntry", page["measures"][it["name"]]) == []
