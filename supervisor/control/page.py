"""The status page: a board (`app.api.status_page_model`, the document behind `GET /` and `/api/v1/events`)
-> HTML that is complete without JavaScript.

It consists of pieces, each with the id of its element; the page's script replaces those that change.
Everything on a board may have been said by a stranger, so all of it is escaped here, and nowhere else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from types import MappingProxyType
from typing import Any

from supervisor.control.charts import milliseconds, spark, strip
from supervisor.core.humanize import lasting, size
from supervisor.core.views.drain_text import flows_left

Entry = Mapping[str, Any]
Key = tuple[str, str]  # a section of the board, and a name in it

_MARKS = {
    "good": "\u25cf",
    "wait": "\u25d0",
    "bad": "\u25b2",
    "off": "\u25cb",
}  # a verdict is told without colours too
_RANKS = {"bad": 0, "wait": 1, "good": 2, "off": 3}


@dataclass(frozen=True, slots=True)
class Glance:
    """What to think of a tunnel at a glance."""

    kind: str  # bad wait good off
    word: str


_VERDICTS = MappingProxyType(
    {
        "up": Glance("good", "up"),
        "backoff": Glance("bad", "down"),
        "failed": Glance("bad", "needs a person"),
        "stopped": Glance("off", "stopped"),
    }
)


# --- the pieces
# ----------------------------------------------------------------------------------------------------------


def items(board: Entry) -> dict[Key, Entry]:
    """What may change by itself: the facilitator, each tunnel, and each tunnel's measures."""
    found: dict[Key, Entry] = {("facilitator", ""): _facilitator(board)}
    for tunnel in board["tunnels"]:
        found["tunnels", tunnel["name"]] = {key: value for key, value in tunnel.items() if key != "measures"}
        found["measures", tunnel["name"]] = tunnel["measures"]
    return found


def piece_id(key: Key) -> str:
    """The id of the element that shows it."""
    section, name = key
    return escape(
        {"facilitator": "facilitator", "tunnels": f"tunnel-{name}", "measures": f"measures-{name}"}[section]
    )


def piece(key: Key, found: Mapping[Key, Entry], now: float) -> str:
    """The element; `now` in Unix time."""
    match key:
        case ("facilitator", _):
            return _head(found[key], now)
        case ("tunnels", name):
            return _tunnel(found[key], found["measures", name], now)
        case _:
            return _measures(key[1], found[key])


def verdict(tunnel: Entry) -> Glance:
    """One word about a tunnel."""
    if tunnel["asks"]:
        return Glance("bad", "asks a person")
    if tunnel["phase"] == "up" and tunnel["health"] == "unhealthy":
        return Glance("bad", f"{tunnel['leg']} dead" if tunnel["leg"] else "no answer")
    if tunnel["phase"] == "up" and tunnel["degraded"]:
        return Glance("wait", "works badly")
    return _VERDICTS.get(tunnel["phase"], Glance("wait", tunnel["phase"]))


# --- the page
# ----------------------------------------------------------------------------------------------------------


def page(board: Entry) -> str:
    """The whole document."""
    found, now = items(board), board["now"]
    tunnels = sorted((key for key in found if key[0] == "tunnels"), key=lambda key: _order(found[key]))
    head = found["facilitator", ""]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(_title(head))}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#tunnels">Skip to the tunnels</a>
<header>
<h1>{escape(board["facilitator"])}</h1>
<p class="soft" id="live">as of {datetime.fromtimestamp(now, UTC):%H:%M:%S} UTC</p>
</header>
<main>
{piece(("facilitator", ""), found, now)}
<section id="tunnels" aria-labelledby="tunnels-title" tabindex="-1">
<h2 id="tunnels-title">Tunnels</h2>
<ul class="tunnels" id="list">
{"".join(piece(key, found, now) for key in tunnels) or '<li class="soft">None is configured.</li>'}
</ul>
</section>
</main>
<footer>
<p>All times are in UTC. To look further: <code>facilitator status</code>, <code>facilitator why ADDRESS</code>,
<code>facilitator history</code>.</p>
<nav aria-label="Other formats"><a href="/api/v1/status">status as JSON</a><a href="/metrics">metrics</a></nav>
</footer>
<p id="said" class="unseen" role="status" aria-live="polite"></p>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


@functools.cache
def policy() -> str:
    """The Content-Security-Policy under which the page works: its own style and script, by their
    checksums, and its own events.
    """
    style, script = _checksum(_asset("page.css")), _checksum(_asset("page.js"))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("supervisor.control") / "assets" / name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# --- the facilitator
# ---------------------------------------------------------------------------------------------------------


