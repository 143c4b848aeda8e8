"""Metric families as text, in Prometheus' text format and in OpenMetrics.

https://prometheus.io/docs/instrumenting/exposition_formats/,
https://prometheus.io/docs/specs/om/open_metrics_spec/

The samples are the same in both formats, only the HELP and TYPE lines above them differ. `prometheus_client`
writes the same text from one object per sample in ten times the time; a thousand tunnels are 35,000 lines. It
is used for the few other families (`reports.metrics.exporter`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SUFFIXES: Mapping[str, str] = {"counter": "_total", "info": "_info"}  # of sample names, by type
_MAX_CACHED_LABELS = 16384  # each scrape has the same ones
_TEXT_TYPES: Mapping[str, str] = {"info": "gauge"}  # types that the text format lacks, and what it uses


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric family."""

    name: str  # without the suffix of its samples
    kind: str  # gauge, counter, info or histogram
    text: str  # the HELP text
    lines: str  # its samples

    def written(self, openmetrics: bool) -> str:
        """The family with its HELP and TYPE lines, in OpenMetrics or in the text format."""
        name, kind = self.name, self.kind
        if not openmetrics:
            name, kind = sample_name(name, kind), _TEXT_TYPES.get(kind, kind)
        return f"# HELP {name} {self.text}\n# TYPE {name} {kind}\n{self.lines}"


def sample_name(name: str, kind: str) -> str:
    """The name of a family's samples; not for histograms."""
    return name + _SUFFIXES.get(kind, "")


def simple(name: str, kind: str, text: str, rows: Iterable[tuple[str, float | None]]) -> MetricFamily:
    """A family with one sample per row, which is its labels (as `labels` writes them) and its value; None
    leaves the sample out.
    """
    start = sample_name(name, kind)
    lines = [
        f"{start}{where} {value + 0!r}\n" for where, value in rows if value is not None
    ]  # + 0: True is 1
    return MetricFamily(name, kind, text, "".join(lines))


@functools.lru_cache(maxsize=_MAX_CACHED_LABELS)
def labels(**values: str) -> str:
    """The labels of a sample, escaped, in braces."""
    return "{" + ",".join([f'{name}="{escaped(value)}"' for name, value in values.items()]) + "}"


@functools.lru_cache(maxsize=_MAX_CACHED_LABELS)
def escaped(value: str) -> str:
    """A label value, escaped as it must be between quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
