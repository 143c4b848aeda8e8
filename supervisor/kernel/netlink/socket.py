"""`common.netlink.NetlinkSocket` for asyncio: requests go out in one datagram, and what the kernel says to
each of them comes back.

The kernel works while we send, so its answer is there as soon as that has returned: a small exchange hands
the loop over to nobody, because packets may wait for what comes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

from common.netlink import (
    ACK,
    ANSWER_SECONDS,
    CAP_ACK,
    DONE,
    DUMP_INTERRUPTED,
    ERROR,
    EXT_ACK,
    READ_BYTES,
    STRICT_CHECK,
    NetlinkMessage,
    NetlinkRequest,
    NetlinkSocket,
    messages,
    refusal,
)

BUFFER_BYTES = 1 << 20  # of the largest datagram, or of the answers to one
_SMALL_BYTES = 1 << 12  # a datagram on which the kernel works for less than a millisecond
_LARGE_BYTES = 1 << 16  # one on which it works for some
_DUMP_ATTEMPTS = 5  # at a dump that changes interrupt

ReadT = TypeVar("ReadT")


class DumpInterruptedError(OSError):
    """Changes came between the parts of a dump, again and again: it may lack something (NLM_F_DUMP_INTR)."""


class AsyncNetlink:
    """One exchange at a time. Errors are OSError (with the kernel's errno and text), TimeoutError
    among them.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._protocol, self._buffer_bytes = protocol, buffer_bytes
        self._socket: NetlinkSocket | None = None
        self._one = asyncio.Lock()
        self._unfinished = False  # an exchange did not come to its end: answers to it may still be there

    def open(self) -> None:
        """Open the socket, in the network namespace of the calling thread."""
        options = (CAP_ACK, EXT_ACK, STRICT_CHECK)
        self._socket = NetlinkSocket(
            self._protocol, timeout=0, options=options, buffer_bytes=self._buffer_bytes
        )

    @property
    def port(self) -> int:
        """Its netlink address: notifications that carry it are our own doing."""
        return self._opened.port

    def close(self) -> None:
        """Close the socket; a second time does nothing."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def talk(self, requests: Sequence[NetlinkRequest], ends: Sequence[int]) -> list[OSError | None]:
        """What the kernel says to each request; None: nothing, or that it is done.

        `ends`: the positions of those requests after the answer to which there is no other one.
        """
        said: list[OSError | None] = [None] * len(requests)
        async with self._one:
            first, over = await self._send(requests), False
            while not over:
                for message in messages(await self._receive()):
                    position = message.number - first
                    if message.kind == ERROR and 0 <= position < len(requests):
                        said[position] = refusal(message)
                        over = over or position in ends
            self._unfinished = False
        return said

    async def change(self, requests: Sequence[NetlinkRequest]) -> list[OSError | None]:
        """Carry out some hundred requests, each by itself; what the kernel says to each, None where it is
        done.

        The kernel takes them in order and always tells a failure; so it is enough that it confirms the last.
        """
        last = requests[-1]
        confirmed = [*requests[:-1], last._replace(flags=last.flags | ACK)]
        return await self.talk(confirmed, [len(requests) - 1])

    async def ask(self, request: NetlinkRequest) -> bytes:
        """The body of the one answer to a question."""
        async with self._one:
            number = await self._send([request])
            answer: NetlinkMessage | None = None
            while answer is None:
                found = messages(await self._receive())
                answer = next((message for message in found if message.number == number), None)
            self._unfinished = False
        if answer.kind == ERROR and (error := refusal(answer)) is not None:
            raise error
        return answer.body

    async def dump(self, request: NetlinkRequest, read: Callable[[bytes], ReadT | None]) -> list[ReadT]:
        """What `read` makes of each answer, in order, but None. DumpInterruptedError: it changes all the
        time.
        """
        for _ in range(_DUMP_ATTEMPTS - 1):
            with contextlib.suppress(DumpInterruptedError):
                return await self._answers(request, read)
        return await self._answers(request, read)

    async def _answers(self, request: NetlinkRequest, read: Callable[[bytes], ReadT | None]) -> list[ReadT]:
        found: list[ReadT] = []
        async with self._one:
            number, over = await self._send([request]), False
            while not over:
                data = await self._receive()
                if len(data) > _SMALL_BYTES:
                    await asyncio.sleep(0)  # there are many, and all of them are there
                answers = [message for message in messages(data) if message.number == number]
                over = any([_is_last(message) for message in answers])
                objects = answers[:-1] if over else answers
                found += [one for message in objects if (one := read(message.body)) is not None]
            self._unfinished = False
        return found

    @property
    def _opened(self) -> NetlinkSocket:
        assert self._socket is not None
        return self._socket

    async def _send(self, requests: Sequence[NetlinkRequest]) -> int:
        """Send them in one datagram; the sequence number of the first."""
        sock = self._opened.socket
        if self._unfinished:
            with contextlib.suppress(BlockingIOError):
                while sock.recv(READ_BYTES):
                    pass
        self._unfinished = True
        first, datagram = self._opened.frame(requests)
        if len(datagram) > _LARGE_BYTES:
            await asyncio.to_thread(sock.send, datagram)
        else:
            sock.send(datagram)
        if len(datagram) > _SMALL_BYTES:
            await asyncio.sleep(0)
        return first

    async def _receive(self) -> bytes:
        """The next datagram, which mostly is there. TimeoutError: none comes."""
        sock = self._opened.socket
        with contextlib.suppress(BlockingIOError):
            return sock.recv(READ_BYTES)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.get_running_loop().sock_recv(sock, READ_BYTES)


def _is_last(answer: NetlinkMessage) -> bool:
    """No other answer follows to this request. OSError: it is refused."""
    if answer.flags & DUMP_INTERRUPTED:
        raise DumpInterruptedError("the kernel's state changes while it is read")
    if answer.kind not in (ERROR, DONE):
        return False
    if (error := refusal(answer)) is not None:
        raise error
    return True
