"""Keeps the certificate of the HTTP server as its files are: looks at them when they change, and at every
reload of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from supervisor.clients.input_watcher import InputWatcher
from supervisor.control.tls import ServerTls
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed

_CONDITION = "http-certificate"


class TlsRenewal:
    """Renews a `ServerTls`, and posts `Noticed` when there is something new to say about it."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._watcher: InputWatcher | None = None
        self._tls: ServerTls | None = None
        self.conditions: Mapping[str, Condition] = MappingProxyType({})

    def start(self, tls: ServerTls) -> None:
        """Begin to look after it, on the running loop."""
        self._tls, self._watcher = tls, InputWatcher(lambda _: self.renew())
        self._watcher.start()
        self._watcher.set(lambda: {_CONDITION: tls.files})

    def renew(self) -> None:
        """Read the files again. Those that are not usable change nothing, but are a condition until they
        are.
        """
        if self._tls is None:
            return
        try:
            self._tls.renew()
        # also what TLS finds wrong with them; perhaps the key follows its certificate in a moment
        except OSError as error:
            structlog.get_logger().warning("new certificate of the HTTP server not used", error=str(error))
            self._say(
                {
                    _CONDITION: Condition(
                        f"http.tls: the files are not usable, the earlier ones are in effect ({error})"
                    )
                }
            )
        else:
            structlog.get_logger().info("certificate of the HTTP server read")
            self._say({})

    async def close(self) -> None:
        """Look no more."""
        if self._watcher is not None:
            await self._watcher.close()

    def _say(self, conditions: Mapping[str, Condition]) -> None:
        if conditions != self.conditions:
            self.conditions = conditions
            self._post(Noticed(""))
