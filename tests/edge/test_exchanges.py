"""Requests are answered in order, once each, and what a handler does wrong is told to the client cleanly."""

import asyncio
import socket
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.edge.kit import MIB, echo, eventually, hello, request, serving

from seawall.edge import Exchange
from seawall.edge.connection import DISCARD_MAX_BYTES
from seawall.errors import IncompleteBody

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def chunked(target: str, *chunks: bytes) -> bytes:
    """Write a request with a chunked body."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return request(target, "Transfer-Encoding: chunked", method="PUT") + coded


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def slow_first(exchange: Exchange) -> None:
        body = await exchange.body.read(limit=100)
        if exchange.path == "/0":
            await asyncio.sleep(0.02)
        exchange.respond(200, [], exchange.path.encode() + b"".join(body))

    async with serving(slow_first) as served, served.connect() as client:
        await client.send(
            request("/0", body=b"zero") + request("/1") + chunked("/2", b"t", b"wo") + request("/3", body=b"three")
        )
        bodies = [(await client.response()).body for _ in range(4)]

    assert bodies == [b"/0zero", b"/1", b"/2two", b"/3three"]


PIPELINE = st.lists(
    st.one_of(
        st.just(request("/plain")),
        st.just(b"\r\n" + request("/after/an/empty/line")),
        st.binary(min_size=1, max_size=300).map(lambda body: request("/length", body=body)),
        st.lists(st.binary(min_size=1, max_size=100), max_size=4).map(lambda chunks: chunked("/chunked", *chunks)),
        st.just(request("/expecting", "Expect: 100-continue", method="PUT", body=b"unasked")),
        st.binary(min_size=1, max_size=300).map(lambda body: request("/unread", body=body)),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=PIPELINE, cuts=st.lists(st.integers(0, 2000), max_size=40))
async def test_however_a_stream_of_requests_is_cut_into_segments_a_handler_sees_the_same(
    requests: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(requests)
    ends = sorted({cut for cut in cuts if cut < len(stream)} | {0, len(stream)})
    pieces = [stream[start:stop] for start, stop in pairwise(ends)]

    whole = await _observed([stream], count=len(requests))
    cut = await _observed(pieces, count=len(requests))

    assert cut == whole
    assert len(whole) == len(requests)


async def _observed(pieces: list[bytes], *, count: int) -> list[tuple[str, dict[str, str], bytes]]:
    seen = []

    async def note(exchange: Exchange) -> None:
        body = b"" if exchange.path == "/unread" else b"".join(await exchange.body.read(limit=MIB))
        seen.append((exchange.path, exchange.headers, body))
        exchange.respond(200, [])

    async with serving(note) as served, served.connect() as client:
        for piece in pieces:
            await client.send(piece)
            for _ in range(3):
                await asyncio.sleep(0)  # Let the server read this piece by itself.
        await eventually(lambda: len(served.exchanges) == count)
        received = b""
        while received.replace(CONTINUE, b"").count(b"HTTP/1.1 200 OK") < count:
            received += await client.receive()
    return seen


async def test_100_continue_is_said_when_the_body_is_asked_for_and_not_before() -> None:
    asked = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await asked.wait()
        await echo(exchange)

    async with serving(waits) as served, served.connect() as client:
        head, _, body = request("/", "Expect: 100-continue", method="PUT", body=b"hello").rpartition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.until(b"\r\n"), 0.02)
        asked.set()
        assert await client.until(b"\r\n\r\n") == CONTINUE
        response = await client.ask(body)

    assert response.body == b"hello"


@pytest.mark.parametrize(
    "length", ["Content-Length: 0", "Content-Length: 5", "Content-Length: 1000000000", "Transfer-Encoding: chunked"]
)
async def test_refused_before_it_sent_its_body_an_expecting_client_is_told_that_the_connection_ends(
    length: str,
) -> None:
    async with serving(_refuse) as served, served.connect() as client:
        refused = await client.ask(request("/refused", "Expect: 100-continue", length, method="PUT"))
        await client.send(request("/hidden"))
        rest = await client.rest()

    assert refused.status == 403
    assert refused.headers["connection"] == "close"
    assert rest == b""
    assert [exchange.path for exchange in served.exchanges] == ["/refused"]


async def test_leave_is_given_for_an_empty_body_too() -> None:
    async with serving(echo) as served, served.connect() as client:
        await client.send(request("/", "Expect: 100-continue", "Content-Length: 0", method="PUT"))
        leave = await client.until(b"\r\n\r\n")
        answer = await client.response()

    assert leave == CONTINUE
    assert answer.status == 200


async def test_a_small_body_nobody_reads_is_dropped_and_the_connection_lives_on() -> None:
    async with serving(_refuse) as served, served.connect() as client:
        head, _, _ = request("/big", method="PUT", body=b"x" * DISCARD_MAX_BYTES).partition(b"\r\n\r\n")
        refused = await client.ask(head + b"\r\n\r\n")
        await client.send(b"x" * DISCARD_MAX_BYTES)
        following = await client.ask(request("/next"))

    assert (refused.status, following.status) == (403, 403)
    assert [exchange.path for exchange in served.exchanges] == ["/big", "/next"]


@pytest.mark.parametrize("chunks", [False, True])
async def test_a_large_body_nobody_reads_ends_the_connection_after_the_client_has_its_answer(*, chunks: bool) -> None:
    length = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {64 * MIB}"

    async with serving(_refuse) as served, served.connect() as client:
        await client.send(request("/big", length, method="PUT"))
        for _ in range(8):
            await client.send(b"x" * MIB)  # As a client does that reads the answer only when it has sent all.
        refused = await client.response()
        rest = await client.rest()

    assert refused.status == 403
    assert refused.headers["connection"] == "close"
    assert rest == b""
    assert [exchange.path for exchange in served.exchanges] == ["/big"]


async def test_a_client_that_half_closes_gets_the_answers_to_all_it_asked() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await echo(exchange)

    async with serving(slow) as served, served.connect() as client:
        await client.send(request("/0") + request("/1", body=b"one") + request("/2") + b"GET /cut")
        client.stop_sending()
        statuses = [(await client.response()).status for _ in range(3)]
        rest = await client.rest()

    assert statuses == [200, 200, 200]
    assert rest == b""


async def test_a_body_cut_short_by_half_closing_is_an_error_that_the_client_can_read() -> None:
    async def translates(exchange: Exchange) -> None:
        with pytest.raises(IncompleteBody):
            await exchange.body.read(limit=100)
        exchange.respond(400, [])

    async with serving(translates) as served, served.connect() as client:
        await client.send(request("/", "Content-Length: 50", method="PUT") + b"hello")
        client.stop_sending()
        response = await client.response()
        rest = await client.rest()

    assert (response.status, response.headers["connection"], rest) == (400, "close", b"")


async def test_head_is_answered_without_a_body_in_every_way_of_answering() -> None:
    async def answers(exchange: Exchange) -> None:
        match exchange.path:
            case "/respond":
                exchange.respond(200, [], b"hello")
            case "/respond_head":
                exchange.respond_head(200, [], content_length=5)
            case "/start":
                await exchange.start(200, [], content_length=5)

    async with serving(answers) as served, served.connect() as client:
        responses = [
            await client.ask(request(path, method="HEAD"), method="HEAD")
            for path in ("/respond", "/respond_head", "/start", "/respond")
        ]

    assert [response.headers["content-length"] for response in responses] == ["5"] * 4
    assert [exchange.sent_bytes for exchange in served.exchanges] == [0] * 4


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body_say_no_length_and_send_none(status: int) -> None:
    async def answers(exchange: Exchange) -> None:
        exchange.respond(status, [("ETag", '"a"')], b"must not be sent")

    async with serving(answers) as served, served.connect() as client:
        first, second = await client.ask(request()), await client.ask(request())

    assert first.status == second.status == status
    assert "content-length" not in first.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "b\r\nX-C: d"), ("X-A", "b\nX-C: d"), ("X-A", "b\rc"), ("X-A", "b\0c"), ("X-A\r\nX-C", "d"), ("X-A", "€")],
)
async def test_a_header_that_would_split_the_answer_is_an_internal_error(name: str, value: str) -> None:
    async def answers(exchange: Exchange) -> None:
        exchange.respond(200, [(name, value)])

    async with serving(answers) as served, served.connect() as client:
        response = await client.ask(request())
        rest = await client.rest()

    assert response.status == 500
    assert "x-c" not in response.headers
    assert rest == b""
    assert served.server.counts.failed == 1


async def _raises(exchange: Exchange) -> None:
    raise ZeroDivisionError


async def _raises_while_the_body_comes(exchange: Exchange) -> None:
    async for _ in exchange.body.batches():
        raise ZeroDivisionError


async def _does_not_answer(exchange: Exchange) -> None:
    return


async def _answers_with_100(exchange: Exchange) -> None:
    exchange.respond(100, [])


async def _answers_with_an_unknown_status(exchange: Exchange) -> None:
    exchange.respond(299, [])


@pytest.mark.parametrize(
    "handler",
    [_raises, _raises_while_the_body_comes, _does_not_answer, _answers_with_100, _answers_with_an_unknown_status],
)
async def test_a_handler_that_fails_before_it_answers_is_an_internal_error(
    handler: Callable[[Exchange], "asyncio.Future[None]"],
) -> None:
    async with serving(handler) as served, served.connect() as client:
        response = await client.ask(request("/", body=b"hello"))
        rest = await client.rest()

    assert (response.status, response.headers["connection"], rest) == (500, "close", b"")
    assert served.exchanges[0].status == 500


async def test_a_handler_that_fails_after_a_whole_answer_takes_nothing_from_it() -> None:
    async def answers_twice(exchange: Exchange) -> None:
        exchange.respond(200, [], b"first")
        exchange.respond(200, [], b"second")

    async with serving(answers_twice) as served, served.connect() as client:
        response = await client.ask(request())
        rest = await client.rest()

    assert (response.status, response.body, rest) == (200, b"first", b"")
    assert served.server.counts.failed == 1


async def _stops_short(exchange: Exchange) -> None:
    await exchange.start(200, [], content_length=1000)
    await exchange.write(b"hello")


async def _fails_midway(exchange: Exchange) -> None:
    await _stops_short(exchange)
    raise ZeroDivisionError


async def _sends_too_much(exchange: Exchange) -> None:
    await exchange.start(200, [], content_length=10)
    await exchange.write(b"hello")
    await exchange.write(b"hello, hello")


async def _is_cancelled_midway(exchange: Exchange) -> None:
    await exchange.start(200, [], content_length=64 * MIB)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await exchange.write(bytes(64 * MIB))


async def _sends_a_file_that_shrank(exchange: Exchange) -> None:
    await exchange.start(200, [], content_length=2**40)
    with Path(__file__).open("rb") as file:
        await exchange.send_file(file.fileno(), start=0, stop=2**40)


@pytest.mark.parametrize(
    "handler", [_stops_short, _fails_midway, _sends_too_much, _is_cancelled_midway, _sends_a_file_that_shrank]
)
async def test_an_answer_cut_short_ends_in_a_reset_so_that_no_client_takes_it_for_the_whole(
    handler: Callable[[Exchange], "asyncio.Future[None]"],
) -> None:
    async with serving(handler) as served, served.connect() as client:
        await client.send(request("/") + request("/never"))
        await eventually(lambda: served.exchanges)
        with pytest.raises(ConnectionResetError):
            await client.rest()

    assert [exchange.path for exchange in served.exchanges] == ["/"]


async def test_a_file_goes_out_beside_the_bytes_written_around_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 8192)

    async def sends(exchange: Exchange) -> None:
        await exchange.start(200, [], content_length=5 + MIB + 3)
        await exchange.write(b"begin")
        with path.open("rb") as file:
            await exchange.send_file(file.fileno(), start=1, stop=MIB + 1)
        await exchange.write(memoryview(b"end"))

    async with serving(sends) as served, served.connect() as client:
        first, second = await client.ask(request()), await client.ask(request())

    assert first.body == second.body == b"begin" + path.read_bytes()[1 : MIB + 1] + b"end"
    assert served.exchanges[0].sent_bytes == 5 + MIB + 3


async def test_a_large_answer_through_the_transport_is_followed_by_the_next_one_whole() -> None:
    async def large(exchange: Exchange) -> None:
        if exchange.path == "/streamed":
            await exchange.start(200, [], content_length=9)
            await exchange.write(b"/streamed")
        else:
            exchange.respond(200, [], exchange.path.encode() * MIB)

    async with serving(large) as served, served.connect(receive_buffer=4096) as client:
        await client.send(request("/a") + request("/streamed") + request("/b"))
        await asyncio.sleep(0.02)
        bodies = [(await client.response()).body for _ in range(3)]

    assert bodies == [b"/a" * MIB, b"/streamed", b"/b" * MIB]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Keep-Alive, Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: closed\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", False),
    ],
)
async def test_a_connection_is_kept_only_if_both_sides_know(sent: bytes, *, kept: bool) -> None:
    async with serving(hello) as served, served.connect() as client:
        response = await client.ask(sent)
        assert ("connection" not in response.headers) == kept
        if kept:
            assert (await client.ask(sent)).status == 200
        else:
            assert await client.rest() == b""


async def test_answers_are_sent_without_waiting_for_more() -> None:
    async with serving(hello) as served, served.connect() as client:
        await client.ask(request())
        (connection,) = served.server._connections
        accepted = connection._transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def _refuse(exchange: Exchange) -> None:
    exchange.respond(403, [], b"refused")
