"""The process of the name service without a daemon, in a namespace of a test."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from common.configuration.notation import Listen
from common.plain import plain
from supervisor.core.names.values import AskingRules, MappedNetwork, NameServiceState
from tests.lab.servers import Server
from tests.lab.wait import eventually
from tests.names.messages import ACME
from tests.netns import Namespace

_START = "import sys; from supervisor.names.program import main; main()"


@contextlib.contextmanager
def name_process(
    net: Namespace, directory: Path, listen: str, server: str, before: tuple[str, ...] = ()
) -> Iterator[Server]:
    """It listens on an address and asks a server, both on the loopback interface, for acme.internal;
    `before`: words in front of its command line.
    """
    home = directory / "name-process"
    home.mkdir()
    (home / "key").write_text("key")
    running = Server(net, directory, "names", (*before, sys.executable, "-c", _START, str(home), "test"), "")
    running.start()
    about = replace(
        ACME,
        servers=(ip_address(server),),
        networks=(MappedNetwork(ip_network("10.0.0.0/16"), ip_network("100.64.0.0/16")),),
        mark=0,
        device="lo",
    )
    rules = AskingRules((ip_network("127.0.0.0/8"),), listen=(Listen(listen, 53),))
    state = {"state": plain(NameServiceState(rules, {"acme-dc": about}))}
    try:
        with socket.socket(socket.AF_UNIX) as control:
            place = str(home / "control.sock")
            eventually(lambda: control.connect_ex(place) == 0, 10, "it listens")
            control.sendall(b"key\n" + json.dumps(state).encode() + b"\n")
            eventually(lambda: b"report" in control.recv(65536), 10, "it has taken its state")
            yield running
    finally:
        running.kill()
