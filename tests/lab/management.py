"""The management socket of an OpenVPN server: what a test can ask of it, and whom it can throw out."""

from __future__ import annotations

import socket
from pathlib import Path


def tell(path: Path, command: str) -> str:
    """One command; its answer up to END, or the first SUCCESS or ERROR."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        answer = ""
        for line in connection.makefile():
            answer += line
            if line.startswith(("END", "SUCCESS", "ERROR")):
                break
        return answer


def client_ids(path: Path) -> list[int]:
    """The ids of the clients that are connected, the newest last."""
    return sorted(
        int(line.split(",")[10])
        for line in tell(path, "status 2").splitlines()
        if line.startswith("CLIENT_LIST")
    )