def _facilitator(board: Entry) -> Entry:
    verdicts = [verdict(tunnel).kind for tunnel in board["tunnels"]]
    kept = ("facilitator", "version", "started", "draining", "conditions", "incidents")
    return {key: board[key] for key in kept} | {
        "count": len(verdicts),
        **{kind: verdicts.count(kind) for kind in _RANKS},
    }


def _title(it: Entry) -> str:
    return f"{it['good']} of {it['count']} up \u00b7 {it['facilitator']}"


def _head(it: Entry, now: float) -> str:
    counts = [
        ("bad", "need attention" if it["bad"] != 1 else "needs attention"),
        ("wait", "not quite well"),
        ("off", "stopped"),
    ]
    rest = "".join(
        f'<span class="{kind}">{_MARKS[kind]} {it[kind]} {words}</span>' for kind, words in counts if it[kind]
    )
    wrong = "".join(_wrong(it, now))
    trouble = f'<ul class="wrong">{wrong}</ul>' if wrong else '<p class="calm">No incident is open.</p>'
    return (
        f'<section id="facilitator" aria-labelledby="now-title" data-version="{escape(it["version"])}" '
        f'data-title="{escape(_title(it))}" '
        f'data-said="{escape(_said(it))}"><h2 id="now-title" class="unseen">Now</h2>'
        f'<p class="sum"><strong>{it["good"]} of {it["count"]} up</strong>{rest}'
        f'<span class="soft">facilitator {escape(it["version"])}, running for '
        f"{_age(it['started'], now)}</span></p>"
        f"<h2>Incidents and conditions</h2>{trouble}</section>"
    )


def _said(it: Entry) -> str:
    """What a listener is told when it changes."""
    return "; ".join(each["summary"] for each in it["incidents"]) or "no incident is open"


def _wrong(it: Entry, now: float) -> Iterator[str]:
    if it["draining"]:
        yield (
            "<li><p><b>draining</b>The daemon takes nothing new, and ends when what is under way is "
            "over.</p></li>"
        )
    opened = {each["name"] for each in it["incidents"]}
    for each in it["incidents"]:
        yield _trouble(
            each["severity"], each["summary"], f'<p class="soft">since {_moment(each["since"], now)}</p>'
        )
    for each in it["conditions"]:
        if each["name"] not in opened and each.get("incident", True):  # else there are incidents for the same
            yield _trouble(each["severity"], each["text"], "")


def _trouble(severity: str, text: str, more: str) -> str:
    kind = "wait" if severity in ("warning", "info") else "bad"
    return f'<li class="{kind}"><p><b>{escape(severity)}</b>{escape(text)}</p>{more}</li>'


# --- a tunnel
# ----------------------------------------------------------------------------------------------------------


def _order(tunnel: Entry) -> str:
    return f"{_RANKS[verdict(tunnel).kind]} {tunnel['name']}"


def _tunnel(it: Entry, measures: Entry, now: float) -> str:
    name, seen = escape(it["name"]), verdict(it)
    what = " \u00b7 ".join(filter(None, (it["description"], it["kind"])))
    more = "".join((*_waits(it, now), _deaths(it, now)))
    return (
        f'<li id="tunnel-{name}" class="tunnel {seen.kind}" data-order="{escape(_order(it))}" '
        f'data-said="{name}: {escape(seen.word)}">'
        f'<article aria-labelledby="name-{name}"><div class="who"><div class="head"><h3 '
        f'id="name-{name}">{name}</h3>'
        f'<span class="badge"><span aria-hidden="true">{_MARKS[seen.kind]} '
        f"</span>{escape(seen.word)}</span></div>"
        f'<p class="soft">{escape(what)}</p><dl class="facts">{"".join(_facts(it, now))}</dl></div>'
        f"{_day(it)}{_measures(it['name'], measures)}"
        f'<div class="more">{more}</div></article></li>'
    )


def _facts(it: Entry, now: float) -> Iterator[str]:
    health = "" if it["phase"] != "up" else f", {it['health']}"
    yield _fact(
        "phase", f"{escape(it['phase'] + health)} for {_age(it['since'], now)} ({escape(it['reason'])})"
    )
    if it["leg"]:
        yield _fact("dead", escape(it["leg"]))
    if it["degraded"]:
        yield _fact("quality", escape(it["degraded"]))
    other = [network for network in it["destinations"] if network not in it["carries"]]
    yield _fact("carries", escape(", ".join(it["carries"])) or "nothing")
    if other:
        yield _fact("not carried", escape(", ".join(other)))
    if it["drain"] is not None:
        yield _fact("draining", escape(flows_left(it["drain"])))
    session = it["session"]
    if session is not None:
        where = ", ".join(str(each) for each in (session["address"], session["device"]) if each)
        yield _fact("session", f"{_age(session['started'], now)} old{escape(f' ({where})') if where else ''}")


