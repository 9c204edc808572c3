"""Every wait has an end: for a head, a body, a reader, our own handler, and the client's last word."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.edge.kit import MIB, Client, Served, echo, eventually, hello, request, serving

from seawall.edge import Exchange
from seawall.errors import IncompleteBody

SOON_S = 0.08
"""How patient the server is with whoever is too slow, by several times as much."""
LATER_S = 0.4
"""How patient it is with whoever is just fast enough, also on a busy machine."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file larger than what the kernel buffers for one connection."""
    path = tmp_path / "file"
    path.write_bytes(bytes(24 * MIB))
    return path


async def waits_for_its_body(exchange: Exchange) -> None:
    """Answer 200 with the body, or 408 when it does not come."""
    try:
        await echo(exchange)
    except IncompleteBody:
        exchange.respond(408, [])


async def drip(client: Client, data: bytes) -> None:
    """Send byte by byte, until the server has enough of it."""
    with suppress(ConnectionError):
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await asyncio.sleep(0.01)


@asynccontextmanager
async def dripping(client: Client, data: bytes) -> AsyncIterator[None]:
    """Send byte by byte while the block lasts."""
    task = asyncio.create_task(drip(client, data))
    yield
    task.cancel()
    await asyncio.wait([task])


async def read_slowly(client: Client) -> None:
    """Read a little now and then, to the end."""
    while await client.receive(4096):
        await asyncio.sleep(0.01)


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with serving(hello, idle_s=SOON_S) as served, served.connect() as fresh, served.connect() as used:
        await used.ask(request())
        assert await fresh.rest() == b""
        assert await used.rest() == b""

    assert served.server.counts.expired == 0


async def test_empty_lines_do_not_keep_a_connection_open() -> None:
    async with (
        serving(hello, idle_s=SOON_S, head_s=SOON_S) as served,
        served.connect() as client,
        dripping(client, b"\r\n" * 1000),
    ):
        await eventually(lambda: served.server.counts.accepted == 1 and served.server.connections == 0)


@pytest.mark.parametrize("slowly", [False, True])
async def test_a_head_has_to_come_in_time_however_it_drips(*, slowly: bool) -> None:
    head = b"GET / HTTP/1.1\r\nX-A: "

    async with serving(hello, head_s=SOON_S) as served, served.connect() as client:
        await client.send(head)
        async with dripping(client, b"b" * 1000 if slowly else b""):
            response = await client.response()

    assert (response.status, response.headers["connection"]) == (408, "close")
    assert served.server.counts.expired == 1


async def test_the_second_head_has_its_own_time() -> None:
    async with serving(hello, head_s=LATER_S) as served, served.connect() as client:
        for _ in range(3):
            await client.send(b"GET / HTTP/1.1\r\n")
            await asyncio.sleep(LATER_S / 2)
            assert (await client.ask(b"Host: test\r\n\r\n")).status == 200


@pytest.mark.parametrize("begun", [b"", b"hello"])
async def test_a_body_that_stops_coming_is_an_error_that_the_client_can_read(begun: bytes) -> None:
    async with serving(waits_for_its_body, stall_s=SOON_S) as served, served.connect() as client:
        response = await client.ask(request("/", "Content-Length: 1000000", method="PUT") + begun)
        await client.rest()

    assert (response.status, response.headers["connection"]) == (408, "close")
    assert served.server.counts.expired == 1


async def test_a_body_that_drips_below_the_least_rate_has_stopped_coming() -> None:
    settings: dict[str, Any] = {"stall_s": SOON_S, "rate_min_bytes_per_s": 1000.0}

    async with serving(waits_for_its_body, **settings) as served, served.connect() as client:
        # A fast beginning buys no time for a slow end.
        await client.send(request("/", f"Content-Length: {8 * MIB}", method="PUT"), bytes(4 * MIB))
        async with dripping(client, bytes(1000)):
            response = await client.response()

    assert response.status == 408


async def test_a_body_above_the_least_rate_may_take_its_time() -> None:
    settings: dict[str, Any] = {"stall_s": LATER_S, "rate_min_bytes_per_s": 20.0}

    async with serving(waits_for_its_body, **settings) as served, served.connect() as client:
        await client.send(request("/", "Content-Length: 80", method="PUT"))
        await drip(client, b"h" * 80)
        response = await client.response()

    assert (response.status, response.body) == (200, b"h" * 80)


