"""What a reload changes: tunnels that are added, removed, restarted, or go on with new settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.plain import plain
from common.settings import Settings, settings_of
from supervisor.config.model import Config
from tunnels.settings import Tunnel

# Settings that only the daemon uses (routes, probes, alerts, pauses): a client goes on when they change.
_LIVE = frozenset(
    {
        "description",
        "destinations",
        "priority",
        "probe",
        "reconnect",
        "alert",
        "hooks",
        "names",
        "allow",
        "without_lock",
        "login.max_attempts",
        "login.reconnect_on_change",
    }
)
_GLOBAL = ("staff", "alerts", "drain", "on_exit", "audit", "hub", "names", "http.external_url")
# Used at the start of the daemon only.
_FIXED = (
    "facilitator.name",
    "facilitator.state_dir",
    "facilitator.runtime_dir",
    "facilitator.runbook_url",
    "http.listen",
    "http.tls",
    "fleet",
)


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """The changes from one configuration to the next, by name of the tunnel; the values are the changed
    settings.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restart: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # their clients must restart
    # their clients go on as they are, because they could not be started again
    withheld: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    updated: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # their clients go on
    globals: tuple[str, ...] = ()  # takes effect at once, such as staff or alerts
    fixed: tuple[str, ...] = ()  # takes effect when the daemon restarts

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.restart, self.updated, self.globals, self.fixed))

    def withholding(self, tunnels: Container[str]) -> ConfigDifference:
        """The same, but these tunnels do not restart."""
        withheld = {name: what for name, what in self.restart.items() if name in tunnels}
        restart = {name: what for name, what in self.restart.items() if name not in tunnels}
        return replace(self, restart=restart, withheld=withheld)

    def lines(self) -> tuple[str, ...]:
        """One line per change, to show."""
        return tuple(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from (f"{name}: added" for name in self.added)
        yield from (f"{name}: removed" for name in self.removed)
        yield from (f"{name}: {', '.join(what)} changed, restarts" for name, what in self.restart.items())
        yield from (
            f"{name}: {', '.join(what)} changed, applied once its files can be used"
            for name, what in self.withheld.items()
        )
        yield from (f"{name}: {', '.join(what)} changed" for name, what in self.updated.items())
        yield from (f"{what} changed" for what in self.globals)
        yield from (
            f"{what} changed: takes effect after `systemctl restart facilitator`" for what in self.fixed
        )


def difference(old: Config, new: Config) -> ConfigDifference:
    """What changes from `old` to `new`; false when nothing does."""
    changes = {
        name: changed
        for name in new.tunnels
        if name in old.tunnels and (changed := _changed(old.tunnels[name], new.tunnels[name]))
    }
    restart = {name: what for name, what in changes.items() if not _LIVE.issuperset(what)}
    return ConfigDifference(
        added=tuple(name for name in new.tunnels if name not in old.tunnels),
        removed=tuple(name for name in old.tunnels if name not in new.tunnels),
        restart=restart,
        updated={name: what for name, what in changes.items() if name not in restart},
        globals=tuple(name for name in _GLOBAL if _at(old, name) != _at(new, name)),
        fixed=tuple(path for path in _FIXED if _at(old, path) != _at(new, path)),
    )


def with_tunnels_of(new: Config, old: Config, names: Iterable[str]) -> Config:
    """`new`, in which these tunnels are as they are in `old`."""
    return replace(new, tunnels={**new.tunnels, **{name: old.tunnels[name] for name in names}})


# Part of a kind's fingerprint: clients that an earlier version has started in another way are restarted by an
# upgrade.
_SINCE = {"sshuttle": "transparent sockets"}


def fingerprint(tunnel: Tunnel) -> str:
    """A digest of the settings that a client was started with: it is equal if the client can go on."""
    said = plain(tunnel, sparse=True)
    login = {name: value for name, value in said.pop("login", {}).items() if f"login.{name}" not in _LIVE}
    rest = {name: value for name, value in said.items() if name not in _LIVE}
    mapping = sorted([str(presented), str(real)] for presented, real in _mapping(tunnel))
    since = [_SINCE[tunnel.kind]] if tunnel.kind in _SINCE else []
    return hashlib.sha256(json.dumps([rest, login, mapping, *since], sort_keys=True).encode()).hexdigest()


def _changed(old: Tunnel, new: Tunnel) -> tuple[str, ...]:
    """The settings that differ; those of `login` one by one."""
    if type(old) is not type(new):
        return ("kind",)
    names = [name for name in settings_of(type(new)) if getattr(old, name) != getattr(new, name)]
    login = [
        f"login.{name}"
        for name in settings_of(type(new.login))
        if getattr(old.login, name) != getattr(new.login, name)
    ]
    mapping = (
        ["destinations.presented_as"] if _mapping(old) != _mapping(new) else []
    )  # a proxy maps by itself: its client must know
    return tuple(path for name in names for path in (login if name == "login" else [name])) + tuple(mapping)


def _mapping(tunnel: Tunnel) -> set[tuple[Any, Any]]:
    return {(d.presented_as, d.network) for d in tunnel.destinations if d.presented_as is not None}


def _at(settings: Settings, path: str) -> Any:
    value: Any = settings
    for step in path.split("."):
        value = getattr(value, step)
    return value
