"""Run by openconnect and vpnc in place of vpnc-script: sends its environment to the driver, and waits.

    python -I -S vpnc_hook.py SOCKET         (tunnels/drivers/vpnc_script.py listens on the socket)

It decides nothing and changes nothing. Exit code 0: the driver has handled the call; 1: it could not, or has
ended. Each start of a tunnel waits for this program, so it imports nothing that takes time: `socket` alone
would double its run time.
"""

import _socket
import os
import sys


def main(path: str) -> int:
    """Send the environment and wait for the driver; returns the exit code."""
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
