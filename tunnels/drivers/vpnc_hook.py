"""What openconnect and vpnc run in place of vpnc-script: hands its environment to the program that drives
the client, and waits.

    python -I -S vpnc_hook.py SOCKET         (tunnels/drivers/vpnc_script.py listens on the socket)

It decides nothing and changes nothing. Exit code 0: the program has done what was to be done; 1: it could
not, or is gone. Each start of a tunnel waits for it, so it imports nothing that takes time: `socket` alone
would double what it costs.
"""

import _socket
import os
import sys


def main(path: str) -> int:
    """Hand over the environment and wait for the word of the program; the exit code."""
    program = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        program.connect(path)
        program.sendall(b"\0".join(name + b"=" + value for name, value in os.environb.items()))
        program.shutdown(_socket.SHUT_WR)
        return 0 if program.recv(1) == b"+" else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
