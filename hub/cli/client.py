"""The operators' HTTP client: one question over mutual TLS."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlencode, urlsplit

from hub.cli.configuration import FAILED, NO_ANSWER, NO_RIGHT, stop
from hub.config.model import AdminSettings

_TIMEOUT_SECONDS = 10.0


class OperatorClient:
    """Ends the command with a sentence where the service does not answer, or says no."""

    def __init__(self, settings: AdminSettings) -> None:
        self._url, self._tls = urlsplit(settings.url), settings.tls

    def get(self, path: str, patience: float = 0.0, **query: object) -> Any:
        """The document; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}", None, patience)

    def post(self, path: str, **body: object) -> Any:
        """Send a document, get one."""
        return self._ask(
            "POST", path, {name: value for name, value in body.items() if value is not None}, 0.0
        )

    def _ask(self, method: str, path: str, body: object, wait: float) -> Any:
        try:
            context = ssl.create_default_context(cafile=str(self._tls.ca))
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            connection = http.client.HTTPSConnection(
                self._url.hostname or "",
                self._url.port or 443,
                timeout=_TIMEOUT_SECONDS + wait,
                context=context,
            )
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read() or b"null")
        except (OSError, ValueError, http.client.HTTPException) as error:
            stop(f"no session service answers at {self._url.geturl()} ({error})", NO_ANSWER)
        if response.status >= 400:
            code = NO_RIGHT if response.status == http.client.FORBIDDEN else FAILED
            stop(str(answer.get("error", response.status)) if isinstance(answer, dict) else str(answer), code)
        return answer
