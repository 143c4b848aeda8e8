"""What the configuration knows and this version does not do yet.

Nothing is ignored in silence: it is accepted with a warning. An entry leaves this table when its feature arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.config.document import Group
from supervisor.config.places import find, find_key
from supervisor.config.report import Report, Where

_LATER = "accepted, but not in effect in this version"

PENDING: Mapping[str, str] = MappingProxyType({
    "TUNNEL.reconnect.planned": _LATER,
})


def report_pending(root: Group, report: Report) -> None:
    """Report everything in the file that is not in effect."""
    for path, text in PENDING.items():
        for where in _places(root, path):
            place = find_key(root, where)
            if place.where != where or place.node.plain() in (None, False):
                continue
            report.warning(place.mark, where, text)


def _places(root: Group, path: str) -> Iterator[Where]:
    first, *rest = path.split(".")
    if first != "TUNNEL":
        yield (first, *rest)
        return
    yield ("defaults", *rest)
    tunnels = find(root, ("tunnels",)).node
    if isinstance(tunnels, Group) and tunnels is not root:
        yield from (("tunnels", name, *rest) for name in tunnels.entries)
