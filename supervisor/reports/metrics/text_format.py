"""Families of samples as text, in both formats of Prometheus: written in one go, because a thousand
tunnels are 35,000 lines.

The lines of the samples are the same in both formats, only the two lines above them differ.
`prometheus_client` writes the same text from an object per sample, in ten times the time, which the event
loop would feel. What there is little of is left to it (`reports.metrics.exporter`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SUFFIXES: Mapping[str, str] = {"counter": "_total", "info": "_info"}  # of the samples' names
_KEPT = 16384  # labels that are remembered: each scrape has the same ones
_TYPES: Mapping[str, str] = {"info": "gauge"}  # what the older format calls them


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric: its name without suffix, its type (gauge, counter, info or histogram), what it says, and
    its lines.
    """

    name: str
    kind: str
    text: str
    lines: str

    def written(self, openmetrics: bool) -> str:
        """As it stands in an answer."""
        name, kind = (
            (self.name, self.kind)
            if openmetrics
            else (sample_name(self.name, self.kind), _TYPES.get(self.kind, self.kind))
        )
        return f"# HELP {name} {self.text}\n# TYPE {name} {kind}\n{self.lines}"


def sample_name(name: str, kind: str) -> str:
    """The name of the samples of a family that is no histogram."""
    return name + _SUFFIXES.get(kind, "")


def simple(name: str, kind: str, text: str, rows: Iterable[tuple[str, float | None]]) -> MetricFamily:
    """A family with one sample for each row: its labels (as `labels` writes them) and its value. None
    leaves the sample out.
    """
    start = sample_name(name, kind)
    lines = [
        f"{start}{where} {value + 0!r}\n" for where, value in rows if value is not None
    ]  # + 0: True is 1
    return MetricFamily(name, kind, text, "".join(lines))


@functools.lru_cache(maxsize=_KEPT)
def labels(**values: str) -> str:
    """The labels of a sample, in braces."""
    return "{" + ",".join([f'{name}="{escaped(value)}"' for name, value in values.items()]) + "}"


@functools.lru_cache(maxsize=_KEPT)
def escaped(value: str) -> str:
    """The value of a label as it stands between quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
