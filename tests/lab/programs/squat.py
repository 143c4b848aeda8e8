"""A local user who wants the connections of others: takes a port whenever it can be had, in every way that
needs no right.

Prints a JSON line when stdin ends: how often it had the port, and how many connections came.

    python squat.py USER PORT ADDRESS...
"""

import contextlib
import json
import os
import select
import socket
import sys
import time

OPTIONS = (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
LOOK = 0.05  # seconds for which a port is kept before other ways are tried


def listening(address: str, port: int, option: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if option:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if ":" in address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((address, port))
        sock.listen(1024)
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def taken(sock: socket.socket) -> int:
    count, ends = 0, time.monotonic() + LOOK
    while (left := ends - time.monotonic()) > 0:
        select.select([sock], [], [], left)
        with contextlib.suppress(OSError):
            while True:
                sock.accept()[0].close()
                count += 1
    return count


def main(user: str, port: str, *addresses: str) -> None:
    os.setgid(int(user))
    os.setuid(int(user))
    print("begun", flush=True)
    had = came = 0
    while True:
        for address in addresses:
            for option in OPTIONS:
                sock = listening(address, int(port), option)
                if sock is not None:
                    had += 1
                    came += taken(sock)
                    sock.close()
        if select.select([sys.stdin], [], [], 0.001)[0]:
            break
    print(json.dumps({"had": had, "came": came}), flush=True)


main(*sys.argv[1:])
