"""Answers DNS questions (RFC 1035) over UDP from a file that is read at each question: `python -m
tests.lab.programs.nameserver FILE PORT`. A line of the file is a name and its IPv4 addresses; any other name
does not exist.
"""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path

_A, _IN = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583  # response, authoritative, recursion desired and available


def answer(question: bytes, addresses: dict[str, list[str]]) -> bytes:
    """The response to one question, which asks for one name."""
    number, at, labels = question[:2], 12, []
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    kind = struct.unpack("!H", question[at + 1 : at + 3])[0]
    found = addresses.get(".".join(labels))
    wanted = found if found is not None and kind == _A else []
    flags = _NO_SUCH_NAME if found is None else _ANSWER
    header = number + struct.pack("!HHHHH", flags, 1, len(wanted), 0, 0)
    records = (struct.pack("!HHHIH", 0xC00C, _A, _IN, 1, 4) + IPv4Address(each).packed for each in wanted)
    return header + question[12 : at + 5] + b"".join(records)


def main(file: Path, port: int) -> None:
    """Serve for ever, on every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", port))
        print("answering", flush=True)
        while True:
            question, sender = listener.recvfrom(4096)
            lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
            listener.sendto(answer(question, {name: rest for name, *rest in lines}), sender)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
