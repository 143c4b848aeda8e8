"""The commands' HTTP client for the control socket; standard library only, so that commands start fast."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supervisor import disk

KEY_FILE = "control.key"  # beside the socket
KEY_HEADER = "X-Facilitator-Key"
_MAX_KEY_BYTES = 256


class Unreachable(Exception):
    """No daemon answers; the text says at which socket, and what to do."""


class Refused(Exception):
    """The daemon refused; the text is its own. `forbidden`: because a privilege is missing."""

    def __init__(self, text: str, forbidden: bool = False) -> None:
        super().__init__(text)
        self.forbidden = forbidden


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over an AF_UNIX stream socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("facilitator", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ControlClient:
    """Requests to the daemon behind one control socket."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        """`timeout`: seconds to wait for an answer."""
        self._path = path
        self._timeout = timeout

    def get(self, path: str) -> Any:
        """The JSON document at `path`."""
        return self._document("GET", path, self._timeout)

    def post(self, path: str, wait: float = 0.0, body: str | None = None) -> Any:
        """POST, and the JSON answer, which may take `wait` seconds longer than the timeout."""
        return self._document("POST", path, self._timeout + wait, body)

    def lines(self, path: str, timeout: float | None = None) -> Iterator[str]:
        """The lines of a text that may never end, as they come. `timeout`: seconds to wait for each; None:
        any time.
        """
        with self._explained():
            response = self._request("GET", path, timeout)
            rest = b""
            while data := response.read1():  # unlike iteration, raises when the connection breaks
                *lines, rest = (rest + data).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")

    def _key(self) -> dict[str, str]:
        """The header that proves that we are not one of the daemon's VPN clients; needed where we run with
        no_new_privs as they do, such as in a container.
        """
        try:
            return {
                KEY_HEADER: disk.read(self._path.with_name(KEY_FILE), _MAX_KEY_BYTES).decode("ascii").strip()
            }
        except (OSError, ValueError):
            return {}

    def _document(self, method: str, path: str, timeout: float, body: str | None = None) -> Any:
        with self._explained():
            return json.loads(self._request(method, path, timeout, body).read())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise Refused(
                f"{self._path} may only be used by root, the daemon's own user and the group facilitator",
                True,
            ) from None
        except http.client.IncompleteRead:
            raise Unreachable(
                f"cannot connect to the daemon ({self._path}): the connection broke; try: systemctl status facilitator"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(
                f"cannot connect to the daemon ({self._path}: {error}); try: systemctl status facilitator"
            ) from None

    def _request(
        self, method: str, path: str, timeout: float | None, body: str | None = None
    ) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, timeout)
        connection.request(method, path, None if body is None else body.encode(), self._key())
        response = connection.getresponse()
        if response.status >= 400:
            raise Refused(
                response.read().decode(errors="replace").strip(), response.status == http.client.FORBIDDEN
            )
        return response
