"""How much of its work does a connection pool still get done when far more arrive than it can serve?

Each request holds a connection for a known time, and the server has as many connections as `--connections` says, so
that the capacity is known: it is also measured, for each contender by itself. Users arrive by a schedule, whether
earlier ones were answered or not: for 15 s at a multiple of the capacity, then for 45 s at 0.7 of it. A user waits
1 s for an answer, then asks again, at once, and so after a refusal, up to three times. Time is counted from the
moment at which the schedule says the user came. Useful is what is answered within 1 s of that; an answer to a user
who has gone is work for nothing, and a pool that does only such work is down, however busy it is.

    python -m benchmarks.surge_pool [--multiple 1.4 --multiple 2 --multiple 10] [--only NAME ...]
                                    [--chart FILE.svg] [--json]
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import asyncpg
import psycopg
import psycopg_pool
import uvloop
from psycopg.conninfo import make_conninfo

from benchmarks.pool import in_own_process, machine, scratch_directory, versions
from seawall.database import Database, DatabaseSettings, Endpoint, Query
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.errors import Overloaded, Unavailable

MULTIPLES = (1.4, 2.0, 10.0)
CALM_MULTIPLE = 0.7
SURGE_S, CALM_S = 15.0, 45.0
DEADLINE_S = 1.0
HOLD_S = 0.02
CONNECTIONS = 4
RETRIES = 3
RETRY_JITTER_S = 0.01
CAPACITY_S = 3.0
DRAIN_S = 10.0
"""How long those that are still there at the end are waited for: longer than all attempts of one user take."""

PROOF_S = 3.0
PROOF_FACTOR = 1.5
"""The generator shows, with nobody behind it, that it can offer half as much again as the largest surge."""
LAG_TOLERATED_MS = 50.0
"""Whoever begins later than this after the schedule's moment was kept by the generator's own process."""
SERVED_SHARE = 0.95
"""Recovered is who serves this share of the arrivals of every second, from then to the end."""

GONE = (Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError, psycopg.Error, OSError, TimeoutError)
"""How contenders say that a request was not served."""


# Contenders: one attempt of a user each. What they do with a crowd is theirs to decide.


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the server is, how many connections it has, how long a request holds one, how long a user waits."""

    endpoint: Endpoint
    connections: int
    hold_s: float
    deadline_s: float

    @property
    def statement(self) -> str:
        """The work."""
        return f"select /* bench.hold */ pg_sleep({self.hold_s})"


Attempt = Callable[[], Awaitable[object]]
Contender = Callable[[Place], AbstractAsyncContextManager[Attempt]]


@asynccontextmanager
async def ours(place: Place) -> AsyncIterator[Attempt]:
    """Our pool, told how long its callers wait."""
    settings = DatabaseSettings(
        read_lanes=1, write_lanes=1, spare_connections=place.connections - 2, patience_s=place.deadline_s
    )
    assert settings.connections == place.connections
    hold = Query(name="bench.hold", why="Holds a connection for a known time.", sql=place.statement)
    async with Database(place.endpoint, settings, application_name="seawall benchmark") as database:
        yield lambda: database.fetch_one(hold)


@asynccontextmanager
async def asyncpg_pool(place: Place) -> AsyncIterator[Attempt]:
    """The driver's own pool, with a timeout where its manual has one."""
    async with asyncpg.create_pool(
        **place.endpoint.connect_arguments(), min_size=place.connections, max_size=place.connections
    ) as pool:

        async def attempt() -> None:
            async with pool.acquire(timeout=place.deadline_s) as connection:
                await connection.fetchval(place.statement)

        yield attempt


@asynccontextmanager
async def psycopg_async_pool(place: Place) -> AsyncIterator[Attempt]:
    """psycopg's pool, with its timeout."""
    endpoint, statement = place.endpoint, place.statement.encode()
    address = make_conninfo(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        password=endpoint.password,
        dbname=endpoint.database,
    )
    async with psycopg_pool.AsyncConnectionPool(
        address,
        min_size=place.connections,
        max_size=place.connections,
        timeout=place.deadline_s,
        kwargs={"autocommit": True, "prepare_threshold": 0},
        open=False,
    ) as pool:
        await pool.wait()

        async def attempt() -> None:
            async with pool.connection() as connection:
                await connection.execute(statement)

        yield attempt


@asynccontextmanager
async def connection_per_request(place: Place) -> AsyncIterator[Attempt]:
    """No pool: who comes opens a connection, and is told "too many clients" when there is none."""

    async def attempt() -> None:
        connection = await asyncpg.connect(**place.endpoint.connect_arguments(), timeout=place.deadline_s)
        try:
            await connection.fetchval(place.statement)
        finally:
            await connection.close(timeout=place.deadline_s)

    yield attempt


