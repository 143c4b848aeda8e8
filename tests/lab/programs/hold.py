"""Open connections and hold them. For each line on stdin, print how many are open now; end when stdin does.

Those that nobody has answered yet count as open.

    python hold.py SOURCE PORT COUNT ADDRESS...      COUNT connections to each address
"""

import contextlib
import resource
import socket
import sys
import time

PAUSE_AFTER, PAUSE = 50, 0.02  # connections, and seconds after so many: a busy laptop rather than a flood


def attempt(source: str, address: str, port: int) -> socket.socket:
    sock = socket.socket()
    sock.bind((source, 0))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect((address, port))
    return sock


def lives(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno == 107  # ENOTCONN: still connecting


def main(source: str, port: str, count: str, *addresses: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = []
    for number, address in enumerate(address for address in addresses for _ in range(int(count))):
        held.append(attempt(source, address, int(port)))
        if number % PAUSE_AFTER == 0:
            time.sleep(PAUSE)
    print("opened", flush=True)
    for _ in sys.stdin:
        print(sum(map(lives, held)), flush=True)


main(*sys.argv[1:])
