"""How late the loop is: one pause is none of its fault, one after the other is."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio

from seawall.telemetry.loop_lag import INTERVAL_S, LoopLag

PAUSE_S = 0.06


@pytest_asyncio.fixture
async def lag() -> AsyncIterator[LoopLag]:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(2 * INTERVAL_S)
    lag.take_least_s()
    lag.take_greatest_s()
    yield lag
    lag.stop()


async def test_a_pause_that_is_all_there_was_of_a_stretch_is_no_lag(lag: LoopLag) -> None:
    time.sleep(INTERVAL_S + PAUSE_S)
    await asyncio.sleep(0.001)

    assert lag.take_greatest_s() >= PAUSE_S / 2
    assert lag.take_least_s() < PAUSE_S / 2


async def test_a_loop_that_is_late_each_time_lags_in_the_next_stretch(lag: LoopLag) -> None:
    async def overwork() -> None:
        while True:
            time.sleep(PAUSE_S)
            await asyncio.sleep(0)

    working = asyncio.create_task(overwork())
    await asyncio.sleep(4 * PAUSE_S)
    lag.take_least_s()
    await asyncio.sleep(4 * PAUSE_S)
    working.cancel()

    assert lag.take_least_s() >= 0.01


async def test_who_asks_again_right_after_a_pause_hears_of_no_lag(lag: LoopLag) -> None:
    await asyncio.sleep(2 * INTERVAL_S)
    time.sleep(0.3)
    await asyncio.sleep(0)
    lag.take_least_s()

    assert lag.take_least_s() < 0.2
