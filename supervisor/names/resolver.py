"""Answers the questions of staff: from what is known, from the cache, or by asking behind the tunnel."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from supervisor.core.names.values import AskingRules, NameServiceState, NamesOfTunnel
from supervisor.names.answers import ASKABLE, PTR, Filtered, Unusable, filtered
from supervisor.names.asking import TRY_SECONDS, NoAnswer, ask, hand_on, new_query, way_into
from supervisor.names.cache import Cache, Key
from supervisor.names.counters import OTHERS, Counters
from supervisor.names.wire import (
    IN,
    ErrorCode,
    ExtendedError,
    Malformed,
    NameAnswer,
    NameQuery,
    Rcode,
    name_text,
    read_question,
    refusal,
    response,
)
from supervisor.names.zones import Directory, Zone, address_of, is_reverse, reverse_name, suffixes
from tunnels.networks import IPAddress, IPNetwork

MAX_ASKING = 256  # questions that are asked behind one tunnel at a time
MAX_FOLLOWED = 5  # aliases for which a server is asked again
MAX_WAITING = 10_000  # questions about names behind tunnels that wait for an answer
MAX_RELAYED = 1000  # questions that others are asked at a time
MAX_SOURCES = 65_536  # of which it is remembered whether they may ask

TOO_MANY = "too many questions at a time"
Send = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class _Target:
    """What is asked behind a tunnel: of a mapped address it is another name than staff ask for."""

    zone: Zone
    name: bytes  # for the server
    domain: bytes  # of the tunnel, in which the name lies


class NameResolver:
    """`take` answers at once, or later when a server has to be asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state = NameServiceState(AskingRules(()))
        self._directory = Directory({})
        self._admitted: dict[tuple[str, str], bool] = {}  # tunnel and source
        self._cache, self.counters = Cache(), Counters()
        self._asking: dict[Key, asyncio.Task[NameAnswer]] = {}
        self._under_way: Counter[str] = Counter()
        self._answered: dict[str, IPAddress] = {}  # the server of each tunnel that has answered last
        self._waiting: set[asyncio.Task[None]] = set()
        self._relaying: set[asyncio.Task[None]] = set()

    def set(self, state: NameServiceState) -> None:
        """From now on this holds. What is known of tunnels that have changed is forgotten."""
        before, self._state = self._state.tunnels, state
        for name in before.keys() | state.tunnels.keys():
            if _knowledge(before.get(name)) != _knowledge(state.tunnels.get(name)):
                self._cache.forget(name)
                self._answered.pop(name, None)
        self._directory, self._admitted = Directory(state.tunnels), {}

    def take(self, message: bytes, source: str, send: Send, *, stream: bool = False) -> None:
        """Answer the message of this source, if it gets an answer at all."""
        if not self._may_ask(source, OTHERS):
            self.counters.strangers += 1
            return
        question = read_question(message)
        if question is None:
            return
        if isinstance(question, Malformed):
            self.counters.responses[OTHERS, question.rcode] += 1
            send(refusal(question))
            return
        target = self._target(question)
        if target is None:
            self._others(message, question, send, stream)
            return
        tunnel = target.zone.tunnel
        known = self._known(question, target, source)
        if known is not None:
            self._send(tunnel, question, known[0], known[1], send, stream)
            return
        if len(self._waiting) >= MAX_WAITING:
            self._send(tunnel, question, _failed(TOO_MANY), 0, send, stream)
            return
        _start(self._waiting, self._answer_later(question, target, send, stream))

    # --- what is known at once

    def _known(self, question: NameQuery, target: _Target, source: str) -> tuple[NameAnswer, int] | None:
        zone = target.zone
        if not self._may_ask(source, zone.tunnel):
            text = f"{zone.tunnel}: you may not use this tunnel"
            return NameAnswer(Rcode.REFUSED, error=ExtendedError(ErrorCode.PROHIBITED, text)), 0
        if zone.about.down:
            return _failed(zone.about.down), 0
        if question.kind not in ASKABLE or (is_reverse(question.name) and question.kind != PTR):
            return NameAnswer(Rcode.NOERROR), 0
        found = self._cache.get((zone.tunnel, question.name, question.kind), self._clock())
        if found is not None:
            self.counters.from_cache[zone.tunnel] += 1
        return found

    def _may_ask(self, source: str, tunnel: str) -> bool:
        known = self._admitted.get((tunnel, source))
        if known is None:
            if len(self._admitted) >= MAX_SOURCES:
                self._admitted.clear()
            known = self._admitted[tunnel, source] = self._judge(source, tunnel)
        return known

    def _judge(self, source: str, tunnel: str) -> bool:
        address, rules = ip_address(source.partition("%")[0]), self._state.rules
        if tunnel == OTHERS:
            return address not in rules.denied and _within(address, rules.staff)
        allowed = self._state.tunnels[tunnel].allowed
        return allowed is None or _within(address, allowed)

    def _target(self, question: NameQuery) -> _Target | None:
        """Where it is asked; None: nowhere behind a tunnel."""
        if question.class_ != IN or question.kind in range(249, 256):
            return None
        name = question.name
        zone = self._directory.of_name(name)
        if zone is not None:
            return _Target(zone, name, next(each for each in suffixes(name) if each in zone.suffixes))
        address = address_of(name) if is_reverse(name) else None
        zone = None if address is None else self._directory.of_address(address)
        real = None if zone is None or address is None else zone.real(address)
        return None if zone is None or real is None else _Target(zone, reverse_name(real), name)

    # --- what has to be asked

    async def _answer_later(self, question: NameQuery, target: _Target, send: Send, stream: bool) -> None:
        answer = await self._asked((target.zone.tunnel, question.name, question.kind), target)
        self._send(target.zone.tunnel, question, answer, 0, send, stream)

    async def _asked(self, key: Key, target: _Target) -> NameAnswer:
        """The answer to a question that others may be asking at the same time."""
        task = self._asking.get(key)
        if task is None:
            if self._under_way[key[0]] >= MAX_ASKING:
                return _failed(f"{key[0]}: {TOO_MANY}")
            task = self._asking[key] = asyncio.create_task(self._ask(key, target))
        return await asyncio.shield(task)

    async def _ask(self, key: Key, target: _Target) -> NameAnswer:
        tunnel = key[0]
        self._under_way[tunnel] += 1
        try:
            answer = await self._ask_servers(key, target)
        finally:
            self._under_way[tunnel] -= 1
            del self._asking[key]
        about = self._state.tunnels.get(tunnel)
        if _knowledge(about) == _knowledge(target.zone.about):
            self._cache.put(key, answer, self._clock())
        return answer

    async def _ask_servers(self, key: Key, target: _Target) -> NameAnswer:
        """Ask the servers of the tunnel one after the other, first the one that has answered last, and then
        all of them once more.
        """
        zone, why = target.zone, "no server"
        for within, server in itertools.product(TRY_SECONDS, self._in_order(zone)):
            try:
                result = await self._follow(server, target, key, within)
            except (NoAnswer, Unusable) as problem:
                why = str(problem) if isinstance(problem, NoAnswer) else f"{server}: {problem}"
                continue
            self._answered[zone.tunnel] = server
            return result.answer
        self.counters.unanswered[zone.tunnel] += 1
        return _failed(f"{zone.tunnel}: {why}")

    async def _follow(self, server: IPAddress, target: _Target, key: Key, within: float) -> Filtered:
        """The server's answer; where it ends at an alias the server is asked for that, too. NoAnswer,
        Unusable.
        """
        _, name, kind = key
        result = await self._ask_one(server, target, key, within)
        for _ in range(MAX_FOLLOWED):
            alias = None if result.alias is None else result.alias.lower()
            if alias is None or any(record.owner.lower() == alias for record in result.records):
                break
            target = replace(target, name=alias)
            further = await self._ask_one(server, target, (key[0], alias, kind), within)
            result = further.begun_by(result.records, name)
        return result

    async def _ask_one(self, server: IPAddress, target: _Target, key: Key, within: float) -> Filtered:
        zone, asked = target.zone, new_query(target.name, key[2])
        message = await ask(server, asked, way_into(zone.about), lambda: self._forged(zone.tunnel), within)
        result = filtered(message, asked, zone, key[1], target.domain)
        if result.dropped:
            self.counters.dropped[zone.tunnel] += result.dropped
        return result

    def _in_order(self, zone: Zone) -> Iterator[IPAddress]:
        last = self._answered.get(zone.tunnel)
        return iter(sorted(zone.about.servers, key=lambda server: server != last))

    def _forged(self, tunnel: str) -> None:
        self.counters.forged[tunnel] += 1

    # --- names that are nobody's

    def _others(self, message: bytes, question: NameQuery, send: Send, stream: bool) -> None:
        upstream = self._state.rules.upstream
        if not upstream:
            text = f"{name_text(question.name)} is behind no tunnel"
            self._send(OTHERS, question, NameAnswer(Rcode.REFUSED, error=_prohibited(text)), 0, send, stream)
            return
        if len(self._relaying) >= MAX_RELAYED:
            self._send(OTHERS, question, _failed(TOO_MANY), 0, send, stream)
            return
        _start(self._relaying, self._relay(message, question, send, stream))

    async def _relay(self, message: bytes, question: NameQuery, send: Send, stream: bool) -> None:
        why = ""
        for server in self._state.rules.upstream:
            try:
                answer = await hand_on(server, message, question.asked[:-4], stream=stream)
            except NoAnswer as problem:
                why = str(problem)
                continue
            self.counters.responses[OTHERS, answer[3] & 0xF] += 1
            send(answer)
            return
        self._send(OTHERS, question, _failed(why), 0, send, stream)

    # --- for the daemon

    async def look_up(self, text: bytes, kind: int) -> dict[str, Any]:
        """What a name (wire form, lower case) leads to, as staff would be told, and which way the query
        goes.
        """
        question = NameQuery(b"\0\0", 0, text + b"\0\0\0\0", text, kind, IN, 512, edns=False, dnssec=False)
        target = self._target(question)
        if target is None:
            return {"tunnel": None, "rcode": "REFUSED", "error": "it is behind no tunnel", "addresses": []}
        zone = target.zone
        if zone.about.down:
            answer = _failed(zone.about.down)
        else:
            key = (zone.tunnel, question.name, kind)
            kept = self._cache.get(key, self._clock())
            answer = kept[0] if kept is not None else await self._asked(key, target)
        return {
            "tunnel": zone.tunnel,
            "servers": [str(server) for server in zone.about.servers],
            "rcode": answer.rcode.name,
            "error": None if answer.error is None else answer.error.text,
            "addresses": [*_addresses(answer, kind)],
        }

    # --- common

    def _send(
        self, tunnel: str, question: NameQuery, answer: NameAnswer, age: int, send: Send, stream: bool
    ) -> None:
        self.counters.responses[tunnel, answer.rcode] += 1
        send(response(question, answer, age, stream=stream))


def _start(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _knowledge(about: NamesOfTunnel | None) -> object:
    """What answers depend on."""
    return about and (about.domains, about.servers, about.networks, about.reverse)


def _within(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)


def _failed(text: str) -> NameAnswer:
    return NameAnswer(Rcode.SERVFAIL, error=ExtendedError(ErrorCode.NO_REACHABLE_AUTHORITY, text))


def _prohibited(text: str) -> ExtendedError:
    return ExtendedError(ErrorCode.PROHIBITED, text)


def _addresses(answer: NameAnswer, kind: int) -> Iterator[str]:
    """The addresses in an answer to A or AAAA."""
    size = {1: 4, 28: 16}.get(kind, 0)
    for place in answer.ttls[: answer.counts[0]]:
        data = answer.body[place + 6 : place + 6 + size]
        if size and int.from_bytes(answer.body[place - 4 : place - 2]) == kind:
            yield str(ip_address(data))
