"""Facts about hosts that must be reached without a tunnel: remote gateways, proxies, receivers of alerts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from supervisor.app.files import Files
from supervisor.config.model import Config
from supervisor.core.preflight.facts import Endpoint
from tunnels.base import Input
from tunnels.kinds.openvpn.kind import OpenVPN
from tunnels.kinds.openvpn.profile import read_profile
from tunnels.kinds.openvpn.syntax import split_words
from tunnels.kinds.sshuttle.kind import Sshuttle
from tunnels.settings import Tunnel

RESOLVE_TIMEOUT_SECONDS = 2.0  # for all names together
_PROXIES = ("http-proxy", "socks-proxy")

Named = tuple[str, str]  # what it is, and its name or address


def gateways(tunnels: Mapping[str, Tunnel], files: Files) -> tuple[Named, ...]:
    """The hosts that clients connect to, each once. Unreadable profiles are skipped: another check reports
    them.
    """
    return tuple(
        dict.fromkeys(
            (f"{name}: gateway", host) for name, tunnel in tunnels.items() for host in _hosts(tunnel, files)
        )
    )


def literal(tunnels: Mapping[str, Tunnel], files: Files) -> tuple[Endpoint, ...]:
    """Those that are addresses and no names."""
    found = []
    for what, host in gateways(tunnels, files):
        with contextlib.suppress(ValueError):
            found.append(Endpoint(what, host, (ip_address(host),)))
    return tuple(found)


def names(config: Config, files: Files) -> tuple[Named, ...]:
    """The hosts that clients and alerting connect to, each once."""
    found = list(gateways(config.tunnels, files))
    if config.alerts.pagerduty is not None:
        found.append(("alerts.pagerduty", urlsplit(config.alerts.pagerduty.url).hostname or ""))
    return tuple(dict.fromkeys(found))


def _hosts(tunnel: Tunnel, files: Files) -> list[str]:
    if isinstance(tunnel, OpenVPN):
        return list(_of_profile(tunnel, files))
    if isinstance(tunnel, Sshuttle):
        return list(_of_ssh(tunnel))
    server = getattr(tunnel, "server", None)  # HOST[:PORT] of the other kinds
    host = urlsplit(f"//{server}").hostname if isinstance(server, str) else None
    return [host] if host else []


def _of_profile(tunnel: OpenVPN, files: Files) -> Iterator[str]:
    """Its servers, or the proxies through which they are reached."""
    try:
        lines = read_profile(files.read(Input("config", tunnel.config))).text.splitlines()
    except (OSError, ValueError):
        return
    words = [
        split
        for line in lines
        if line.startswith(("remote ", "http-proxy ", "socks-proxy ")) and (split := split_words(line))
    ]
    proxies = [entry[1] for entry in words if entry[0] in _PROXIES and len(entry) > 1]
    yield from proxies or [entry[1] for entry in words if entry[0] == "remote"]


def _of_ssh(tunnel: Sshuttle) -> Iterator[str]:
    if tunnel.jump is not None:
        yield tunnel.first_hop.host
    elif tunnel.option("ProxyCommand") is None:  # else it says by itself where it connects to
        yield tunnel.option("HostName") or tunnel.first_hop.host


class Resolver:
    """Resolves names in daemon threads, so that a hanging resolver delays nothing."""

    def __init__(self, named: Iterable[Named]) -> None:
        self._named = tuple(named)
        self._answers: dict[str, Endpoint] = {}
        self._threads: list[threading.Thread] = []
        self._deadline = 0.0

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + RESOLVE_TIMEOUT_SECONDS
        for name in {name for _, name in self._named}:
            thread = threading.Thread(target=self._resolve, args=(name,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The results, when all have answered or RESOLVE_TIMEOUT_SECONDS are over."""
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        late = f"no answer from the name servers within {RESOLVE_TIMEOUT_SECONDS:g} s"
        answers = dict(self._answers)
        return tuple(
            Endpoint(what, name, answer.addresses, answer.error)
            if (answer := answers.get(name))
            else Endpoint(what, name, error=late)
            for what, name in self._named
        )

    def _resolve(self, name: str) -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._answers[name] = Endpoint(
                "", name, error=f"its name cannot be resolved ({getattr(error, 'strerror', None) or error})"
            )
            return
        texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
        self._answers[name] = Endpoint("", name, tuple(map(ip_address, texts)))
