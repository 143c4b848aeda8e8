"""The notation of values in the configuration file that are not a tunnel's: listen addresses, sizes, paths,
URLs.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from common.constraints import CheckedBy, ReadBy

_SIZE = re.compile(r"(\d{1,9})(B|kB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_SUBJECT = re.compile(r"[A-Za-z0-9.]+=[^=]*(,[A-Za-z0-9.]+=[^=]*)*")
_MAX_SOCKET_DIRECTORY_BYTES = (
    94  # bytes of a directory's path: a unix socket's path ends at 107, and control.sock goes below it
)


class Listen(NamedTuple):
    """Where a TCP server listens."""

    host: str  # an IP address without brackets, or a name
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(value: Any) -> Listen:
    """HOST:PORT, an IPv6 address in brackets; ValueError says what is wrong."""
    if isinstance(value, Listen):
        return value
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon:
        raise ValueError(f"{value!r} is not HOST:PORT; write 127.0.0.1:9464")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{value!r}: {port!r} is not a port (1-65535)")
    if host.startswith("[") and host.endswith("]"):
        return Listen(_ipv6(value, host[1:-1]), int(port))
    if ":" in host:
        raise ValueError(f'{value!r}: an IPv6 address stands in brackets and quotes, as in "[::1]:9464"')
    if host in ("", "*"):
        raise ValueError(
            f"{value!r}: the host is missing; write 0.0.0.0:{port} for all addresses of this host"
        )
    if not _HOST.fullmatch(host):
        raise ValueError(f"{value!r}: {host!r} is neither an address nor a name")
    return Listen(host, int(port))


def _ipv6(value: str, host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{value!r}: {host!r} is not an IPv6 address") from None
    if address.version != 6:
        raise ValueError(f"{value!r}: only an IPv6 address stands in brackets")
    return host


def parse_size(value: Any) -> int:
    """Bytes from `100MB`, `64KiB`, ...; ValueError says what a size looks like."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a size; write a whole number with a unit, such as 500kB, 100MB or 1GiB"
        )
    return int(match[1]) * _SIZES[match[2]]


def size_text(size: int) -> str:
    """As a configuration writes it, with the smallest number."""
    unit = max((unit for unit in _SIZES if size % _SIZES[unit] == 0), key=lambda unit: _SIZES[unit])
    return f"{size // _SIZES[unit]}{unit}"


def _url(value: str) -> str:
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or set(value) & set(" @?#"):
        raise ValueError("not the address of a service; write https://HOST[:PORT]")
    base = value.rstrip("/")
    if base.endswith("/v2/enqueue"):
        raise ValueError(f"the path /v2/enqueue is added; write {base.removesuffix('/v2/enqueue')}")
    return base


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a name; at most 63 letters, digits, '.', '_', '-', a letter or digit first"
        )
    return value


def _subject(value: str) -> str:
    if not _SUBJECT.fullmatch(value):
        raise ValueError(
            f"{value!r} is not the subject of a certificate; write it as in CN=prometheus,O=Example"
        )
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"'{value}' is not an absolute path; write it from / on")
    return value


def _short(value: Path) -> Path:
    if len(str(value).encode()) > _MAX_SOCKET_DIRECTORY_BYTES:
        raise ValueError(
            f"longer than {_MAX_SOCKET_DIRECTORY_BYTES} bytes: a unix socket below it would get a path that the kernel "
            f"refuses"
        )
    return value


def _not_empty(value: Path) -> Path:
    if value == Path():
        raise ValueError("the name of a file is missing")
    return value


def _include_pattern(value: str) -> str:
    folder, _, name = value.rpartition("/")
    if not name or set(folder) & set("*?[") or not value.isprintable() or set(value) & set("\"'#"):
        raise ValueError(
            f"{value!r} is not a pattern of files in one folder; write it as conf.d/*.yaml, with * in the last part only"
        )
    return value


IncludePattern = Annotated[str, CheckedBy(_include_pattern, {"type": "string", "minLength": 1})]
File = Annotated[Path, CheckedBy(_not_empty, {"type": "string", "minLength": 1})]
Directory = Annotated[Path, CheckedBy(_absolute, {"type": "string", "pattern": "^/"})]
ShortDirectory = Annotated[Path, CheckedBy(_absolute), CheckedBy(_short, {"type": "string", "pattern": "^/"})]
Url = Annotated[str, CheckedBy(_url, {"type": "string", "pattern": "^https?://"})]
Name = Annotated[str, CheckedBy(_name, {"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Subject = Annotated[str, CheckedBy(_subject, {"type": "string", "pattern": "="})]
Size = Annotated[
    int,
    ReadBy(parse_size, {"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["100MB"]}, size_text),
]
ListenText = Annotated[
    Listen, ReadBy(parse_listen, {"type": "string", "pattern": r":\d{1,5}$", "examples": ["127.0.0.1:9464"]})
]
