"""Hold COUNT connections to ADDRESS, port 7, and send a numbered line on each every PAUSE seconds, until
SIGTERM.

Then print how many lines were sent, how many came back in order, how many connections broke, and the longest
time without an answer.
"""

import asyncio
import signal
import sys
import time

LAST_WORDS = 5.0  # seconds for the last echoes


class TcpStream:
    """One connection, and what became of it."""

    def __init__(self) -> None:
        self.sent = self.echoed = 0
        self.broken = False
        self.gap = 0.0

    async def run(self, address: str, pause: float, ended: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection(address, 7)
        listening = asyncio.create_task(self._listen(reader))
        try:
            while not ended.is_set() and not listening.done():
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
            self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()


async def main(address: str, count: int, pause: float) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    streams = [TcpStream() for _ in range(count)]
    running = [asyncio.create_task(stream.run(address, pause, ended)) for stream in streams]
    while not all(stream.echoed for stream in streams) and not all(task.done() for task in running):
        await asyncio.sleep(pause)
    print("streaming", flush=True)
    await asyncio.gather(*running, return_exceptions=True)
    sent, echoed = sum(s.sent for s in streams), sum(s.echoed for s in streams)
    print(sent, echoed, sum(s.broken for s in streams), max(s.gap for s in streams), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
