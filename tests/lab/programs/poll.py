"""Ask for http://ADDRESS/ again and again; print `start` when an attempt begins, `start end ok` at its end.

All times are in monotonic seconds.
An attempt has PATIENCE seconds. Half a second tells how long a tunnel is away: a longer one would measure the
client's own SYN retransmission. Whether a request gets lost tells only a long one: on a busy machine an
answer may take its time.

    python poll.py ADDRESS PATIENCE INTERVAL
"""

import asyncio
import sys
import time

ADDRESS, PATIENCE, INTERVAL = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
REQUEST = f"GET / HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n".encode()


async def ask() -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(ADDRESS, 80)
            try:
                writer.write(REQUEST)
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def attempt() -> None:
    start = time.monotonic()
    print(f"{start:.4f}", flush=True)
    ok = False
    try:
        ok = await ask()
    finally:
        print(f"{start:.4f} {time.monotonic():.4f} {int(ok)}", flush=True)


async def main() -> None:
    running = set()
    due = time.monotonic()
    while True:
        task = asyncio.create_task(attempt())
        running.add(task)
        task.add_done_callback(running.discard)
        due = max(due + INTERVAL, time.monotonic())
        await asyncio.sleep(max(0.0, due - time.monotonic()))


asyncio.run(main())
