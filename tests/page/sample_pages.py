"""A facilitator on a bad night, as a status page: what the tests of the page and its screenshots show."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor.core.humanize import iso
from supervisor.core.views.documents import FleetDocument, MeasuresEntry, StatusPageDocument, TunnelOnPage

NOW = 1_790_000_000.0  # Unix time
SAMPLES = 60  # of the latency, five seconds apart


FLEET: FleetDocument = {
    "fleet": "emea",
    "member": "vpn1-eu-west-1",
    "source": "engine",
    "problems": [],
    "members": [
        {
            "name": name,
            "up": since is None,
            "version": "0.1.0" if since is None else None,
            "drained": name.startswith("vpn2"),
            "silent_since": since,
            "problem": None,
        }
        for name, since in (
            ("vpn1-eu-west-1", None),
            ("vpn2-eu-west-1", None),
            ("vpn3-eu-north-1", iso(NOW - 700)),
        )
    ],
    "tunnels": [
        {
            "name": name,
            "members": {
                "vpn1-eu-west-1": {"standing": one, "locked": False},
                "vpn2-eu-west-1": {"standing": other, "locked": False},
            },
        }
        for name, one, other in (("acme-dc", "carries", "drains"), ("borealis", "down", "stopped"))
    ],
    "orders": [
        {
            "id": "drain.vpn2-eu-west-1",
            "kind": "drain",
            "subject": "vpn2-eu-west-1",
            "by": "alice@vpn1-eu-west-1",
            "why": "a new kernel",
            "given": NOW - 400,
            "acknowledged": [],
            "missing": [],
        }
    ],
}


def tunnel(name: str, **changed: Any) -> TunnelOnPage:
    """A tunnel that is fine, but for what is `changed`."""
    networks = changed.pop("networks", ["10.77.0.0/24"])
    usual: TunnelOnPage = {
        "name": name,
        "kind": "openvpn",
        "description": "",
        "phase": "up",
        "health": "healthy",
        "want": "up",
        "leg": None,
        "degraded": None,
        "endpoint": "answers",
        "destinations": networks,
        "carries": networks,
        "announced": [],
        "drain": None,
        "reason": "healthy",
        "since": iso(NOW - 12_000),
        "session": {
            "id": "01",
            "pid": 42,
            "device": f"fac-{name}",
            "port": None,
            "address": "10.78.0.2",
            "peer": None,
            "name_servers": [],
            "path_mtu": 1400,
            "started": iso(NOW - 12_004),
        },
        "other_session": None,
        "second_session": "unknown",
        "planned_reconnect": None,
        "learned_limit_seconds": None,
        "probe_rtt_seconds": 0.012,
        "targets": [],
        "reconnects": 0,
        "next_attempt": None,
        "asks": None,
        "lock": None,
        "waits_for_code": None,
        "not_retried": None,
        "last_error": None,
        "availability": {"ratio": 1.0, "last_day": ["up"] * 96},
        "deaths": [],
    }
    return {**usual, **changed}


def down(name: str, **changed: Any) -> TunnelOnPage:
    """A tunnel that waits for its next attempt."""
    usual = {
        "phase": "backoff",
        "health": "unknown",
        "carries": [],
        "announced": [],
        "reason": "network",
        "since": iso(NOW - 65),
        "session": None,
        "next_attempt": iso(NOW + 48),
        "last_error": "network: TLS handshake failed: no answer within 60 s",
    }
    return tunnel(name, **(usual | changed))


def curve(base: float = 0.012, swing: float = 0.004) -> list[float | None]:
    """Times to the answer, in seconds."""
    return [base + swing * (math.sin(i / 4) + math.sin(i * 1.7) / 2) for i in range(SAMPLES)]


def measures(
    rtts: list[float | None] | None = None, rates: tuple[float, float] | None = (1_240_000.0, 96_000.0)
) -> MeasuresEntry:
    """Measurements of one tunnel."""
    received, sent = rates or (None, None)
    return {
        "seconds": 300.0,
        "rtts": curve() if rtts is None else rtts,
        "received_per_second": received,
        "sent_per_second": sent,
    }


def bad_night() -> StatusPageDocument:
    """Something of everything."""
    deaths = [
        {"at": iso(NOW - 4000 * i - 65), "reason": reason, "text": text}
        for i, (reason, text) in enumerate(
            (
                ("network", "TLS handshake failed: no answer within 60 s"),
                ("unhealthy", "no target answered 3 probes in a row"),
                ("auth", "AUTH_FAILED: the server refuses the password"),
            )
        )
    ]
    tunnels = [
        tunnel(
            "acme-dc", description="ACME's Frankfurt data centre", networks=["10.77.0.0/24", "100.64.0.0/16"]
        ),
        down(
            "borealis",
            description="Borealis plant, Tampere",
            kind="wireguard",
            networks=["10.91.0.0/16"],
            deaths=deaths,
            availability={
                "ratio": 0.9713,
                "last_day": ["up"] * 40
                + ["down"] * 2
                + ["up"] * 30
                + ["degraded"] * 6
                + ["up"] * 17
                + ["down"],
            },
        ),
        tunnel(
            "cascade",
            description="Cascade Insurance",
            kind="openconnect",
            phase="starting",
            health="unknown",
            carries=[],
            since=iso(NOW - 20),
            asks={"wanted": "code", "text": "Enter the code from your token:", "until": iso(NOW + 100)},
            availability={"ratio": 0.9421, "last_day": ["up"] * 90 + ["down"] * 6},
        ),
        tunnel(
            "delta-logistics",
            kind="strongswan",
            description="Delta Logistics, warehouse",
            phase="failed",
            health="unknown",
            carries=[],
            reason="auth",
            since=iso(NOW - 8000),
            session=None,
            not_retried="one more refused login may lock the account; it begins when a secret or the "
            "configuration is corrected, or with: facilitator start",
            last_error="auth: the remote gateway refuses svc-facilitator three times",
            deaths=deaths[2:],
            networks=["10.55.0.0/16"],
            availability={"ratio": 0.71, "last_day": ["up"] * 64 + ["down"] * 32},
        ),
        tunnel(
            "own-cloud",
            kind="sshuttle",
            description="our own cloud, through the bastion",
            networks=["10.90.0.0/16"],
            availability={"ratio": 0.99981, "last_day": [None] * 20 + ["unwatched"] + ["up"] * 75},
        ),
        tunnel(
            "umbrella",
            kind="openvpn",
            description="Umbrella, test lab",
            networks=["10.66.0.0/16"],
            health="unhealthy",
            reason="destination",
            since=iso(NOW - 240),
            leg="destination",
            last_error="destination: the tunnel works (its remote end answers), but nothing behind it "
            "answers: tcp://10.66.0.10:443",
            availability={"ratio": 0.9972, "last_day": ["up"] * 95 + ["down"]},
        ),
        tunnel(
            "wayne-tower",
            kind="command",
            description="Wayne Tower, over the satellite",
            networks=["10.67.0.0/16"],
            reason="degraded",
            since=iso(NOW - 500),
            degraded="6 of the last 24 probe rounds unanswered (25%, the limit is 20%)",
            availability={"ratio": 1.0, "last_day": ["up"] * 90 + ["degraded"] * 6},
        ),
        tunnel(
            "zephyr",
            kind="vpnc",
            description="Zephyr Air (until the end of the year)",
            phase="stopped",
            health="unknown",
            want="down",
            carries=[],
            reason="stopped",
            since=iso(NOW - 90_000),
            session=None,
            networks=["10.33.4.0/22"],
            availability={"ratio": None, "last_day": ["stopped"] * 96},
        ),
    ]
    page: StatusPageDocument = {
        "facilitator": "vpn1-eu-west-1",
        "version": "0.1.0",
        "pid": 1,
        "started": iso(NOW - 400_000),
        "upgrades": 0,
        "closed_since": "2026-07-01T00:00:00Z",
        "hub": None,
        "draining": False,
        "now": NOW,
        "conditions": [
            {
                "name": "certificate:acme-dc",
                "severity": "warning",
                "incident": True,
                "text": "our certificate for acme-dc (CN=facilitator) expires in 9 days: 2026-09-30 12:00 "
                "UTC",
            }
        ],
        "fleet": FLEET,
        "incidents": [
            {
                "name": "delta-logistics",
                "severity": "critical",
                "since": iso(NOW - 8000),
                "summary": "vpn1-eu-west-1: tunnel delta-logistics needs attention: auth: the remote gateway "
                "refuses svc-facilitator",
            }
        ],
        "tunnels": [],
        "measures": {},
    }
    measured = {
        "borealis": measures([*curve()[:30], *[None] * 30], None),
        "cascade": measures([], None),
        "delta-logistics": measures([], None),
        "own-cloud": measures(curve(0.048, 0.02), None),
        "umbrella": measures(curve(0.02, 0.004), None),
        "wayne-tower": measures(curve(0.61, 0.09), None),
        "zephyr": measures([], None),
    }
    return with_tunnels(page, tunnels, measured)


def with_tunnels(
    page: StatusPageDocument,
    tunnels: Sequence[TunnelOnPage],
    measured: Mapping[str, MeasuresEntry] | None = None,
) -> StatusPageDocument:
    """The page with these tunnels; their measurements are `measured`, or as before, or the usual ones."""
    known = {**page["measures"], **(measured or {})}
    return {
        **copy.deepcopy(page),
        "tunnels": list(tunnels),
        "measures": {it["name"]: known.get(it["name"]) or measures() for it in tunnels},
    }


class ShownPages:
    """The part of a `DaemonAPI` that the page needs; `show` replaces the page."""

    def __init__(self, page: StatusPageDocument) -> None:
        self._page, self._changed = page, asyncio.Event()

    def show(self, page: StatusPageDocument) -> None:
        """Change it."""
        self._page = copy.deepcopy(page)
        self._changed.set()
        self._changed = asyncio.Event()

    async def status_page(self) -> StatusPageDocument:
        """As the daemon does."""
        return self._page

    async def status_page_changed(self) -> None:
        """As the daemon does."""
        await self._changed.wait()
