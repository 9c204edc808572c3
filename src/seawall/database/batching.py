"""Statements that wait together go together.

While one statement is at the server, those that arrive meanwhile are merged into the next: the
same work for fewer round trips, and the more so the more arrive. A batch is a named query whose
parameters are arrays, one element a caller. Its rows say whom they answer: by `ordinal` (from 1), or,
because INSERT cannot return one, by `answers`, which repeats a value only that caller gave.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from operator import attrgetter
from typing import Any, Final

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.pool import Connection, Lender, in_our_words, is_lost
from seawall.database.queries import Query
from seawall.database.retries import RetryBudget
from seawall.database.waiting import LIMIT, TARGET_S, Waiter, WaitingRoom
from seawall.errors import DatabaseDown, DeadlineExceeded, OutcomeUnknown, Overloaded
from seawall.telemetry.metrics import WIDTH_BUCKETS, Histogram
from seawall.telemetry.purpose import PURPOSE, Purpose
from seawall.telemetry.segments import STOPWATCH, Segment, Stopwatch

# More keys a statement save little more, and make the last caller wait for the first's row.
WIDTH_MAX = 128
# A second lane splits the batches: two of 16 rows cost the server nearly twice what one of 32 does. It
# is worth that only when more wait than one statement should hold.
WIDTH_GOOD = 48
# How late those may hear of it whose time ends while they wait.
SWEEP_EVERY_S = 0.1
# How long a lane waits for a connection, those in the room being told of their own ends meanwhile.
LANE_PATIENCE_S = 5.0

# Looked up once: each row needs them.
WAITS, IS_AT_THE_SERVER = Segment.DATABASE_WAIT, Segment.DATABASE

ELSEWHERE: Final = object()
"""Instead of an answer: this row must be asked for elsewhere."""

Ask = Callable[[Connection, Query, Sequence[list[Any]], float], Awaitable[list[Any]]]
"""Sends the columns of a batch, within so many seconds; returns for each row its answer, None or `ELSEWHERE`."""


class Batcher:
    """Merges calls of one query. State: who waits, what is under way.

    A lane is a task that takes a connection, then whoever is next by the rules of the waiting room, and
    sends their statement, again and again until nobody waits. Who is first of its identity is in the
    room; the others stand behind it, in order of arrival, until it was answered.

    Args:
        lanes: how many statements of this query may be at the server at once.
        retries: what may be sent again when a connection is lost; a budget of its own when None.
        identity_width: 0 for reads. For writes, how many leading columns say which row is
            written: no two statements under way, nor two rows of one, share them, and a batch is
            sorted by them, so that two batches cannot lock each other out.
        echo: which column the query gives back as `answers`; None where it gives `ordinal`.
        ask: how a batch is sent and its answers are told apart, if not as usual.
        elsewhere: who answers what is not answered here; whatever goes wrong here is then no failure.
        patience_s: how long a lane waits for a connection.
    """

    def __init__(
        self,
        query: Query,
        lender: Lender,
        *,
        lanes: int,
        retries: RetryBudget | None = None,
        identity_width: int = 0,
        echo: int | None = None,
        ask: Ask | None = None,
        elsewhere: "Batcher | None" = None,
        patience_s: float = LANE_PATIENCE_S,
    ) -> None:
        self.widths = Histogram(WIDTH_BUCKETS)
        """How many rows each statement took along."""
        self.room = WaitingRoom()
        self.under_way = 0
        """How many rows are at the server."""
        self.sent_s = 0.0
        """When the last statement was sent."""
        self._query = query
        self._lender = lender
        self._ask = ask or self._ask_as_usual
        self._elsewhere = elsewhere
        self._patience_s = patience_s
        self._lanes = lanes
        self._retries = retries or RetryBudget()
        self._identity_width = identity_width
        self._echo = echo
        # For each identity that is in the room or under way, those behind it.
        self._behind: dict[tuple[object, ...], deque[Waiter] | None] = {}
        self._behind_count = 0
        # Reads that are under way, by statement.
        self._asked: dict[int, list[Waiter]] = {}
        self._running: set[asyncio.Task[None]] = set()
        # Lanes that have not taken anybody yet: they will take who comes now, so no other is needed.
        self._collecting: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batcher {self._query.name}: {self.waiting} waiting, {len(self._running)} of {self._lanes} lanes>"

    @property
    def waiting(self) -> int:
        """How many callers wait for their statement to be sent."""
        return len(self.room) + self._behind_count

    @property
    def saved_statements(self) -> int:
        """How many statements were not sent, each with its way to the server and back, since another took the row."""
        return int(self.widths.total) - sum(self.widths.counts)

    async def ask(self, row: Sequence[object], *, deadline_s: float) -> Any:
        """Queue one row, and return its answer; on the request's stopwatch it waits, and then is at the server.

        Raises: as `submit`, and what the statement raised.
        """
        watch = STOPWATCH.get()
        if watch is None:
            return await self.submit(row, deadline_s=deadline_s)
        before = watch.switch(WAITS, monotonic_s())
        try:
            return await self.submit(row, deadline_s=deadline_s, watch=watch)
        finally:
            watch.switch(before, monotonic_s())

    def submit(
        self,
        row: Sequence[object],
        *,
        deadline_s: float,
        purpose: Purpose | None = None,
        watch: Stopwatch | None = None,
    ) -> "asyncio.Future[asyncpg.Record | None]":
        """Queue one row; the future gives its answer, or None where the statement returned none.

        It is done in the name of the running task, unless another purpose is given. `watch` is of the request that
        waits for the answer, for as long as it does.

        Raises:
            DeadlineExceeded: it is too late already.
            Overloaded: it would wait for too long, or too many wait already.
            DatabaseDown: the batcher is closed.
        """
        if self._closed:
            raise DatabaseDown("The connections to the database are being closed.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[asyncpg.Record | None] = loop.create_future()
        waiter = Waiter(answer, deadline_s, purpose or PURPOSE.get(), row, watch=watch)
        if self._identity_width:
            waiter.identity = identity = tuple(row[: self._identity_width])
            if identity in self._behind:
                self._stand_behind(waiter)
                return answer
            turned_away = self.room.enter(waiter, now_s=monotonic_s())
            self._behind[identity] = None
            if turned_away is not None:
                self._let_next(turned_away.identity)
        else:
            self.room.enter(waiter, now_s=monotonic_s())
        if not self._collecting:
            self._start_another(loop)
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_EVERY_S, self._dismiss_late)
        return answer

    def adopt(self, waiters: Iterable[Waiter]) -> None:
        """Take over reads that were let in elsewhere."""
        now_s = monotonic_s()
        for waiter in waiters:
            if self._closed:
                waiter.answer.set_exception(DatabaseDown("The connections to the database are being closed."))
            else:
                _switch(waiter, WAITS, now_s)
                self.room.put_back(waiter, now_s=now_s)
        self._start_another(asyncio.get_running_loop())
        if self._sweep is None and self.room:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._dismiss_late)

    async def close(self) -> None:
        """Take nobody any more, and let those who wait have their answers."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
        if self._sweep is not None:
            self._sweep.cancel()

    # Who waits.

    def _stand_behind(self, waiter: Waiter) -> None:
        if self._behind_count >= LIMIT:
            self.room.counts.refused += 1
            raise Overloaded
        queue = self._behind[waiter.identity]
        if queue is None:
            queue = self._behind[waiter.identity] = deque()
        queue.append(waiter)
        self._behind_count += 1

    def _let_next(self, identity: tuple[object, ...]) -> None:
        """The first of an identity is done with: the next one may go."""
        queue = self._behind[identity]
        while queue:
            waiter = queue.popleft()
            self._behind_count -= 1
            if not waiter.answer.done():
                self.room.put_back(waiter, now_s=monotonic_s())
                return
        del self._behind[identity]

    def _take(self) -> list[Waiter]:
        """Decide who goes in the next statement. Plain, so that nothing can interrupt it."""
        now_s = monotonic_s()
        room = self.room
        batch: list[Waiter] = []
        left: list[Waiter] = []
        while len(batch) < WIDTH_MAX and (waiter := room.next(now_s, left)) is not None:
            batch.append(waiter)
        if self._identity_width:
            self._see_off(left)
            batch.sort(key=attrgetter("identity"))
        return batch

    def _see_off(self, left: Iterable[Waiter]) -> None:
        """Who left the room without an answer makes way for whoever stood behind."""
        if self._identity_width:
            for waiter in left:
                self._let_next(waiter.identity)

    def _finish(self, batch: list[Waiter]) -> None:
        """Whatever happened, nobody waits for ever, and who stood behind is next."""
        for waiter in batch:
            if not waiter.answer.done():
                waiter.answer.set_exception(DatabaseDown("The statement was interrupted."))
        self._see_off(batch)

    def _turn_away(self, error: BaseException) -> None:
        """Tell everybody that their statement will not be sent, or send them elsewhere."""
        now_s = monotonic_s()
        if self._elsewhere is not None:
            waiters: list[Waiter] = []
            while (waiter := self.room.next(now_s, [])) is not None:
                waiters.append(waiter)
            self._elsewhere.adopt(waiters)
            return
        while len(self.room):
            self._see_off(self.room.dismiss(error, now_s=now_s))

    def _tell_if_late(self, waiter: Waiter, now_s: float) -> None:
        if waiter.deadline_s <= now_s and not waiter.answer.done():
            self.room.counts.expired += 1
            waiter.answer.set_exception(DeadlineExceeded())

    def _dismiss_late(self) -> None:
        """Tell those who wait and whose time has ended; look again while somebody waits.

        Not those whose write is under way: whether it will be done is not known yet.
        """
        self._sweep = None
        now_s = monotonic_s()
        self._see_off(self.room.dismiss(now_s=now_s))
        for identity, queue in self._behind.items():
            if queue:
                stay: deque[Waiter] = deque()
                for waiter in queue:
                    self._tell_if_late(waiter, now_s)
                    if not waiter.answer.done():
                        stay.append(waiter)
                self._behind_count -= len(queue) - len(stay)
                self._behind[identity] = stay
        # A statement goes on for the last of those it is for, the others need not wait with them.
        for batch in self._asked.values():
            for waiter in batch:
                self._tell_if_late(waiter, now_s)
        if self.waiting or self._asked:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._dismiss_late)

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
            self._turn_away(DatabaseDown("The statement was interrupted."))
        self._start_another(lane.get_loop())

    def _start_another(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._collecting or not self.room:
            return
        if not self._running or (len(self._running) < self._lanes and len(self.room) >= WIDTH_GOOD):
            self._start_lane(loop)

    async def _run_lane(self) -> None:
        STOPWATCH.set(None)  # It began within a request, and works for many.
        lane = asyncio.current_task()
        assert lane is not None
        while self.room:
            self._collecting.add(lane)
            batch: list[Waiter] = []
            asked_s = monotonic_s()
            try:
                # The connection first: who comes while it is busy goes along, and whose time ends does not.
                async with self._connection(monotonic_s() + self._patience_s) as connection:
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
                    if self._elsewhere is not None:
                        # Whoever chooses between the two must know that it takes long here.
                        self.sent_s = monotonic_s()
                        self._note_pace(self.sent_s - asked_s)
                    self._turn_away(error)
            finally:
                self._finish(batch)

    def _connection(self, deadline_s: float) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection for a statement, as urgently as the most urgent of those who wait for it."""
        purpose = Purpose(route="batch", urgency=self.room.most_urgent)
        return self._lender.connection(deadline_s=deadline_s, query=self._query, site="batch", admitted_as=purpose)

    async def _send(self, connection: Connection, batch: list[Waiter]) -> None:
        started_s = monotonic_s()
        connection.on_behalf_of([waiter.purpose for waiter in batch])
        self.widths.observe(len(batch))
        self._retries.earn(len(batch))
        columns = [list(column) for column in zip(*(waiter.row for waiter in batch), strict=True)]
        deadline_s = max(waiter.deadline_s for waiter in batch)
        self.sent_s = started_s
        self.under_way += len(batch)
        for waiter in batch:
            watch = waiter.watch
            if watch is not None and not waiter.answer.done():  # As `_switch`.
                watch.switch(IS_AT_THE_SERVER, started_s)
        if not self._identity_width:
            self._asked[id(batch)] = batch
        try:
            found = await self._ask(connection, self._query, columns, max(0.001, deadline_s - started_s))
        finally:
            self._asked.pop(id(batch), None)
            self.under_way -= len(batch)
            self._note_pace(monotonic_s() - started_s)
        elsewhere = []
        for waiter, answer in zip(batch, found, strict=True):
            if answer is ELSEWHERE:
                elsewhere.append(waiter)
            elif not waiter.answer.done():
                waiter.answer.set_result(answer)
        if elsewhere:
            self._hand_on(batch, elsewhere)

    async def _ask_as_usual(
        self, connection: Connection, query: Query, columns: Sequence[list[Any]], timeout_s: float
    ) -> list[Any]:
        rows = await connection.fetch(query, *columns, timeout_s=timeout_s)
        if self._echo is None:
            return by_ordinal(rows, count=len(columns[0]))
        echoes = {row["answers"]: row for row in rows}
        return [echoes.get(value) for value in columns[self._echo]]

    def _hand_on(self, batch: list[Waiter], waiters: list[Waiter]) -> None:
        """Have some of a batch answered elsewhere; here they are done with."""
        assert self._elsewhere is not None
        _take_out(batch, waiters)
        self._elsewhere.adopt(waiter for waiter in waiters if not waiter.answer.done())

    def _note_pace(self, took_s: float) -> None:
        """Tell the room how long statements take of late: who comes now waits for one, and for those before them."""
        room = self.room
        room.round_s += (took_s - room.round_s) * 0.2
        room.turn_s = room.round_s / (WIDTH_MAX * self._lanes)
        room.target_s = max(TARGET_S, 2 * room.round_s)

    async def _tell_or_part(self, batch: list[Waiter], error: Exception) -> None:
        """Tell everybody why the statement failed; but where one row is at fault, only whose row it is.

        A statement that failed wrote nothing, so its halves can be sent again. So can, once, a read whose connection
        was lost, and a write to a server that takes none, within the budget for retries.
        """
        if self._elsewhere is not None:
            self._hand_on(batch, batch.copy())
            return
        ours = in_our_words(error)
        refused_to_write = isinstance(error, asyncpg.exceptions.ReadOnlySQLTransactionError)
        if refused_to_write or (is_lost(error) and not self._identity_width):
            self._send_lost_again(batch)
        if not self._identity_width and isinstance(ours, OutcomeUnknown):
            ours = DatabaseDown("The connection to the database was lost.")
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
        first, second = batch[:middle], batch[middle:]
        await self._send_again(first)
        await self._send_again(second)
        batch[:] = first + second

    def _send_lost_again(self, batch: list[Waiter]) -> None:
        """Let those wait once more who have time left, and take them out of the batch."""
        now_s = monotonic_s()
        may = [one for one in batch if not one.was_lost and one.deadline_s > now_s and not one.answer.done()]
        again = [one for one in may if self._retries.spend()]
        for waiter in again:
            waiter.was_lost = True
            _switch(waiter, WAITS, now_s)
            self.room.put_back(waiter, now_s=now_s)
        _take_out(batch, again)

    async def _send_again(self, half: list[Waiter]) -> None:
        """Send one half of a batch; those who wait once more after that are taken out of it."""
        now_s = monotonic_s()
        for waiter in half:
            self._tell_if_late(waiter, now_s)
        batch = [waiter for waiter in half if not waiter.answer.done()]
        if not batch:
            return
        try:
            async with self._connection(max(waiter.deadline_s for waiter in batch)) as connection:
                await self._send(connection, batch)
        except Exception as error:  # noqa: BLE001 - as in `_run_lane`
            sent = batch.copy()
            await self._tell_or_part(batch, error)
            _take_out(half, set(sent).difference(batch))


def _switch(waiter: Waiter, segment: Segment, now_s: float) -> None:
    """Say what a request waits for; one that was answered, or is gone, does something else by now."""
    if waiter.watch is not None and not waiter.answer.done():
        waiter.watch.switch(segment, now_s)


def _take_out(batch: list[Waiter], waiters: Iterable[Waiter]) -> None:
    gone = set(waiters)
    batch[:] = [waiter for waiter in batch if waiter not in gone]


def by_ordinal(rows: Iterable[Any], *, count: int) -> list[Any]:
    """Return the row of each caller by its `ordinal`, from 1; None where there is none."""
    answers: list[Any] = [None] * count
    for row in rows:
        answers[row["ordinal"] - 1] = row
    return answers
