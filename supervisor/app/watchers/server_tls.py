"""Reloads the HTTP server's certificate when its files change, and at every reload of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from common.tls import ServerTls
from supervisor.clients.input_watcher import InputWatcher
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, Noticed

_CONDITION = "http-certificate"


class TlsRenewal:
    """Reloads a `ServerTls`, and posts `Noticed` when its condition changes."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._watcher: InputWatcher | None = None
        self._tls: ServerTls | None = None
        self.conditions: Mapping[str, Condition] = MappingProxyType({})

    def start(self, tls: ServerTls) -> None:
        """Watch its files from now on."""
        self._tls, self._watcher = tls, InputWatcher(lambda _: self.renew())
        self._watcher.start()
        self._watcher.set(lambda: {_CONDITION: tls.files})

    def renew(self) -> None:
        """Read the files again. If they are not usable the earlier ones stay in effect, and a condition says
        so.
        """
        if self._tls is None:
            return
        try:
            self._tls.renew()
        # includes ssl.SSLError: the new key may not be written yet
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
        """Stop watching."""
        if self._watcher is not None:
            await self._watcher.close()

    def _say(self, conditions: Mapping[str, Condition]) -> None:
        if conditions != self.conditions:
            self.conditions = conditions
            self._post(Noticed(""))
