"""The orders of the fleet as this member last read them: they hold over restarts and boots, and while the
lock engine is away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supervisor.app.stores.json_file import JsonFile
from supervisor.core.fleet.orders import FleetOrder, reading
from supervisor.core.formats import NotUnderstood, document

NAME = "orders.json"


@dataclass(frozen=True, slots=True)
class _Followed:
    """The file: values as they stand in the lock engine, by the names of the orders."""

    orders: dict[str, str]


DOCUMENT = document(_Followed, 1)


def _format_0(raw: Any) -> _Followed:
    raise NotUnderstood("it has no format")


class FleetOrderFile:
    """The orders, in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        """Without a file no order holds. So with one that is not understood, but that is logged."""
        self._file = JsonFile(state_dir / NAME, DOCUMENT, _format_0)
        self._orders: tuple[FleetOrder, ...] = ()
        try:
            stored = self._file.load()
            self._orders = () if stored is None else reading((), stored.orders).orders
        except (OSError, ValueError) as error:
            text = "the orders of the fleet are not known until the lock engine answers"
            structlog.get_logger().error(text, path=str(self._file.path), why=str(error))

    @property
    def orders(self) -> tuple[FleetOrder, ...]:
        """Those that hold."""
        return self._orders

    def keep(self, orders: Iterable[FleetOrder]) -> None:
        """These hold from now on. OSError: a restart of the daemon will not know of it."""
        self._orders = tuple(orders)
        self._file.save(_Followed({order.id: order.content for order in self._orders}), sync=True)