@asynccontextmanager
async def nobody(_place: Place) -> AsyncIterator[Attempt]:
    """Refuses at once: shows what the generator can offer."""

    async def attempt() -> None:
        raise Overloaded

    yield attempt


OURS = "seawall"
CONTENDERS: Mapping[str, Contender] = {
    OURS: ours,
    "asyncpg.Pool": asyncpg_pool,
    "psycopg_pool": psycopg_async_pool,
    "a connection per request": connection_per_request,
}
GENERATOR_ALONE = "the generator alone"


# Users.


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What arrives: so many a second for so long, then so many for so long."""

    surge_per_s: float
    surge_s: float
    calm_per_s: float
    calm_s: float

    @property
    def end_s(self) -> float:
        """When the last may arrive."""
        return self.surge_s + self.calm_s

    def arrivals_s(self, noise: random.Random) -> Iterator[float]:
        """Yield when each user comes, in seconds from the start: independently of each other, so bunched at times."""
        at_s = 0.0
        while True:
            at_s += noise.expovariate(self.surge_per_s if at_s < self.surge_s else self.calm_per_s)
            if at_s >= self.end_s:
                return
            yield at_s


@dataclass(frozen=True, slots=True)
class User:
    """How it went for one: when due, when begun, when answered or gone, all in seconds from the start."""

    due_s: float
    begun_s: float
    ended_s: float
    attempts: int
    answered: bool

    def is_served(self, deadline_s: float) -> bool:
        """Whether an answer came in time, counted from when the user was due."""
        return self.answered and self.ended_s - self.due_s <= deadline_s


@dataclass(slots=True)
class Crowd:
    """All users of one run. State: how it went for each so far, and what refused them."""

    attempt: Attempt
    deadline_s: float
    began_s: float
    users: list[User]
    refusals: Counter[str]

    async def come(self, due_s: float) -> None:
        """Be one user: ask, and ask again after a refusal or when the time is up."""
        begun_s = time.perf_counter() - self.began_s
        attempts, answered = 0, False
        try:
            while not answered and attempts <= RETRIES:
                if attempts:
                    await asyncio.sleep(random.uniform(0.0, RETRY_JITTER_S))
                attempts += 1
                answered = await self._ask()
        finally:
            self.users.append(User(due_s, begun_s, time.perf_counter() - self.began_s, attempts, answered))

    async def _ask(self) -> bool:
        """Try once; return whether an answer came while the user was still there."""
        asked_s = time.perf_counter()
        try:
            await self.attempt()
        except GONE as error:
            self.refusals[type(error).__name__] += 1
            return False
        # Who went when the time was up did not stop the server: it worked to the end.
        if time.perf_counter() - asked_s > self.deadline_s:
            self.refusals["answered too late"] += 1
            return False
        return True


async def crowd_of(load: Load, attempt: Attempt, *, deadline_s: float, seed: int) -> Crowd:
    """Let users come by the schedule, and wait for the last; who is still there then is sent away unanswered."""
    arrivals_s = [*load.arrivals_s(random.Random(seed))]
    loop = asyncio.get_running_loop()
    here: set[asyncio.Task[None]] = set()
    broken: list[BaseException] = []

    def go(user: "asyncio.Task[None]") -> None:
        here.discard(user)
        if not user.cancelled() and (error := user.exception()) is not None:
            broken.append(error)

    gc.collect()
    crowd = Crowd(attempt, deadline_s, time.perf_counter(), [], Counter())
    for due_s in arrivals_s:
        early_s = due_s - (time.perf_counter() - crowd.began_s)
        if early_s > 0:
            await asyncio.sleep(early_s)
        user = loop.create_task(crowd.come(due_s))
        here.add(user)
        user.add_done_callback(go)
    if here:
        _, late = await asyncio.wait(here, timeout=DRAIN_S)
        for user in late:
            user.cancel()
        if late:
            await asyncio.wait(late, timeout=DRAIN_S)
    if broken:
        raise broken[0]
    return crowd


async def capacity_per_s(attempt: Attempt, *, connections: int, seconds: float) -> float:
    """Return how many are served a second when no connection is ever idle, and hardly anybody waits."""
    done = 0
    stop_s = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal done
        while time.perf_counter() < stop_s:
            try:
                await attempt()
                done += 1
            except GONE:
                await asyncio.sleep(0.01)

    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections + 1):
            group.create_task(ask())
    return done / (time.perf_counter() - started_s)


# What became of them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one contender took one surge.

    Goodput is relative to the capacity; `recovered_s` counts from the surge's end, None is never. The series are
    per second of the run: users due, and useful answers given.
    """

    capacity_per_s: float
    offered_per_s: float
    begun_per_s: float
    lag_p99_ms: float
    surge_lag_p99_ms: float
    goodput: float
    calm_goodput: float
    p99_ms: float | None
    recovered_s: float | None
    attempts: int
    refusals: Mapping[str, int]
    due: Sequence[int]
    served: Sequence[int]

    @property
    def kept_up(self) -> bool:
        """Whether the generator offered what the schedule says when it says so."""
        return self.surge_lag_p99_ms <= LAG_TOLERATED_MS


