"""Elements keep their meaning over packing and unpacking, however the kernel orders them."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.core.network.layout import Element, HostFeatures
from supervisor.core.network.plan import NetworkPlan
from supervisor.core.network.wanted import wanted
from supervisor.kernel.nft.elements import pack, unpack
from supervisor.kernel.nft.ruleset import Ruleset
from tests.kernel.test_layout import hosts, plans

SETS = {described.name: described for described in Ruleset.build().sets}


@settings(deadline=None)
@given(plans(), hosts, st.randoms(use_true_random=False))
def test_round_trip(plan: NetworkPlan, host: HostFeatures, chance: random.Random) -> None:
    elements = wanted(plan, host).elements
    found: set[Element] = set()
    for name, described in SETS.items():
        packed = pack(described, [element for element in elements if element.set == name])
        chance.shuffle(packed)
        found |= set(unpack(described, packed))
    assert found == elements


def test_every_element_has_a_set() -> None:
    assert {
        "up",
        "lanes",
        "tunnels",
        "ports",
        "staff4",
        "carry6",
        "real4",
        "mss6",
        "destinations4",
    } <= SETS.keys()


def test_the_comment_tells_versions_apart() -> None:
    assert Ruleset.build().comment == Ruleset.build().comment
    assert Ruleset.build().comment.startswith("rules ")
