"""Probe targets, as a configuration writes them: `tcp://10.77.0.10:443`, `icmp://10.77.0.1`, `http://10.77.0.10/health`."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, NamedTuple

from common.constraints import CheckedBy


class Target(NamedTuple):
    """The parts of a probe target."""

    scheme: str  # tcp, icmp or http
    address: IPv4Address | IPv6Address
    port: int | None  # None for icmp
    path: str  # for http, at least `/`; else empty


_TARGET = re.compile(r"(?P<scheme>[a-z]+)://(?P<rest>[!-~]+)", re.ASCII)
_REST = re.compile(r"(?:\[(?P<bracketed>[^][/]*)\]|(?P<host>[^][:/]*))(?::(?P<port>[^][:/]*))?(?P<path>/.*)?")
_TARGET_FORMS = "tcp://ADDRESS:PORT, icmp://ADDRESS or http://ADDRESS[:PORT][/PATH]"


def parse_target(value: str) -> Target:
    """The parts of a probe target; ValueError says what is wrong with it and what was probably meant."""
    match = _TARGET.fullmatch(value)
    if match is None or set(match["rest"]) & set("@?#"):
        raise ValueError(f"{value!r} is not a probe target; write {_TARGET_FORMS}")
    if match["scheme"] not in ("tcp", "icmp", "http"):
        raise ValueError(f"{value!r}: {match['scheme']} cannot be probed; write {_TARGET_FORMS}")
    host, port, path = _split(value, match["rest"])
    try:
        address = ip_address(host)
    except ValueError:
        why = "is not an IP address; names are not resolved, because DNS may fail where the tunnel does not"
        raise ValueError(f"{value!r}: {host!r} {why}") from None
    return _checked(value, Target(match["scheme"], address, port, path))


def _split(value: str, rest: str) -> tuple[str, int | None, str]:
    parts = _REST.fullmatch(rest)
    host = (parts["bracketed"] or parts["host"] or "") if parts is not None else ""
    if parts is None or bool(parts["bracketed"]) != (":" in host):
        raise ValueError(f"{value!r}: an IPv6 address stands in brackets, such as tcp://[2001:db8::1]:443")
    port = parts["port"] or None
    if port is not None and not (port.isdecimal() and len(port) <= 5 and int(port) < 65536):
        raise ValueError(f"{value!r}: a port is a number from 1 to 65535")
    return host, int(port) if port is not None else None, parts["path"] or ""


def _checked(value: str, target: Target) -> Target:
    """The target, if it has exactly the parts that its scheme needs. ValueError."""
    host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    if target.port == 0:
        raise ValueError(f"{value!r}: port 0 cannot be probed")
    if target.scheme == "http":
        return target._replace(port=target.port or 80, path=target.path or "/")
    if target.scheme == "icmp" and (target.port is not None or target.path):
        raise ValueError(f"{value!r}: icmp has neither port nor path; write icmp://{host}")
    if target.scheme == "tcp" and target.port is None:
        raise ValueError(f"{value!r}: the port is missing; write tcp://{host}:PORT")
    if target.scheme == "tcp" and target.path:
        raise ValueError(f"{value!r}: tcp has no path; write tcp://{host}:{target.port}")
    return target


def _valid(value: str) -> str:
    parse_target(value)
    return value


TargetText = Annotated[
    str,
    CheckedBy(
        _valid, {"type": "string", "pattern": "^(tcp|icmp|http)://", "examples": ["tcp://10.77.0.10:443"]}
    ),
]
