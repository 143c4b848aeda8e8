"""Thousands of new flows a second: every one of them is in the audit, or counted as lost in a gap. (`make
bench` does this for longer.)
"""

from __future__ import annotations

import pytest

from tests.bench.audit import audited

pytestmark = pytest.mark.root


def test_what_was_sent_is_written_or_counted_as_lost() -> None:
    with audited() as daemon:
        it = daemon.measure(rate=2000, seconds=3.0, idle=0.5)
    print(it)
    assert it.generated == 6000
    assert it.missing == (0, 0)
    assert it.opened > 0
    assert it.closed > 0
