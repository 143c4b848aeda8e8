"""etcd v3 over its JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/)."""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from supervisor.core.fleet.lease import call_budget
from supervisor.fleet.lock_service import (
    LeaseGrant,
    LockAnswer,
    LockServiceAway,
    LockServiceDenied,
    StoredValue,
    beside_the_loop,
    understood,
)
from supervisor.http_connections import HttpAnswer, HttpConnections, HttpRequest

# Codes of gRPC in answers of status 400 and above (https://grpc.io/docs/guides/status-codes/).
_NOT_FOUND, _DENIED, _UNAUTHENTICATED = 5, 7, 16
_BAD_ARGUMENT = 3  # also: "authentication failed" and "user name is empty"
_ACCESS = ("authentication", "user name is empty", "permission denied", "auth token")


class EtcdLock:
    """The `LockService` in etcd."""

    name = "etcd"

    def __init__(
        self, http: HttpConnections, ttl: float, user: Callable[[], tuple[str, str]] | None = None
    ) -> None:
        """`user` reads name and password where etcd asks for one; OSError or ValueError."""
        self.ttl, self.budget = ttl, call_budget(ttl)
        self._http, self._user = http, user
        self._token = ""  # of the user

    async def open_lease(self) -> LeaseGrant:
        """See `LockService`."""
        granted = await self._ask("/lease/grant", {"TTL": math.ceil(self.ttl)})
        with understood(self.name):
            return LeaseGrant(granted["ID"], float(granted["TTL"]))

    async def renew(self, lease: str) -> bool:
        """See `LockService`."""
        answer = await self._ask("/lease/keepalive", {"ID": lease})
        with understood(self.name):
            return int(answer["result"].get("TTL", 0)) > 0

    async def revoke(self, lease: str) -> None:
        """See `LockService`."""
        await self._ask("/lease/revoke", {"ID": lease}, absent={})

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        """See `LockService`."""
        done = await self._ask(
            "/kv/txn",
            {
                "compare": [_compare(key, "CREATE", create_revision="0")],
                "success": [{"request_put": {"key": _key(key), "value": _b64(value), "lease": lease}}],
                "failure": [{"request_range": {"key": _key(key)}}],
            },
        )
        with understood(self.name):
            if done.get("succeeded"):
                return LockAnswer(True, StoredValue(key, value, int(done["header"]["revision"]), lease))
            entry = _entry(done["responses"][0]["response_range"]["kvs"][0])
            return LockAnswer(entry.lease == lease, entry)

    async def release(self, key: str, lease: str) -> None:
        """See `LockService`."""
        await self._ask(
            "/kv/txn",
            {
                "compare": [_compare(key, "LEASE", lease=lease)],
                "success": [{"request_delete_range": {"key": _key(key)}}],
            },
        )

    async def get(self, key: str) -> StoredValue | None:
        """See `LockService`."""
        answer = await self._ask("/kv/range", {"key": _key(key)})
        with understood(self.name):
            found = answer.get("kvs", [])
            return _entry(found[0]) if found else None

    async def list(self, prefix: str) -> Sequence[StoredValue]:
        """See `LockService`."""
        answer = await self._answer("/kv/range", _below(prefix))
        with understood(self.name):
            return await beside_the_loop(answer.body, lambda: _entries(answer))

    async def put(self, key: str, value: str, lease: str | None = None) -> None:
        """See `LockService`."""
        await self._ask("/kv/put", {"key": _key(key), "value": _b64(value), "lease": lease or "0"})

    async def delete(self, key: str) -> None:
        """See `LockService`."""
        await self._ask("/kv/deleterange", {"key": _key(key)})

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        """See `LockService`."""
        await self._authenticated(self._http.end())
        async for line in self._http.lines(self._request("/watch", {"create_request": _below(prefix)})):
            if line.strip():
                said = _parsed(line)
                with understood(self.name):
                    ended = "error" in said or said.get("result", {}).get("canceled")
                if ended:
                    raise LockServiceAway("etcd: the watch was ended")
                yield

    async def close(self) -> None:
        """See `LockService`."""
        await self._http.close()

    async def _ask(
        self, path: str, document: Mapping[str, Any], *, absent: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer; `absent` where etcd says that there is no such thing."""
        answer = await self._answer(path, document)
        if absent is not None and _code(answer) == _NOT_FOUND:
            return absent
        return _checked(answer)

    async def _answer(self, path: str, document: Mapping[str, Any]) -> HttpAnswer:
        """The answer as it came, within one budget, with a new token if the present one is over."""
        end = self._http.end()
        await self._authenticated(end)
        answer = await self._http.ask(self._request(path, document), end)
        if self._token and _code(answer) == _UNAUTHENTICATED:  # tokens end, and so do those of a lost leader
            self._token = ""
            await self._authenticated(end)
            answer = await self._http.ask(self._request(path, document), end)
        return answer

    async def _authenticated(self, end: float) -> None:
        if self._user is None or self._token:
            return
        try:
            name, password = self._user()
        except (OSError, ValueError) as error:
            raise LockServiceDenied(f"etcd: the password cannot be read: {error}") from error
        asked = self._request("/auth/authenticate", {"name": name, "password": password})
        self._token = str(_checked(await self._http.ask(asked, end)).get("token", ""))

    def _request(self, path: str, document: Mapping[str, Any]) -> HttpRequest:
        headers = {"Authorization": self._token} if self._token else {}
        return HttpRequest("POST", f"/v3{path}", json.dumps(document).encode(), headers)


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _key(key: str) -> str:
    """In etcd our keys begin with a slash."""
    return _b64(f"/{key}")


def _below(prefix: str) -> dict[str, str]:
    """The range of all keys with this prefix: its end is the prefix with its last byte increased."""
    raw = f"/{prefix}".encode()
    return {"key": _key(prefix), "range_end": b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()}


def _compare(key: str, target: str, **value: str) -> dict[str, str]:
    return {"key": _key(key), "target": target, "result": "EQUAL", **value}


def _entry(found: Mapping[str, Any]) -> StoredValue:
    """Empty fields and zeros are left out of the JSON."""
    lease = found.get("lease", "0")
    key, value = (b64decode(found.get(name, "")).decode("utf-8", "replace") for name in ("key", "value"))
    return StoredValue(
        key.removeprefix("/"), value, int(found["mod_revision"]), None if lease == "0" else lease
    )


def _entries(answer: HttpAnswer) -> list[StoredValue]:
    return [_entry(each) for each in _checked(answer).get("kvs", [])]


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LockServiceAway("etcd: its answer is no JSON; is this etcd's client URL?") from error
    if not isinstance(document, dict):
        raise LockServiceAway("etcd: its answer is not understood")
    return document


def _code(answer: HttpAnswer) -> int:
    if answer.status < 400:
        return 0
    try:
        return int(_parsed(answer.body).get("code", -1))
    except (LockServiceAway, ValueError, TypeError):
        return -1


def _checked(answer: HttpAnswer) -> dict[str, Any]:
    if answer.status < 400:
        document = _parsed(answer.body)
        if "error" not in document:
            return document
        raise LockServiceAway(f"etcd: {answer.text}")
    code = _code(answer)
    said = answer.text
    if code in (_DENIED, _UNAUTHENTICATED) or (
        code == _BAD_ARGUMENT and any(words in said for words in _ACCESS)
    ):
        raise LockServiceDenied(f"etcd refuses the request: {said}")
    raise LockServiceAway(f"etcd: {answer.status} {said}")
