"""A session service of the tests (a double): HTTPS with client certificates; requests are checked strictly.

It knows who may enter and gives addresses; it has no disk and no codes. What the real service decides is
tested with the service itself.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TypeVar

from aiohttp import web
from pydantic import ValidationError

from hub.core import api, routes
from tests.lab.pki import Authority, KeyPair
from tests.netns import Namespace

NETMASK = IPv4Address("255.255.0.0")
FIRST = IPv4Address("10.8.0.10")
Body = TypeVar("Body", bound=api.ApiDocument)


@dataclass
class DoubleSession:
    """A session as the double remembers it."""

    id: str
    node: str
    boot: str
    person: str
    address: IPv4Address
    sequence: int
    client_id: int
    key_id: int
    state: str = "allowed"
    reason: str = ""


@dataclass
class ServiceState:
    """What the tests look at and change; `people` may enter."""

    people: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)  # people whose logins wait
    sessions: dict[str, DoubleSession] = field(default_factory=dict)
    to_end: set[str] = field(default_factory=set)
    decided: list[api.Decision] = field(default_factory=list)
    requests: list[api.LoginRequest] = field(default_factory=list)
    beats: list[api.Heartbeat] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # requests that are not as the API has them
    answered: list[float] = field(default_factory=list)  # seconds that logins took

    @property
    def open(self) -> dict[str, DoubleSession]:
        """The sessions that have not ended."""
        return {each.id: each for each in list(self.sessions.values()) if each.state != "ended"}

    def up(self, person: str) -> list[DoubleSession]:
        """This person's sessions that are up."""
        return [each for each in self.open.values() if each.person == person and each.state == "up"]


