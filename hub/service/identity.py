"""The identity provider: asked when a browser comes back from it, and never otherwise.

It is asked nothing at the start, for logins by other methods or for renewals: it may be away meanwhile.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from hub.config.model import OidcSettings
from hub.core.identity import (
    Attempt,
    Identity,
    IdentityFailed,
    ProviderEndpoints,
    authorization_url,
    check_claims,
    identity,
)

_ANSWER_SECONDS = 10.0
_MAX_ANSWER_BYTES = 256 << 10
_MAX_TOKEN_CHARS = 32 << 10
_KNOWN_SECONDS = 3600.0  # addresses and keys are asked for again after that
_KEYS_AGAIN_SECONDS = 10.0  # a token with an unknown key makes us ask for the keys, but not more often
_SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")


class IdentityProvider:
    """One issuer, as the configuration names it."""

    def __init__(self, settings: OidcSettings, secret: Callable[[], str], redirect: str) -> None:
        """`secret`: reads the client's; OSError or ValueError. `redirect`: where browsers come back."""
        self._settings, self._secret, self._redirect = settings, secret, redirect
        self.issuer = settings.issuer
        self._endpoints: tuple[float, ProviderEndpoints] | None = None
        self._keys: tuple[float, KeySet] | None = None
        self._tls = ssl.create_default_context(cafile=str(settings.ca) if settings.ca is not None else None)

    async def link(self, attempt: Attempt) -> str:
        """Where the browser logs in. IdentityFailed."""
        endpoints = await self._where()
        settings = self._settings
        return authorization_url(
            endpoints.authorization, settings.client, self._redirect, " ".join(settings.scopes), attempt
        )

    async def identity(self, attempt: Attempt, code: str) -> Identity:
        """Who has logged in, for the code that the browser brought. IdentityFailed."""
        endpoints = await self._where()
        document = await self._ask(
            "POST", endpoints.token, self._exchange(attempt, code), self._authorization()
        )
        token = document.get("id_token") if isinstance(document, dict) else None
        if not isinstance(token, str) or len(token) > _MAX_TOKEN_CHARS:
            raise IdentityFailed("the token endpoint gives no usable ID token")
        claims = await self._verified(token, endpoints)
        check_claims(claims, self.issuer, self._settings.client, attempt.nonce, time.time())
        return identity(claims, self._settings.person, self._settings.groups)

    def _exchange(self, attempt: Attempt, code: str) -> dict[str, str]:
        return {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect,
            "code_verifier": attempt.verifier,
        }  # fmt: skip

    def _authorization(self) -> str:
        """HTTP Basic, form-encoded inside (RFC 6749 section 2.3.1)."""
        try:
            secret = self._secret()
        except (OSError, ValueError):
            raise IdentityFailed("the secret of login.oidc cannot be read") from None
        pair = f"{quote(self._settings.client, safe='')}:{quote(secret, safe='')}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    async def _where(self) -> ProviderEndpoints:
        if self._endpoints is None or time.monotonic() - self._endpoints[0] > _KNOWN_SECONDS:
            url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = ProviderEndpoints.of(await self._ask("GET", url), self.issuer)
            self._endpoints = time.monotonic(), found
        return self._endpoints[1]

    async def _verified(self, token: str, endpoints: ProviderEndpoints) -> dict[str, Any]:
        """The claims of a token that the provider has signed."""
        known = self._keys
        keys = known[1] if known is not None else None
        if keys is None or time.monotonic() - (known or (0.0,))[0] > _KNOWN_SECONDS:
            keys = await self._read_keys(endpoints)
        try:
            return _claims(token, keys)
        except (JoseError, ValueError, RecursionError):
            if self._keys is not None and time.monotonic() - self._keys[0] < _KEYS_AGAIN_SECONDS:
                raise IdentityFailed("the signature of the ID token is not the provider's") from None
        try:  # the provider may have new keys
            return _claims(token, await self._read_keys(endpoints))
        except (JoseError, ValueError, RecursionError):
            raise IdentityFailed("the signature of the ID token is not the provider's") from None

    async def _read_keys(self, endpoints: ProviderEndpoints) -> KeySet:
        document = await self._ask("GET", endpoints.keys)
        try:
            keys = KeySet.import_key_set(document)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise IdentityFailed("the provider's keys are not understood") from None
        self._keys = time.monotonic(), keys
        return keys

    async def _ask(
        self, method: str, url: str, form: dict[str, str] | None = None, authorization: str | None = None
    ) -> Any:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": authorization} if authorization is not None else {}
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as client,
                client.request(
                    method, url, data=form, headers=headers, allow_redirects=False, ssl=self._tls
                ) as response,
            ):
                content = await _bounded(response)
                status = response.status
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise IdentityFailed(f"the identity provider does not answer: {type(error).__name__}") from None
        if status != 200:
            raise IdentityFailed(f"the identity provider answers with status {status}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise IdentityFailed("the identity provider's answer is not JSON") from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(16 << 10):
        content += chunk
        if len(content) > _MAX_ANSWER_BYTES:
            raise IdentityFailed("the identity provider's answer is too long")
    return bytes(content)


def _claims(token: str, keys: KeySet) -> dict[str, Any]:
    """JoseError, ValueError or RecursionError: it is not signed by one of these keys."""
    signed = jws.deserialize_compact(token, keys, algorithms=list(_SIGNATURES))
    claims = json.loads(signed.payload)
    if not isinstance(claims, dict):
        raise ValueError("the claims are not a group")
    return claims
