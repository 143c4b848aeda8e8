"""An account on a host, as people write it: USER@HOST[:PORT]."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A user may hold @ and \ (accounts of a directory: ops@example.net, EXAMPLE\\ops), but nothing that a shell
# understands: ssh refuses such names too.
_ACCOUNT = re.compile(
    r"(?P<user>[^\s\x00-\x20\x7f:/'\"`;&<>|(){}\\-][^\s\x00-\x20\x7f:/'\"`;&<>|(){}]*)"
    r"@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
_SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class SshAccount:
    """An account on an ssh server."""

    user: str
    host: str  # name or address, without brackets
    port: int

    @classmethod
    def parse(cls, text: str) -> SshAccount:
        """ValueError: the text is not of that form."""
        found = _ACCOUNT.fullmatch(text)
        port = int((found and found["port"]) or _SSH_PORT)
        if found is None or not 0 < port < 65536 or found["user"].endswith("\\"):
            raise ValueError(
                f"{text!r} is not a remote; write it as facilitator@bastion.example.net or "
                f"facilitator@192.0.2.1:2222"
            )
        return cls(found["user"], found["host"].strip("[]"), port)

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
