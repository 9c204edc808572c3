"""What clients send and do not read costs them their turn, not our memory."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.edge.kit import MIB, eventually, request, serving

from seawall.edge import Exchange
from seawall.errors import Invalid


async def test_a_body_nobody_takes_stops_coming() -> None:
    go_on = asyncio.Event()

    async def takes_late(exchange: Exchange) -> None:
        await go_on.wait()
        received = 0
        async for pieces in exchange.body.batches():
            received += sum(map(len, pieces))
        exchange.respond(200, [], str(received).encode())

    async with serving(takes_late) as served, served.connect() as client:
        sending = asyncio.create_task(client.send(request("/", method="PUT", body=bytes(32 * MIB))))
        await asyncio.sleep(0.05)
        held = served.server.body_memory.held_bytes
        go_on.set()
        await sending
        response = await client.response()

    assert 0 < held <= MIB
    assert response.body == str(32 * MIB).encode()


async def test_many_bodies_nobody_takes_share_what_there_is() -> None:
    limit = 4 * MIB

    async def hangs(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with serving(hangs, body_memory_bytes=limit, drain_s=0.0) as served, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.connect()) for _ in range(60)]
        sends = [asyncio.create_task(c.send(request("/", method="PUT", body=bytes(4 * MIB)))) for c in clients]
        await asyncio.sleep(0.2)
        held = served.server.body_memory.held_bytes
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)

    # Each may hold one small piece beyond the threshold, however little is left.
    assert held <= limit + 60 * 80 * 1024


async def test_the_smallest_chunks_hold_no_more_than_what_is_counted() -> None:
    go_on = asyncio.Event()

    async def takes_late(exchange: Exchange) -> None:
        await go_on.wait()
        exchange.respond(200, [], b"".join(await exchange.body.read(limit=MIB)))

    async with serving(takes_late) as served, served.connect() as client:
        head = request("/", "Transfer-Encoding: chunked", method="PUT")
        await client.send(head + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n")
        await asyncio.sleep(0.1)
        (connection,) = served.server._connections
        assert connection._exchange is not None
        pieces = len(connection._exchange.body._pieces)
        go_on.set()
        response = await client.response()

    assert pieces < 100
    assert response.body == b"x" * 30_000


async def test_a_body_dropped_by_bytes_holds_nothing() -> None:
    async def refuses(exchange: Exchange) -> None:
        exchange.respond(403, [])

    async with serving(refuses) as served, served.connect() as client:
        await client.ask(request("/", "Content-Length: 60000", method="PUT"))
        await client.send(*[b"x" * 6000] * 9)
        await asyncio.sleep(0.01)
        assert served.server.body_memory.held_bytes == 0
        await client.send(b"x" * 6000)
        assert (await client.ask(request())).status == 403


async def test_what_is_sent_behind_a_body_waits_outside() -> None:
    async def hangs(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with serving(hangs, drain_s=0.0) as served, served.connect() as client:
        await client.send(request("/", "Content-Length: 100000", method="PUT") + b"x" * 10)
        await asyncio.sleep(0.01)
        sending = asyncio.create_task(client.send(b"x" * 99_990 + request() * 100_000))
        await asyncio.sleep(0.05)
        (connection,) = served.server._connections
        ahead = len(connection._ahead)
        sending.cancel()
        await asyncio.wait([sending])

    assert 0 < ahead <= 64 * 1024


async def test_what_follows_a_broken_chunk_is_not_kept() -> None:
    broken, go_on = asyncio.Event(), asyncio.Event()

    async def dawdles(exchange: Exchange) -> None:
        with pytest.raises(Invalid):
            await exchange.body.read(limit=MIB)
        broken.set()
        await go_on.wait()
        exchange.respond(400, [])

    async with serving(dawdles) as served, served.connect() as client:
        await client.send(request("/", "Transfer-Encoding: chunked", method="PUT") + b"nonsense\r\n")
        await broken.wait()
        await client.send(*[bytes(MIB)] * 8)
        await asyncio.sleep(0.02)
        (connection,) = served.server._connections
        assert connection._exchange is not None
        assert len(connection._exchange.body._chunks._line) < 100  # type: ignore[union-attr]
        assert len(connection._ahead) == 0
        go_on.set()
        assert (await client.response()).status == 400


async def test_many_slow_readers_of_a_file_cost_next_to_nothing_and_delay_nobody(tmp_path: Path) -> None:
    size, readers = 8 * MIB, 100
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    async def sends(exchange: Exchange) -> None:
        if exchange.path == "/small":
            exchange.respond(200, [], b"small")
            return
        await exchange.start(200, [], content_length=size)
        with path.open("rb") as file:
            await exchange.send_file(file.fileno(), start=0, stop=size)

    async with serving(sends, drain_s=0.0) as served, AsyncExitStack() as stack:
        quick = await stack.enter_async_context(served.connect())
        await quick.ask(request("/small"))
        before = _resident_bytes()
        for _ in range(readers):
            reader = await stack.enter_async_context(served.connect(receive_buffer=4096))
            await reader.send(request("/large"))
        await eventually(lambda: sum(c._output_waiter is not None for c in served.server._connections) == readers)
        grown = _resident_bytes() - before
        unsent = max(connection._count_unsent() for connection in served.server._connections)
        began_s = time.monotonic()
        for _ in range(20):
            assert (await quick.ask(request("/small"))).body == b"small"
        took_s = time.monotonic() - began_s

    assert grown < readers * 64 * 1024
    assert 0 < unsent < MIB
    assert took_s < 1.0


async def test_a_client_as_fast_as_we_are_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(32 * MIB))
    turns = 0

    async def sends(exchange: Exchange) -> None:
        nonlocal turns
        await exchange.start(200, [], content_length=32 * MIB)
        counting = asyncio.create_task(count_turns())
        with path.open("rb") as file:
            await exchange.send_file(file.fileno(), start=0, stop=32 * MIB)
        counting.cancel()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with serving(sends) as served:
        # A thread reads as fast as it can, so that the socket is nearly always writable.
        received = await asyncio.to_thread(_read_all, served.address)

    assert received > 32 * MIB
    assert turns >= 16


def _read_all(address: tuple[str, int]) -> int:
    import socket

    with socket.create_connection(address) as opened:
        opened.sendall(request("/", "Connection: close"))
        received = 0
        while data := opened.recv(MIB):
            received += len(data)
        return received


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
