"""The API over mutual TLS: what a client may do is decided by the subject of its certificate."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from common.listener import HTTPConnection
from common.tls import canonical_subject, peer_subject
from hub.core import api, routes
from hub.core.routes import ApiRoute, Role
from hub.service.database import Unavailable
from hub.service.metrics import HubMetrics
from hub.service.nodes import LateMessage
from hub.service.service import SessionService

_MAX_BODY_BYTES = 8 << 20  # a heartbeat with 50,000 sessions
_MAX_WAIT_SECONDS = 60.0
_DEFAULT_LIMIT, _MAX_LIMIT = 1000, 10_000
_LOGIN_ANSWER: TypeAdapter[api.LoginAnswer] = TypeAdapter(api.LoginAnswer)

BodyT = TypeVar("BodyT", bound=api.ApiDocument)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HubApi:
    """The routes of the service."""

    def __init__(
        self, service: SessionService, roles: Mapping[Role, tuple[str, ...]], metrics: HubMetrics
    ) -> None:
        """`roles`: subjects of certificates."""
        self._service, self._metrics = service, metrics
        self._roles = {
            (role, canonical_subject(subject)) for role, subjects in roles.items() for subject in subjects
        }

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[answer_failures])
        for route, handler in self._handlers().items():
            app.router.add_route(route.method, route.path, self._guarded(route, handler))
        return app

    def _handlers(self) -> dict[ApiRoute, Handler]:
        return {
            routes.LOGIN: self._login,
            routes.ANSWER: self._answer,
            routes.UP: self._up,
            routes.ENDED: self._ended,
            routes.HEARTBEAT: self._heartbeat,
            routes.ADDRESSES: self._addresses,
            routes.SESSIONS: self._sessions,
            routes.HISTORY: self._history,
            routes.NODES: self._nodes,
            routes.END: self._end,
            routes.BLOCK: self._block,
            routes.EVENTS: self._events,
        }

    def _guarded(self, route: ApiRoute, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            subject = peer_subject(request.transport)
            if (route.role, subject) not in self._roles:
                raise web.HTTPForbidden(text=f"{subject or 'nobody'} has not the role {route.role}")
            return await handler(request)

        return guarded

    # --- sidecars

    async def _login(self, request: web.Request) -> web.Response:
        message = _from_node(request, await _body(request, api.LoginRequest))
        with self._metrics.decisions():
            answer = await self._service.login(message)
        self._metrics.decided(message.node, message.person, answer)
        return _json_bytes(_LOGIN_ANSWER.dump_json(answer))

    async def _answer(self, request: web.Request) -> web.Response:
        message = _from_node(request, await _body(request, api.ChallengeAnswer))
        answer = await self._service.typed(message)
        self._metrics.decided(message.node, None, answer)
        return _json_bytes(_LOGIN_ANSWER.dump_json(answer))

    async def _up(self, request: web.Request) -> web.Response:
        await self._service.up(_from_node(request, await _body(request, api.SessionUp)))
        return web.Response(status=204)

    async def _ended(self, request: web.Request) -> web.Response:
        await self._service.ended(_from_node(request, await _body(request, api.SessionEnds)))
        return web.Response(status=204)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        return _json(await self._service.heartbeat(_from_node(request, await _body(request, api.Heartbeat))))

    # --- facilitators

    async def _addresses(self, request: web.Request) -> web.Response:
        name = peer_subject(request.transport) or ""
        after, wait = int(_number(request, "after")), _wait(request)
        return _json(await self._service.addresses(name, after, wait))

    # --- operators

    async def _sessions(self, request: web.Request) -> web.Response:
        query = request.query
        return _json(await self._service.sessions(query.get("person"), query.get("address"), _limit(request)))

    async def _history(self, request: web.Request) -> web.Response:
        query = request.query
        at = _number(request, "at") if "at" in query else None
        return _json(
            await self._service.history(query.get("person"), query.get("address"), at, _limit(request))
        )

    async def _nodes(self, _request: web.Request) -> web.Response:
        return _json(await self._service.nodes())

    async def _end(self, request: web.Request) -> web.Response:
        command = await _body(request, api.EndCommand)
        if sum(each is not None for each in (command.person, command.address, command.session)) != 1:
            raise web.HTTPBadRequest(text="exactly one of person, address and session is required")
        return _json(await self._service.end(command, peer_subject(request.transport) or ""))

    async def _block(self, request: web.Request) -> web.Response:
        command = await _body(request, api.BlockCommand)
        return _json(await self._service.block(command, peer_subject(request.transport) or ""))

    async def _events(self, request: web.Request) -> web.Response:
        after, person = int(_number(request, "after")), request.query.get("person")
        return _json(await self._service.events(after, person, _limit(request), _wait(request)))


@web.middleware
async def answer_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals as documents of the API; and tell the listener while a request is in progress."""
    connection = request.transport.get_protocol() if request.transport is not None else None
    if isinstance(connection, HTTPConnection):
        connection.request_started()
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refused(error.status, error.text or error.reason)
    except LateMessage as error:
        return _refused(409, str(error))
    except Unavailable as error:
        return _refused(503, str(error))
    finally:
        if isinstance(connection, HTTPConnection):
            connection.request_finished()


def _refused(status: int, text: str) -> web.Response:
    return _json_bytes(api.ApiRefusal(error=text).model_dump_json().encode(), status)


async def _body(request: web.Request, model: type[BodyT]) -> BodyT:
    """The document in the request. What is wrong with one is told without its values: they may be secret."""
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        text = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['type']}" for each in found[:5])
        raise web.HTTPBadRequest(text=text) from None


MessageT = TypeVar("MessageT", bound=api.FromNode)


def _from_node(request: web.Request, message: MessageT) -> MessageT:
    """The message, if the certificate is that of its node."""
    subject = peer_subject(request.transport) or ""
    names = [part.removeprefix("CN=") for part in subject.split(",") if part.startswith("CN=")]
    if message.node.partition(":")[0] not in names:
        raise web.HTTPForbidden(text=f"{subject} is not the certificate of {message.node}")
    return message


def _json(document: BaseModel) -> web.Response:
    return _json_bytes(document.model_dump_json().encode())


def _json_bytes(body: bytes, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _number(request: web.Request, name: str) -> float:
    try:
        number = float(request.query.get(name, "0"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise web.HTTPBadRequest(text=f"{name}: a number is expected")
    return number


def _wait(request: web.Request) -> float:
    return min(_MAX_WAIT_SECONDS, max(0.0, _number(request, "wait")))


def _limit(request: web.Request) -> int:
    given = int(_number(request, "limit"))
    return min(_MAX_LIMIT, given) if given > 0 else _DEFAULT_LIMIT
