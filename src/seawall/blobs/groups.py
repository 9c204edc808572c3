"""Commit together what arrives while the commit before it runs.

A disk answers one fsync for a hundred writers as fast as for one. This module knows nothing of what
is committed: it queues, forms groups, and hands each caller its answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from seawall.errors import Overloaded
from seawall.telemetry.segments import unwatched

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """How much may wait, and how much goes into one commit."""

    queue_max: int
    queue_max_bytes: int
    group_max: int
    group_max_bytes: int


class GroupCommit(Generic[Item, Answer]):
    """One commit at a time for all who wait. State: the queue, and the loop that drains it.

    `commit` runs in a thread of `executor`. It returns one answer per item, in order, or raises: then
    every member of that group gets the error, and nobody else does.
    """

    def __init__(
        self, commit: Callable[[Sequence[Item]], Sequence[Answer]], *, executor: Executor, limits: GroupLimits
    ) -> None:
        self.groups = 0
        self._commit = commit
        self._executor = executor
        self._limits = limits
        self._queue: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._queued_bytes = 0
        self._draining: asyncio.Task[None] | None = None

    async def join(self, item: Item, *, size_bytes: int = 0) -> Answer:
        """Return the answer to `item` once its group is committed.

        A caller cancelled before its group starts is left out of it; afterwards it may be committed.

        Raises:
            Overloaded: the queue is full. Nothing was done.
        """
        limits = self._limits
        if len(self._queue) >= limits.queue_max or self._queued_bytes + size_bytes > limits.queue_max_bytes:
            raise Overloaded
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, size_bytes, waiter))
        self._queued_bytes += size_bytes
        if self._draining is None:
            self._draining = asyncio.create_task(unwatched(self._drain()))
        return await waiter

    async def idle(self) -> None:
        """Wait until nothing is queued and nothing runs."""
        while self._draining is not None:
            await asyncio.wait([self._draining])

    async def _drain(self) -> None:
        waiters: list[asyncio.Future[Answer]] = []
        try:
            while self._queue:
                items, waiters = self._next_group()
                if items:
                    await self._commit_group(items, waiters)
        finally:
            self._draining = None
            for waiter in (*waiters, *(entry[2] for entry in self._queue)):
                waiter.cancel()  # only when the drain itself is cancelled is any of them still waiting

    def _next_group(self) -> tuple[list[Item], list[asyncio.Future[Answer]]]:
        items: list[Item] = []
        waiters: list[asyncio.Future[Answer]] = []
        group_bytes = 0
        while self._queue and len(items) < self._limits.group_max:
            item, size_bytes, waiter = self._queue[0]
            if items and group_bytes + size_bytes > self._limits.group_max_bytes:
                break
            self._queue.popleft()
            self._queued_bytes -= size_bytes
            if not waiter.done():
                items.append(item)
                waiters.append(waiter)
                group_bytes += size_bytes
        return items, waiters

    async def _commit_group(self, items: list[Item], waiters: list[asyncio.Future[Answer]]) -> None:
        self.groups += 1
        running = asyncio.get_running_loop().run_in_executor(self._executor, self._commit, items)
        await asyncio.wait([running])
        error = running.exception()
        if error is None:
            for waiter, answer in zip(waiters, running.result(), strict=True):
                if not waiter.done():
                    waiter.set_result(answer)
        else:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)

    def __repr__(self) -> str:
        return f"GroupCommit(queued={len(self._queue)}, queued_bytes={self._queued_bytes}, groups={self.groups})"