async def test_the_client_is_not_blamed_while_it_waits_to_be_asked() -> None:
    async def asks_late(exchange: Exchange) -> None:
        await asyncio.sleep(3 * SOON_S)
        await waits_for_its_body(exchange)

    async with serving(asks_late, stall_s=SOON_S) as served, served.connect() as client:
        head = request("/", "Expect: 100-continue", "Content-Length: 5", method="PUT")
        await client.send(head)
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"hello")).body == b"hello"
        await client.send(head)
        await client.until(b"\r\n\r\n")
        stalled = await client.response()

    assert stalled.status == 408


async def test_the_client_is_not_blamed_while_we_are_slow_to_take_its_body() -> None:
    async def takes_late(exchange: Exchange) -> None:
        await asyncio.sleep(3 * SOON_S)
        received = 0
        async for pieces in exchange.body.batches():
            received += sum(map(len, pieces))
        exchange.respond(200, [], str(received).encode())

    async with serving(takes_late, stall_s=SOON_S) as served, served.connect() as client:
        response = await client.ask(request("/", method="PUT", body=bytes(8 * MIB)))

    assert (response.status, response.body) == (200, str(8 * MIB).encode())


async def test_a_dropped_body_has_to_come_in_time_too_and_no_second_answer_is_sent() -> None:
    async def refuses(exchange: Exchange) -> None:
        exchange.respond(403, [])

    async with serving(refuses, stall_s=SOON_S) as served, served.connect() as client:
        refused = await client.ask(request("/", "Content-Length: 1000", method="PUT") + b"hello")
        rest = await client.rest()

    assert (refused.status, rest) == (403, b"")


async def send_file(exchange: Exchange, path: Path) -> None:
    """Answer with a file."""
    size = path.stat().st_size
    await exchange.start(200, [], content_length=size)
    with path.open("rb") as opened:
        await exchange.send_file(opened.fileno(), start=0, stop=size)


@pytest.mark.parametrize("way", ["send_file", "write", "respond"])
async def test_a_client_that_stops_reading_is_reset(way: str, file: Path) -> None:
    async def sends(exchange: Exchange) -> None:
        match way:
            case "send_file":
                await send_file(exchange, file)
            case "write":
                await exchange.start(200, [], content_length=24 * MIB)
                await exchange.write(bytes(24 * MIB))
            case "respond":
                exchange.respond(200, [], bytes(24 * MIB))

    async with serving(sends, stall_s=SOON_S) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request())
        await eventually(lambda: served.server.counts.expired == 1 and served.server.connections == 0)
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_client_that_reads_below_the_least_rate_is_reset(file: Path) -> None:
    settings: dict[str, Any] = {"stall_s": SOON_S, "rate_min_bytes_per_s": 10.0 * MIB}

    async with (
        serving(lambda exchange: send_file(exchange, file), **settings) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        await client.send(request())
        with pytest.raises(ConnectionResetError):
            await read_slowly(client)

    assert served.server.counts.expired == 1


@pytest.mark.parametrize("way", ["send_file", "respond"])
async def test_a_client_that_reads_above_the_least_rate_is_waited_for_although_no_room_shows(
    way: str, file: Path
) -> None:
    # The kernel says that a socket is writable when a third of its buffer is free: for this client, after seconds.
    settings: dict[str, Any] = {"stall_s": LATER_S, "rate_min_bytes_per_s": 10_000.0}

    async def sends(exchange: Exchange) -> None:
        if way == "send_file":
            await send_file(exchange, file)
        else:
            exchange.respond(200, [], bytes(24 * MIB))

    async with serving(sends, **settings) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request())
        for _ in range(60):
            assert await client.receive(4096)
            await asyncio.sleep(0.01)
        assert served.server.connections == 1
        client.close()


