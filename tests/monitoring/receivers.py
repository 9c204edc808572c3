"""Somebody who is told, on a real socket: takes requests apart by hand, answers as a test wants, and remembers."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CERTIFICATE = Path(__file__).parent / "hooks_test.pem"
"""Of `hooks.test`, signed by nobody but itself, with its key: worth nothing outside these tests. Valid to 2126."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """Answers each request with the next of `answers`, and then always with the last."""

    answers: list[Answer]
    answers_at_once: bool = False
    """Whatever is said to it, if anything."""
    port: int = 0
    connections: int = 0
    open: int = 0
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str = "/", *, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            if self.answers_at_once:
                await self.answers[0](reader, writer)
                return
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            method, path, _ = first.split(" ")
            now_s = asyncio.get_running_loop().time()
            self.requests.append(Request(method=method, path=path, headers=headers, body=body, at_s=now_s))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            # They left; a test looks at what was remembered.
            return
        finally:
            self.open -= 1
            writer.close()


def says(status: int, *headers: str, body: str = "ok") -> Answer:
    """Answer with a status."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join([*lines, "", body]).encode())
        await writer.drain()

    return answer


def writes(data: bytes) -> Answer:
    """Answer with these bytes and close."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Take everything and say nothing, until the other side has had enough."""
    await reader.read()


def endlessly(first: bytes, more: bytes) -> Answer:
    """Begin an answer and never end it."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(more)
            await writer.drain()

    return answer


@asynccontextmanager
async def receiving(*answers: Answer, tls: bool = False) -> AsyncIterator[Receiver]:
    """Open a receiver on a free port of this machine."""
    receiver = Receiver(list(answers) or [says(200)])
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    conversations: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(receiver.serve(reader, writer))
        conversations.add(conversation)
        conversation.add_done_callback(conversations.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for conversation in [*conversations]:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def until(condition: Callable[[], Any], *, within_s: float = 20.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a loop for the length of the block."""

    async def run() -> None:
        await work()

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
