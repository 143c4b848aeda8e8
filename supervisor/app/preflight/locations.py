"""Paths on the host that preflight checks read; tests use others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Files of the host."""

    tun: Path = Path("/dev/net/tun")
    sysctls: Path = Path("/proc/sys")
    # systemd-resolved hides the real servers behind 127.0.0.53
    resolvers: tuple[Path, ...] = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
    systemd: Path = Path("/run/systemd/system")  # there where systemd runs, see sd_booted(3)
    bus: Path = Path("/run/dbus/system_bus_socket")
    nomad: Path = Path("/etc/nomad.d")
    # Of BIRD's control, one of them.
    bird: tuple[Path, ...] = (Path("/run/bird/bird.ctl"), Path("/run/bird.ctl"))