async def test_a_client_that_sends_but_does_not_read_is_reset(file: Path) -> None:
    async with (
        serving(lambda exchange: send_file(exchange, file), stall_s=SOON_S, rate_min_bytes_per_s=1.0) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        await client.send(request("/", f"Content-Length: {64 * MIB}"))
        async with dripping(client, bytes(1000)):
            await eventually(lambda: served.server.counts.accepted == 1 and served.server.connections == 0)


async def test_a_client_that_fills_its_body_but_does_not_read_is_reset(file: Path) -> None:
    async with (
        serving(lambda exchange: send_file(exchange, file), stall_s=SOON_S) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        await client.send(request("/", f"Content-Length: {64 * MIB}"))
        with pytest.raises((ConnectionError, TimeoutError)):
            await asyncio.wait_for(client.send(*[bytes(MIB)] * 64), 1.0)
        await eventually(lambda: served.server.connections == 0)


@pytest.mark.parametrize("answer", [b"", bytes(8 * MIB)])
async def test_requests_that_come_faster_than_answers_go_wait_outside(answer: bytes) -> None:
    async def large(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        exchange.respond(200, [], answer)

    async with serving(large, stall_s=30.0) as served, served.connect(receive_buffer=4096) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        sending = asyncio.create_task(client.send(*[request("/", "X-A: " + "b" * 1000) * 100] * 200))
        await eventually(lambda: served.server.connections == 1)
        (connection,) = served.server._connections
        most = 0
        for _ in range(1000):
            await asyncio.sleep(0)
            most = max(most, len(connection._ahead))
        sending.cancel()
        await asyncio.wait([sending])
        assert 0 < most <= 64 * 1024
        client.close()


async def test_a_handler_that_never_answers_is_cancelled_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def hangs(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR):
        async with serving(hangs, answer_s=SOON_S) as served, served.connect() as client:
            await client.send(request("/hanging"))
            with pytest.raises(ConnectionResetError):
                await client.rest()

    assert [record.msg for record in caplog.records] == ["http.handler_hangs"]
    assert [exchange.path for exchange in served.exchanges] == ["/hanging"]


async def test_a_handler_that_goes_on_may_take_its_time(file: Path) -> None:
    async def goes_on(exchange: Exchange) -> None:
        async for _ in exchange.body.batches():
            await asyncio.sleep(LATER_S / 10)
        await exchange.start(200, [], content_length=60)
        for _ in range(6):
            await asyncio.sleep(LATER_S / 4)
            await exchange.write(b"hellohello")

    async with serving(goes_on, answer_s=LATER_S) as served, served.connect() as client:
        response = await client.ask(request("/", method="PUT", body=bytes(8 * MIB)))

    assert response.body == b"hello" * 12


async def test_a_slow_reader_does_not_make_our_handler_look_hung(file: Path) -> None:
    settings: dict[str, Any] = {"answer_s": SOON_S, "stall_s": 10 * SOON_S}

    async with (
        serving(lambda exchange: send_file(exchange, file), **settings) as served,
        served.connect(receive_buffer=4096) as client,
    ):
        await client.send(request())
        await asyncio.sleep(4 * SOON_S)
        response = await client.response()

    assert len(response.body) == 24 * MIB
    assert served.server.counts.failed == 0


@pytest.mark.parametrize("size", [0, 24 * MIB])
async def test_a_client_that_never_closes_is_left_shortly_after_its_last_answer(size: int) -> None:
    async def answers(exchange: Exchange) -> None:
        exchange.close_after = True
        exchange.respond(200, [], bytes(size))

    async with serving(answers, idle_s=60.0) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request())
        await asyncio.sleep(0.01)
        assert len((await client.response()).body) == size
        assert await client.rest() == b""
        await eventually(lambda: served.server.connections == 0)


async def test_a_deadline_that_fails_does_not_take_the_others_with_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(hello, idle_s=SOON_S) as served, served.connect() as client:
        await _until_connected(served)
        (connection,) = served.server._connections
        monkeypatch.setattr(type(connection), "expire", lambda *_: 1 / 0)
        with caplog.at_level(logging.ERROR), pytest.raises(ConnectionResetError):
            await client.rest()
        monkeypatch.undo()
        async with served.connect() as other:
            assert await other.rest() == b""

    assert [record.msg for record in caplog.records] == ["http.deadline_failed"]


async def _until_connected(served: Served) -> None:
    await eventually(lambda: served.server.connections == 1)
