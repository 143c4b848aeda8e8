"""A table that fits the terminal: rich has no column priorities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

MIN_FOLDED_WIDTH = 18  # characters that a folded column needs to be readable
# Columns that are left out where the terminal is narrow, the least important first.
DROPPED_FIRST = (
    "ID",
    "LAST DAY",
    "INTERFACE",
    "DEGRADED",
    "NOT MONITORED",
    "STOPPED",
    "UP",
    "MTBF",
    "SINCE",
    "ADDRESS",
    "SEVERITY",
    "HEALTH",
    "1h",
    "7d",
    "MANUAL",
)


class ResponsiveTable:
    """A table that drops columns where the terminal is narrow. Text that looks like rich's markup
    stays text.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        self._columns = columns
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]

    def fitted(self, width: int) -> Table:
        """The table for a terminal of `width` characters; only its last column may be folded."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        kept = self._fitting(width)
        for index in kept:
            last = index == kept[-1]
            table.add_column(
                self._columns[index], no_wrap=not last, overflow="fold", min_width=len(self._columns[index])
            )
        for row in self._rows:
            table.add_row(*(row[index] for index in kept))
        return table

    def _fitting(self, width: int) -> list[int]:
        needs = [
            max([len(column), *(row[index].cell_len for row in self._rows)])
            for index, column in enumerate(self._columns)
        ]
        needs[-1] = min(needs[-1], MIN_FOLDED_WIDTH)
        kept = list(range(len(self._columns)))
        for column in DROPPED_FIRST:
            if column in self._columns and sum(needs[index] + 2 for index in kept) - 2 > width:
                kept.remove(self._columns.index(column))
        return kept
