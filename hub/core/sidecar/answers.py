"""The session service's answers in OpenVPN's words, and logins in the service's words. Pure."""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import SecretStr

from hub.core import api
from hub.core.openvpn import commands
from hub.core.openvpn.clients import ClientFacts, address_and_port
from hub.core.sidecar.clients import ServerClient

Way = Literal["crv1", "crtext", "webauth", "temp"]


def denial_text(denied: api.Denied, flags: int) -> str:
    """What a refused client is shown; `flags`: its IV_PROTO."""
    if denied.elsewhere:
        return commands.elsewhere(flags, max(1, denied.backoff), denied.text)
    return denied.text[: commands.MAX_REASON_CHARS]


def question(answer: api.Challenged | api.Waiting, client: ServerClient) -> str:
    """What the client is sent (management-notes.txt, "Challenge/Response Protocol")."""
    match answer:
        case api.Challenged(by="crv1"):
            user = base64.b64encode(client.person.encode()).decode()
            return f"CRV1:{_flags(echo=answer.echo)}:{answer.state}:{user}:{answer.text}"
        case api.Challenged():
            return f"CR_TEXT:{_flags(echo=answer.echo)}:{answer.text}"
        case api.Waiting() if answer.link is not None:
            return f"WEB_AUTH::{answer.link}"
        case _:
            return f"CR_TEXT:E:{answer.text}" if answer.text else ""


def login_request(
    node: str, boot: str, sequence: int, cid: int, kid: int, facts: ClientFacts, session: str
) -> api.LoginRequest:
    """The question about a CONNECT or (`session` given, or known to be up) a REAUTH. ValueError: it cannot be
    asked.
    """
    address, port = address_and_port(facts.real)
    return api.LoginRequest(
        node=node,
        boot=boot,
        sequence=sequence,
        client_id=cid,
        key_id=kid,
        renewal=bool(session),
        session=session or None,
        person=facts.person,
        certificate=facts.serial,
        client=api.ClientAddress(address=address, port=port),
        claims=dict(facts.claims),
        username=facts.user or None,
        password=SecretStr(facts.password) if facts.password else None,
        token=_token(facts.token_state),
        understands=_understands(facts),
    )


def unknown_client(client: ServerClient) -> api.UnknownClient:
    """A client that is up, and whose session is to be named by the service."""
    address, port = address_and_port(client.real)
    return api.UnknownClient.model_validate(
        {
            "client_id": client.cid,
            "person": client.person,
            "address": client.address,
            "client": {"address": address or "unknown", "port": port},
        }
    )


def _understands(facts: ClientFacts) -> frozenset[Way]:
    ways: set[Way] = set()
    if "crtext" in facts.understands:
        ways.add("crtext")
    if "webauth" in facts.understands:
        ways.add("webauth")
    if facts.flags & commands.UNDERSTANDS_TEMP:
        ways.add("temp")
    if facts.user:
        ways.add("crv1")
    return frozenset(ways)


def _token(state: str) -> Literal["none", "valid", "expired", "invalid"]:
    if state.startswith("Authenticated"):
        return "valid"
    if state.startswith("Expired"):
        return "expired"
    return "invalid" if state.startswith("Invalid") else "none"


def _flags(*, echo: bool) -> str:
    """R: an answer is required; E: it may be seen while it is typed."""
    return "R,E" if echo else "R"
