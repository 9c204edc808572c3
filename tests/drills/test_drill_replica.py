"""A replica for drills follows, lags when told to, catches up, and is gone afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from seawall.database import Endpoint
from seawall.database.session import Session, open_session
from seawall.drills.faults import Place, fault_named
from seawall.drills.replica import Replica, streaming_replica
from seawall.drills.undo import until

SOON_S = 5.0


@asynccontextmanager
async def session_of(endpoint: Endpoint) -> AsyncIterator[Session]:
    session = await open_session(endpoint, application_name="a test")
    try:
        yield session
    finally:
        session.drop()


async def test_a_replica_follows_lags_when_told_to_and_catches_up(
    place: Place, open_directory: Callable[[], Path]
) -> None:
    fault = fault_named("replica-lagging")
    assert fault is not None
    directory = open_directory()
    async with (
        streaming_replica(superuser=place.superuser, service=place.service, directory=directory) as replica,
        session_of(place.superuser) as primary,
        session_of(replica.service) as reader,
    ):
        there = replace(place, replicas=(replica.superuser,))

        async def shows(number: int) -> bool:
            return bool(await reader.value("select max(n) from drill_marks", within_s=SOON_S) == number)

        await primary.run("create table drill_marks (n integer); insert into drill_marks values (1)", within_s=SOON_S)
        await primary.run("grant select on drill_marks to public", within_s=SOON_S)
        await asyncio.sleep(0.3)
        await until(lambda: shows(1), within_s=SOON_S, what="the replica follows")
        async with fault.inject(there):
            await primary.run("insert into drill_marks values (2)", within_s=SOON_S)
            await asyncio.sleep(0.7)
            assert await shows(1)
        await until(lambda: shows(2), within_s=SOON_S, what="the replica follows again")
        assert await lag_of(replica) == 0
        await primary.run("drop table drill_marks", within_s=SOON_S)

    assert not Path(f"/proc/{replica.pid}").exists()
    assert not directory.exists()


async def test_a_lag_that_is_cancelled_is_taken_back(place: Place, open_directory: Callable[[], Path]) -> None:
    fault = fault_named("replica-lagging")
    assert fault is not None
    broken = asyncio.Event()
    async with streaming_replica(
        superuser=place.superuser, service=place.service, directory=open_directory()
    ) as replica:

        async def drill() -> None:
            async with fault.inject(replace(place, replicas=(replica.superuser,))):
                broken.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(drill())
        await asyncio.wait_for(broken.wait(), SOON_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await lag_of(replica) == 0


async def lag_of(replica: Replica) -> int:
    """Return the delay it was told to have, in milliseconds."""
    async with session_of(replica.superuser) as session:
        return int(
            await session.value(
                "select setting from pg_settings where name = 'recovery_min_apply_delay'", within_s=SOON_S
            )
        )
