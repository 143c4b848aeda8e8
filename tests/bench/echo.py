"""Datagrams there and back: `echo.py ADDRESS` serves; `echo.py ADDRESS COUNT` prints how long each took, in microseconds, as JSON."""

import json
import socket
import sys
import time

PORT = 7


def serve(address: str) -> None:
    """Send everything back, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("serving", flush=True)
        while True:
            sock.sendto(*sock.recvfrom(2048))


def ask(address: str, count: int) -> list[float]:
    """One after the other; what is lost is left out."""
    took: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        sock.settimeout(0.5)
        for _ in range(count):
            start = time.perf_counter()
            sock.send(b"x" * 64)
            try:
                sock.recv(2048)
            except TimeoutError:
                continue
            took.append((time.perf_counter() - start) * 1e6)
    return took


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(ask(sys.argv[1], int(sys.argv[2]))))
    else:
        serve(sys.argv[1])
