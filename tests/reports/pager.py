"""A daemon that does nothing but page, as a process of its own, for the tests that kill it. Verdicts come
on stdin, one JSON object a line.

`--halt POINT --action A` stops for ever at that point of the first event with this action, and says "halted"
on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from supervisor.core.alerting.verdict import Alert, Verdict
from supervisor.core.backoff import Backoff
from supervisor.reports.log.redact import Secrets
from supervisor.reports.paging.incident import SendResult
from supervisor.reports.paging.notifier import PagerHooks, RetryPauses
from supervisor.reports.paging.pager import Pager
from supervisor.reports.paging.pagerduty import PagerDuty
from supervisor.reports.paging.routing import PagingConfig
from tests.pagerduty_double import ROUTING_KEY
from tests.reports.worlds import alert
from tunnels.settings import Secret

SOON = Backoff(0.01, 0.01, 0.01)
FAST = RetryPauses(SOON, SOON, resync_seconds=0.1, busy_seconds=0.1)


def say(word: str) -> None:
    print(word, flush=True)


class Halts:
    """Stops for ever at one point."""

    def __init__(self, point: str, action: str) -> None:
        self._where = point, action

    def __call__(self, point: str, action: str) -> None:
        if self._where == (point, action):
            say("halted")
            threading.Event().wait()


class Halting(PagerDuty):
    """The real receiver, with points at which it can stop."""

    def __init__(self, halts: Halts) -> None:
        super().__init__()
        self._halts = halts

    def trigger(self, facilitator: str, alert: Alert, since: float, lines: Sequence[str]) -> str:
        self._halts("before the write", "trigger")
        return super().trigger(facilitator, alert, since, lines)

    def resolve(self, dedup_key: str, since: float, at: float) -> str:
        self._halts("before the write", "resolve")
        return super().resolve(dedup_key, since, at)

    def send(self, paging: PagingConfig, key: str, body: str) -> SendResult:
        action = json.loads(body)["event_action"]
        self._halts("before the send", action)
        answer = super().send(paging, key, body)
        self._halts("before the answer", action)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--halt", default="")
    parser.add_argument("--action", default="")
    options = parser.parse_args()
    halts = Halts(options.halt, options.action)

    def counted(action: str, result: str) -> None:
        say(f"{action} {result}")
        halts("before the answer is written", action)

    paging = PagingConfig("vpn1", options.url, Secret(file="key"))
    hooks = PagerHooks(lambda _: ROUTING_KEY, count=counted)
    pagerduty = Pager(Halting(halts), options.state, paging, hooks, Secrets(), pauses=FAST)
    pagerduty.start()
    for line in sys.stdin:
        pagerduty.set({name: alert(Verdict(verdict), name) for name, verdict in json.loads(line).items()})
    pagerduty.close()
    say(f"usable {pagerduty.status.usable}")


if __name__ == "__main__":
    main()
