"""What sidecars say, made short."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from pydantic import SecretStr

from hub.core import api

_SEQUENCE = itertools.count(1)


def login(
    person: str = "alice", node: str = "hub-a", boot: str = "b1", client_id: int = 0, **more: object
) -> api.LoginRequest:
    """A CONNECT."""
    password = more.pop("password", None)
    return api.LoginRequest(
        **{
            "node": node, "boot": boot, "sequence": next(_SEQUENCE), "client_id": client_id, "key_id": 1, "person": person,
            "certificate": f"serial-of-{person}", "client": api.ClientAddress(address="198.51.100.7", port=1194),
            "claims": {"IV_VER": "2.6.14", "IV_PLAT": "linux"},
            "password": SecretStr(str(password)) if password is not None else None, **more,
        }
    )  # fmt: skip


def heartbeat(
    sessions: Iterable[str] = (), node: str = "hub-a", boot: str = "b1", **more: object
) -> api.Heartbeat:
    """A heartbeat that has seen all logins so far."""
    return api.Heartbeat(
        **{"node": node, "boot": boot, "sequence": next(_SEQUENCE), "sessions": tuple(sessions), **more}
    )
