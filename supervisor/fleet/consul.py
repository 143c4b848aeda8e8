"""Consul: sessions and the key/value store (https://developer.hashicorp.com/consul/api-docs).

A lease is a session without health checks, because those would end it when gossip alone is disturbed. What
else ends one early (its agent leaves the cluster) is what the lock delay is for: for that long nobody gets
the lock, so that the holder's permission is over first. Consul ends a silent session after one to two times
its TTL, and then comes the delay.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from supervisor.core.fleet.lease import call_budget, margin
from supervisor.fleet.lock_service import (
    LeaseGrant,
    LockAnswer,
    LockServiceAway,
    LockServiceDenied,
    StoredValue,
    beside_the_loop,
    understood,
)
from supervisor.http_connections import STREAM_SECONDS, HttpAnswer, HttpConnections, HttpRequest

_OK, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 200, 403, 404, 409
_CONSISTENT = "consistent"  # the leader asks a majority first, so that no old answer is possible


class ConsulLock:
    """The `LockService` in Consul."""

    name = "Consul"

    def __init__(
        self, http: HttpConnections, ttl: float, member: str, token: Callable[[], str] | None = None
    ) -> None:
        """`member`: name of the sessions. `token` reads the ACL token; OSError or ValueError."""
        self.ttl, self.budget = ttl, call_budget(ttl)
        self._http, self._member, self._token = http, member, token

    async def open_lease(self) -> LeaseGrant:
        """See `LockService`."""
        ttl = math.ceil(self.ttl)
        session = {
            "Name": f"facilitator {self._member}",
            "TTL": f"{ttl}s",
            "LockDelay": f"{math.ceil(self.ttl - margin(self.ttl))}s",
            "Behavior": "delete",
            "Checks": [],
            "NodeChecks": [],
        }
        answer = await self._ask("PUT", "/v1/session/create", session)
        with understood(self.name):
            return LeaseGrant(_document(answer)["ID"], float(ttl))

    async def renew(self, lease: str) -> bool:
        """See `LockService`."""
        answer = await self._ask("PUT", f"/v1/session/renew/{quote(lease)}", also=(_NOT_FOUND,))
        return answer.status == _OK

    async def revoke(self, lease: str) -> None:
        """See `LockService`."""
        await self._ask("PUT", f"/v1/session/destroy/{quote(lease)}")

    async def acquire(self, key: str, value: str, lease: str) -> LockAnswer:
        """See `LockService`."""
        end = self._http.end()
        lock = {"Verb": "lock", "Key": key, "Value": _b64(value), "Session": lease}
        answer = await self._transaction(end, lock, {"Verb": "get", "Key": key})
        if answer.status == _OK:
            with understood(self.name):
                return LockAnswer(True, _entry(_document(answer)["Results"][-1]["KV"]))
        if "invalid session" in answer.text.lower():
            return LockAnswer(False, None)
        entry = await self._got(key, end)
        if entry is not None and entry.lease is None:
            entry = None
        return LockAnswer(entry is not None and entry.lease == lease, entry, delayed=entry is None)

    async def release(self, key: str, lease: str) -> None:
        """See `LockService`."""
        held = {"Verb": "check-session", "Key": key, "Session": lease}
        await self._transaction(self._http.end(), held, {"Verb": "delete", "Key": key})

    async def get(self, key: str) -> StoredValue | None:
        """See `LockService`."""
        return await self._got(key, self._http.end())

    async def _got(self, key: str, end: float) -> StoredValue | None:
        answer = await self._ask("GET", f"{_path(key)}?{_CONSISTENT}", also=(_NOT_FOUND,), end=end)
        with understood(self.name):
            return None if answer.status == _NOT_FOUND else _entry(_document(answer)[0])

    async def list(self, prefix: str) -> Sequence[StoredValue]:
        """See `LockService`."""
        answer = await self._ask("GET", f"{_path(prefix)}?recurse&{_CONSISTENT}", also=(_NOT_FOUND,))
        if answer.status == _NOT_FOUND:
            return []
        with understood(self.name):
            return await beside_the_loop(answer.body, lambda: _entries(answer))

    async def put(self, key: str, value: str, lease: str | None = None) -> None:
        """See `LockService`."""
        if lease is None:
            await self._ask("PUT", _path(key), value)
            return
        end = self._http.end()
        lock = {"Verb": "lock", "Key": key, "Value": _b64(value), "Session": lease}
        if (await self._transaction(end, lock)).status == _OK:
            return
        # another session's, such as that of this member before it was restarted, or its lock delay
        answer = await self._transaction(end, {"Verb": "delete", "Key": key}, lock)
        if answer.status != _OK:
            raise LockServiceAway(f"Consul: {key} cannot be written with this session: {answer.text}")

    async def delete(self, key: str) -> None:
        """See `LockService`."""
        await self._ask("DELETE", _path(key))

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        """See `LockService`."""
        index = 0
        while True:
            wait = f"&wait={STREAM_SECONDS:g}s&index={index}" if index else ""
            request = self._request("GET", f"{_path(prefix)}?keys{wait}")
            answer = _checked(await self._http.once(request, STREAM_SECONDS * 1.1), (_NOT_FOUND,))
            with understood(self.name):
                new = int(answer.headers.get("x-consul-index", "0"))
            if new == index:
                return
            index = max(1, new) if new > index else 0
            yield

    async def close(self) -> None:
        """See `LockService`."""
        await self._http.close()

    async def _transaction(self, end: float, *operations: Mapping[str, Any]) -> HttpAnswer:
        steps = [{"KV": each} for each in operations]
        return await self._ask("PUT", "/v1/txn", steps, also=(_CONFLICT,), end=end)

    async def _ask(
        self, method: str, path: str, body: Any = None, also: Sequence[int] = (), end: float | None = None
    ) -> HttpAnswer:
        """An answer of status 200 or one of these."""
        return _checked(await self._http.ask(self._request(method, path, body), end), also)

    def _request(self, method: str, path: str, body: Any = None) -> HttpRequest:
        try:
            headers = {} if self._token is None else {"X-Consul-Token": self._token()}
        except (OSError, ValueError) as error:
            raise LockServiceDenied(f"Consul: the token cannot be read: {error}") from error
        text = body if isinstance(body, str) else json.dumps(body)
        return HttpRequest(method, path, b"" if body is None else text.encode(), headers)


def _path(key: str) -> str:
    return f"/v1/kv/{quote(key)}"


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _entry(found: Mapping[str, Any]) -> StoredValue:
    """ModifyIndex grows over all keys, and LockIndex starts over with each deletion of its key."""
    value = b64decode(found.get("Value") or "").decode("utf-8", "replace")
    return StoredValue(found["Key"], value, int(found["ModifyIndex"]), found.get("Session") or None)


def _entries(answer: HttpAnswer) -> list[StoredValue]:
    return sorted(map(_entry, _document(answer)), key=lambda entry: entry.key)


def _document(answer: HttpAnswer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise LockServiceAway(
            "Consul: its answer is no JSON; is this the address of its HTTP API?"
        ) from error


def _checked(answer: HttpAnswer, also: Sequence[int]) -> HttpAnswer:
    if answer.status == _OK or answer.status in also:
        return answer
    if answer.status in (401, _FORBIDDEN):
        raise LockServiceDenied(f"Consul refuses the request: {answer.text}")
    raise LockServiceAway(f"Consul: {answer.status} {answer.text}")
