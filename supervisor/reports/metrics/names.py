"""The metric families of the name service, from what its process has counted last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric

_PREFIX = "facilitator_names"
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
_BY_TUNNEL = {
    "from_cache": ("cache_hits", "Questions that were answered from the cache."),
    "dropped": (
        "dropped_records",
        "Records of customers' servers outside of their domains and destinations.",
    ),
    "forged": ("forged_messages", "Messages from customers' servers that answer no query."),
    "unanswered": ("unanswered", "Questions that no server behind the tunnel has answered."),
}


def name_families(report: Mapping[str, Any]) -> Iterator[Metric]:
    """None while the service does not run. The tunnel is empty for names that are nobody's."""
    if not report:
        return
    responses = CounterMetricFamily(
        f"{_PREFIX}_responses", "Responses to questions for names.", labels=("tunnel", "rcode")
    )
    for tunnel, counts in report["responses"].items():
        for rcode, count in counts.items():
            responses.add_metric((tunnel, _RCODES.get(int(rcode), rcode)), count)
    yield responses
    for key, (name, text) in _BY_TUNNEL.items():
        family = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=("tunnel",))
        for tunnel, count in report[key].items():
            family.add_metric((tunnel,), count)
        yield family
    strangers = CounterMetricFamily(f"{_PREFIX}_strangers", "Questions from outside of staff.networks.")
    strangers.add_metric((), report["strangers"])
    yield strangers
