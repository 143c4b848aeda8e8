"""A customer's name server that lies in every way. hostile_names.py ADDRESS

The number in a name (hostN....) chooses the lie; of 7 kinds one is true in the end: before the true answer,
10.0.0.5, it sends forged ones.
"""

import os
import socket
import struct
import sys
import threading

TRUE, FORGED, FOREIGN = "10.0.0.5", "10.0.0.66", "8.8.8.8"
KINDS = 7


def record(kind: int, data: bytes, owner: bytes = b"\xc0\x0c") -> bytes:
    """One record, by default of the name that is asked for."""
    return owner + struct.pack("!HHIH", kind, 1, 300, len(data)) + data


def head(query: bytes, answers: int, flags: int = 0x8180) -> bytes:
    """Header and question of an answer."""
    return query[:2] + struct.pack("!HHHHH", flags, 1, answers, 0, 0) + question(query)


def question(query: bytes) -> bytes:
    """The question section."""
    return query[12 : query.index(b"\0", 12) + 5]


def address(text: str) -> bytes:
    """An A record of the name that is asked for."""
    return record(1, socket.inet_aton(text))


def forged(query: bytes) -> list[bytes]:
    """Answers that do not belong to the query, and then the one that does."""
    right = head(query, 1)
    wrong = (
        struct.pack("!H", struct.unpack("!H", query[:2])[0] ^ 1) + right[2:],
        right[:12] + b"\4evil" + right[12:],
        query[:2] + b"\1\0" + right[4:],
        os.urandom(40),
        b"",
        query[:2] + os.urandom(200),
    )
    return [*(each + address(FORGED) for each in wrong), right + address(TRUE)]


def lies(query: bytes, kind: int, stream: bool) -> list[bytes]:
    """What is sent, in this order."""
    name = question(query)[:-4]
    if kind == 0:
        return forged(query)
    if kind == 1:
        return [head(query, 3) + address(FOREIGN) + address("10.8.0.2") + address("127.0.0.1")]
    if kind == 2:  # aliases in a circle
        other = b"\1b" + name[1 + name[0] :]
        return [head(query, 2) + record(5, other) + record(5, b"\xc0\x0c", other)]
    if kind == 3:  # names that point at themselves, and behind the end
        place = 12 + len(question(query))
        return [head(query, 2) + struct.pack("!H", 0xC000 | place) + bytes(10) + b"\xff\xff" * 20]
    if kind == 4:  # too large
        whole = head(query, 1000) + b"".join(address(FORGED) for _ in range(4000))
        return [whole[:65000]] if stream else [head(query, 0, 0x8380)]
    if kind == 5:  # little that becomes much: long names, each a pointer to the one before
        if not stream:
            return [head(query, 0, 0x8380)]
        chain, body, at = [], b"", 12 + len(question(query))
        for number in range(250):
            owner = b"\x1f" + b"x" * 31 + struct.pack("!H", 0xC000 | (chain[-1] if number % 7 else 12))
            chain.append(at)
            one = record(1, socket.inet_aton(FORGED), owner)
            body, at = body + one, at + len(one)
        return [head(query, 250) + body]
    other = b"\4evil\7example\0"
    return [head(query, 2) + record(5, other) + record(1, socket.inet_aton(FOREIGN), other)]


def kind_of(query: bytes) -> int:
    """By the number in the first label."""
    label = query[13 : 13 + query[12]]
    return int(bytes(each for each in label if 48 <= each <= 57) or b"1") % KINDS


def streams(where: str) -> None:
    """Serve TCP."""
    with socket.create_server((where, 53), backlog=512) as server:
        while True:
            threading.Thread(target=stream, args=(server.accept()[0],), daemon=True).start()


def stream(peer: socket.socket) -> None:
    """Serve one connection."""
    with peer:
        try:
            size = struct.unpack("!H", peer.recv(2, socket.MSG_WAITALL))[0]
            query = peer.recv(size, socket.MSG_WAITALL)
            answer = lies(query, kind_of(query), True)[-1]
            peer.sendall(struct.pack("!H", len(answer)) + answer)
        except (OSError, struct.error, ValueError):
            pass


def main() -> None:
    """The program."""
    threading.Thread(target=streams, args=(sys.argv[1],), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((sys.argv[1], 53))
        print("serving", flush=True)
        while True:
            query, peer = sock.recvfrom(4096)
            for message in lies(query, kind_of(query), False):
                sock.sendto(message, peer)


if __name__ == "__main__":
    main()
