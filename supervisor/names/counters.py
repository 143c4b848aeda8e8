"""What the name service has done, by tunnel: for metrics and `status`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_SERVFAIL = 2
OTHERS = ""  # the tunnel of names that are nobody's


@dataclass(slots=True)
class Counters:
    """They only grow. `plain` is what the daemon is sent."""

    responses: Counter[tuple[str, int]] = field(default_factory=Counter)  # tunnel, rcode
    from_cache: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # records that were not let through
    forged: Counter[str] = field(default_factory=Counter)  # messages that answer no query of ours
    unanswered: Counter[str] = field(default_factory=Counter)  # queries that no server answered in time
    strangers: int = 0  # queries from outside of staff's networks

    @property
    def totals(self) -> tuple[int, int]:
        """Responses, and those of them that are failures."""
        failed = sum(count for (_, rcode), count in self.responses.items() if rcode == _SERVFAIL)
        return self.responses.total(), failed

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        responses: dict[str, dict[str, int]] = {}
        for (tunnel, rcode), count in self.responses.items():
            responses.setdefault(tunnel, {})[str(rcode)] = count
        return {
            "responses": responses,
            "from_cache": dict(self.from_cache),
            "dropped": dict(self.dropped),
            "forged": dict(self.forged),
            "unanswered": dict(self.unanswered),
            "strangers": self.strangers,
        }
