"""Many people: what `python -m tests.bench.sidecar` measures with more of them."""

from __future__ import annotations

import pytest

from tests.bench.sidecar import crowd, kill, log_in
from tests.hub.lab import HubLab
from tests.lab.wait import NOISE

pytestmark = [pytest.mark.root, pytest.mark.timed]


def test_logins_of_a_hundred_and_kills_under_ping() -> None:
    with HubLab() as lab:
        lab.service.start()
        lab.nodes["a"].start()
        clients = crowd(lab, 100)
        logins = log_in(lab, clients, rate=10)
        assert logins.p99 <= 50 * NOISE, logins
        killed = kill(lab, clients, kills=4, pinging=50)
        assert (killed.sessions, killed.lost, killed.restarted, killed.rows_differ) == (100, 0, 0, 0), killed
        assert killed.unanswered <= killed.pings * 0.01, killed
