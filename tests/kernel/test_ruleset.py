"""What we put into the kernel is, in the words of `nft`, what the golden file says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.core.network.changes import Change, Op, diff
from supervisor.core.network.intervals import Interval
from supervisor.core.network.layout import Element, Layout, Table
from supervisor.core.network.wanted import wanted
from supervisor.kernel.nft.ruleset import Ruleset
from supervisor.kernel.nft.table import Nftables, TableState
from tests.kernel.test_layout import HOST, LIMITED
from tests.netns import Namespace

pytestmark = pytest.mark.root
GOLDEN = Path(__file__).with_name("facilitator.nft")
CHANGES = [change for change in diff(Layout(), wanted(LIMITED, HOST)) if change.concerns_nftables]


def listed(netns: Namespace) -> str:
    """The ruleset in nft's words, elements in a fixed order: a hash set gives them in any."""
    listing = netns.run("nft", "-s", "list", "ruleset").stdout
    text = re.sub(r', closed since [^"]*', "", listing)
    return re.sub(
        r"\{([^{}]*)\}", lambda found: str(sorted(part.strip() for part in found[1].split(","))), text
    )


async def test_it_is_the_ruleset_of_the_golden_file(netns: Namespace) -> None:
    nftables = Nftables(flags=0)  # nft 1.0 cannot write `persist`
    nftables.open()
    await nftables.commit(CHANGES)
    ours = listed(netns)
    netns.run("nft", "flush", "ruleset")
    netns.run("nft", "-f", "-", input=GOLDEN.read_text().replace("VERSION", Ruleset.build().comment))
    assert ours == listed(netns)
    nftables.close()


async def test_it_is_read_as_it_was_written(netns: Namespace) -> None:
    nftables = Nftables()
    nftables.open()
    assert await nftables.read() == TableState()
    await nftables.commit(CHANGES)
    state = await nftables.read()
    assert state.intact
    assert state.elements == wanted(LIMITED, HOST).elements
    reader = Nftables()  # anybody may read it: a command, beside the daemon
    reader.open()
    assert await reader.read() == state
    reader.close()
    nftables.close()


async def test_a_transaction_is_all_or_nothing(netns: Namespace) -> None:
    nftables = Nftables()
    nftables.open()
    await nftables.commit(CHANGES)
    before = await nftables.read()
    good = Change(Op.ADD, Element("up", (173999,)))
    missing = [Change(Op.REMOVE, Element("ports", (number,), (1,))) for number in range(5000)]
    with pytest.raises(FileNotFoundError, match="No such file"):
        await nftables.commit([*missing, good])
    assert await nftables.read() == before
    nftables.close()


async def test_thousands_of_networks_in_one_transaction(netns: Namespace) -> None:
    nftables = Nftables()
    nftables.open()
    many = [
        Element(
            "carry4", (Interval(4, (10 << 24) + (i << 8), (10 << 24) + (i << 8) + 127),), (173001 + i % 9,)
        )
        for i in range(5000)
    ]
    await nftables.commit([Change(Op.ADD, Table()), *(Change(Op.ADD, element) for element in many)])
    assert (await nftables.read()).elements == frozenset(many)
    await nftables.commit([Change(Op.REMOVE, element) for element in many[:2500]])
    assert (await nftables.read()).elements == frozenset(many[2500:])
    nftables.close()


@pytest.mark.parametrize(
    "meddle",
    [
        "flush chain inet facilitator forward",
        "add rule inet facilitator forward accept",
        "chain inet facilitator forward { policy drop; }",
        "delete table inet facilitator",
    ],
)
async def test_it_is_seen_that_somebody_meddled(netns: Namespace, meddle: str) -> None:
    nftables = Nftables(flags=0)
    nftables.open()
    await nftables.commit(CHANGES)
    netns.run("nft", meddle)
    assert not (await nftables.read()).intact
    nftables.close()
