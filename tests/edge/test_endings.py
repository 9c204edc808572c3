"""Whoever goes, and whenever: no task, no descriptor and no held byte stays behind."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from tests.edge.kit import MIB, PATIENCE_S, Client, Served, eventually, hello, request, serving

from seawall.edge import ClientGone, Exchange
from seawall.errors import IncompleteBody

Stage = Callable[[Served, Client], Awaitable[None]]
PUT = request("/put", f"Content-Length: {4 * MIB}", method="PUT")


async def _serve_all(exchange: Exchange) -> None:
    match exchange.path:
        case "/put":
            async for _ in exchange.body.batches():
                await asyncio.sleep(0)
            exchange.respond(200, [])
        case "/slow":
            await asyncio.sleep(0.05)
            exchange.respond(200, [], b"late")
        case "/slow/streamed":
            await exchange.start(200, [], content_length=5)
            await asyncio.sleep(0.05)
            await exchange.write(b"hello")
        case "/slow/unread":
            await asyncio.sleep(0.05)
            exchange.respond(403, [])
        case "/large":
            exchange.respond(200, [], bytes(24 * MIB))
        case "/large/streamed":
            await exchange.start(200, [], content_length=24 * MIB)
            await exchange.write(bytes(24 * MIB))
        case _:
            exchange.respond(200, [], b"hello")


async def fresh(served: Served, client: Client) -> None:
    await eventually(lambda: served.server.connections == 1)


async def in_a_head(served: Served, client: Client) -> None:
    await client.send(b"GET / HT")
    await asyncio.sleep(0.005)


async def idle(served: Served, client: Client) -> None:
    await client.ask(request())


async def before_its_body(served: Served, client: Client) -> None:
    await client.send(PUT)
    await asyncio.sleep(0.005)


async def in_its_body(served: Served, client: Client) -> None:
    await client.send(PUT, bytes(MIB))
    await asyncio.sleep(0.005)


async def asked_for_its_body(served: Served, client: Client) -> None:
    await client.send(request("/put", "Expect: 100-continue", "Content-Length: 5", method="PUT"))
    await client.until(b"\r\n\r\n")


async def with_a_body_nobody_reads_yet(served: Served, client: Client) -> None:
    await client.send(request("/slow/unread", f"Content-Length: {4 * MIB}"), bytes(MIB))
    await eventually(lambda: served.server.body_memory.held_bytes)


async def while_its_body_is_dropped(served: Served, client: Client) -> None:
    await client.ask(request("/", "Content-Length: 1000") + b"hello")


async def before_its_answer(served: Served, client: Client) -> None:
    await client.send(request("/slow"))
    await asyncio.sleep(0.005)


async def before_its_answer_goes_on(served: Served, client: Client) -> None:
    await client.send(request("/slow/streamed"))
    await asyncio.sleep(0.005)


async def before_its_answers(served: Served, client: Client) -> None:
    await client.send(request("/slow") * 3)
    await asyncio.sleep(0.005)


async def in_an_answer_of_the_transport(served: Served, client: Client) -> None:
    await client.send(request("/large"))
    await client.receive()


async def in_an_answer_of_the_transport_with_more_to_come(served: Served, client: Client) -> None:
    await client.send(request("/large") * 2 + request("/large/streamed"))
    await client.receive()


async def in_a_streamed_answer(served: Served, client: Client) -> None:
    await client.send(request("/large/streamed"))
    await client.receive()


async def after_a_streamed_answer(served: Served, client: Client) -> None:
    await client.ask(request("/large/streamed"))


async def refused(served: Served, client: Client) -> None:
    await client.ask(b"nonsense\r\n\r\n")


async def lingering_with_a_body(served: Served, client: Client) -> None:
    await client.send(request("/", f"Content-Length: {64 * MIB}"), bytes(4 * MIB))
    await client.response()


STAGES: list[Stage] = [
    fresh,
    in_a_head,
    idle,
    before_its_body,
    in_its_body,
    asked_for_its_body,
    with_a_body_nobody_reads_yet,
    while_its_body_is_dropped,
    before_its_answer,
    before_its_answer_goes_on,
    before_its_answers,
    in_an_answer_of_the_transport,
    in_an_answer_of_the_transport_with_more_to_come,
    in_a_streamed_answer,
    after_a_streamed_answer,
    refused,
    lingering_with_a_body,
]


@pytest.mark.parametrize("way", ["closes", "resets", "half-closes"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_goes_leaves_nothing_behind(stage: Stage, way: str) -> None:
    async with serving(_serve_all, stall_s=0.2) as served, served.connect(receive_buffer=4096) as client:
        await stage(served, client)
        match way:
            case "closes":
                client.close()
            case "resets":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            case "half-closes":
                client.stop_sending()
        await eventually(lambda: served.server.connections == 0)
        assert served.server.body_memory.held_bytes == 0


@pytest.mark.parametrize("stage", STAGES)
async def test_a_server_that_goes_leaves_nothing_behind(stage: Stage) -> None:
    async with serving(_serve_all, drain_s=0.1) as served, served.connect(receive_buffer=4096) as client:
        await stage(served, client)


async def test_an_answer_to_a_client_that_is_gone_is_no_failure_of_ours() -> None:
    answered = asyncio.Event()

    async def answers_late(exchange: Exchange) -> None:
        await eventually(lambda: exchange._connection._lost)
        exchange.respond(200, [], b"hello")
        answered.set()

    async with serving(answers_late) as served, served.connect() as client:
        await client.send(request(method="PUT"))
        await asyncio.sleep(0.005)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await asyncio.wait_for(answered.wait(), PATIENCE_S)

    assert served.server.counts.failed == 0


async def test_who_sends_to_a_client_that_is_gone_is_told() -> None:
    told = asyncio.Event()

    async def sends_late(exchange: Exchange) -> None:
        await exchange.start(200, [], content_length=10)
        await eventually(lambda: exchange._connection._lost)
        with pytest.raises(ClientGone):
            await exchange.write(b"hello")
        told.set()

    async with serving(sends_late) as served, served.connect() as client:
        await client.ask(request(), method="HEAD")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await asyncio.wait_for(told.wait(), PATIENCE_S)

    assert served.server.counts.failed == 0


async def test_a_body_is_an_error_for_its_handler_when_the_client_goes() -> None:
    told: list[str] = []

    async def reads(exchange: Exchange) -> None:
        try:
            await exchange.body.read(limit=4 * MIB)
        except IncompleteBody as error:
            told.append(str(error))
            raise ClientGone from error

    async with serving(reads) as served, served.connect() as client:
        await in_its_body(served, client)
        client.close()
        await eventually(lambda: told)


async def test_connections_beyond_the_limit_are_told_to_come_back_and_cost_nothing_after_that() -> None:
    async with serving(hello, connections_max=1) as served, served.connect() as first:
        await first.ask(request())
        async with served.connect() as second:
            refused = await second.ask(request())
            assert await second.rest() == b""
        assert (await first.ask(request())).status == 200
        first.close()
        await eventually(lambda: served.server.connections == 0)
        async with served.connect() as third:
            assert (await third.ask(request())).status == 200

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert served.server.counts.refused_connections == 1


async def test_connections_beyond_those_that_are_told_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.edge.server.TURNED_AWAY_MAX", 0)

    async with serving(hello, connections_max=0) as served, served.connect() as client:
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_drain_closes_what_is_idle_and_lets_finish_what_is_under_way() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        if exchange.path == "/slow":
            begun.set()
            await go_on.wait()
        exchange.respond(200, [], b"hello")

    async with serving(waits, drain_s=5.0) as served, served.connect() as idle, served.connect() as busy:
        await idle.ask(request())
        await busy.send(request("/slow") + request("/never"))
        await begun.wait()
        draining = asyncio.create_task(served.server.drain())
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            async with served.connect():
                pytest.fail("nobody listens any more")
        go_on.set()
        response = await busy.response()
        rest = await busy.rest()
        busy.close()
        await draining

    assert (response.body, response.headers["connection"], rest) == (b"hello", "close", b"")
    assert [exchange.path for exchange in served.exchanges] == ["/", "/slow"]


async def test_a_drain_lets_a_slow_client_have_the_answer_it_is_reading() -> None:
    async with serving(_serve_all, drain_s=5.0) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request("/large"))
        await client.until(b"\r\n\r\n")
        draining = asyncio.create_task(served.server.drain())
        received = len(await client.rest())
        client.close()
        await draining

    assert received == 24 * MIB


async def test_a_drain_gives_up_on_what_does_not_finish() -> None:
    async def hangs(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with serving(hangs, drain_s=0.05) as served, served.connect() as client:
        await client.send(request())
        await eventually(lambda: served.server.connections == 1)
        await asyncio.sleep(0.005)
        await served.server.drain()
        assert served.server.connections == 0
        with pytest.raises(ConnectionResetError):
            await client.rest()
