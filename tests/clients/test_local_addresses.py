"""From which addresses of this host a process talks, read from /proc while real sockets are open."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from ipaddress import ip_address

from supervisor.clients.local_addresses import local_addresses

CONNECTS = """
import socket, sys
sockets = [socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.9", 0))]
print("connected", flush=True)
sys.stdin.read()
"""


def test_connected_sockets_of_both_protocols_count_and_others_do_not() -> None:
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.4", 0)))
        udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.5", 0))
        assert ip_address("127.0.0.5") not in local_addresses(os.getpid()), "it has no peer"
        udp.connect(("127.0.0.1", 9))
        opened.enter_context(socket.create_connection(server.getsockname(), source_address=("127.0.0.6", 0)))
        found = local_addresses(os.getpid())
        assert {ip_address("127.0.0.5"), ip_address("127.0.0.6")} <= found
        assert ip_address("127.0.0.4") not in found, "nobody was accepted"
    assert not {ip_address("127.0.0.5"), ip_address("127.0.0.6")} & local_addresses(os.getpid())


def test_ipv6_and_ipv4_in_ipv6() -> None:
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mapped,
    ):
        six.connect(("::1", 9))
        mapped.bind(("::ffff:127.0.0.7", 0))
        mapped.connect(("::ffff:127.0.0.1", 9))
        assert {ip_address("::1"), ip_address("127.0.0.7")} <= local_addresses(os.getpid())


def test_sockets_of_descendants_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        shell = f'{sys.executable} -c "$0" {server.getsockname()[1]}; true'
        with subprocess.Popen(
            ["/bin/sh", "-c", shell, CONNECTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            assert parent.stdin is not None
            assert parent.stdout.readline() == "connected\n"
            assert ip_address("127.0.0.9") in local_addresses(parent.pid)
            parent.stdin.close()


def test_a_process_that_is_gone_has_none() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    assert local_addresses(process.pid) == frozenset()
