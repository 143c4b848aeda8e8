"""The retransmission timers of TCP connections (sock_diag(7), linux/inet_diag.h), and a counter that tells
when it is worth the while to read them.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address

from common.netlink import DUMP, SOCK_DIAG, NetlinkSocket, attribute, attributes
from supervisor.core.network.retransmission import RetransmissionTimer, TcpConnection
from tunnels.networks import IPAddress

_BY_FAMILY, _ESTABLISHED = 20, 1  # SOCK_DIAG_BY_FAMILY, TCP_ESTABLISHED
_BYTECODE, _INFO = 1, 2  # INET_DIAG_REQ_BYTECODE, INET_DIAG_INFO
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, wanted information, states
_MESSAGE_BYTES, _RETRANSMISSIONS = 72, 2  # struct inet_diag_msg; offset in struct tcp_info
_PAUSE = 8  # offset in struct tcp_info: microseconds until the next retransmission, from the last one
_JUMP, _DESTINATION = 1, 8  # INET_DIAG_BC_JMP, INET_DIAG_BC_D_COND
_STEP, _CONDITION = struct.Struct("=BBH"), struct.Struct("=BBxxi")  # inet_diag_bc_op, inet_diag_hostcond
_ADDRESSES = 500  # in one filter: the kernel's offsets in it have 16 bits
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_COUNTERS, _TIMEOUTS, _MOST_BYTES = "/proc/net/netstat", b"TCPTimeouts", 1 << 16


class TimeoutCounter:
    """Counts the retransmission timeouts of this network namespace: proc_pid_net(5), `TCPTimeouts`."""

    def __init__(self) -> None:
        self._file = os.open(_COUNTERS, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def read(self) -> int:
        """So many since the namespace is there."""
        lines = os.pread(self._file, _MOST_BYTES, 0).splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            if names.startswith(b"TcpExt:"):
                return int(values.split()[names.split().index(_TIMEOUTS)])
        return 0


def retransmission_timers(gateways: Collection[IPAddress]) -> Mapping[TcpConnection, RetransmissionTimer]:
    """Those of all connections of this host to these addresses. OSError: the kernel cannot tell."""
    found: dict[TcpConnection, RetransmissionTimer] = {}
    with NetlinkSocket(SOCK_DIAG) as netlink:
        for version, family in _FAMILY.items():
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << _INFO - 1, 1 << _ESTABLISHED)
            addresses = [address for address in gateways if address.version == version]
            for start in range(0, len(addresses), _ADDRESSES):
                condition = attribute(_BYTECODE, _filter(addresses[start : start + _ADDRESSES]))
                for body in netlink.answers(_BY_FAMILY, DUMP, request + condition):
                    found.update(_timer(body))
    return found


def _timer(body: bytes) -> Iterator[tuple[TcpConnection, RetransmissionTimer]]:
    information = dict(attributes(body[_MESSAGE_BYTES:])).get(_INFO, b"")
    if len(information) >= _PAUSE + 4:
        size = 4 if body[0] == socket.AF_INET else 16
        (pause,) = struct.unpack_from("=I", information, _PAUSE)
        connection = TcpConnection(
            ip_address(body[8 : 8 + size]),
            int.from_bytes(body[4:6]),
            ip_address(body[24 : 24 + size]),
            int.from_bytes(body[6:8]),
        )
        yield connection, RetransmissionTimer(information[_RETRANSMISSIONS], pause / 1e6)


def _filter(addresses: Sequence[IPAddress]) -> bytes:
    """The program that takes the connections to these: for each address one condition, and a jump to the end,
    which is to take it. The last one jumps beyond the end, which is not to.
    """
    program = b""
    for address in reversed(addresses):
        packed = address.packed
        condition = _CONDITION.pack(_FAMILY[address.version], 8 * len(packed), -1) + packed
        size = _STEP.size + len(condition)
        accept = _STEP.pack(_JUMP, _STEP.size, _STEP.size + len(program)) if program else b""
        program = _STEP.pack(_DESTINATION, size, size + _STEP.size) + condition + accept + program
    return program
