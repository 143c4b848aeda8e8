"""Sends every datagram back that comes to an address: `echo.py ADDRESS`, for ever."""

import socket
import sys

PORT = 7


def serve(address: str) -> None:
    """Send everything back, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("serving", flush=True)
        while True:
            sock.sendto(*sock.recvfrom(2048))


if __name__ == "__main__":
    serve(sys.argv[1])
