"""Counters of a lane: they only grow, and start from zero when the nftables table is recreated."""

from __future__ import annotations

from typing import NamedTuple


class Carried(NamedTuple):
    """Since the counters were made."""

    flows: int  # that entered
    # Bytes that a proxy gave back to staff; None: the lane has an interface, which counts for itself.
    received: int | None = None
    sent: int | None = None  # bytes that staff sent to it
