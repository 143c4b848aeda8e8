"""The status page: its document (`app.api.status_page_model`) -> HTML that is complete without JavaScript.

Elements that change are pieces: each has an id and is sent again by `GET /api/v1/events` when its value
changes. Every text in the document may come from a stranger; the templates escape all of it (autoescape).
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

from supervisor.control import charts
from supervisor.core.humanize import byte_size, duration, iso
from supervisor.core.views.documents import (
    DayEntry,
    FleetTunnelEntry,
    HeadlineEntry,
    HubEntry,
    MeasuresEntry,
    StatusPageDocument,
    TunnelOnPage,
)
from supervisor.core.views.drain_text import flows_left

if TYPE_CHECKING:
    from jinja2 import Environment  # not imported before the first page is asked for

Key = tuple[str, str]  # a section (facilitator, tunnels, measures) and a name in it

_PACKAGE = "supervisor.control"
# A symbol for each verdict, because colours alone are not accessible.
_MARKS = MappingProxyType({"good": "\u25cf", "wait": "\u25d0", "bad": "\u25b2", "off": "\u25cb"})
_WORST_FIRST = ("bad", "wait", "good", "off")


@dataclass(frozen=True, slots=True)
class TunnelVerdict:
    """What to think of a tunnel at a glance: `kind` is bad, wait, good or off."""

    kind: str
    word: str


_VERDICTS = MappingProxyType(
    {
        "up": TunnelVerdict("good", "up"),
        "backoff": TunnelVerdict("bad", "down"),
        "failed": TunnelVerdict("bad", "needs attention"),
        "stopped": TunnelVerdict("off", "stopped"),
    }
)


@dataclass(frozen=True, slots=True)
class Piece:
    """An element of the page: its id, the value that it shows, and its HTML."""

    id: str
    value: HeadlineEntry | TunnelOnPage | MeasuresEntry
    html: Callable[[], str]


def pieces(page: StatusPageDocument) -> dict[Key, Piece]:
    """What changes on its own: the headline, each tunnel, and each tunnel's measurements."""
    head, draw = headline(page), _macros(page["now"])
    found = {("facilitator", ""): Piece("facilitator", head, lambda: draw("facilitator", head))}
    for it in page["tunnels"]:
        name, measured = it["name"], page["measures"][it["name"]]
        for key, value, html in (
            (("tunnels", name), it, functools.partial(draw, "tunnel", it, measured)),
            (("measures", name), measured, functools.partial(draw, "measures", name, measured)),
        ):
            found[key] = Piece(piece_id(key), value, html)
    return found


def _macros(now: float) -> Callable[..., str]:
    """Renders a macro of pieces.html by its name; `now`: Unix time, from which ages are counted."""
    module = templates().get_template("pieces.html").make_module({"now": now})
    return lambda name, *arguments: str(getattr(module, name)(*arguments)).strip()


def piece_id(key: Key) -> str:
    """The id of a piece's element."""
    section, name = key
    return {"facilitator": "facilitator", "tunnels": f"tunnel-{name}", "measures": f"measures-{name}"}[
        section
    ]


def render_page(page: StatusPageDocument) -> str:
    """The whole HTML document. Takes a second for some thousand tunnels: not for the event loop's thread."""
    return (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            headline=headline(page),
            tunnels=sorted(page["tunnels"], key=order),
            now=page["now"],
            style=_asset("page.css"),
            script=_asset("page.js"),
        )
    )


@functools.cache
def templates() -> Environment:
    """The templates. jinja2 takes 30 ms and some megabytes, which a daemon whose page nobody opens does not
    spend.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "duration": duration,
        "unix": _unix,
        "day_and_time": _day_and_time,
        "clock": _clock,
        "milliseconds": charts.milliseconds,
        "bytes": byte_size,
        "flows_left": flows_left,
        "moment": iso,
        "standings": _standings,
    }
    made.globals |= {
        "MARKS": _MARKS,
        "verdict": verdict,
        "order": order,
        "availability": _availability,
        "latest_rtt": _latest_rtt,
        "charts": charts,
    }
    return made


@functools.cache
def content_security_policy() -> str:
    """The Content-Security-Policy under which the page works: its own style and script, allowed by their
    checksums, and requests to this server.
    """
    style, script = _checksum(_asset("page.css")), _checksum(_asset("page.js"))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files(_PACKAGE) / "assets" / name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- what the templates show
# ----------------------------------------------------------------------------------------------------------


def verdict(it: TunnelOnPage) -> TunnelVerdict:
    """The verdict on a tunnel."""
    if it["asks"] is not None:
        return TunnelVerdict("bad", "action required")
    if it["phase"] == "up" and it["health"] == "unhealthy":
        return TunnelVerdict("bad", f"{it['leg']} dead" if it["leg"] else "no answer")
    if it["phase"] == "up" and it["degraded"]:
        return TunnelVerdict("wait", "degraded")
    return _VERDICTS.get(it["phase"], TunnelVerdict("wait", it["phase"]))


def order(it: TunnelOnPage) -> str:
    """Sorts tunnels as text: those that need attention first, then by name."""
    return f"{_WORST_FIRST.index(verdict(it).kind)} {it['name']}"


def known_people(hub: HubEntry) -> str:
    """How many people the hub knows, and how old that is, if it is old."""
    people, age = hub["people"], hub["age_seconds"]
    if age is None:
        return "the hub has not answered yet"
    as_of = f" as of {age // 60:.0f} min ago" if age > 60 else ""
    return f"{people} {'person' if people == 1 else 'people'} known{as_of}"


def headline(page: StatusPageDocument) -> HeadlineEntry:
    """The daemon, with the number of tunnels by verdict."""
    kinds = [verdict(it).kind for it in page["tunnels"]]
    return {
        "facilitator": page["facilitator"],
        "version": page["version"],
        "started": page["started"],
        "closed_since": page["closed_since"],
        "draining": page["draining"],
        "conditions": page["conditions"],
        "hub": None if page["hub"] is None else known_people(page["hub"]),
        "incidents": page["incidents"],
        "fleet": page["fleet"],
        "count": len(kinds),
        "bad": kinds.count("bad"),
        "wait": kinds.count("wait"),
        "good": kinds.count("good"),
        "off": kinds.count("off"),
    }


def _standings(tunnels: Sequence[FleetTunnelEntry], member: str) -> list[tuple[str, list[str]]]:
    """The tunnels of a member, by what they are to the fleet."""
    found: dict[str, list[str]] = {}
    for it in tunnels:
        if (entry := it["members"].get(member)) is not None:
            found.setdefault(entry["standing"], []).append(it["name"])
    return sorted(found.items())


def _availability(it: DayEntry) -> str:
    """In words; rounded down, so that 100 % means that it was never down."""
    ratio, since = it["ratio"], it.get("since")
    if ratio is None and since is not None:
        return f"observed since {_day_and_time(since)}"
    if ratio is None:
        return "not meant to be up" if any(it["last_day"]) else "not known yet"
    figure = "100 %" if ratio >= 1.0 else f"{int(ratio * 10000) / 100:.2f} %"
    return f"{figure} available" + (f" since {_day_and_time(since)}" if since is not None else "")


def _latest_rtt(it: MeasuresEntry) -> str:
    if not it["rtts"]:
        return "not probed"
    latest = it["rtts"][-1]
    return "no answer" if latest is None else charts.milliseconds(latest)


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _day_and_time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%d %b %H:%M:%S}"


def _clock(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%H:%M:%S}"
