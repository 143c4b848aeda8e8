"""A customer's name server that lies in every way, and the real process of the name service before it."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.lab.name_process import name_process
from tests.lab.servers import Server, program
from tests.netns import Namespace

pytestmark = pytest.mark.root
LISTEN, CUSTOMER = "127.0.0.5", "127.0.0.2"
# Questions; with forgeries, retries and TCP the server sends more than a thousand hostile answers to them.
ANSWERS, KINDS = 350, 7
MOST_BYTES = 4 << 20  # by which the process may grow


def test_of_a_thousand_hostile_answers_none_gets_through_and_memory_stays(tmp_path: Path) -> None:
    net = Namespace("names")
    try:
        hostile = Server(net, tmp_path, "hostile", program("hostile_names", CUSTOMER), "serving")
        hostile.start()
        with name_process(net, tmp_path, LISTEN, CUSTOMER) as running:
            warm = ask(net, "warm", KINDS * 10)
            assert warm["lost"] == 0, warm
            before = psutil.Process(running.pid).memory_info().rss
            found = ask(net, "host", ANSWERS)
            after = psutil.Process(running.pid).memory_info().rss
        hostile.kill()
    finally:
        net.remove()
    assert found["addresses"] == ["100.64.0.5"], "what the server says in the end, and nothing else"
    assert set(found["rcodes"]) == {"0", "2"}, found
    assert found["lost"] == 0, found
    assert ANSWERS // KINDS * 0.9 <= found["right"] <= ANSWERS // KINDS, found
    assert after - before < MOST_BYTES


def ask(net: Namespace, name: str, count: int) -> dict[str, object]:
    """What the laptop gets."""
    argv = program("names", LISTEN, "53", f"{name}{{}}.acme.internal", str(count), "-", "64")
    found: dict[str, object] = json.loads(net.run(*argv, timeout=120).stdout)
    return found
