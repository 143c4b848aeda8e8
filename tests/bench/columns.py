"""Prints figures of several runs beside each other, with their targets."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


def print_columns(title: str, runs: Mapping[str, Mapping[str, float]], targets: Mapping[str, str]) -> None:
    """A column for each run, by its heading, and a row for each figure."""
    table = Table(title=title)
    table.add_column("")
    for heading in runs:
        table.add_column(heading, justify="right")
    table.add_column("target")
    for name in next(iter(runs.values())):
        table.add_row(name, *(f"{figures[name]:.1f}" for figures in runs.values()), targets.get(name, ""))
    Console(width=120).print(table)
