"""`facilitator why NAME`: the name is asked for behind its tunnel; the answer is about its first address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from supervisor.core.diagnosis.query import PacketQuery, parse_query
from supervisor.core.views.documents import WhyDocument, WhyStepEntry

LookUp = Callable[[str, int], Awaitable[Mapping[str, Any] | None]]
_A, _AAAA = 1, 28


async def why_name(
    name: str,
    source: str | None,
    port: str | None,
    look_up: LookUp,
    why: Callable[[PacketQuery], Awaitable[WhyDocument]],
) -> WhyDocument:
    """What would become of a packet to the address that the name has now. ValueError: `source` or `port`."""
    parse_query(source or "127.0.0.1", None, port)
    asked = name.lower().removesuffix(".")
    found = await look_up(asked, _A)
    if found is not None and not found["addresses"] and found["error"] is None:
        found = await look_up(asked, _AAAA)
    step = _step(asked, found)
    if found is None or not found["addresses"]:
        return {
            "address": asked,
            "from": source,
            "port": None if port is None else int(port),
            "outcome": "nothing",
            "verdict": step["text"],
            "tunnel": None if found is None else found["tunnel"],
            "destination": None,
            "staff_address": None,
            "real_address": None,
            "steps": [step],
        }
    document = await why(parse_query(found["addresses"][0], source, port))
    document["steps"] = [step, *document["steps"]]
    document["verdict"] = f"{asked}: {document['verdict']}"
    return document


def _step(name: str, found: Mapping[str, Any] | None) -> WhyStepEntry:
    if found is None:
        text = f"{name} is not asked for: the name service does not run; see `names` in the configuration"
        return {"name": "name", "state": "problem", "text": text}
    if found["tunnel"] is None:
        return {"name": "name", "state": "problem", "text": f"{name} is in no tunnel's `names.domains`"}
    way = f"asked of {', '.join(found['servers']) or 'nobody'} inside {found['tunnel']}"
    if found["addresses"]:
        return {"name": "name", "state": "ok", "text": f"{name} is {', '.join(found['addresses'])}, {way}"}
    why = found["error"] or f"the answer is {found['rcode']} without an address"
    return {"name": "name", "state": "problem", "text": f"{name} has no address, {way}: {why}"}
