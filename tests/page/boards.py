"""A facilitator on a bad night, as a board: what the tests of the page and its screenshots show."""

from __future__ import annotations

import asyncio
import copy
import math
from typing import Any

from supervisor.core.humanize import iso

NOW = 1_790_000_000.0  # Unix time
SAMPLES = 60  # of the latency, five seconds apart

Board = dict[str, Any]


def tunnel(name: str, **said: Any) -> dict[str, Any]:
    """A tunnel that is fine, but for what is said."""
    networks = said.pop("networks", ["10.77.0.0/24"])
    usual: dict[str, Any] = {
        "name": name,
        "kind": "openvpn",
        "description": "",
        "phase": "up",
        "health": "healthy",
        "want": "up",
        "destinations": networks,
        "carries": networks,
        "reason": "healthy",
        "since": iso(NOW - 12_000),
        "session": {
            "id": "01",
            "pid": 42,
            "device": f"fac-{name}",
            "port": None,
            "address": "10.78.0.2",
            "peer": None,
            "path_mtu": 1400,
            "started": iso(NOW - 12_004),
        },
        "probe_rtt_seconds": 0.012,
        "reconnects": 0,
        "next_attempt": None,
        "asks": None,
        "last_error": None,
        "drain": None,
        "leg": None,
        "degraded": None,
        "availability": {"ratio": 1.0, "last_day": ["up"] * 96},
        "deaths": [],
        "measures": measures(),
    }
    return usual | said


def down(name: str, **said: Any) -> dict[str, Any]:
    """A tunnel that waits for its next attempt."""
    usual: dict[str, Any] = {
        "phase": "backoff",
        "health": "unknown",
        "carries": [],
        "reason": "network",
        "since": iso(NOW - 65),
        "session": None,
        "next_attempt": iso(NOW + 48),
        "last_error": "network: TLS handshake failed: no answer within 60 s",
        "measures": measures([*curve()[:30], *[None] * 30], None),
    }
    return tunnel(name, **(usual | said))


def curve(base: float = 0.012, swing: float = 0.004) -> list[float | None]:
    """Times to the answer, in seconds."""
    return [base + swing * (math.sin(i / 4) + math.sin(i * 1.7) / 2) for i in range(SAMPLES)]


def measures(
    rtts: list[float | None] | None = None, rates: tuple[float, float] | None = (1_240_000.0, 96_000.0)
) -> dict[str, Any]:
    """What is measured all the time."""
    received, sent = rates or (None, None)
    return {
        "seconds": 300.0,
        "rtts": curve() if rtts is None else rtts,
        "received_per_second": received,
        "sent_per_second": sent,
    }


def bad_night() -> Board:
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
            measures=measures([], None),
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
            last_error="auth: the far side refuses svc-facilitator three times",
            deaths=deaths[2:],
            networks=["10.55.0.0/16"],
            measures=measures([], None),
            availability={"ratio": 0.71, "last_day": ["up"] * 64 + ["down"] * 32},
        ),
        tunnel(
            "own-cloud",
            kind="sshuttle",
            description="our own cloud, through the bastion",
            networks=["10.90.0.0/16"],
            measures=measures(curve(0.048, 0.02), None),
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
            measures=measures(curve(0.02, 0.004), None),
            last_error="destination: the tunnel works (its far end answers), but nothing behind it "
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
            measures=measures(curve(0.61, 0.09), None),
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
            measures=measures([], None),
            availability={"ratio": None, "last_day": ["stopped"] * 96},
        ),
    ]
    return {
        "facilitator": "vpn1-eu-west-1",
        "version": "0.1.0",
        "pid": 1,
        "started": iso(NOW - 400_000),
        "draining": False,
        "now": NOW,
        "conditions": [
            {
                "name": "certificate:acme-dc",
                "severity": "warning",
                "text": "our certificate for acme-dc (CN=facilitator) expires in 9 days: 2026-09-30 12:00 "
                "UTC",
            }
        ],
        "incidents": [
            {
                "name": "delta-logistics",
                "severity": "critical",
                "since": iso(NOW - 8000),
                "summary": "vpn1-eu-west-1: tunnel delta-logistics waits for a human: auth: the far side "
                "refuses svc-facilitator",
            }
        ],
        "tunnels": tunnels,
    }


class Boards:
    """The part of a daemon that the page needs; `show` puts up another board."""

    def __init__(self, board: Board) -> None:
        self._board, self._event = board, asyncio.Event()

    def show(self, board: Board) -> None:
        """Change it."""
        self._board = copy.deepcopy(board)
        self._event.set()
        self._event = asyncio.Event()

    async def board(self) -> Board:
        """As the daemon does."""
        return self._board

    async def changed(self) -> None:
        """As the daemon does."""
        await self._event.wait()
