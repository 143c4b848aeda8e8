"""The published description of the API is that of the code, and answers are as it says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from hub.core import routes
from hub.core.openapi import description
from tests.hub.messages import heartbeat, login
from tests.hub.running import HubSetup, get, post

DOCUMENT = Path(__file__).parents[2] / "docs/hub.openapi.json"


def test_the_published_description_is_up_to_date() -> None:
    assert json.loads(DOCUMENT.read_text()) == description(), "run: make docs"


async def test_answers_are_as_published(tmp_path: Path) -> None:
    published = json.loads(DOCUMENT.read_text())
    setup = HubSetup(tmp_path)
    seen = 0

    def check(route: routes.ApiRoute, status: int, answer: object) -> None:
        nonlocal seen
        responses = published["paths"][route.path][route.method.lower()]["responses"]
        schema = responses[str(status)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer, {**schema, "components": published["components"]})
        seen += 1

    async with setup.serving(), setup.client("hub-a") as sidecar, setup.client("ops") as ops:
        status, answer = await post(sidecar, routes.LOGIN.path, login())
        check(routes.LOGIN, status, answer)
        check(routes.LOGIN, *await post(sidecar, routes.LOGIN.path, login("old")))
        check(routes.LOGIN, *await post(sidecar, routes.LOGIN.path, login("tom", understands={"crv1"})))
        check(routes.LOGIN, *await post(sidecar, routes.LOGIN.path, "{}"))
        check(routes.HEARTBEAT, *await post(sidecar, routes.HEARTBEAT.path, heartbeat([answer["session"]])))
        check(routes.END, *await post(ops, routes.END.path, '{"person": "alice"}'))
        check(routes.HEARTBEAT, *await post(sidecar, routes.HEARTBEAT.path, heartbeat([answer["session"]])))
        check(routes.BLOCK, *await post(ops, routes.BLOCK.path, '{"person": "alice"}'))
        for route in (routes.SESSIONS, routes.HISTORY, routes.NODES, routes.EVENTS):
            check(route, *await get(ops, route.path))
        async with setup.client("vpn1") as follower:
            check(routes.ADDRESSES, *await get(follower, routes.ADDRESSES.path))
            check(routes.SESSIONS, *await get(follower, routes.SESSIONS.path))
    assert seen == 14
