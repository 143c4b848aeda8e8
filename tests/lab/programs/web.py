"""HTTP on port 80 and UDP on port 7. Both answer with the server's name and the client's address: `NAME
sees ADDRESS`.

TCP on port 7 sends back what it gets.
"""

import asyncio
import contextlib
import sys

NAME = sys.argv[1]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        body = f"{NAME} sees {writer.get_extra_info('peername')[0]}\n".encode()
        writer.write(HEAD % len(body) + body)
        await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source) -> None:
        self.transport.sendto(f"{NAME} sees {source[0]}\n".encode() + data, source)


async def main() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Echo, local_addr=("0.0.0.0", 7))
    await asyncio.start_server(echo, None, 7)
    server = await asyncio.start_server(http, None, 80, backlog=1024)
    print("serving", flush=True)
    await server.serve_forever()


asyncio.run(main())
