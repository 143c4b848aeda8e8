"""Send RATE numbered datagrams a second to each ADDRESS, port 7, until SIGTERM; then print how many were sent."""

import contextlib
import signal
import socket
import sys
import time


class Stop(Exception):
    """SIGTERM came."""


def stop(*_: object) -> None:
    raise Stop


def flood(sender: socket.socket, rate: int, addresses: list[str]) -> int:
    sent, due = 0, time.monotonic()
    with contextlib.suppress(Stop):
        while True:
            for address in addresses:
                with contextlib.suppress(OSError):      # an ICMP error of an earlier datagram: that one was refused on its way
                    sender.sendto(b"%d" % sent, (address, 7))
                sent += 1
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
    return sent


signal.signal(signal.SIGTERM, stop)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    print("sending", flush=True)
    print(flood(sender, int(sys.argv[1]), sys.argv[2:]), flush=True)
