"""Understands what a driver reports: the daemon's end of the channel, whose other end is
tunnels/drivers/channel.py.

    lines of the socket (JSON) and of the output -> ProgramDialogue.receive -> Say | Connected | Failed | ...

Failures are read from the client's own output, by the kind's table, once the client has ended; a driver adds
only what it alone can know.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tunnels.base import (
    Connected,
    Failed,
    IPNetwork,
    Keep,
    LineSource,
    Observation,
    Question,
    Reason,
    Say,
    SignOfLife,
    Wanted,
)
from tunnels.failure_patterns import Explanations, Table, by

RENEW = Say(json.dumps({"renew": True}))
ASK_SIGN_OF_LIFE = Say(json.dumps({"sign": True}))
LOGOUT = Say(json.dumps({"leave": True}))
Answer = Say | Observation
# Of each interface: what programs of ours set before they bring theirs up (tunnels/drivers/netlink.py).
INTERFACE_SETTINGS = (Path("/proc/sys/net/ipv4/conf"), Path("/proc/sys/net/ipv6/conf"))


class ProgramDialogue:
    """The dialogue of one session that a driver runs. Reports one failure and is silent after it."""

    def __init__(self, known: Mapping[str, str], failures: Table) -> None:
        """`known`: answers that need no operator, by what is asked (`username`, `password`). `failures`
        explains the client's end by lines of its output.
        """
        self._known, self._explanations = known, Explanations(by(failures))
        self._open: int | None = None  # id of the open question
        self._failed = False

    def receive(self, source: LineSource, line: str) -> Iterator[Answer]:
        """Take one line and return replies and what it means."""
        if self._failed:
            return
        for answer in self._understand(source, line):
            self._failed = self._failed or isinstance(answer, Failed)
            yield answer

    def answer(self, text: str) -> Iterator[Answer]:
        """Send the answer to the driver."""
        if self._open is not None:
            yield _reply(self._open, text)
            self._open = None

    def _understand(self, source: LineSource, line: str) -> Iterator[Answer]:
        match source:
            case LineSource.OUTPUT:
                self._explanations.hear(line)
            case LineSource.MANAGEMENT:
                yield from self._message(_parsed(line))
            case LineSource.END if (failed := self._explanations.failure) is not None:
                yield failed

    def _message(self, message: Mapping[str, Any]) -> Iterator[Answer]:
        match message:
            case {"ask": str(what), "id": int(number), "text": str(text)}:
                yield from self._asked(what, number, text)
            case {"connected": dict(facts)}:
                self._explanations.connected()
                yield _connected(facts)
            case {"failed": str(reason), "text": str(text)}:
                yield Failed(_reason(reason), text)
            case {"keep": str(secret)}:
                yield Keep(secret)
            case {
                "sign": {"seen": bool(seen), "within": int() | float() as within, "answers": bool(answers)}
            }:
                yield SignOfLife(seen, max(0.0, float(within)), answers)

    def _asked(self, what: str, number: int, text: str) -> Iterator[Answer]:
        if what in self._known:
            yield _reply(number, self._known[what])
        elif what in ("username", "password"):
            yield Failed(Reason.AUTH, f"the remote gateway requires a {what}; set login.{what}")
        else:
            self._open = number
            yield Question(Wanted(what) if what in list(Wanted) else Wanted.TEXT, text)


def _reply(number: int, text: str) -> Say:
    return Say(json.dumps({"id": number, "answer": text}), secret=True)


def _parsed(line: str) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return {}


def _connected(facts: Mapping[str, Any]) -> Connected:
    lasts, mtu = facts.get("lasts"), facts.get("mtu")
    return Connected(
        _text(facts.get("address")),
        _text(facts.get("peer")),
        tuple(_networks(facts.get("routes"))),
        float(lasts) if isinstance(lasts, int | float) and lasts > 0 else None,
        address6=_text(facts.get("address6")),
        on_interface=facts.get("on_interface") is True,
        agreed=tuple(_networks(facts.get("agreed"))),
        mtu=mtu if type(mtu) is int and mtu > 0 else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _networks(routes: Any) -> Iterator[IPNetwork]:
    for route in routes if isinstance(routes, list) else ():
        with contextlib.suppress(ValueError):
            if "%" not in str(route):  # a zone may be any text
                yield ip_network(str(route), strict=False)


def _reason(word: str) -> Reason:
    return Reason(word) if word in list(Reason) else Reason.EXITED
