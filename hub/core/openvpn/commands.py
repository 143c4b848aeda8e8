"""Commands for the management socket of an OpenVPN server. Pure.

Each function gives the text of one command, without the last newline. Nothing that comes from elsewhere can
start another command: control characters become spaces, and quotes are escaped as OpenVPN reads them.
"""

from __future__ import annotations

import ipaddress

MAX_COMMAND_BYTES = 1000  # of a line: OpenVPN 2.6 reads 1024 (manage.c, command_line_new) and cuts the rest
MAX_REASON_CHARS = 160  # of what the server writes into its log, or a client is shown
UNDERSTANDS_TEMP = (
    1 << 8
)  # bit of IV_PROTO: knows AUTH_FAILED,TEMP (OpenVPN 2.6, ssl.h, IV_PROTO_AUTH_FAIL_TEMP)

STATUS = "status 3"
RELEASE = "hold release"
PID = "pid"
VERSION = "version"
STOP = "signal SIGTERM"


def quoted(text: str) -> str:
    """One parameter, whatever characters are in it."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def fits(command: str) -> bool:
    """No line of it is longer than OpenVPN reads."""
    return all(len(line.encode()) <= MAX_COMMAND_BYTES for line in command.split("\n"))


def allow(cid: int, kid: int, address: str, netmask: str) -> str:
    """Let the client in with this virtual address. ValueError: it is none.

    A client of a server with `nopool` that is let in without an address is connected and cannot send
    anything, so there is no way to let one in without.
    """
    push = f"ifconfig-push {ipaddress.IPv4Address(address)} {ipaddress.IPv4Address(netmask)}"
    return f"client-auth {cid} {kid}\n{push}\nEND"


def renew(cid: int, kid: int) -> str:
    """Accept the next key of a client that is up; it keeps its address."""
    return f"client-auth-nt {cid} {kid}"


def deny(cid: int, kid: int, reason: str, shown: str = "") -> str:
    """Refuse the client: `reason` for the server's log, `shown` is sent to the client."""
    command = f"client-deny {cid} {kid} {quoted(reason[:MAX_REASON_CHARS])}"
    return f"{command} {quoted(shown)}" if shown else command


def wait(cid: int, kid: int, told: str, seconds: int) -> str:
    """The client is not decided yet and waits so long; `told` is sent to it, such as `WEB_AUTH::LINK`."""
    return f"client-pending-auth {cid} {kid} {quoted(told)} {seconds}"


def halt(cid: int, why: str) -> str:
    """Tell the client to end for good. It does so when it likes; the server waits 5 s for it (see `cut`)."""
    return f"client-kill {cid} {quoted(f'HALT,{why[:MAX_REASON_CHARS]}')}"


def reconnect(cid: int) -> str:
    """Tell the client to log in again, at the same server."""
    return f"client-kill {cid}"


def move(cid: int) -> str:
    """Tell the client to log in at the next `remote` of its profile."""
    return f"client-kill {cid} {quoted('RESTART,[N]')}"


def cut(real: str) -> str | None:
    """End the session of the client at this address and port now, without telling it. None: OpenVPN 2.6
    takes IPv4 only.
    """
    address, _, port = real.rpartition(":")
    try:
        return f"kill {ipaddress.IPv4Address(address)}:{int(port)}"
    except ValueError:
        return None


def elsewhere(client_flags: int, seconds: int, text: str) -> str:
    """What a refused client is shown: it is to try the next `remote` after these seconds. One that does not
    understand that would show the instruction itself, so it gets the plain text.
    """
    if client_flags & UNDERSTANDS_TEMP:
        return f"TEMP[backoff {seconds},advance remote]:{text[:MAX_REASON_CHARS]}"
    return text[:MAX_REASON_CHARS]
