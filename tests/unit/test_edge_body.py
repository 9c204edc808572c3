"""A body as its consumer sees it, and what it holds while nobody consumes it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from seawall.edge import Body
from seawall.edge.body import BATCH_BYTES, HELD_MAX_BYTES, HELD_MIN_BYTES, BodyMemory
from seawall.errors import IncompleteBody, Invalid, Overloaded


@dataclass(slots=True)
class Told:
    """What the connection was told by its body, in order."""

    words: list[str] = field(default_factory=list)
    memory: BodyMemory = field(default_factory=lambda: BodyMemory(limit_bytes=64 * 1024 * 1024))

    def body(self, length: int | None, *, expects: bool = False) -> Body:
        """Make a body that tells everything here."""
        return Body(
            length,
            memory=self.memory,
            say_continue=(lambda: self.words.append("continue")) if expects else None,
            stop_receiving=lambda: self.words.append("stop"),
            go_on_receiving=lambda: self.words.append("go on"),
        )


async def test_a_body_that_is_here_is_read_without_copying_it() -> None:
    data = b"hello"
    body = Told().body(5)
    rest = body.feed(data + b"GET")

    [read] = await body.read(limit=5)

    assert (read.obj, bytes(read), rest) == (data + b"GET", data, b"GET")


async def test_a_body_in_pieces_is_joined() -> None:
    body = Told().body(10)
    body.feed(b"hello")
    reading = asyncio.create_task(body.read(limit=10))
    await asyncio.sleep(0)
    body.feed(b"there")

    assert b"".join(await reading) == b"hellothere"


@pytest.mark.parametrize("length", [11, None])
async def test_a_body_longer_than_wanted_is_refused_before_it_is_here(length: int | None) -> None:
    told = Told()
    body = told.body(length)
    body.feed(b"b\r\nhello there\r\n" if length is None else b"hello")

    with pytest.raises(Invalid, match="longer than 10 bytes"):
        await body.read(limit=10)

    body.release()
    assert told.memory.held_bytes == 0


async def test_a_consumer_gets_what_came_before_it_hears_of_the_failure() -> None:
    told = Told()
    body = told.body(10)
    body.feed(b"hello")
    body.fail(IncompleteBody())
    batches = body.batches()

    first = await anext(batches)
    with pytest.raises(IncompleteBody):
        await anext(batches)

    assert b"".join(first) == b"hello"
    assert told.memory.held_bytes == 0


async def test_a_failure_after_the_last_byte_is_none() -> None:
    body = Told().body(5)
    body.feed(b"hello")
    body.fail(IncompleteBody())

    assert b"".join(await body.read(limit=5)) == b"hello"


async def test_receiving_stops_when_too_much_is_held_and_goes_on_when_it_is_taken() -> None:
    told = Told()
    body = told.body(4 * HELD_MAX_BYTES)
    batches = body.batches()

    body.feed(bytes(HELD_MAX_BYTES // 2))
    assert told.words == []
    body.feed(bytes(HELD_MAX_BYTES // 2))
    assert told.words == ["stop"]
    await anext(batches)

    assert told.words == ["stop", "go on"]
    assert told.memory.held_bytes == 0


async def test_a_body_whose_end_is_here_does_not_stop_anything() -> None:
    told = Told()
    body = told.body(2 * HELD_MAX_BYTES)
    body.feed(bytes(2 * HELD_MAX_BYTES))

    assert told.words == []
    assert not body.paused


def test_the_less_memory_is_free_the_less_a_body_may_hold() -> None:
    memory = BodyMemory(limit_bytes=64 * 1024 * 1024)

    plenty = memory.threshold_bytes
    memory.held_bytes = memory.limit_bytes - 1024 * 1024
    little = memory.threshold_bytes
    memory.held_bytes = 2 * memory.limit_bytes

    assert (plenty, little, memory.threshold_bytes) == (HELD_MAX_BYTES, 128 * 1024, HELD_MIN_BYTES)
    assert memory.scarce


def test_bytes_sent_one_by_one_count_as_what_they_take() -> None:
    told = Told()
    body = told.body(1_000_000)

    fed = 0
    while not body.paused:
        body.feed(b"x")
        fed += 1

    assert fed < 3000


async def test_the_client_is_asked_for_its_body_once_and_only_if_it_waits_for_that() -> None:
    told = Told()

    for body in (told.body(5, expects=True), told.body(5), told.body(0)):
        reading = asyncio.create_task(body.read(limit=5))
        await asyncio.sleep(0)
        if body.length:
            body.feed(b"hello")
        await reading
    already = told.body(5, expects=True)
    already.feed(b"hello")
    await already.read(limit=5)

    assert told.words == ["continue"]


async def test_a_body_is_read_once() -> None:
    body = Told().body(5)
    body.feed(b"hello")
    await body.read(limit=5)

    with pytest.raises(RuntimeError, match="once"):
        await body.read(limit=5)


async def test_a_consumer_that_outlives_its_exchange_is_told() -> None:
    body = Told().body(5)
    reading = asyncio.create_task(body.read(limit=5))
    await asyncio.sleep(0)

    body.release()

    with pytest.raises(IncompleteBody):
        await reading


async def test_a_consumer_that_is_cancelled_leaves_a_body_that_can_go_on() -> None:
    told = Told()
    body = told.body(5)
    reading = asyncio.create_task(body.read(limit=5))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])

    body.feed(b"hello")
    body.release()

    assert told.memory.held_bytes == 0


async def test_a_body_read_whole_counts_as_held_until_it_is_released() -> None:
    told = Told(memory=BodyMemory(limit_bytes=100_000))
    first, second = told.body(60_000), told.body(60_000)
    first.feed(bytes(60_000))
    await first.read(limit=60_000)

    assert told.memory.held_bytes == 60_000
    assert second.memory_is_scarce
    second.feed(bytes(50_000))
    with pytest.raises(Overloaded):
        await second.read(limit=60_000)
    for body in (first, second):
        body.release()
    assert told.memory.held_bytes == 0


async def test_a_consumer_of_batches_is_woken_for_a_good_batch_and_at_the_end() -> None:
    told = Told()
    body = told.body(BATCH_BYTES + 2000)
    batches = body.batches()
    first = asyncio.ensure_future(anext(batches))
    body.feed(bytes(1000))
    await asyncio.sleep(0)
    assert not first.done()

    body.feed(bytes(BATCH_BYTES))
    assert sum(map(len, await first)) == BATCH_BYTES + 1000
    last = asyncio.ensure_future(anext(batches))
    body.feed(bytes(1000))

    assert sum(map(len, await last)) == 1000
    assert [pieces async for pieces in batches] == []


async def test_the_less_memory_is_free_the_smaller_a_batch_is_good_enough() -> None:
    told = Told(memory=BodyMemory(limit_bytes=64 * 1024 * 1024))
    body = told.body(4 * BATCH_BYTES)
    batches = body.batches()
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    told.memory.held_bytes += 64 * 1024 * 1024

    body.feed(bytes(HELD_MIN_BYTES // 2))

    assert sum(map(len, await waiting)) == HELD_MIN_BYTES // 2
    body.release()
    assert told.memory.held_bytes == 64 * 1024 * 1024


def test_what_is_dropped_is_counted_and_not_held() -> None:
    told = Told()
    body = told.body(10)
    body.feed(b"hello")
    body.release()

    rest = body.feed(b"there" + b"GET")

    assert (rest, body.received, body.is_complete(), told.memory.held_bytes) == (b"GET", 10, True, 0)


def test_nothing_is_kept_of_a_body_that_is_broken() -> None:
    told = Told()
    body = told.body(None)

    assert body.feed(b"nonsense\r\n") == b""
    assert body.feed(b"5\r\nhello\r\n0\r\n\r\nGET") == b""
    assert not body.is_complete()
    assert told.memory.held_bytes == 0


@pytest.mark.parametrize(
    ("state", "awaited"),
    [("fresh", True), ("withheld", False), ("asked", True), ("paused", False), ("failed", False), ("complete", False)],
)
def test_it_is_the_clients_turn_unless_it_waits_for_us(state: str, *, awaited: bool) -> None:
    body = Told().body(10, expects=state in {"withheld", "asked"})
    match state:
        case "asked":
            body.feed(b"hello")
        case "paused":
            body.paused = True
        case "failed":
            body.fail(IncompleteBody())
        case "complete":
            body.feed(b"hellohello")

    assert body.awaited is awaited
