"""Statements that wait together go together.

While one statement is at the server, those that arrive meanwhile are merged into the next: the
same work for fewer round trips, and the more so the more arrive. A batch is a named query whose
parameters are arrays, one element a caller. Its rows say whom they answer: by `ordinal` (from 1), or,
because INSERT cannot return one, by `answers`, which repeats a value only that caller gave.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.pool import Connection, Pool, in_our_words
from seawall.database.queries import Query
from seawall.errors import DatabaseDown, DeadlineExceeded, Overloaded

# More keys a statement save little more, and make the last caller wait for the first's row.
WIDTH_MAX = 128
# A second lane splits the batches: two of 16 rows cost the server nearly twice what one of 32 does. It
# is worth that only when more wait than one statement should hold.
WIDTH_GOOD = 48
WAITERS_MAX = 4096
# How often a full queue is searched for callers that have gone.
SEARCH_EVERY_S = 0.1


@dataclass(slots=True, eq=False)
class Waiter:
    """One caller, and what it asked. `identity` says which row is written; it is empty for reads."""

    row: Sequence[object]
    answer: "asyncio.Future[asyncpg.Record | None]"
    deadline_s: float
    identity: tuple[object, ...] = ()


@dataclass(slots=True)
class BatchCounts:
    """What a batcher did so far: statements sent, rows in them, callers turned away."""

    statements: int = 0
    rows: int = 0
    refused: int = 0
    expired: int = 0


class Batcher:
    """Merges calls of one query. State: who waits, what is under way.

    A lane is a task that takes a connection, then whoever waits by then, and sends their statement,
    again and again until nobody waits. Who is first of its identity is `ready`; the others stand
    behind it, in order of arrival, until it was answered.

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
        self._ready: deque[Waiter] = deque()
        # For each identity that is ready or under way, those behind it.
        self._behind: dict[tuple[object, ...], deque[Waiter] | None] = {}
        self._behind_count = 0
        self._running: set[asyncio.Task[None]] = set()
        # Lanes that have not taken anybody yet: they will take who comes now, so no other is needed.
        self._collecting: set[asyncio.Task[None]] = set()
        self._searched_s = 0.0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batcher {self._query.name}: {self.waiting} waiting, {len(self._running)} of {self._lanes} lanes>"

    @property
    def waiting(self) -> int:
        """How many callers wait for their statement to be sent."""
        return len(self._ready) + self._behind_count

    def submit(self, row: Sequence[object], *, deadline_s: float) -> "asyncio.Future[asyncpg.Record | None]":
        """Queue one row; the future gives its answer, or None where the statement returned none.

        Raises:
            Overloaded: too many wait already.
            DatabaseDown: the batcher is closed.
        """
        if self._closed:
            raise DatabaseDown("The connections to the database are being closed.")
        if len(self._ready) + self._behind_count >= WAITERS_MAX and not self._found_gone():
            self.counts.refused += 1
            raise Overloaded
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[asyncpg.Record | None] = loop.create_future()
        if self._identity_width:
            identity = tuple(row[: self._identity_width])
            waiter = Waiter(row, answer, deadline_s, identity)
            if identity in self._behind:
                self._stand_behind(waiter)
                return answer
            self._behind[identity] = None
        else:
            waiter = Waiter(row, answer, deadline_s)
        self._ready.append(waiter)
        if not self._collecting:
            self._start_another(loop)
        return answer

    async def close(self) -> None:
        """Take nobody any more, and let those who wait have their answers."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)

    # Who waits.

    def _stand_behind(self, waiter: Waiter) -> None:
        queue = self._behind[waiter.identity]
        if queue is None:
            queue = self._behind[waiter.identity] = deque()
        queue.append(waiter)
        self._behind_count += 1

    def _let_next(self, identity: tuple[object, ...]) -> None:
        """The first of an identity is done with: the next one is ready."""
        queue = self._behind[identity]
        while queue:
            waiter = queue.popleft()
            self._behind_count -= 1
            if not waiter.answer.done():
                self._ready.append(waiter)
                return
        del self._behind[identity]

    def _next(self, now_s: float) -> Waiter | None:
        """Return the next who still wants an answer and can have it in time."""
        while self._ready:
            waiter = self._ready.popleft()
            if not waiter.answer.done():
                if waiter.deadline_s > now_s:
                    return waiter
                self.counts.expired += 1
                waiter.answer.set_exception(DeadlineExceeded())
            if self._identity_width:
                self._let_next(waiter.identity)
        return None

    def _take(self) -> list[Waiter]:
        """Decide who goes in the next statement. Plain, so that nothing can interrupt it."""
        now_s = monotonic_s()
        batch: list[Waiter] = []
        while len(batch) < WIDTH_MAX and (waiter := self._next(now_s)) is not None:
            batch.append(waiter)
        if self._identity_width:
            batch.sort(key=attrgetter("identity"))
        return batch

    def _finish(self, batch: list[Waiter]) -> None:
        """Whatever happened, nobody waits for ever, and who stood behind is next."""
        for waiter in batch:
            if not waiter.answer.done():
                waiter.answer.set_exception(DatabaseDown("The statement was interrupted."))
            if self._identity_width:
                self._let_next(waiter.identity)

    def _turn_away(self, error: BaseException, *, everybody: bool) -> None:
        """Tell those who wait that there is no connection: everybody, or only whose time is up."""
        now_s = monotonic_s()
        while self._ready and (everybody or self._ready[0].deadline_s <= now_s or self._ready[0].answer.done()):
            waiter = self._ready.popleft()
            if not waiter.answer.done():
                self.counts.expired += 1
                waiter.answer.set_exception(error)
            if self._identity_width:
                self._let_next(waiter.identity)

    def _found_gone(self) -> bool:
        """Search a full queue for callers that have gone, now and then: they must not keep others out."""
        now_s = monotonic_s()
        if now_s - self._searched_s < SEARCH_EVERY_S:
            return False
        self._searched_s = now_s
        before = self.waiting
        ready, self._ready = self._ready, deque()
        for waiter in ready:
            if not waiter.answer.done():
                self._ready.append(waiter)
            elif self._identity_width:
                self._let_next(waiter.identity)
        for identity, queue in self._behind.items():
            if queue:
                left = deque(waiter for waiter in queue if not waiter.answer.done())
                self._behind_count -= len(queue) - len(left)
                self._behind[identity] = left
        return self.waiting < before

    # Lanes.

    def _start_lane(self, loop: asyncio.AbstractEventLoop) -> None:
        lane = loop.create_task(self._run_lane(), name=f"batch {self._query.name}")
        self._running.add(lane)
        self._collecting.add(lane)
        lane.add_done_callback(self._end_lane)

    def _end_lane(self, lane: asyncio.Task[None]) -> None:
        self._running.discard(lane)
        self._collecting.discard(lane)
        if lane.cancelled():  # the event loop is going down
            self._turn_away(DatabaseDown("The statement was interrupted."), everybody=True)
        self._start_another(lane.get_loop())

    def _start_another(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._collecting or not self._ready:
            return
        if not self._running or (len(self._running) < self._lanes and len(self._ready) >= WIDTH_GOOD):
            self._start_lane(loop)

    async def _run_lane(self) -> None:
        lane = asyncio.current_task()
        assert lane is not None
        while self._ready:
            self._collecting.add(lane)
            batch: list[Waiter] = []
            try:
                # The connection first: who comes while it is busy goes along, and whose time ends does not.
                async with self._pool.connection(deadline_s=self._ready[0].deadline_s) as connection:
                    self._collecting.discard(lane)
                    batch = self._take()
                    self._start_another(lane.get_loop())
                    if batch:
                        await self._send(connection, batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers who must hear of it
                self._collecting.discard(lane)
                if batch:
                    await self._tell_or_part(batch, error)
                else:
                    self._turn_away(error, everybody=not isinstance(error, DeadlineExceeded))
            finally:
                self._finish(batch)

    async def _send(self, connection: Connection, batch: list[Waiter]) -> None:
        self.counts.statements += 1
        self.counts.rows += len(batch)
        columns = zip(*(waiter.row for waiter in batch), strict=True)
        deadline_s = max(waiter.deadline_s for waiter in batch)
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

    async def _tell_or_part(self, batch: list[Waiter], error: Exception) -> None:
        """Tell everybody why the statement failed; but where one row is at fault, only whose row it is.

        A statement that failed wrote nothing, so its halves can be sent again.
        """
        ours = in_our_words(error)
        rolled_back = isinstance(error, asyncpg.exceptions.TransactionRollbackError)
        refused = ours is None and isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError)
        if len(batch) == 1 or not (refused or rolled_back):
            failure = ours or error
            if failure is not error:
                failure.__cause__ = error
            for waiter in batch:
                if not waiter.answer.done():
                    waiter.answer.set_exception(failure)
            return
        middle = len(batch) // 2
        await self._send_again(batch[:middle])
        await self._send_again(batch[middle:])

    async def _send_again(self, half: list[Waiter]) -> None:
        now_s = monotonic_s()
        for waiter in half:
            if waiter.deadline_s <= now_s and not waiter.answer.done():
                self.counts.expired += 1
                waiter.answer.set_exception(DeadlineExceeded())
        batch = [waiter for waiter in half if not waiter.answer.done()]
        if not batch:
            return
        try:
            async with self._pool.connection(deadline_s=max(waiter.deadline_s for waiter in batch)) as connection:
                await self._send(connection, batch)
        except Exception as error:  # noqa: BLE001 - as in `_run_lane`
            await self._tell_or_part(batch, error)
