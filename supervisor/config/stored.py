"""A configuration as plain values (what JSON writes), and back, without what its defaults say. Secrets are
references in it, as in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.plain import WRONG, NotPlain, from_plain, plain
from supervisor.config.model import Config
from tunnels.base import AnyKind

_TUNNELS = "tunnels"


def config_as_plain(config: Config) -> dict[str, Any]:
    """Each tunnel with its kind, which says what its settings are."""
    tunnels = {
        name: {**plain(tunnel, sparse=True), "kind": tunnel.kind} for name, tunnel in config.tunnels.items()
    }
    return {**plain(replace(config, tunnels={}), sparse=True), _TUNNELS: tunnels}


def config_from_plain(raw: Mapping[str, Any], kinds: Mapping[str, AnyKind]) -> Config:
    """NotPlain: this code has not written it."""
    rest = from_plain(Config, {key: raw[key] for key in raw if key != _TUNNELS}, complete=False)
    tunnels = {}
    for name, settings in raw.get(_TUNNELS, {}).items():
        kind = kinds.get(settings.get("kind"))
        if kind is None:
            raise NotPlain(WRONG).below(name)
        tunnels[name] = from_plain(kind.options, settings, complete=False)
    return replace(rest, tunnels=tunnels)
