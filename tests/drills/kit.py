"""What tests of faults do again and again: something to flood, and something at the end of a way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Flood:
    """Load that somebody could make. State: whether it is being made."""

    under_way: bool = False
    floods: int = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Make it for the length of the block."""
        self.under_way = True
        self.floods += 1
        try:
            yield
        finally:
            self.under_way = False


@dataclass(slots=True)
class Answering:
    """Something that answers with what it was sent. State: its address."""

    address: tuple[str, int]
    connections: list[asyncio.StreamWriter] = field(default_factory=list)


@asynccontextmanager
async def answering() -> AsyncIterator[Answering]:
    """Answer with what was sent, for the length of the block."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(64 * 1024):
                writer.write(data)
                await writer.drain()
            writer.close()
        except ConnectionError:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.create_task(echo(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Answering((host, port), writers)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in writers:
            writer.transport.abort()
