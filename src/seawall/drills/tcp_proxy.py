"""A way between two programs that can be made slow, narrow, silent or rough.

Stands between clients and a node, or between a node and its database (PostgreSQL's UNIX sockets included), from the
start of a drill, so that what is measured before, during and after a fault went the same way.

Not imitated: what happens below a connection. A black hole holds back what is sent, as a path does that loses all
packets until it heals, but a new connection is still accepted; and making a connection takes no longer when there is
a delay.
"""

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from seawall.clock import monotonic_s
from seawall.drills.undo import see_through

Address = tuple[str, int] | Path
"""Host and port, or the path of a UNIX socket."""

PIECE_BYTES: Final = 16 * 1024
"""How much goes at a time: little, so that a narrow way is narrow from the first second on."""

PACKET_BYTES: Final = 1448
"""How much a narrow way delivers at once: the payload of an Ethernet frame. A body of a few KiB arrives bit by bit
there, as it would."""

PACKETS_PER_S_MAX: Final = 200.0
"""On a way that is less narrow, more is delivered at once, and less often."""

PIECES_MAX: Final = 256
"""How many pieces are on the way in one direction; then the sender waits, as it does for a full window."""

CONNECT_S: Final = 5.0
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no patience: closing says RST instead of FIN (socket(7))."""


class Cut(StrEnum):
    """How a way is cut, if it is."""

    NONE = "none"
    BLACK_HOLE = "black hole"
    """Nothing arrives, and nobody is told."""
    RESET = "reset"
    """Connections are reset, open and new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How it is on the way, in each direction."""

    delay_s: float = 0.0
    bytes_per_s: float = math.inf
    cut: Cut = Cut.NONE

    def __post_init__(self) -> None:
        if self.delay_s < 0 or not self.bytes_per_s > 0:
            raise ValueError(f"there is no such weather: {self}")


FAIR: Final = Weather()


class TcpProxy:
    """Passes on what comes to `address`. State: the weather, and who is on the way. Made by `tcp_proxy`."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.address: Address = ("", 0)
        self.accepted = 0
        self._weather = FAIR
        self._passable = asyncio.Event()
        self._passable.set()
        self._ways: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __repr__(self) -> str:
        return f"<TcpProxy {self.address} to {self.target}, {len(self._ways)} connections, {self._weather}>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._ways)

    @property
    def weather(self) -> Weather:
        """How it is on the way now."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        if weather.cut is Cut.BLACK_HOLE:
            self._passable.clear()
        else:
            self._passable.set()
        if weather.cut is Cut.RESET:
            for way, client in self._ways.items():
                _reset(client)
                way.cancel()

    @contextmanager
    def under(self, weather: Weather) -> Iterator[None]:
        """Have this weather for the length of the block, and then what was before."""
        before = self._weather
        self.weather = weather
        try:
            yield
        finally:
            self.weather = before

    async def close(self) -> None:
        """End all that is on the way."""
        ways = [*self._ways]
        for way in ways:
            way.cancel()
        if ways:
            await asyncio.wait(ways)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a new client."""
        self.accepted += 1
        way = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._ways[way] = writer
        way.add_done_callback(self._ways.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on both directions until both have ended, or one has broken."""
        there: asyncio.StreamWriter | None = None
        try:
            if self._weather.cut is Cut.RESET:
                raise ConnectionResetError
            async with asyncio.timeout(CONNECT_S):
                back, there = await _connect(self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, there))
                group.create_task(self._pass_on(back, writer))
        except* (OSError, RuntimeError):
            # What broke on one side breaks on the other, as it would without us. (uvloop says RuntimeError where a
            # transport was closed.)
            for side in (writer, there):
                if side is not None:
                    _reset(side)
        finally:
            for side in (writer, there):
                if side is not None:
                    side.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one direction, to its end."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_MAX)

        async def take() -> None:
            while True:
                piece = await reader.read(PIECE_BYTES)
                await on_the_way.put((monotonic_s() + self._weather.delay_s, piece))
                if not piece:
                    return

        async def give() -> None:
            free_s = 0.0
            while True:
                due_s, piece = await on_the_way.get()
                if due_s > (now_s := monotonic_s()):
                    await asyncio.sleep(due_s - now_s)
                if not piece:
                    await self._passable.wait()
                    writer.write_eof()
                    return
                for packet in _packets(piece, self._weather.bytes_per_s):
                    # The way is taken for as long as the packet needs, and it has arrived when all of it has.
                    free_s = max(free_s, monotonic_s()) + len(packet) / self._weather.bytes_per_s
                    if free_s > (now_s := monotonic_s()):
                        await asyncio.sleep(free_s - now_s)
                    await self._passable.wait()
                    writer.write(packet)
                    await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())


@asynccontextmanager
async def tcp_proxy(target: Address, *, listen: Path | None = None) -> AsyncIterator[TcpProxy]:
    """Have a way to `target` for the length of the block: at a free port of this machine, or at a UNIX socket."""
    proxy = TcpProxy(target)
    if listen is not None:
        server = await asyncio.start_unix_server(proxy.accept, listen, limit=PIECE_BYTES)
        proxy.address = listen
    else:
        server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=PIECE_BYTES)
        host, port = server.sockets[0].getsockname()
        proxy.address = (host, port)
    try:
        yield proxy
    finally:
        server.close()
        if listen is not None:
            _remove(listen)
        await see_through(proxy.close())


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _packets(piece: bytes, bytes_per_s: float) -> Iterator[bytes]:
    """Yield a piece in parts as they arrive on a way with this rate: whole, where it takes no time."""
    if math.isinf(bytes_per_s):
        yield piece
        return
    size = max(PACKET_BYTES, round(bytes_per_s / PACKETS_PER_S_MAX))
    for start in range(0, len(piece), size):
        yield piece[start : start + size]


async def _connect(target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target, limit=PIECE_BYTES)
    return await asyncio.open_connection(*target, limit=PIECE_BYTES)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an error for the other side, where there is such a thing (TCP)."""
    opened = writer.get_extra_info("socket")
    with suppress(OSError):  # it is closed already
        if opened is not None and opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
