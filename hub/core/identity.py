"""OpenID Connect as values: the question to an identity provider, and what its answer has to say.

Authorization code flow with PKCE (OpenID Connect Core 1.0 section 3.1, RFC 7636, RFC 9700). Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlencode, urlsplit

LEEWAY_SECONDS = 60.0  # between the clocks
MAX_AGE_SECONDS = 600.0
_IPV6_SITE_BITS = 64
_MAX_NAME_CHARS, _MAX_GROUPS = 200, 200


class IdentityFailed(Exception):
    """The identity provider proves nothing. The text says why, for the log; it holds no token and no code."""


@dataclass(frozen=True, slots=True)
class ProviderEndpoints:
    """Of an identity provider, from its discovery document."""

    authorization: str
    token: str
    keys: str

    @classmethod
    def of(cls, document: object, issuer: str) -> ProviderEndpoints:
        """IdentityFailed: another provider's document, or addresses without TLS."""
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise IdentityFailed("the discovery document names another issuer")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        found = [document.get(name) for name in names]
        allowed = {"https", urlsplit(issuer).scheme}
        for name, url in zip(names, found, strict=True):
            if not isinstance(url, str) or not _usable(url, allowed):
                raise IdentityFailed(f"the discovery document has no usable {name}")
        return cls(*map(str, found))


def _usable(url: str, schemes: set[str]) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to prove an identity. `browser` is the secret in the browser's cookie.

    Without it the answer of the provider is worth nothing. PKCE's verifier and the nonce are derived from it,
    so neither is stored.
    """

    state: str
    browser: str

    @property
    def verifier(self) -> str:
        """PKCE's code verifier: 43 characters (RFC 7636 section 4.1)."""
        return self._derived("verifier")

    @property
    def nonce(self) -> str:
        """It has to stand in the ID token."""
        return self._derived("nonce")

    @property
    def challenge(self) -> str:
        """PKCE's code challenge, method S256."""
        return _base64url(hashlib.sha256(self.verifier.encode()).digest())

    def _derived(self, purpose: str) -> str:
        text = f"{purpose} {self.state}".encode()
        return _base64url(hmac.new(self.browser.encode(), text, hashlib.sha256).digest())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def authorization_url(endpoint: str, client: str, redirect: str, scope: str, attempt: Attempt) -> str:
    """Where the browser goes."""
    query = urlencode(
        {
            "response_type": "code", "client_id": client, "redirect_uri": redirect, "scope": scope,
            "state": attempt.state, "nonce": attempt.nonce,
            "code_challenge": attempt.challenge, "code_challenge_method": "S256",
        }
    )  # fmt: skip
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{query}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider says of who logged in. `groups`: None: nothing."""

    person: str
    groups: tuple[str, ...] | None = None


def identity(claims: Mapping[str, Any], person: str, groups: str | None) -> Identity:
    """By the names of the claims. IdentityFailed: they do not say it."""
    name = claims.get(person)
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS:
        raise IdentityFailed(f"the ID token has no usable claim {person}")
    if groups is None:
        return Identity(name)
    found = claims.get(groups, [])
    if not isinstance(found, list) or len(found) > _MAX_GROUPS or not all(map(_is_group, found)):
        raise IdentityFailed(f"the claim {groups} of the ID token is not a list of names")
    return Identity(name, tuple(sorted(set(found))))


def _is_group(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME_CHARS


def check_claims(claims: Mapping[str, Any], issuer: str, client: str, nonce: str, now: float) -> None:
    """OpenID Connect Core 1.0 section 3.1.3.7. IdentityFailed: not the answer to our question."""
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if claims.get("iss") != issuer:
        raise IdentityFailed("the ID token is another issuer's")
    if client not in audiences or (len(audiences) > 1 and claims.get("azp") != client):
        raise IdentityFailed("the ID token is for another client")
    if claims.get("azp", client) != client:
        raise IdentityFailed("the ID token was given to another client")
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise IdentityFailed("the ID token answers another question (nonce)")
    expires, issued = _moment(claims, "exp"), _moment(claims, "iat")
    if expires <= now - LEEWAY_SECONDS:
        raise IdentityFailed("the ID token has expired")
    if not now - MAX_AGE_SECONDS <= issued <= now + LEEWAY_SECONDS:
        raise IdentityFailed("the ID token was issued at another time; compare the clocks")


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IdentityFailed(f"the ID token has no {name}")
    return float(value)


def same_place(one: str, other: str) -> bool:
    """Both may be one computer's: equal, or in the same IPv6 network of 64 bits."""
    try:
        first, second = _plain(one), _plain(other)
    except ValueError:
        return False
    if isinstance(first, IPv6Address) and isinstance(second, IPv6Address):
        return int(first) >> _IPV6_SITE_BITS == int(second) >> _IPV6_SITE_BITS
    return first == second


def _plain(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def browser_address(peer: str, forwarded: str, proxies: Iterable[IPv4Network | IPv6Network]) -> str:
    """A browser's address, behind proxies that append to `X-Forwarded-For`; only these are believed."""
    trusted = tuple(proxies)
    for hop in (*reversed(forwarded.split(",")),) if forwarded else ():
        if not _within(peer, trusted):
            break
        peer = hop.strip()
    return peer


def _within(text: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    try:
        address = _plain(text)
    except ValueError:
        return False
    return any(address in network for network in networks)
