"""Putting right what a drill broke, whatever becomes of the drill."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from seawall.clock import monotonic_s

POLL_S = 0.05


async def see_through(work: Coroutine[object, object, None]) -> None:
    """Run work to its end, even when the caller is cancelled meanwhile, however often; that is raised afterwards.

    For putting right, and for what could not be put right while nobody knows whether it was done. It has bounds of its
    own.
    """
    task = asyncio.create_task(work, name="see through")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def until(condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> None:
    """Wait for something that does not tell when it happens.

    Raises:
        TimeoutError: it did not happen in time.
    """
    deadline_s = monotonic_s() + within_s
    while not await condition():
        if monotonic_s() > deadline_s:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
