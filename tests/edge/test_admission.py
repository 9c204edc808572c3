"""Requests that are put off: nothing is started for them, and the connection is as good afterwards as may be."""

import asyncio
from dataclasses import dataclass, field

import pytest
from tests.edge.kit import Served, eventually, hello, request, serving

from seawall.edge import Exchange, PutOff

DELAY_S = 0.1


@dataclass(slots=True)
class Doorman:
    """Puts off what asks for `/no`, closes what asks for `/shut`. State: what it saw."""

    started: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def admit(self, exchange: Exchange) -> PutOff | None:
        if exchange.path == "/shut":
            return PutOff(0.0, None)
        return PutOff(DELAY_S, self.answer) if exchange.path == "/no" else None

    def answer(self, exchange: Exchange) -> None:
        self.answered.append(exchange.path)
        exchange.respond(503, [("Retry-After", "1")], b"later")

    async def handle(self, exchange: Exchange) -> None:
        self.started.append(exchange.path)
        exchange.respond(200, [], b"yes")


@pytest.fixture
def doorman() -> Doorman:
    return Doorman()


async def test_who_is_put_off_hears_of_it_later_and_may_ask_again_on_the_same_connection(doorman: Doorman) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        began_s = asyncio.get_running_loop().time()
        refused = await client.ask(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
        took_s = asyncio.get_running_loop().time() - began_s
        then = await client.ask(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (refused.status, refused.headers["retry-after"], refused.body) == (503, "1", b"later")
    assert took_s >= DELAY_S * 0.9
    assert "connection" not in refused.headers
    assert then.body == b"yes"
    assert doorman.started == ["/yes"]


async def test_a_small_body_is_dropped_and_the_connection_lives_on(doorman: Doorman) -> None:
    body = b"x" * 60_000
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        head = b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
        refused = await client.ask(head, body)
        assert served.server.body_memory.held_bytes == 0
        then = await client.ask(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")

    assert refused.status == 503
    assert then.body == b"yes"


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n",
        b"PUT /no HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["large", "of unknown length", "withheld"],
)
async def test_a_body_that_is_large_or_may_or_may_not_come_ends_the_connection_in_order(
    doorman: Doorman, head: bytes
) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        refused = await client.ask(head)
        rest = await client.rest()

    assert refused.status == 503
    assert refused.headers["connection"] == "close"
    assert rest == b""
    assert doorman.started == []


async def test_bytes_of_a_large_body_are_not_taken_while_the_refusal_waits(doorman: Doorman) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        await client.send(b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        sending = asyncio.ensure_future(client.send(*([b"x" * 65536] * 1000)))
        refused = await client.response()
        received = served.exchanges[0].body.received if served.exchanges else 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert refused.status == 503
    assert received < 4 * 1024 * 1024


async def test_what_is_pipelined_and_put_off_is_not_received_either() -> None:
    served_one = asyncio.Event()
    doorman = Doorman()

    async def handle(exchange: Exchange) -> None:
        await served_one.wait()
        exchange.respond(200, [], b"yes")

    async with serving(handle, admit=doorman.admit) as served, served.connect() as client:
        await client.send(request("/yes") + request("/no", "Content-Length: 100000000", method="PUT"))
        sending = asyncio.ensure_future(client.send(*([b"x" * 65536] * 1000)))
        await asyncio.sleep(0.02)
        served_one.set()
        answers = [await client.response(), await client.response()]
        received = served.exchanges[1].body.received
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    assert [answer.status for answer in answers] == [200, 503]
    assert received < 4 * 1024 * 1024


@pytest.mark.parametrize("is_pipelined", [False, True])
async def test_nothing_behind_a_broken_chunk_is_taken_for_a_request(doorman: Doorman, *, is_pipelined: bool) -> None:
    broken = request("/no", "Transfer-Encoding: chunked", method="PUT") + b"ZZ\r\n"
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        await client.send((request("/yes") if is_pipelined else b"") + broken)
        await asyncio.sleep(0.02)
        await client.send(b"0\r\n\r\n" + request("/smuggled"))
        answers = [await client.response() for _ in range(1 + is_pipelined)]
        rest = await client.rest()

    assert answers[-1].status == 503
    assert answers[-1].headers["connection"] == "close"
    assert rest == b""
    assert "/smuggled" not in doorman.started


async def test_where_too_many_wait_the_connection_is_closed_without_a_word(doorman: Doorman) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        await client.send(b"GET /shut HTTP/1.1\r\nHost: a\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await client.receive()

    assert doorman.started == []


async def test_who_leaves_while_being_put_off_leaves_nothing_behind(doorman: Doorman) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served:
        async with served.connect() as client:
            await client.send(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
            client.reset()
        await eventually(lambda: not served.server.connections)
        assert [exchange.status for exchange in served.exchanges] == [0]
    assert doorman.answered == []


async def test_draining_waits_for_those_who_are_put_off(doorman: Doorman) -> None:
    async with serving(doorman.handle, admit=doorman.admit) as served, served.connect() as client:
        await client.send(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.02)
        await served.server.drain()
        refused = await client.response()

    assert refused.status == 503
    assert refused.headers["connection"] == "close"


async def test_a_read_is_stopped_when_its_client_resets_the_connection_and_a_write_is_not() -> None:
    stopped: list[str] = []
    going_on = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        try:
            await going_on.wait()
        except asyncio.CancelledError:
            stopped.append(exchange.method)
            raise
        exchange.respond(200, [], b"")

    async def begin(served: Served, method: bytes) -> None:
        async with served.connect() as client:
            await client.send(method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await asyncio.sleep(0.05)
            client.reset()
            await asyncio.sleep(0.05)

    async with serving(handle) as served:
        await begin(served, b"GET")
        await begin(served, b"PUT")
        assert stopped == ["GET"]
        going_on.set()


async def test_a_request_whose_task_is_cancelled_before_it_begins_is_over_all_the_same(doorman: Doorman) -> None:
    def admit(exchange: Exchange) -> None:
        asyncio.get_running_loop().call_soon(exchange._connection.abort)

    async with serving(doorman.handle, admit=admit) as served, served.connect() as client:
        await client.send(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: served.exchanges)

        assert doorman.started == []
        assert served.server.connections == 0
    assert len(served.exchanges) == 1


async def test_a_request_whose_admission_fails_leaves_nothing_behind(doorman: Doorman) -> None:
    def admit(exchange: Exchange) -> None:
        raise RuntimeError("it was not foreseen")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    async with serving(doorman.handle, admit=admit) as served, served.connect() as client:
        await client.send(b"GET /yes HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: served.server.counts.accepted and not served.server.connections)

    assert len(served.exchanges) == len(told) == 1


async def test_one_client_cannot_take_all_connections() -> None:
    async with serving(hello, connections_per_client_max=2) as served:
        async with served.connect() as first, served.connect() as second, served.connect() as third:
            answers = [await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") for client in (first, second)]
            refused = await third.response()
        await eventually(lambda: not served.server.connections)
        async with served.connect() as again:
            afterwards = await again.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert [answer.status for answer in answers] == [200, 200]
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    assert afterwards.status == 200
    assert served.server.counts.refused_connections == 1
