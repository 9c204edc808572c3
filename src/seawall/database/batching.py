"""Statements that wait together go together.

While one statement is at the server, those that arrive meanwhile are merged into the next: the
same work for fewer round trips, and the more so the more arrive. A batch is a named query whose
parameters are arrays, one element a caller. Its rows say whom they answer: by `ordinal` (from 1), or,
because INSERT cannot return one, by `answers`, which repeats a value only that caller gave.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.pool import CONNECTION_LOST, Pool
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded, Overloaded, SeawallError

# More keys a statement save little more, and make the last caller wait for the first's row.
WIDTH_MAX = 128
WAITERS_MAX = 4096


@dataclass(slots=True, eq=False)
class Waiter:
    """One caller, and what it asked."""

    row: Sequence[object]
    answer: "asyncio.Future[asyncpg.Record | None]"
    deadline_s: float


@dataclass(slots=True)
class BatchCounts:
    """What a batcher did so far: statements sent, rows in them, callers turned away."""

    statements: int = 0
    rows: int = 0
    refused: int = 0
    expired: int = 0


class Batcher:
    """Merges calls of one query. State: who waits, what is under way.

    Args:
        lanes: how many statements of this query may be at the server at once.
        identity_width: 0 for reads. For writes, how many leading columns say which row is
            written: no two statements under way, nor two rows of one, share them, and a batch is
            sorted by them, so that two batches cannot lock each other out.
        echo: which column the query gives back as `answers`; None where it gives `ordinal`.
    """

    def __init__(
        self, query: Query, pool: Pool, *, lanes: int, identity_width: int = 0, echo: int | None = None
    ) -> None:
        self.counts = BatchCounts()
        self._query = query
        self._pool = pool
        self._lanes = lanes
        self._identity_width = identity_width
        self._echo = echo
        self._waiting: deque[Waiter] = deque()
        self._running: set[asyncio.Task[None]] = set()
        # A lane was made and takes everybody who comes before its first step.
        self._starting = False
        self._under_way: set[tuple[object, ...]] = set()

    def __repr__(self) -> str:
        return (
            f"<Batcher {self._query.name}: {len(self._waiting)} waiting, {len(self._running)} of {self._lanes} lanes>"
        )

    @property
    def waiting(self) -> int:
        """How many callers wait for their statement to be sent."""
        return len(self._waiting)

    def submit(self, row: Sequence[object], *, deadline_s: float) -> "asyncio.Future[asyncpg.Record | None]":
        """Queue one row; the future gives its answer, or None where the statement returned none.

        Raises:
            Overloaded: too many wait already.
        """
        if len(self._waiting) >= WAITERS_MAX:
            self.counts.refused += 1
            raise Overloaded
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[asyncpg.Record | None] = loop.create_future()
        self._waiting.append(Waiter(row, answer, deadline_s))
        if not self._starting and len(self._running) < self._lanes:
            self._start_lane(loop)
        return answer

    async def close(self) -> None:
        """Let what is under way end."""
        while self._running:
            await asyncio.wait(self._running)

    def _start_lane(self, loop: asyncio.AbstractEventLoop) -> None:
        self._starting = True
        lane = loop.create_task(self._run_lane(), name=f"batch {self._query.name}")
        self._running.add(lane)
        lane.add_done_callback(self._end_lane)

    def _end_lane(self, lane: asyncio.Task[None]) -> None:
        self._running.discard(lane)
        # A row may have been left because its twin was under way in another lane.
        if self._waiting and not self._running:
            self._start_lane(lane.get_loop())

    async def _run_lane(self) -> None:
        self._starting = False
        while batch := self._take():
            try:
                await self._answer(batch)
            finally:
                self._under_way.difference_update(self._identity(waiter) for waiter in batch)
                for waiter in batch:
                    if not waiter.answer.done():
                        waiter.answer.set_exception(DatabaseDown("The statement was interrupted."))

    def _take(self) -> list[Waiter]:
        """Decide who goes in the next statement. Plain, so that nothing can interrupt it."""
        now_s = monotonic_s()
        batch: list[Waiter] = []
        left: list[Waiter] = []
        while self._waiting and len(batch) < WIDTH_MAX:
            waiter = self._waiting.popleft()
            if waiter.answer.done():
                continue
            if waiter.deadline_s <= now_s:
                self.counts.expired += 1
                waiter.answer.set_exception(DeadlineExceeded())
                continue
            if self._identity_width:
                identity = self._identity(waiter)
                if identity in self._under_way:
                    left.append(waiter)
                    continue
                self._under_way.add(identity)
            batch.append(waiter)
        self._waiting.extendleft(reversed(left))
        if self._identity_width:
            batch.sort(key=_by_identity(self._identity_width))
        return batch

    def _identity(self, waiter: Waiter) -> tuple[object, ...]:
        return tuple(waiter.row[: self._identity_width])

    async def _answer(self, batch: list[Waiter]) -> None:
        try:
            await self._send(batch)
        except CONNECTION_LOST as error:
            _fail(batch, DatabaseDown("The connection to the database was lost."), error)
        except asyncpg.exceptions.QueryCanceledError as error:
            _fail(batch, DeadlineExceeded(), error)
        except SeawallError as error:
            _fail(batch, error)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One bad row must not fail its neighbours: each for itself, and the culprit is found.
            for waiter in batch:
                await self._answer([waiter])

    async def _send(self, batch: list[Waiter]) -> None:
        deadline_s = max(waiter.deadline_s for waiter in batch)
        async with self._pool.connection(deadline_s=deadline_s) as connection:
            self.counts.statements += 1
            self.counts.rows += len(batch)
            columns = zip(*(waiter.row for waiter in batch), strict=True)
            timeout_s = max(0.001, deadline_s - monotonic_s())
            rows = await connection.fetch(self._query, *map(list, columns), timeout_s=timeout_s)
        if self._echo is None:
            answers = {row["ordinal"] - 1: row for row in rows}
            found = [answers.get(place) for place in range(len(batch))]
        else:
            echoes = {row["answers"]: row for row in rows}
            found = [echoes.get(waiter.row[self._echo]) for waiter in batch]
        for waiter, row in zip(batch, found, strict=True):
            if not waiter.answer.done():
                waiter.answer.set_result(row)


def _by_identity(width: int) -> Callable[[Waiter], tuple[object, ...]]:
    return lambda waiter: tuple(waiter.row[:width])


def _fail(batch: list[Waiter], error: BaseException, cause: BaseException | None = None) -> None:
    error.__cause__ = cause
    for waiter in batch:
        if not waiter.answer.done():
            waiter.answer.set_exception(error)
