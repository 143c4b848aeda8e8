"""One lab for all system tests; each test has its own daemon, with its own state, and leaves the lab as it
was.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon, LabPagerDuty
from tests.system.forked import QuickLab


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    with QuickLab() as lab:
        yield lab


@pytest.fixture
def config(lab: Lab) -> Config:
    """The lab's configuration with short times, so that a first retry is immediate soon and nothing waits
    for minutes.
    """
    config = lab.configuration()
    config["defaults"] = {
        "login": {"pause": "100ms"},
        "reconnect": {"first": "100ms", "max": "1s", "stable_after": "300ms"},
        "probe": {"interval": "500ms", "timeout": "500ms"},
    }
    return config


@pytest.fixture
def daemon(lab: Lab, config: Config) -> Iterator[LabDaemon]:
    """A running facilitator whose tunnels are both well; what it leaves behind after its end and a
    `cleanup` fails the test.
    """
    daemon = lab.daemon(config)
    with daemon:
        daemon.wait_well()
        yield daemon
    assert daemon.leftovers() == {}


@pytest.fixture
def pagerduty(lab: Lab) -> Iterator[LabPagerDuty]:
    with lab.pagerduty() as double:
        yield double
