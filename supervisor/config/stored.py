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


def config_from_plain(raw: Any, kinds: Mapping[str, AnyKind]) -> Config:
    """NotPlain: this code has not written it."""
    try:
        settings = {name: (kinds[said["kind"]].options, said) for name, said in raw[_TUNNELS].items()}
        rest = {key: said for key, said in raw.items() if key != _TUNNELS}
    except (AttributeError, LookupError, TypeError):
        raise NotPlain(WRONG) from None
    tunnels = {name: from_plain(options, said, complete=False) for name, (options, said) in settings.items()}
    return replace(from_plain(Config, rest, complete=False), tunnels=tunnels)
