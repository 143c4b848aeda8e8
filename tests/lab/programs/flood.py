"""Send RATE numbered datagrams a second to each ADDRESS, port 7, until SIGTERM; then print how many were
sent, and how many echoed.
"""

import contextlib
import select
import signal
import socket
import sys
import threading
import time

STRAGGLERS = 3.0  # seconds for the last echoes, at most


class DatagramStream:
    """What was sent, and which numbers came back."""

    def __init__(self, sender: socket.socket) -> None:
        self.sender = sender
        self.sent = 0
        self.echoed: set[bytes] = set()

    def send(self, address: str) -> None:
        with contextlib.suppress(
            OSError
        ):  # an ICMP error of an earlier datagram: that one was refused on its way
            self.sender.sendto(b"\n%d" % self.sent, (address, 7))
        self.sent += 1

    def listen(self, until: float) -> None:
        """Take echoes until then; the echo ends with what was sent."""
        while (left := until - time.monotonic()) > 0:
            if select.select([self.sender], [], [], left)[0]:
                with contextlib.suppress(OSError):
                    self.echoed.add(self.sender.recv(512).rpartition(b"\n")[2])


def run(stream: DatagramStream, rate: int, addresses: list[str], stopped: threading.Event) -> None:
    due = time.monotonic()
    while not stopped.is_set():  # looked at between two datagrams: nothing is counted by half
        for address in addresses:
            stream.send(address)
        due += 1 / rate
        stream.listen(due)
    late = time.monotonic() + STRAGGLERS
    while len(stream.echoed) < stream.sent and time.monotonic() < late:
        stream.listen(min(late, time.monotonic() + 0.05))


stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    stream = DatagramStream(sender)
    print("sending", flush=True)
    run(stream, int(sys.argv[1]), sys.argv[2:], stopped)
    print(stream.sent, len(stream.echoed), flush=True)
