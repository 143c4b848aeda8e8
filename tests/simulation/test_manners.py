"""While a tunnel is away its destinations pause, and refuse when it stays away: at the right moment,
though nothing happens then.
"""

from __future__ import annotations

import itertools

from supervisor.core.network.plan import Manner
from tests.fakes import Habits, World
from tests.settings import configured
from tests.simulation.test_worlds import tunnel
from tunnels.settings import Reconnect


def lane(simulated: World) -> tuple[bool, Manner]:
    (only,) = simulated.engine.plan.lanes
    return only.up, only.manner


def test_the_pause_ends_after_fifteen_seconds_without_any_event() -> None:
    once = iter([0.5])
    simulated = World(
        {"acme": tunnel(reconnect=configured(Reconnect, first="1000s", max="1000s"))},
        Habits(connects_in=lambda: next(once, None), path_alive=lambda now: now < 100.0),
    )
    simulated.run(until=99.0)
    assert lane(simulated) == (True, Manner.PAUSE)
    simulated.run(until=112.0)
    since = simulated.engine.snapshot.tunnels["acme"][1].well_since
    assert 100.0 < since < 112.0
    assert lane(simulated) == (False, Manner.PAUSE)
    simulated.run(until=since + 14.99)
    assert lane(simulated) == (False, Manner.PAUSE)
    simulated.run(until=since + 15.0)
    assert lane(simulated) == (False, Manner.REFUSE)


def test_a_tunnel_that_comes_back_soon_never_refuses() -> None:
    lives = itertools.cycle((70.0, 100.0, 140.0))  # no habit that could be learned
    simulated = World({"acme": tunnel()}, Habits(lives=lambda: next(lives)))
    for second in range(1, 2000):
        simulated.run(until=float(second))
        assert lane(simulated)[1] is Manner.PAUSE
