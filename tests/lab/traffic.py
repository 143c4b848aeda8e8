"""Traffic in the lab: single requests, an outage stopwatch, a stream of datagrams, and a watch for packets
in clear.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from tests.lab.servers import program
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

SETTLED = 0.5  # seconds of answers without a miss that end an outage


@dataclass(frozen=True)
class Reply:
    """What came of one HTTP request; status 0 means that nothing came."""

    status: int
    body: str
    seconds: float
    error: str = ""


def request(namespace: Namespace, url: str, timeout: float = 20.0) -> Reply:
    """One HTTP GET by curl, without any retry."""
    argv = ("curl", "-sS", "--max-time", str(timeout), "-w", "\n%{json}", url)
    done = namespace.run(*argv, check=False)
    body, _, report = done.stdout.rpartition("\n")
    facts = json.loads(report)
    return Reply(int(facts["response_code"]), body.strip(), float(facts["time_total"]), done.stderr.strip())


@dataclass(frozen=True)
class OutageMeter:
    """How long a client that asks every 10 ms went without answers: from the fault to the end of the first
    answer that lasted.
    """

    seconds: float
    failed: int  # attempts without an answer
    answered: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s ({self.failed} of {self.failed + self.answered} requests failed)"


@dataclass(frozen=True)
class _Attempt:
    start: float
    end: float
    ok: bool


class Poller:
    """A client that asks a web server again and again for as long as the context lasts."""

    def __init__(
        self,
        namespace: Namespace,
        address: IPv4Address,
        directory: Path,
        patience: float = 0.5,
        interval: float = 0.01,
    ) -> None:
        """`patience`: seconds after which it takes a request for lost; `interval`: between two requests."""
        self._namespace, self._address, self._patience = namespace, address, patience
        self._interval = interval
        self._file = directory / f"poll-{address}-{time.monotonic_ns()}"

    def __enter__(self) -> Poller:
        with self._file.open("w") as output:
            argv = program("poll", str(self._address), str(self._patience), str(self._interval))
            self._process = self._namespace.popen(*argv, stdout=output, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_settled(self, within: float, since: float = 0.0) -> float:
        """Wait for answers without a miss after `since`; the monotonic time at which the first of them was
        complete.
        """
        return eventually(
            lambda: self._settled(since), within, f"requests to {self._address} are answered again"
        )

    def outage(self, since: float) -> OutageMeter:
        """What clients saw of a fault that happened at `since` and has healed."""
        after = [a for a in self._attempts() if a.end >= since]
        failed = [a for a in after if not a.ok]
        last = max((a.start for a in failed), default=None)
        healed = since if last is None else min(a.end for a in after if a.ok and a.start > last)
        return OutageMeter(healed - since, len(failed), len(after) - len(failed))

    def longest(self, since: float) -> float:
        """The longest time without an answer after `since`: from the first request of a row that failed to
        the end of the next good one.
        """
        longest, began = 0.0, None
        for attempt in (a for a in self._attempts() if a.end >= since):
            if not attempt.ok:
                began = attempt.start if began is None else began
            elif began is not None:
                longest, began = max(longest, attempt.end - began), None
        return longest

    def _attempts(self) -> list[_Attempt]:
        return self._seen()[0]

    def _seen(self) -> tuple[list[_Attempt], float]:
        """The attempts that are over, and when the oldest of the others began."""
        lines = self._file.read_text().splitlines(keepends=True)
        parts = [line.split() for line in lines if line.endswith("\n")]
        over = {
            line[0]: _Attempt(float(line[0]), float(line[1]), line[2] == "1")
            for line in parts
            if len(line) > 1
        }
        waiting = min((float(line[0]) for line in parts if line[0] not in over), default=float("inf"))
        return sorted(over.values(), key=lambda a: a.start), waiting

    def _settled(self, since: float) -> float | None:
        """None as well while an older attempt than the last good one may still fail."""
        attempts, waiting = self._seen()
        good: list[_Attempt] = []
        for attempt in attempts:
            if attempt.start >= since:
                good = [*good, attempt] if attempt.ok else []
        if not good or good[-1].start - good[0].start < SETTLED or since <= waiting < good[-1].start:
            return None
        return good[0].end


def outage(
    namespace: Namespace,
    address: IPv4Address,
    directory: Path,
    fault: Callable[[], object],
    within: float = 30.0,
    until: Callable[[], object] = lambda: True,
) -> OutageMeter:
    """Make the fault while a client asks every 10 ms; how long it went without answers. AssertionError
    after `within` seconds.

    `until` tells when a fault that does not work at once has had its effect.
    """
    with Poller(namespace, address, directory) as poller:
        poller.wait_settled(10)
        since = time.monotonic()
        fault()
        eventually(until, within, "the fault has its effect")
        poller.wait_settled(
            within, time.monotonic()
        )  # what is answered while the fault is being made does not count
        return poller.outage(since)


class Flood:
    """A steady stream of datagrams to several addresses; `sent` and `echoed` are known after the end of
    the context.
    """

    def __init__(self, namespace: Namespace, addresses: tuple[IPv4Address, ...], rate: int = 1000) -> None:
        self._argv = program("flood", str(rate), *(str(address) for address in addresses))
        self._namespace = namespace
        self.sent = self.echoed = 0

    def __enter__(self) -> Flood:
        self._process = self._namespace.popen(*self._argv, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "sending\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.sent, self.echoed = map(int, self._process.communicate(timeout=PATIENCE)[0].split())


class Streams:
    """Long TCP connections to an address, each with a line and its echo every few milliseconds; the rest
    is known after the context.
    """

    def __init__(
        self, namespace: Namespace, address: IPv4Address | IPv6Address, count: int = 10, pause: float = 0.02
    ) -> None:
        self._argv = program("streams", str(address), str(count), str(pause))
        self._namespace = namespace
        self.sent = self.echoed = self.broken = 0
        self.gap = 0.0  # seconds: the longest time between two echoes of one of them
        self.delay = 0.0  # seconds: the longest time from a line to its echo

    def __enter__(self) -> Streams:
        self._process = self._namespace.popen(*self._argv, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "streaming\n"
        return self

    def wait_over(self, within: float) -> float:
        """Wait until none of them lives any more; seconds that this took."""
        start = time.monotonic()
        eventually(lambda: self._process.poll() is not None, within, "all connections are over", 0.002)
        return time.monotonic() - start

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=PATIENCE)
        assert self._process.stdout is not None
        sent, echoed, broken, gap, delay = self._process.stdout.read().split()
        self.sent, self.echoed, self.broken = int(sent), int(echoed), int(broken)
        self.gap, self.delay = float(gap), float(delay)


class Capture:
    """Watches a device for packets from or to some networks. It proves at its start and at its end that it
    would have seen one.

    Packets planted by `AF_PACKET` leave through the device like any other, but past routes and filters; they
    carry a documentation address (192.0.2.0/24) as their source. Without `--immediate-mode` tcpdump is late
    and short runs look clean that are not.
    """

    PLANTED = re.compile(r"192\.0\.2\.(\d+)\.")

    def __init__(
        self,
        namespace: Namespace,
        device: str,
        networks: tuple[IPv4Network | IPv6Network, ...],
        directory: Path,
    ) -> None:
        self._namespace, self._device, self._networks = namespace, device, networks
        self._out, self._err = (directory / f"capture-{time.monotonic_ns()}.{end}" for end in ("out", "err"))

    def __enter__(self) -> Capture:
        watched = " or ".join(f"net {network}" for network in self._networks)
        argv = [
            "tcpdump",
            "-n",
            "-l",
            "--immediate-mode",
            "-B",
            "8192",
            "-Z",
            "root",
            "-i",
            self._device,
            watched,
        ]
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = self._namespace.popen(*argv, stdout=out, stderr=err, start_new_session=True)
        eventually(lambda: "listening on" in self._err.read_text(), 10, "tcpdump listens")
        self._plant(1)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._plant(2)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=PATIENCE)

    def finish(self) -> list[str]:
        """End the watch; the packets in clear, one line each. AssertionError if the watch itself was not
        sound.
        """
        self.__exit__()
        lines = self._out.read_text().splitlines()
        planted = [match[1] for line in lines if (match := self.PLANTED.search(line))]
        report = self._err.read_text()
        assert planted == ["1", "2"], f"planted packets seen: {planted}\n{report}"
        assert "\n0 packets dropped by kernel" in report, report
        return [line for line in lines if line and not self.PLANTED.search(line)]

    def _plant(self, number: int) -> None:
        """Send a packet to a watched network in clear, and wait until it was seen."""
        destination = next(network for network in self._networks if isinstance(network, IPv4Network))[1]
        with self._namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sender:
            sender.sendto(
                _datagram(IPv4Address(f"192.0.2.{number}"), destination),
                (self._device, 0x0800, 0, 0, b"\xff" * 6),
            )
        eventually(lambda: f"192.0.2.{number}." in self._out.read_text(), 5, "the planted packet is seen")


def _datagram(source: IPv4Address, destination: IPv4Address) -> bytes:
    """An empty UDP datagram with its IPv4 header."""
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, source.packed, destination.packed
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", 9, 9, 8, 0)


@contextlib.contextmanager
def watched(capture: Capture) -> Iterator[list[str]]:
    """Watch while the context lasts; the list holds the packets in clear afterwards."""
    found: list[str] = []
    with capture:
        yield found
        found += capture.finish()
