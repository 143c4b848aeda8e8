"""Sends the bodies of `reports.paging.pagerduty` and `reports.paging.webhook` over HTTP. Imported by the
threads that send, so that the start of the daemon does not wait for `requests`.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from supervisor.reports.paging.incident import SendOutcome, SendResult
from tunnels.text import one_line

TIMEOUT_SECONDS = (5.0, 10.0)  # to connect; without a byte from the server
MAX_RETRY_AFTER_SECONDS = 3600.0  # longest pause that we let a receiver impose
MAX_ANSWER_BYTES = 4096  # of an answer that are read
MAX_RAW_ANSWER_CHARS = 200  # of an answer that is not PagerDuty's JSON
_RETRYABLE = frozenset({408, 425})  # Request Timeout, Too Early (RFC 9110 15.5.9, RFC 8470)
_WRONG_KEY = frozenset({401, 403, 404})  # the routing key or the address is wrong, not the message


class Sender:
    """Posts JSON, one attempt per call; it never raises for anything that the network or the server does."""

    def __init__(self) -> None:
        self._session = requests.Session()

    def send_event(self, url: str, routing_key: str, body: str) -> SendResult:
        """One attempt at PagerDuty's Events API v2, which accepts by 202. `url` is the service region's,
        without a path.
        """
        event = {"routing_key": routing_key, **json.loads(body)}
        path = "/v2/enqueue" if "event_action" in event else "/v2/change/enqueue"
        try:
            return self._post(url.rstrip("/") + path, event)
        except requests.RequestException as error:
            return SendResult(SendOutcome.FAILED, f"{type(error).__name__}: {error}")

    def post_webhook(self, address: str, document: Mapping[str, Any]) -> SendResult:
        """One attempt at this address, which accepts by any 2xx status. The address, which is a secret, is
        not part of the text of a failure.
        """
        try:
            return self._post(address, document, range(200, 300))
        except requests.RequestException as error:
            return SendResult(SendOutcome.FAILED, f"no answer: {type(error).__name__}")

    def _post(self, url: str, document: Mapping[str, Any], accepted: Container[int] = (202,)) -> SendResult:
        with self._session.post(
            url, json=document, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
        ) as response:
            if response.status_code in accepted:
                # The status line is enough: the body of such an answer may get lost.
                return SendResult(SendOutcome.ACCEPTED)
            return _refusal(response)

    def close(self) -> None:
        """Close connections."""
        self._session.close()


def _refusal(response: requests.Response) -> SendResult:
    """The result of an attempt that was not accepted, by status code."""
    status = response.status_code
    wait = _retry_after(response.headers.get("Retry-After", ""))
    text = f"{status} {one_line(response.reason)}: {_answer_text(response)}"
    if status == 429:
        return SendResult(SendOutcome.THROTTLED, text, wait)
    if status >= 500 or status in _RETRYABLE:
        return SendResult(SendOutcome.FAILED, text, wait)
    if status in _WRONG_KEY:
        text = f"the routing key or the address is wrong: {text}"
    return SendResult(SendOutcome.REJECTED, text)


def _answer_text(response: requests.Response) -> str:
    """`message` and `errors` of PagerDuty's JSON answer, or the beginning of any other answer."""
    try:
        raw = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return str(error)
    try:
        answer = json.loads(raw)
        return one_line(f"{answer['message']} {'; '.join(map(str, answer.get('errors', ())))}")
    except (ValueError, KeyError, TypeError, AttributeError):
        return one_line(str(raw.decode("utf-8", "backslashreplace")))[:MAX_RAW_ANSWER_CHARS]


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, a number or a date (RFC 9110 10.2.3); 0 if it is not usable."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)
