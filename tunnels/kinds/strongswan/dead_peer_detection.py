"""charon's dead peer detection (RFC 3706, RFC 7296 2.4) as a sign of life of the gateway: how often it asks,
and what shows that it was answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tunnels.kinds.strongswan.vici import Message

_DPD_DELAY = re.compile(r'\bdpd_delay\s*=\s*"?(\d{1,6})([smhd]?)', re.ASCII)
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def received_messages(counters: Message) -> int:
    """How many IKE messages charon has received, by the answer to `get-counters`."""
    found = counters.get("counters")
    connections = found.values() if isinstance(found, Mapping) else ()
    return sum(
        int(value)
        for each in connections
        if isinstance(each, Mapping)
        for name, value in each.items()
        if "-in-" in name and isinstance(value, str) and value.isdecimal()
    )


def delay_seconds(text: str) -> float:
    """Seconds of silence after which charon asks the gateway, by the text of a swanctl.conf; 0: it never
    asks one of them.
    """
    delays: list[float] = [int(n) * _SECONDS[unit] for n, unit in _DPD_DELAY.findall(text)]
    return max(delays) if delays and min(delays) > 0 else 0.0
