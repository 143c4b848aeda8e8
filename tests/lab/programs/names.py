"""Asks a name server for many names at a time and says how it answers.

names.py SERVER PORT TEMPLATE COUNT FIRST-ADDRESS WINDOW [ROUNDS] [RATE]

TEMPLATE holds {} for a number from 0 to COUNT - 1; the answer to it is FIRST-ADDRESS plus the number, or any
one where FIRST-ADDRESS is `-`. WINDOW queries are under way at a time. Prints JSON.
"""

import json
import random
import select
import socket
import struct
import sys
import time

SECONDS = 3.0  # until a query is sent again
TRIES = 4


def question(number: int, name: str) -> bytes:
    """A query of type A with EDNS."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 1) + wire + b"\0\0\1\0\1\0\0\x29\4\xd0\0\0\0\0\0\0"


class NameFlood:
    """All queries of one run; identifiers are places in the window."""

    def __init__(self, template: str, count: int, first: str, rounds: int) -> None:
        self.template, self.count = template, count
        self.first = None if first == "-" else struct.unpack("!I", socket.inet_aton(first))[0]
        self.names = [*range(count)] * rounds
        random.Random(1).shuffle(self.names)
        self.right = self.wrong = self.lost = self.again = 0
        self.waits: list[float] = []
        self.rcodes: dict[str, int] = {}
        self.addresses: set[str] = set()

    def judge(self, number: int, message: bytes) -> None:
        """Note an answer."""
        rcode = message[3] & 15
        self.rcodes[str(rcode)] = self.rcodes.get(str(rcode), 0) + 1
        records = struct.unpack_from("!H", message, 6)[0]
        if rcode == 0 and records == 1:
            self.addresses.add(socket.inet_ntoa(message[-15:-11]))  # before the OPT record
        wanted = None if self.first is None else struct.pack("!I", self.first + number)
        if rcode == 0 and records == 1 and (wanted is None or wanted in message):
            self.right += 1
        else:
            self.wrong += 1


def run(asking: NameFlood, server: str, port: int, window: int, rate: float) -> None:
    """Ask for all names."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.connect((server, port))
    sock.setblocking(False)
    free, open_, queue = list(range(window)), {}, asking.names
    started = time.perf_counter()
    sent = 0
    while queue or open_:
        allowed = len(queue) if not rate else int((time.perf_counter() - started) * rate) - sent
        while free and queue and allowed > 0:
            place, number = free.pop(), queue.pop()
            message = question(place, asking.template.format(number))
            open_[place] = [number, time.perf_counter(), message, 1]
            sock.send(message)
            sent, allowed = sent + 1, allowed - 1
        if not select.select([sock], [], [], 0.001 if rate else 0.1)[0]:
            repeat(asking, sock, free, open_)
            continue
        try:
            while True:
                message = sock.recv(4096)
                place = struct.unpack_from("!H", message)[0]
                if place in open_:
                    number, since, _, _ = open_.pop(place)
                    free.insert(0, place)
                    asking.waits.append(time.perf_counter() - since)
                    asking.judge(number, message)
        except OSError:
            pass


def repeat(asking: NameFlood, sock: socket.socket, free: list, open_: dict) -> None:
    """Send again what was not answered."""
    now = time.perf_counter()
    for place, about in [*open_.items()]:
        if now - about[1] > SECONDS * about[3]:
            if about[3] == TRIES:
                del open_[place]
                free.append(place)
                asking.lost += 1
                continue
            about[3] += 1
            asking.again += 1
            sock.send(about[2])


def main() -> None:
    """The program."""
    server, port, template, count, first, window, *more = sys.argv[1:]
    rounds, rate = [*map(float, more), *(1.0, 0.0)[len(more) :]][:2]
    asking = NameFlood(template, int(count), first, int(rounds))
    start = time.perf_counter()
    run(asking, server, int(port), int(window), rate)
    seconds = time.perf_counter() - start
    waits = sorted(asking.waits) or [0.0]
    print(
        json.dumps(
            {
                "right": asking.right,
                "wrong": asking.wrong,
                "lost": asking.lost,
                "again": asking.again,
                "rcodes": asking.rcodes,
                "addresses": sorted(asking.addresses)[:10],
                "seconds": seconds,
                "rate": len(waits) / seconds,
                "p50": waits[len(waits) // 2],
                "p99": waits[int(len(waits) * 0.99)],
            }
        )
    )


if __name__ == "__main__":
    main()
