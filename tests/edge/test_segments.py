"""An exchange's stopwatch says where its time went, and its outcome what became of it."""

import asyncio
import math
import socket

import pytest
from tests.edge.kit import MIB, echo, eventually, hello, request, serving

from seawall.clock import monotonic_s
from seawall.edge import Exchange, HttpServer, HttpSettings, PutOff
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import STOPWATCH, Segment, Stopwatch, timed

PAUSE_S = 0.05


async def test_segments_add_up_to_the_duration_which_the_server_tells() -> None:
    durations_s: list[tuple[Exchange, float]] = []

    async def work(exchange: Exchange) -> None:
        with timed(Segment.DISK):
            await asyncio.sleep(PAUSE_S)
        await hello(exchange)

    async with HttpServer(
        work, HttpSettings(drain_s=1.0), observe=lambda exchange, duration_s: durations_s.append((exchange, duration_s))
    ) as server:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        await server.listen(listener)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request("/a") + request("/b"))
        await eventually(lambda: len(durations_s) == 2)
        writer.close()
        await writer.wait_closed()
        assert server.active == 0

    for exchange, duration_s in durations_s:
        assert math.fsum(exchange.stopwatch.sums_s) == pytest.approx(duration_s)
        assert exchange.stopwatch.sums_s[Segment.DISK] >= PAUSE_S * 0.9
        assert exchange.outcome is Outcome.SERVED
    assert await reader.read() is not None


async def test_each_request_of_a_connection_has_its_own_stopwatch() -> None:
    seen: list[Stopwatch | None] = []

    async def work(exchange: Exchange) -> None:
        seen.append(STOPWATCH.get())
        await hello(exchange)

    async with serving(work) as served, served.connect() as client:
        await client.send(request("/a") + request("/b"), request("/c"))
        for _ in range(3):
            await client.response()

    assert seen == [exchange.stopwatch for exchange in served.exchanges]
    assert len({id(watch) for watch in seen}) == 3


async def test_a_body_that_is_awaited_is_the_network() -> None:
    async with serving(echo) as served, served.connect() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(PAUSE_S)
        assert (await client.ask(b"ab")).body == b"ab"

    [exchange] = served.exchanges
    assert exchange.stopwatch.sums_s[Segment.NETWORK] >= PAUSE_S / 2


async def test_a_reader_that_is_slow_is_the_network() -> None:
    size = 8 * MIB

    async def work(exchange: Exchange) -> None:
        await exchange.start(200, [], content_length=size)
        await exchange.write(bytes(size))

    async with serving(work) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request())
        await asyncio.sleep(PAUSE_S)
        assert len((await client.response()).body) == size

    [exchange] = served.exchanges
    assert exchange.stopwatch.sums_s[Segment.NETWORK] >= PAUSE_S / 2
    assert exchange.streamed


async def test_who_is_put_off_waits_for_admission() -> None:
    def admit(exchange: Exchange) -> PutOff:
        exchange.outcome = Outcome.REFUSED
        return PutOff(PAUSE_S, lambda exchange: exchange.respond(503, []))

    async with serving(hello, admit=admit) as served, served.connect() as client:
        assert (await client.ask(request())).status == 503

    [exchange] = served.exchanges
    assert exchange.stopwatch.sums_s[Segment.ADMISSION] >= PAUSE_S * 0.9
    assert exchange.outcome is Outcome.REFUSED


async def test_what_fails_unforeseen_failed() -> None:
    async def work(_: Exchange) -> None:
        raise RuntimeError("unforeseen")

    async with serving(work) as served, served.connect() as client:
        assert (await client.ask(request())).status == 500

    assert [exchange.outcome for exchange in served.exchanges] == [Outcome.FAILED]


async def test_a_client_that_does_not_wait_for_its_answer_gave_up() -> None:
    came = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        came.set()
        await asyncio.sleep(10)

    async with serving(work) as served, served.connect() as client:
        await client.send(request())
        await came.wait()
        client.reset()
        await eventually(lambda: served.exchanges)

    assert [exchange.outcome for exchange in served.exchanges] == [Outcome.GAVE_UP]


async def test_a_client_that_did_not_wait_until_its_write_was_done_gave_up() -> None:
    came, may_go_on = asyncio.Event(), asyncio.Event()

    async def work(exchange: Exchange) -> None:
        await exchange.body.read(limit=10)
        came.set()
        await may_go_on.wait()
        await hello(exchange)

    async with serving(work) as served, served.connect() as client:
        await client.send(request(method="PUT", body=b"ab"))
        await came.wait()
        client.reset()
        await eventually(lambda: served.server.counts.reset)
        may_go_on.set()
        await eventually(lambda: served.exchanges)

    assert [exchange.outcome for exchange in served.exchanges] == [Outcome.GAVE_UP]


async def test_what_is_cut_off_when_the_door_closes_failed() -> None:
    came = asyncio.Event()

    async def work(exchange: Exchange) -> None:
        came.set()
        await asyncio.sleep(10)

    async with serving(work, drain_s=PAUSE_S) as served, served.connect() as client:
        await client.send(request())
        await came.wait()
        await served.server.drain()

    assert [exchange.outcome for exchange in served.exchanges] == [Outcome.FAILED]


async def test_a_client_that_leaves_within_its_answer_is_gone() -> None:
    size = 64 * MIB

    async def work(exchange: Exchange) -> None:
        await exchange.start(200, [], content_length=size)
        await exchange.write(bytes(size))

    async with serving(work) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request())
        await client.receive(100)
        client.reset()
        await eventually(lambda: served.exchanges)

    assert [exchange.outcome for exchange in served.exchanges] == [Outcome.GONE]


async def test_the_first_byte_of_a_new_connection_is_timed_once() -> None:
    async with serving(hello) as served, served.connect() as client:
        await eventually(lambda: served.server.connections)
        began_s = monotonic_s()
        await asyncio.sleep(PAUSE_S)
        await client.ask(request())
        await client.ask(request())
        assert len(served.server.first_bytes_s) == 1
        assert PAUSE_S / 2 <= served.server.first_bytes_s[0] <= monotonic_s() - began_s + 1


async def test_a_connection_that_was_reset_is_counted() -> None:
    async with serving(hello) as served:
        async with served.connect() as client:
            await client.ask(request())
            client.reset()
        await eventually(lambda: not served.server.connections)
        assert served.server.counts.reset == 1