class ServiceDouble:
    """`start` and `stop` as often as wanted; the state stays."""

    def __init__(self, namespace: Namespace, authority: Authority, addresses: tuple[str, ...]) -> None:
        self._namespace, self._authority = namespace, authority
        self._pair = authority.issue("sessions", "serverAuth", *addresses)
        self.state = ServiceState()
        self.port = 8443
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._end = asyncio.Event()

    def client(self, name: str) -> KeyPair:
        """A certificate of a sidecar."""
        return self._authority.issue(name, "clientAuth")

    def start(self) -> None:
        """Serve from now on."""
        serving = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(serving,), name="session service double")
        self._thread.start()
        assert serving.wait(20), "the double does not serve"

    def stop(self) -> None:
        """Nobody is answered any more; connections are closed."""
        if self._thread is not None:
            self.tell(self._end.set)
            self._thread.join(20)
            self._thread = None

    def tell(self, change: Callable[[], object]) -> None:
        """Change something in the double's own thread, and answer heartbeats that are held back."""
        assert self._loop is not None
        done = threading.Event()

        def turn() -> None:
            change()
            self._changed.set()
            done.set()

        self._loop.call_soon_threadsafe(turn)
        assert done.wait(20), "the double is stuck"

    def end(self, person: str) -> None:
        """The administrator blocks a person and ends the sessions."""

        def block() -> None:
            self.state.people.discard(person)
            self.state.to_end |= {each.id for each in self.state.open.values() if each.person == person}

        self.tell(block)

    def decide(self, person: str, allow: bool) -> None:
        """Somebody approves or denies the logins of this person that wait."""

        def decide() -> None:
            for each in self.state.open.values():
                if each.person == person and each.state == "pending":
                    self.state.decided.append(
                        api.Decision(
                            session=each.id,
                            client_id=each.client_id,
                            key_id=each.key_id,
                            answer=_allowed(each) if allow else _denied(api.EndReason.DENIED),
                        )
                    )
                    each.state = "allowed" if allow else "ended"

        self.tell(decide)

    # --- the server ---

    def _run(self, serving: threading.Event) -> None:
        with self._namespace.entered():
            asyncio.run(self._serve(serving))

    async def _serve(self, serving: threading.Event) -> None:
        self._loop, self._changed, self._end = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        application = web.Application()
        for route, handler in (
            (routes.LOGIN, self._login),
            (routes.UP, self._up),
            (routes.ENDED, self._ended),
            (routes.HEARTBEAT, self._heartbeat),
        ):
            application.router.add_route(route.method, route.path, handler)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(self._authority.root.certificate)
        )
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._pair.certificate, self._pair.key)
        await web.TCPSite(runner, "0.0.0.0", self.port, ssl_context=context, reuse_address=True).start()
        serving.set()
        await self._end.wait()
        await runner.cleanup()

    async def _login(self, request: web.Request) -> web.Response:
        body = await self._checked(request, api.LoginRequest)
        self.state.requests.append(body)
        if body.renewal:
            known = self.state.sessions.get(body.session or "")
            fine = known is not None and known.state != "ended" and known.person in self.state.people
            return _json(_allowed(known) if known and fine else _denied(api.EndReason.OFFBOARDED))
        for each in self.state.open.values():  # asked again after a lost answer
            if (each.node, each.boot, each.sequence) == (body.node, body.boot, body.sequence):
                return _json(_allowed(each))
        if body.person not in self.state.people:
            return _json(_denied(api.EndReason.UNKNOWN_PERSON))
        session = DoubleSession(
            uuid.uuid4().hex, body.node, body.boot, body.person, self._free(), body.sequence,
            body.client_id, body.key_id,
        )  # fmt: skip
        self.state.sessions[session.id] = session
        if body.person in self.state.approvals:
            session.state = "pending"
            return _json(api.Waiting(session=session.id, timeout=120))
        return _json(_allowed(session))

    def _free(self) -> IPv4Address:
        used = {each.address for each in self.state.open.values()}
        return next(FIRST + n for n in range(60_000) if FIRST + n not in used)

    async def _up(self, request: web.Request) -> web.Response:
        body = await self._checked(request, api.SessionUp)
        session = self.state.sessions.get(body.session)
        if session is None or session.address != body.address:
            self.state.faults.append(f"up of {body}")
        elif session.state == "allowed":
            session.state = "up"
        return web.Response(status=204)

    async def _ended(self, request: web.Request) -> web.Response:
        body = await self._checked(request, api.SessionEnds)
        for each in body.ended:
            self._close(each.session, each.reason)
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        body = await self._checked(request, api.Heartbeat)
        self.state.beats.append(body)
        named = set(body.sessions)
        gone = [
            each.id
            for each in self.state.open.values()
            if each.node == body.node and each.id not in named and each.sequence <= body.sequence
        ]
        for session in gone:
            other = self.state.sessions[session].boot != body.boot
            self._close(session, api.EndReason.LOST_WITH_NODE if other else api.EndReason.LEFT)
        answer = self._orders(body)
        if not (answer.end or answer.decided or answer.adopted) and body.wait:
            self._changed.clear()
            waits = [asyncio.create_task(event.wait()) for event in (self._changed, self._end)]
            await asyncio.wait(waits, timeout=body.wait, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            answer = self._orders(body)
        return _json(answer)

    def _orders(self, body: api.Heartbeat) -> api.HeartbeatAnswer:
        wanted = (self.state.to_end & set(body.sessions)) - body.ending
        decided = tuple(each for each in self.state.decided if each.session in set(body.sessions))
        self.state.decided = [each for each in self.state.decided if each not in decided]
        return api.HeartbeatAnswer(
            end=tuple(self._order(session) for session in sorted(wanted)),
            decided=decided,
            adopted=tuple(
                api.Adopted(client_id=unknown.client_id, session=each.id)
                for unknown in body.unknown
                for each in self.state.open.values()
                if (each.node, each.person, each.address) == (body.node, unknown.person, unknown.address)
            ),
        )

    def _order(self, session: str) -> api.EndOrder:
        known = self.state.sessions[session]
        return api.EndOrder(
            session=session,
            client_id=known.client_id,
            person=known.person,
            reason=api.EndReason.OFFBOARDED,
            text="your access has ended",
        )

    def _close(self, session: str, reason: str) -> None:
        known = self.state.sessions.get(session)
        if known is not None and known.state != "ended":
            known.state, known.reason = "ended", reason

    async def _checked(self, request: web.Request, model: type[Body]) -> Body:
        """The body as this document, without keys that the API does not have."""
        text = await request.text()
        try:
            body = model.model_validate_json(text)
            extra = body.model_validate_json(text, extra="forbid")
        except ValidationError as error:
            self.state.faults.append(f"{request.path}: {error}")
            raise web.HTTPBadRequest(text='{"error": "not as the API has it"}') from None
        return extra


def _allowed(session: DoubleSession) -> api.Allowed:
    return api.Allowed(session=session.id, address=session.address, netmask=NETMASK)


def _denied(reason: api.EndReason) -> api.Denied:
    return api.Denied(reason=reason, text="you may not come in")


def _json(answer: api.ApiDocument) -> web.Response:
    return web.Response(text=answer.model_dump_json(), content_type="application/json")
