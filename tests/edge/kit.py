"""What tests of the HTTP server do again and again: serve a handler, speak HTTP by hand, see that nothing is left."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seawall.edge import Admit, Exchange, HttpServer, HttpSettings
from seawall.edge.exchange import Handler

MIB = 1024 * 1024
PATIENCE_S = 5.0
"""How long a test waits for what must come at once."""


@dataclass(slots=True)
class Response:
    """One response as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Speaks HTTP by hand. State: what was received and not asked for yet."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._received = b""
        self._loop = asyncio.get_running_loop()

    async def send(self, *pieces: bytes) -> None:
        """Send some bytes, each piece in a segment of its own."""
        for piece in pieces:
            await asyncio.wait_for(self._loop.sock_sendall(self.socket, piece), PATIENCE_S)

    async def receive(self, limit: int = 64 * 1024) -> bytes:
        """Return the next bytes, or nothing at the end."""
        if self._received:
            data, self._received = self._received[:limit], self._received[limit:]
            return data
        return await asyncio.wait_for(self._loop.sock_recv(self.socket, limit), PATIENCE_S)

    async def until(self, mark: bytes) -> bytes:
        """Return everything up to and with a mark."""
        while mark not in self._received:
            data = await asyncio.wait_for(self._loop.sock_recv(self.socket, 64 * 1024), PATIENCE_S)
            if not data:
                raise EOFError(f"the connection ended after {self._received!r}")
            self._received += data
        found, mark, self._received = self._received.partition(mark)
        return found + mark

    async def response(self, *, method: str = "GET") -> Response:
        """Return the next response."""
        first, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header came twice: {lines}"
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        body = bytearray()
        while len(body) < length:
            data = await self.receive(length - len(body))
            if not data:
                raise EOFError(f"the body ended after {len(body)} of {length} bytes")
            body += data
        return Response(int(status), headers, bytes(body))

    async def rest(self) -> bytes:
        """Return everything until the server closes."""
        rest = bytearray()
        while data := await self.receive():
            rest += data
        return bytes(rest)

    async def ask(self, *pieces: bytes, method: str = "GET") -> Response:
        """Send a request and return its response."""
        await self.send(*pieces)
        return await self.response(method=method)

    def close(self) -> None:
        """Go away."""
        self.socket.close()

    def reset(self) -> None:
        """Go away without an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def stop_sending(self) -> None:
        """Close this half."""
        self.socket.shutdown(socket.SHUT_WR)


@dataclass(slots=True)
class Served:
    """A running server, and what it saw."""

    server: HttpServer
    address: tuple[str, int]
    exchanges: list[Exchange] = field(default_factory=list)

    @asynccontextmanager
    async def connect(self, *, receive_buffer: int | None = None) -> AsyncIterator[Client]:
        """Open a connection for the length of the block."""
        with socket.socket() as opened:
            opened.settimeout(0)
            if receive_buffer is not None:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.get_running_loop().sock_connect(opened, self.address)
            yield Client(opened)


@asynccontextmanager
async def serving(handler: Handler, *, admit: Admit | None = None, **settings: Any) -> AsyncIterator[Served]:
    """Serve on a port of its own; afterwards no task, descriptor or held byte may be left."""
    tasks, descriptors = asyncio.all_tasks(), open_descriptors()
    exchanges: list[Exchange] = []
    chosen = HttpSettings(**{"drain_s": 1.0, **settings})
    async with HttpServer(
        handler, chosen, observe=lambda exchange, _: exchanges.append(exchange), admit=admit
    ) as server:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        await server.listen(listener)
        yield Served(server, address, exchanges)
    assert server.connections == 0
    assert server.body_memory.held_bytes == 0
    await eventually(lambda: asyncio.all_tasks() <= tasks)
    listener.close()
    await eventually(lambda: open_descriptors() <= descriptors)


async def eventually(condition: Any) -> None:
    """Wait until something holds, which must be soon."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def open_descriptors() -> set[tuple[str, str]]:
    """Return what this process has open, but for the one that the event loop keeps in reserve."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # It was the listing itself.
            found.add((entry.name, str(entry.readlink())))
    return {(number, target) for number, target in found if target != "/dev/null"}


async def hello(exchange: Exchange) -> None:
    """Answer anything with its path."""
    exchange.respond(200, [], exchange.path.encode())


async def echo(exchange: Exchange) -> None:
    """Answer with the body."""
    exchange.respond(200, [], b"".join(await exchange.body.read(limit=8 * MIB)))


def request(target: str = "/", *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Write a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
