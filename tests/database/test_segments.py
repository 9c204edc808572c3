"""On a request's stopwatch, what waits for the database waits, and what is at the server is at the server."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.database.test_batching import BAD, FINE, READ, WRITE, FakeDatabase, a_batcher, assert_nothing_is_left, soon

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint, Query
from seawall.telemetry.segments import STOPWATCH, Segment, Stopwatch

SLEEP = Query(name="tests.sleep", why="a test", sql="select /* tests.sleep */ pg_sleep($1)")
PAUSE_S = 0.05
MUCH_S = 0.8 * PAUSE_S


def begun() -> Stopwatch:
    """Begin a request in the running task."""
    watch = Stopwatch(monotonic_s())
    STOPWATCH.set(watch)
    return watch


def check_it_adds_up(watch: Stopwatch, started_s: float) -> None:
    assert watch.running is Segment.OTHER
    assert min(watch.sums_s) >= 0
    assert math.fsum(watch.sums_s) == pytest.approx(watch.since_s - started_s, abs=1e-9)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_row_waits_for_its_batch_and_then_for_the_server() -> None:
    fake = FakeDatabase(gate=asyncio.Event(), durations=[50])
    batcher = a_batcher(fake, READ)
    watch = begun()
    ran: list[Segment] = []

    asked = asyncio.ensure_future(batcher.ask(("a", 0), deadline_s=soon()))
    await asyncio.sleep(PAUSE_S)
    ran.append(watch.running)
    assert fake.gate is not None
    fake.gate.set()
    while not fake.statements:
        await asyncio.sleep(0)
    ran.append(watch.running)
    await asked
    ran.append(watch.running)

    assert ran == [Segment.DATABASE_WAIT, Segment.DATABASE, Segment.OTHER]
    assert watch.sums_s[Segment.DATABASE_WAIT] >= MUCH_S
    assert watch.sums_s[Segment.DATABASE] > 0
    await assert_nothing_is_left(batcher)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    step: int
    key: str
    kind: str
    cancelled_after: int | None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    calls=st.lists(
        st.builds(
            Call,
            step=st.integers(0, 8),
            key=st.sampled_from("abc"),
            kind=st.sampled_from([FINE, FINE, BAD]),
            cancelled_after=st.one_of(st.none(), st.integers(0, 6)),
        ),
        max_size=20,
    ),
    writes=st.booleans(),
    lost=st.frozensets(st.integers(0, 4)),
)
async def test_whatever_happens_segments_add_up_and_what_ran_before_runs_again(
    calls: Sequence[Call], *, writes: bool, lost: frozenset[int]
) -> None:
    batcher = a_batcher(FakeDatabase(durations=[1, 3, 0], lost=lost), WRITE if writes else READ)

    async def one(number: int, call: Call) -> None:
        for _ in range(call.step):
            await asyncio.sleep(0)
        watch = begun()
        started_s = watch.since_s
        asked = asyncio.ensure_future(batcher.ask((call.key, number, call.kind), deadline_s=soon()))
        if call.cancelled_after is not None:
            for _ in range(call.cancelled_after):
                await asyncio.sleep(0)
            asked.cancel()
        await asyncio.wait([asked])
        asked.cancelled() or asked.exception()
        check_it_adds_up(watch, started_s)
        # Nothing may touch it later: it is the request's last word.
        sums_s = [*watch.sums_s]
        for _ in range(10):
            await asyncio.sleep(0)
        assert watch.sums_s == sums_s

    await asyncio.gather(*(one(number, call) for number, call in enumerate(calls)))
    await assert_nothing_is_left(batcher)


async def test_a_statement_by_itself_waits_for_a_connection_and_then_for_the_server(
    database_endpoint: Endpoint,
) -> None:
    async with Database(database_endpoint, DatabaseSettings(), application_name="tests", connections=1) as database:

        async def hog() -> None:
            await database.fetch(SLEEP, 2 * PAUSE_S)

        hogging = asyncio.create_task(hog())
        await until(lambda: database.pool.holds.lent)
        watch = begun()
        started_s = watch.since_s
        await database.fetch(SLEEP, PAUSE_S)
        async with database.transaction() as transaction:
            await transaction.fetch(SLEEP, PAUSE_S)
        await hogging

        check_it_adds_up(watch, started_s)
        assert watch.sums_s[Segment.DATABASE_WAIT] > 0
        assert watch.sums_s[Segment.DATABASE] >= 2 * MUCH_S
        assert database.pool.durations["tests.sleep"].total >= 4 * MUCH_S
        assert database.pool.holds.ended == 3
        assert database.pool.holds.held_s(monotonic_s()) == database.pool.holds.ended_s >= 4 * MUCH_S
