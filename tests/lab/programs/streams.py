"""Hold COUNT connections to ADDRESS, port 7, and send a numbered line on each every PAUSE seconds, until
SIGTERM.

They take turns, so that a line of some connection leaves every PAUSE / COUNT seconds. Then print how many
lines were sent, how many came back in order, how many connections broke, the longest time between two answers
of one connection, and the longest time from a line to its answer.
"""

import asyncio
import collections
import signal
import sys
import time

LAST_WORDS = 5.0  # seconds for the last echoes


class TcpStream:
    """One connection, and what became of it."""

    def __init__(self) -> None:
        self.sent = self.echoed = 0
        self.broken = False
        self.gap = self.delay = 0.0
        self._sent_at: collections.deque[float] = collections.deque()

    async def run(self, address: str, pause: float, turn: float, ended: asyncio.Event) -> None:
        """`turn`: seconds after which it begins."""
        reader, writer = await asyncio.open_connection(address, 7)
        listening = asyncio.create_task(self._listen(reader))
        try:
            await asyncio.sleep(turn)
            while not ended.is_set() and not listening.done():
                self._sent_at.append(time.monotonic())
                writer.write(b"%d\n" % self.sent)
                self.sent += 1
                await asyncio.sleep(pause)
            writer.write_eof()
            await asyncio.wait_for(listening, LAST_WORDS)
        except (OSError, TimeoutError):
            self.broken = True
        finally:
            listening.cancel()
            writer.close()
        self.broken = self.broken or self.echoed != self.sent

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        last = time.monotonic()
        while line := await reader.readline():
            self.broken = self.broken or int(line) != self.echoed
            self.echoed += 1
            now = time.monotonic()
            self.gap, last = max(self.gap, now - last), now
            self.delay = max(self.delay, now - self._sent_at.popleft())


async def main(address: str, count: int, pause: float) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    streams = [TcpStream() for _ in range(count)]
    running = [
        asyncio.create_task(stream.run(address, pause, pause * number / count, ended))
        for number, stream in enumerate(streams)
    ]
    while not all(stream.echoed for stream in streams) and not all(task.done() for task in running):
        await asyncio.sleep(pause)
    print("streaming", flush=True)
    await asyncio.gather(*running, return_exceptions=True)
    sent, echoed = sum(s.sent for s in streams), sum(s.echoed for s in streams)
    gap, delay = max(s.gap for s in streams), max(s.delay for s in streams)
    print(sent, echoed, sum(s.broken for s in streams), gap, delay, flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
