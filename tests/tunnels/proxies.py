"""An HTTP and a SOCKS proxy that want a login, take any, write it down, and then connect.

python -m tests.tunnels.proxies http|socks PORT FILE
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from asyncio import StreamReader, StreamWriter
from pathlib import Path


def main(kind: str, port: str, file: str) -> None:
    """Serve until killed. FILE exists from the moment it serves; each login is a line of it."""
    asyncio.run(_serve({"http": _http, "socks": _socks}[kind], int(port), Path(file)))


async def _serve(handshake: object, port: int, seen: Path) -> None:
    async def client(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            host, to = await handshake(reader, writer, seen)  # type: ignore[operator]
            far_reader, far_writer = await asyncio.open_connection(host, to)
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" if handshake is _http else b"\5\0\0\1" + bytes(6))
            await asyncio.gather(_relay(reader, far_writer), _relay(far_reader, writer))

    server = await asyncio.start_server(client, "0.0.0.0", port)  # noqa: S104  # in a namespace of its own
    seen.touch()
    await server.serve_forever()


async def _relay(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def _note(seen: Path, login: str) -> None:
    with seen.open("a") as file:
        file.write(f"{login!r}\n")


async def _http(reader: StreamReader, writer: StreamWriter, seen: Path) -> tuple[str, int]:
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        host, _, port = lines[0].split()[1].rpartition(":")
        logins = [line.split()[2] for line in lines if line.lower().startswith("proxy-authorization: basic ")]
        if logins:
            _note(seen, base64.b64decode(logins[0]).decode())
            return host, int(port)
        _note(seen, "")
        writer.write(
            b"HTTP/1.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic "
            b'realm="proxy"\r\nContent-Length: 0\r\n\r\n'
        )


async def _socks(reader: StreamReader, writer: StreamWriter, seen: Path) -> tuple[str, int]:
    """RFC 1928, with a login (RFC 1929) from whoever has one."""
    _, count = await reader.readexactly(2)
    with_login = 2 in await reader.readexactly(count)
    writer.write(b"\5\2" if with_login else b"\5\0")
    login = ""
    if with_login:
        _, length = await reader.readexactly(2)
        user = await reader.readexactly(length)
        login = f"{user.decode()}:{(await reader.readexactly((await reader.readexactly(1))[0])).decode()}"
        writer.write(b"\1\0")
    _note(seen, login)
    kind = (await reader.readexactly(4))[3]
    host = (
        ".".join(map(str, await reader.readexactly(4)))
        if kind == 1
        else (await reader.readexactly((await reader.readexactly(1))[0])).decode()
    )
    return host, int.from_bytes(await reader.readexactly(2), "big")


if __name__ == "__main__":
    main(*sys.argv[1:])