def outcome_of(crowd: Crowd, load: Load, *, capacity: float) -> Outcome:
    """Sum up a run."""
    users = crowd.users
    in_surge = [user for user in users if user.due_s < load.surge_s]
    served = [user for user in users if user.is_served(crowd.deadline_s)]
    took_ms = sorted((user.ended_s - user.due_s) * 1e3 for user in served)
    useful_in_surge = sum(user.ended_s < load.surge_s for user in served)
    # Shares of what was due: in the calm nobody can do more.
    due_in_calm = len(users) - len(in_surge)
    served_in_calm = sum(user.due_s >= load.surge_s for user in served)
    return Outcome(
        capacity_per_s=capacity,
        offered_per_s=len(in_surge) / load.surge_s,
        begun_per_s=sum(user.begun_s < load.surge_s for user in in_surge) / load.surge_s,
        lag_p99_ms=percentile([(user.begun_s - user.due_s) * 1e3 for user in users], 0.99) or 0.0,
        surge_lag_p99_ms=percentile([(user.begun_s - user.due_s) * 1e3 for user in in_surge], 0.99) or 0.0,
        goodput=useful_in_surge / (capacity * load.surge_s) if capacity else 0.0,
        calm_goodput=served_in_calm / due_in_calm if due_in_calm else 0.0,
        p99_ms=percentile(took_ms, 0.99),
        recovered_s=recovered_s(users, load, deadline_s=crowd.deadline_s),
        attempts=sum(user.attempts for user in users),
        refusals=dict(crowd.refusals.most_common()),
        due=per_second([user.due_s for user in users], end_s=load.end_s),
        served=per_second([user.ended_s for user in served], end_s=load.end_s),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that this share of all values does not exceed.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else None


def per_second(moments_s: Sequence[float], *, end_s: float) -> list[int]:
    """Count moments by their second; those after the end are left out.

    >>> per_second([0.1, 0.9, 2.5, 3.1], end_s=3)
    [2, 0, 1]
    """
    counts = [0] * int(end_s)
    for moment_s in moments_s:
        if moment_s < len(counts):
            counts[int(moment_s)] += 1
    return counts


def recovered_s(users: Sequence[User], load: Load, *, deadline_s: float) -> float | None:
    """Return the seconds after the surge from which every second's arrivals are served, but for one in twenty.

    Looked for in steps of a tenth of a second; None where there is no such moment at least a second before the end.
    """
    due = [0] * round(load.calm_s * 10)
    served = [0] * len(due)
    for user in users:
        tenth = int((user.due_s - load.surge_s) * 10)
        if user.due_s >= load.surge_s and tenth < len(due):
            due[tenth] += 1
            served[tenth] += user.is_served(deadline_s)
    for start in range(len(due) - 9):
        seconds = range(start, len(due) - 9, 10)
        if all(sum(served[at : at + 10]) >= SERVED_SHARE * sum(due[at : at + 10]) for at in seconds):
            return start / 10
    return None


# The chart.

COLOURS = ("#0b6e4f", "#c8553d", "#3d5a99", "#8a6d3b", "#6b4c9a")


def chart(outcomes: Mapping[str, Outcome], *, surge_s: float, title: str) -> str:
    """Return a drawing, as SVG, of the useful answers each contender gave in each second."""
    width, height, left, top, right, bottom = 920, 400, 56, 44, 200, 44
    seconds = max(len(outcome.served) for outcome in outcomes.values())
    most = max(1.0, *(max(*outcome.served, outcome.capacity_per_s) for outcome in outcomes.values())) * 1.1
    across, up = (width - left - right) / seconds, (height - top - bottom) / most

    def x(second: float) -> float:
        return left + second * across

    def y(per_s: float) -> float:
        return height - bottom - per_s * up

    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if most / step <= 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="22" font-size="15" fill="#222222">{escape(title)}</text>',
        f'<rect x="{x(0):.1f}" y="{top}" width="{x(surge_s) - x(0):.1f}" height="{height - top - bottom}" '
        'fill="#f2e3dc"/>',
        f'<text x="{x(0) + 6:.1f}" y="{top + 16}" fill="#7a4a3a">surge</text>',
    ]
    for per_s in range(0, int(most) + 1, step):
        parts.append(
            f'<line x1="{left}" y1="{y(per_s):.1f}" x2="{width - right}" y2="{y(per_s):.1f}" stroke="#dddddd"/>'
            f'<text x="{left - 8}" y="{y(per_s) + 4:.1f}" text-anchor="end" fill="#555555">{per_s}</text>'
        )
    for second in range(0, seconds + 1, 5 if seconds > 20 else 1):
        parts.append(
            f'<text x="{x(second):.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#555555">{second}</text>'
        )
    parts.append(
        f'<text x="{x(seconds / 2):.1f}" y="{height - 8}" text-anchor="middle" fill="#555555">seconds; '
        "upwards: answers within the deadline, per second; dashed: capacity</text>"
    )
    for (name, outcome), colour, row in zip(outcomes.items(), COLOURS, range(len(COLOURS)), strict=False):
        line = " ".join(f"{x(second + 0.5):.1f},{y(count):.1f}" for second, count in enumerate(outcome.served))
        at = y(outcome.capacity_per_s)
        parts += [
            f'<line x1="{left}" y1="{at:.1f}" x2="{width - right}" y2="{at:.1f}" stroke="{colour}" '
            'stroke-dasharray="3 5" stroke-opacity="0.6"/>',
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<rect x="{width - right + 14}" y="{top + 6 + row * 22}" width="14" height="4" fill="{colour}"/>',
            f'<text x="{width - right + 34}" y="{top + 12 + row * 22}" fill="#222222">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


# One run, in the contender's own process; and the parent.


async def contend(order: Mapping[str, Any]) -> Outcome:
    """Put one surge on one contender, as the parent ordered."""
    place = Place(**{**order["place"], "endpoint": Endpoint(**order["place"]["endpoint"])})
    contenders = {**CONTENDERS, GENERATOR_ALONE: nobody}
    async with contenders[order["contender"]](place) as attempt:
        capacity = order["capacity_per_s"]
        if capacity is None:
            await capacity_per_s(attempt, connections=place.connections, seconds=0.5)
            capacity = await capacity_per_s(attempt, connections=place.connections, seconds=CAPACITY_S)
        load = Load(
            surge_per_s=order["multiple"] * capacity,
            surge_s=order["surge_s"],
            calm_per_s=CALM_MULTIPLE * capacity,
            calm_s=order["calm_s"],
        )
        await asyncio.sleep(0.5)
        crowd = await crowd_of(load, attempt, deadline_s=place.deadline_s, seed=order["seed"])
    return outcome_of(crowd, load, capacity=capacity)


def line_of(name: str, multiple: float, one: Outcome) -> str:
    """Return what is said of a run when it is over."""
    refusals = ", ".join(f"{kind} {count:,}" for kind, count in one.refusals.items()) or "none"
    return (
        f"{multiple:g} × {name}: capacity {one.capacity_per_s:,.1f}/s, offered {one.offered_per_s:,.0f}/s "
        f"({one.offered_per_s / one.capacity_per_s:.2f} ×), begun in the surge {one.begun_per_s:,.0f}/s, "
        f"{one.surge_lag_p99_ms:,.0f} ms late at p99 ({'kept up' if one.kept_up else 'NOT kept up'}); "
        f"{one.attempts:,} attempts for {sum(one.due):,} users; refusals: {refusals}"
    )


def page(table: Mapping[float, Mapping[str, Outcome]], *, command: str, about: str) -> str:
    """Return the table as Markdown."""
    lines = [
        f"## A surge on the connection layer ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)\n",
        f"`{command}`: {about}\n",
        "| surge | through | capacity/s | offered/s | generator late, p99 ms | goodput in the surge, of capacity "
        "| p99 of useful answers, ms | recovered after | served in the calm |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for multiple, outcomes in table.items():
        for name, one in outcomes.items():
            p99 = "–" if one.p99_ms is None else f"{one.p99_ms:,.0f}"
            recovered = "never" if one.recovered_s is None else f"{one.recovered_s:.1f} s"
            late = f"{one.surge_lag_p99_ms:,.0f}" + ("" if one.kept_up else " (not kept up)")
            lines.append(
                f"| {multiple:g} × | {name} | {one.capacity_per_s:,.0f} | {one.offered_per_s:,.0f} | {late} "
                f"| {one.goodput:.3f} | {p99} | {recovered} | {one.calm_goodput:.1%} |"
            )
    return "\n".join([*lines, ""])


async def run(chosen: argparse.Namespace) -> None:
    """Surge upon surge; print, draw."""
    names = [name for name in CONTENDERS if not chosen.only or any(part in name for part in chosen.only)]
    multiples: list[float] = chosen.multiple or [*MULTIPLES]
    # As many places as the work is meant to have, so that the one without a pool meets the same limit; small, so
    # that a refusal, which forks, costs little. Refusals stay out of the log: they would be most of the writing.
    extra = {
        "max_connections": str(chosen.connections),
        "superuser_reserved_connections": "0",
        "reserved_connections": "0",
        "log_min_messages": "panic",
    }
    said = sys.stderr if chosen.json else sys.stdout
    table: dict[float, dict[str, Outcome]] = {}
    with scratch_directory() as scratch:
        small = LocalServerSettings(data_dir=scratch / "data", memory_bytes=256 << 20, extra=extra)
        async with LocalServer(small) as server:
            place = Place(
                endpoint=server.service,
                connections=chosen.connections,
                hold_s=chosen.hold_ms / 1e3,
                deadline_s=chosen.deadline_s,
            )

            async def surge(
                name: str, multiple: float, *, capacity: float | None, surge_s: float, calm_s: float
            ) -> Outcome:
                order = {
                    "contender": name,
                    "place": asdict(place),
                    "multiple": multiple,
                    "capacity_per_s": capacity,
                    "surge_s": surge_s,
                    "calm_s": calm_s,
                    "seed": chosen.seed,
                }
                answer = await in_own_process("benchmarks.surge_pool", order, seconds=surge_s + calm_s + CAPACITY_S)
                await asyncio.sleep(1.0)  # the server's processes of this contender end
                return Outcome(**answer)

            proved = PROOF_FACTOR * max(multiples)
            nominal = place.connections / place.hold_s
            alone = await surge(GENERATOR_ALONE, proved, capacity=nominal, surge_s=PROOF_S, calm_s=1.0)
            print(line_of(GENERATOR_ALONE, proved, alone), file=said, flush=True)
            for multiple in multiples:
                table[multiple] = {}
                for name in names:
                    one = await surge(name, multiple, capacity=None, surge_s=chosen.surge_s, calm_s=chosen.calm_s)
                    table[multiple][name] = one
                    print(line_of(name, multiple, one), file=said, flush=True)
    if chosen.chart:
        title = f"{max(multiples):g} × the capacity for {chosen.surge_s:g} s, then {CALM_MULTIPLE} ×"
        chosen.chart.write_text(chart(table[max(multiples)], surge_s=chosen.surge_s, title=title))
    if chosen.json:
        print(json.dumps({multiple: {name: asdict(one) for name, one in by.items()} for multiple, by in table.items()}))
        return
    about = (
        f"{place.connections} connections, each request holds one for {chosen.hold_ms:g} ms; {chosen.surge_s:g} s of "
        f"surge, then {chosen.calm_s:g} s at {CALM_MULTIPLE} × the capacity; users wait {chosen.deadline_s:g} s and "
        f"ask up to {RETRIES} times more; alone, the generator offers {alone.offered_per_s:,.0f} users/s and "
        f"{alone.attempts / (PROOF_S + 1.0):,.0f} attempts/s, {alone.surge_lag_p99_ms:.0f} ms late at p99; "
        f"{machine()}; {versions()}."
    )
    print()
    print(page(table, command=" ".join(["python -m benchmarks.surge_pool", *sys.argv[1:]]), about=about))


def main() -> None:
    """Put the surges on; or, as a contender's own process, take the order and answer it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.surge_pool",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--multiple", type=float, action="append", help="of the capacity; may be repeated")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="those whose name contains this")
    parser.add_argument("--surge-s", type=float, default=SURGE_S)
    parser.add_argument("--calm-s", type=float, default=CALM_S)
    parser.add_argument("--deadline-s", type=float, default=DEADLINE_S, help="how long a user waits for an answer")
    parser.add_argument("--hold-ms", type=float, default=HOLD_S * 1e3, help="how long each request holds a connection")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="at least 3")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the largest surge there, as SVG")
    parser.add_argument("--json", action="store_true", help="print everything measured as JSON, and the words aside")
    parser.add_argument("--contend", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contend:
        print(json.dumps(asdict(uvloop.run(contend(json.loads(sys.stdin.read()))))))
    else:
        uvloop.run(run(chosen))


if __name__ == "__main__":
    main()