def _fact(word: str, html: str) -> str:
    return f"<dt>{word}</dt><dd>{html}</dd>"


def _waits(it: Entry, now: float) -> Iterator[str]:
    """What it waits for, and what one can do about it."""
    name, asks = escape(it["name"]), it["asks"]
    if asks is not None:
        answer = f"Answer with <code>facilitator answer {name}</code>"
        how = "Approve it where the far side says" if asks["wanted"] == "approval" else answer
        yield (
            f'<p class="waits">It asks: \u201c{escape(asks["text"])}\u201d {how}, within '
            f"{_age(asks['until'], now)}.</p>"
        )
    elif it["phase"] == "failed":
        yield (
            f'<p class="waits">{_error(it)}It waits for a changed secret or configuration, or for '
            f"<code>facilitator start {name}</code>. "
            f"Look further with <code>facilitator logs {name}</code>.</p>"
        )
    elif it["next_attempt"] is not None:
        yield f'<p class="waits">{_error(it)}Next attempt in {_age(it["next_attempt"], now)}.</p>'
    elif it["phase"] in ("starting", "up") and it["last_error"] and verdict(it).kind != "good":
        yield f'<p class="waits">{_error(it)}</p>'


def _error(it: Entry) -> str:
    return f"{escape(it['last_error'])}. " if it["last_error"] else ""


def _day(it: Entry) -> str:
    ratio, slots = it["availability"]["ratio"], it["availability"]["last_day"]
    unknown = "not wanted" if any(slots) else "not known yet"
    known = unknown if ratio is None else f"{_percent(ratio)} available"
    return (
        f'<div class="day"><p><span class="label">24 hours</span> <span class="figure">{known}</span></p>'
        f"{strip(slots)}"
        '<p class="axis" aria-hidden="true"><span>24 h ago</span><span>12 h</span><span>now</span></p></div>'
    )


def _percent(ratio: float) -> str:
    """Rounded down: what was down once is not 100 %."""
    return "100 %" if ratio >= 1.0 else f"{int(ratio * 10000) / 100:.2f} %"


def _measures(name: str, it: Entry) -> str:
    answered = [rtt for rtt in it["rtts"] if rtt is not None]
    latest = (
        milliseconds(it["rtts"][-1])
        if answered and it["rtts"][-1] is not None
        else "no answer"
        if it["rtts"]
        else "not probed"
    )
    curve = spark(it["rtts"], it["seconds"]) if it["rtts"] else ""
    rates = (("received", it["received_per_second"]), ("sent", it["sent_per_second"]))
    flows = "".join(
        f'<p><span class="label">{word}</span> <span class="figure">{_rate(rate)}</span></p>'
        for word, rate in rates
    )
    return (
        f'<div class="measures" id="measures-{escape(name)}"><div><p><span class="label">latency</span> '
        f'<span class="figure">{latest}</span></p>{curve}</div><div>{flows}</div></div>'
    )


def _rate(bytes_per_second: float | None) -> str:
    unknown = '<span class="unseen">not measured</span><span aria-hidden="true">\u2013</span>'
    return unknown if bytes_per_second is None else f"{size(round(bytes_per_second))}/s"


def _deaths(it: Entry, now: float) -> str:
    deaths, name = it["deaths"], escape(it["name"])
    if not deaths:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_moment(each["at"], now)}</th><td>{escape(each["reason"])}</td><td>{escape(each["text"])}</td></tr>'
        for each in deaths
    )
    return (
        f"<details><summary>why sessions of {name} ended: the last {len(deaths)}</summary><table><caption "
        f'class="unseen">Why sessions of '
        f'{name} ended, the latest first</caption><thead><tr><th scope="col">when</th><th '
        f'scope="col">reason</th>'
        f'<th scope="col">what was said</th></tr></thead><tbody>{rows}</tbody></table></details>'
    )


# --- moments
# ----------------------------------------------------------------------------------------------------------


def _age(moment: str, now: float) -> str:
    """How far from now a moment is, kept up to date by the script."""
    return f'<time datetime="{escape(moment)}" data-age>{lasting(abs(now - _unix(moment)))}</time>'


def _moment(moment: str, now: float) -> str:
    return f"{datetime.fromtimestamp(_unix(moment), UTC):%d %b %H:%M:%S}, {_age(moment, now)} ago"


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
