"""The threads that wait for the disk, so that the event loop need not.

One pool for everything, and one thread kept back for the group commit of small blobs: large bodies
may fill the pool, and small ones must not queue behind them.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from mmap import mmap
from typing import ParamSpec, TypeVar

from seawall.telemetry.segments import unwatched

P = ParamSpec("P")
T = TypeVar("T")


class DiskThreads:
    """Runs blocking calls. State: its threads, and the work that outlives its caller."""

    def __init__(self, *, threads: int, buffer_bytes: int) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="blobs")
        self.appender = ThreadPoolExecutor(1, thread_name_prefix="blobs-append")
        self._kept: set[asyncio.Task[object]] = set()
        self._buffer_bytes = buffer_bytes
        self._local = threading.local()

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread of the pool make a call, whatever becomes of the caller."""
        return self.pool.submit(call, *args, **kwargs)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the call returns. A cancelled caller stops waiting; the call is still made."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(call, *args, **kwargs)))

    def buffer(self) -> memoryview:
        """Return the calling thread's own buffer; the thread's next call reuses it."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            # Mapped, so that it begins where a page does: direct writes need that.
            buffer = self._local.buffer = memoryview(mmap(-1, self._buffer_bytes))
        return buffer

    def keep(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Start work that must reach its end though its caller be cancelled."""
        task = asyncio.create_task(unwatched(work))
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    async def close(self) -> None:
        """Wait for all that was started, then stop the threads."""
        while self._kept:
            await asyncio.wait(self._kept)
            await asyncio.sleep(0)  # so that what follows on a task's end has been submitted too
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        self.pool.shutdown()
        self.appender.shutdown()

    def __repr__(self) -> str:
        return f"DiskThreads(kept={len(self._kept)})"
