"""What openconnect and vpnc run in place of vpnc-script: hands its environment to the program that drives the client, and waits.

    python -I -S hook.py SOCKET         (tunnels/programs/script.py listens on the socket)

It decides nothing and changes nothing. Exit code 0: the program has done what was to be done; 1: it could not, or is gone.
"""

import json
import os
import socket
import sys


def main(path: str) -> int:
    """Hand over the environment and wait for the word of the program; the exit code."""
    with socket.socket(socket.AF_UNIX) as program:
        try:
            program.connect(path)
            program.sendall(json.dumps(dict(os.environ)).encode())
            program.shutdown(socket.SHUT_WR)
            return 0 if program.recv(1) == b"+" else 1
        except OSError:
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
