"""The routes of the session service's HTTP API: method, path, role, and the documents that go and come."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hub.core import api


class Role(StrEnum):
    """What a client of the service may do, by the subject of its certificate."""

    SIDECAR = "sidecar"
    FACILITATOR = "facilitator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One operation. `query`: parameter and its meaning."""

    method: str
    path: str
    role: Role
    summary: str
    answer: Any
    body: type[api.ApiDocument] | None = None
    query: tuple[tuple[str, str], ...] = ()


_AFTER = ("after", "only what came after this revision; 0 or absent: from the beginning")
_WAIT = ("wait", "seconds (at most 60) for which the answer is held back while there is nothing new")
_LIMIT = ("limit", "how many, at most 10000; 1000 when absent")
_PERSON = ("person", "of this person only")
_ADDRESS = ("address", "with this virtual address only")

LOGIN = ApiRoute(
    "POST", "/api/v1/login", Role.SIDECAR, "Decide a login or a renewal", api.LoginAnswer, api.LoginRequest
)
ANSWER = ApiRoute(
    "POST", "/api/v1/answer", Role.SIDECAR, "What a person typed", api.LoginAnswer, api.ChallengeAnswer
)
UP = ApiRoute("POST", "/api/v1/up", Role.SIDECAR, "A client has its address", None, api.SessionUp)
ENDED = ApiRoute("POST", "/api/v1/ended", Role.SIDECAR, "Sessions that have ended", None, api.SessionEnds)
HEARTBEAT = ApiRoute(
    "POST", "/api/v1/heartbeat", Role.SIDECAR, "All sessions of a node; returns what it must do",
    api.HeartbeatAnswer, api.Heartbeat,
)  # fmt: skip
ADDRESSES = ApiRoute(
    "GET", "/api/v1/addresses", Role.FACILITATOR, "Who has which address (long poll)", api.AddressBook, None,
    (_AFTER, _WAIT),
)  # fmt: skip
SESSIONS = ApiRoute(
    "GET",
    "/api/v1/sessions",
    Role.ADMIN,
    "Who is connected",
    api.SessionList,
    None,
    (_PERSON, _ADDRESS, _LIMIT),
)
HISTORY = ApiRoute(
    "GET", "/api/v1/history", Role.ADMIN, "Sessions that were, also refused logins", api.SessionList, None,
    (_PERSON, _ADDRESS, ("at", "that held the address at this moment"), _LIMIT),
)  # fmt: skip
NODES = ApiRoute("GET", "/api/v1/nodes", Role.ADMIN, "The OpenVPN servers", api.NodeList)
END = ApiRoute("POST", "/api/v1/end", Role.ADMIN, "End sessions", api.CommandAnswer, api.EndCommand)
BLOCK = ApiRoute(
    "POST", "/api/v1/block", Role.ADMIN, "Block a person, or no longer", api.CommandAnswer, api.BlockCommand
)
EVENTS = ApiRoute(
    "GET", "/api/v1/events", Role.ADMIN, "The trail of events (long poll)", api.EventList, None,
    (_AFTER, _WAIT, _PERSON, _LIMIT),
)  # fmt: skip

ROUTES = (LOGIN, ANSWER, UP, ENDED, HEARTBEAT, ADDRESSES, SESSIONS, HISTORY, NODES, END, BLOCK, EVENTS)
