"""A strict double of an OpenID Connect provider, with its own signing key and people who log in at once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

from aiohttp import web
from joserfc import jws
from joserfc.jwk import OctKey, RSAKey

from tests.hub.running import free_port
from tests.lab.wait import PATIENCE
from tests.netns import Namespace

CLIENT, SECRET = "facilitator hub", "s3cret of the client/&"
KEY, OTHER_KEY = (RSAKey.generate_key(2048, {"kid": "k1"}) for _ in range(2))

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Code:
    person: str
    challenge: str
    nonce: str
    redirect: str


class IdentityProviderDouble:
    """Checks what a provider has to check. `person`: who is logged in at its browser session.

    `forge` changes the claims; `sign` makes a token of them; it answers us only while `answers` is set.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.person, self.groups = "olga", ["engineers"]
        self.redirect = ""
        self.forge: Callable[[Claims], Claims] = lambda claims: claims
        self.sign: Callable[[str], str] = signed
        self.answers = asyncio.Event()
        self.answers.set()
        self.status = 200
        self.asked = 0  # questions of the service, not of browsers
        self._codes: dict[str, _Code] = {}
        self._runner: web.AppRunner | None = None

    async def start(self, listening: socket.socket | None = None) -> None:
        """Until it listens, on this socket if it is given."""
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        if listening is not None:
            await web.SockSite(self._runner, listening).start()
        else:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Connections are refused from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _trouble(self) -> None:
        self.asked += 1
        await self.answers.wait()
        if self.status != 200:
            raise web.HTTPServiceUnavailable

    async def _discovery(self, _request: web.Request) -> web.Response:
        await self._trouble()
        endpoints = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        urls = {name: f"{self.issuer}/{path}" for name, path in endpoints.items()}
        return web.json_response({"issuer": self.issuer, **urls})

    async def _keys(self, _request: web.Request) -> web.Response:
        await self._trouble()
        return web.json_response({"keys": [KEY.as_dict(private=False)]})

    async def _authorize(self, request: web.Request) -> web.Response:
        query = request.query
        assert (query["response_type"], query["client_id"]) == ("code", CLIENT)
        assert (query["redirect_uri"], query["code_challenge_method"]) == (self.redirect, "S256")
        assert "openid" in query["scope"].split()
        assert len(query["state"]) >= 43
        assert len(query["code_challenge"]) == 43
        code = secrets.token_urlsafe(16)
        self._codes[code] = _Code(self.person, query["code_challenge"], query["nonce"], query["redirect_uri"])
        back = urlencode({"code": code, "state": query["state"], "iss": self.issuer})
        raise web.HTTPFound(f"{self.redirect}?{back}")

    async def _token(self, request: web.Request) -> web.Response:
        await self._trouble()
        form = await request.post()
        given = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        if [unquote(part) for part in given.split(":")] != [CLIENT, SECRET]:
            return web.json_response({"error": "invalid_client"}, status=401)
        code = self._codes.pop(str(form["code"]), None)
        verifier = str(form["code_verifier"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        fits = code is not None and (code.challenge, code.redirect) == (challenge, form["redirect_uri"])
        if code is None or not fits or form["grant_type"] != "authorization_code":
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 300, "nonce": code.nonce,
            "preferred_username": code.person, "groups": self.groups,
        }  # fmt: skip
        token = self.sign(jws_text(self.forge(claims)))
        return web.json_response({"id_token": token, "access_token": "unused", "token_type": "Bearer"})


@contextlib.contextmanager
def provider_in(namespace: Namespace, port: int) -> Iterator[IdentityProviderDouble]:
    """One on the loopback interface of a namespace, in a thread of its own."""
    provider, loop = IdentityProviderDouble(port), asyncio.new_event_loop()
    with namespace.entered():
        listening = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(provider.start(listening), loop).result(PATIENCE)
        yield provider
    finally:
        asyncio.run_coroutine_threadsafe(provider.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def jws_text(claims: Claims) -> str:
    """The payload of a token."""
    return json.dumps(claims)


def signed(payload: str) -> str:
    """By the provider's key."""
    return jws.serialize_compact({"alg": "RS256", "kid": "k1"}, payload, KEY)


def by_another_key(payload: str) -> str:
    """A key with the same name that is not the provider's."""
    return jws.serialize_compact({"alg": "RS256", "kid": "k1"}, payload, OTHER_KEY)


def by_the_public_key(payload: str) -> str:
    """HMAC with the text of the public key as its secret (RFC 8725 section 2.1)."""
    key = OctKey.import_key(KEY.as_pem(private=False))
    return jws.serialize_compact({"alg": "HS256", "kid": "k1"}, payload, key, algorithms=["HS256"])


def unsigned(payload: str) -> str:
    """`alg: none`."""
    parts = ('{"alg":"none","kid":"k1"}', payload)
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."
