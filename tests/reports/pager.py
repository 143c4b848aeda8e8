"""A daemon that does nothing but page, as a process of its own, for the tests that kill it. Verdicts come on stdin, one JSON object a line.

`--halt-before-send` stops for ever at the moment when the wish is on disk and nothing was sent: it says so on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

import tenacity

from supervisor.core.alerts import Verdict
from supervisor.reports.pagerduty import Hooks, Pace, PagerDuty
from supervisor.reports.redact import Secrets
from supervisor.reports.routing import Paging
from tests.pagerduty_double import ROUTING_KEY
from tests.reports.worlds import alert
from tunnels.settings import Secret

FAST = Pace(failed=tenacity.wait_fixed(0.01), throttled=tenacity.wait_fixed(0.01), heal=0.1, busy=0.1)


def say(word: str) -> None:
    print(word, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--halt-before-send", action="store_true")
    options = parser.parse_args()

    def read(_: Secret) -> str:
        if options.halt_before_send:
            say("halted")
            threading.Event().wait()
        return ROUTING_KEY

    paging = Paging("vpn1", options.url, Secret(file="key"))
    hooks = Hooks(read, count=lambda action, result: say(f"{action} {result}"))
    pagerduty = PagerDuty(options.state, paging, hooks, Secrets(), pace=FAST)
    pagerduty.start()
    for line in sys.stdin:
        pagerduty.set({name: alert(Verdict(verdict), name) for name, verdict in json.loads(line).items()})
    pagerduty.close()
    say(f"usable {pagerduty.status.usable}")


if __name__ == "__main__":
    main()
