"""Sends what `reports.paging.events_v2` and `reports.paging.webhook` say, by HTTP; loaded by the threads
that send, so that no start waits for it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from supervisor.reports.paging.incident import SendOutcome, SendResult
from tunnels.text import one_line

TIMEOUT = (5.0, 10.0)  # seconds to connect, seconds of silence
RETRY_AFTER = 3600.0  # seconds: longest wait that we let the far side impose
_RETRYABLE = frozenset({408, 425})
_ANSWER = 4096  # bytes of an answer that are read


class Wrong(enum.IntEnum):
    """Refusals that mean that the routing key or the address is wrong, not the message."""

    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404


class Sender:
    """Posts JSON; one attempt a call, it never raises for what the far side does."""

    def __init__(self) -> None:
        self._session = requests.Session()

    def send(self, url: str, routing_key: str, body: str) -> SendResult:
        """One attempt, 15 s at most as long as the far side says nothing. `url` is the service region's,
        without a path.
        """
        event = {"routing_key": routing_key, **json.loads(body)}
        path = "/v2/enqueue" if "event_action" in event else "/v2/change/enqueue"
        try:
            return self._post(url.rstrip("/") + path, event)
        except requests.RequestException as error:
            return SendResult(SendOutcome.FAILED, f"{type(error).__name__}: {error}")

    def tell(self, address: str, body: str) -> SendResult:
        """One attempt at this very address, where any 2xx status means success. What is said of a failure
        does not show the address.
        """
        try:
            return self._post(address, json.loads(body), range(200, 300))
        except requests.RequestException as error:
            return SendResult(SendOutcome.FAILED, f"no answer: {type(error).__name__}")

    def _post(self, url: str, document: Mapping[str, Any], taken: Container[int] = (202,)) -> SendResult:
        with self._session.post(
            url, json=document, timeout=TIMEOUT, allow_redirects=False, stream=True
        ) as response:
            return (
                SendResult(SendOutcome.ACCEPTED) if response.status_code in taken else _understood(response)
            )

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()


def _understood(response: requests.Response) -> SendResult:
    """What a refusal means. (That an event was taken is said by the status line alone; the rest of that
    answer may get lost.)
    """
    status = response.status_code
    wait = _retry_after(response.headers.get("Retry-After", ""))
    text = f"{status} {one_line(response.reason)}: {_words(response)}"
    if status == 429:
        return SendResult(SendOutcome.THROTTLED, text, wait)
    if status >= 500 or status in _RETRYABLE:
        return SendResult(SendOutcome.FAILED, text, wait)
    if status in set(Wrong):
        text = f"the routing key or the address is wrong: {text}"
    return SendResult(SendOutcome.REJECTED, text)


def _words(response: requests.Response) -> str:
    """`message` and `errors` of PagerDuty's answer, or what else it says."""
    try:
        raw = response.raw.read(_ANSWER, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return str(error)
    try:
        said = json.loads(raw)
        return one_line(f"{said['message']} {'; '.join(map(str, said.get('errors', ())))}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return one_line(str(raw.decode("utf-8", "backslashreplace")))[:200]


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header (seconds or a date); 0 when it says nothing usable."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(0.0, seconds), RETRY_AFTER)
