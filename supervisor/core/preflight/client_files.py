"""Preflight check: what clients are given to read (profiles, keys, certificates)."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.core.preflight.facts import HostFacts
from supervisor.core.preflight.finding import Finding, ok, problem, warning


def files(facts: HostFacts) -> Iterator[Finding]:
    """Could each tunnel start with its files?"""
    if facts.client_files is None:
        return
    hint = "facilitator check   # names all of them; correct the file, or ask for it again"
    for remark in facts.client_files:
        yield (problem if remark.fatal else warning)("files", remark.text, hint)
    if not any(remark.fatal for remark in facts.client_files):
        yield ok("files", "the files of all tunnels can be used, as far as they can be read from here")
