"""What can be broken, what must hold nevertheless, and whom a diagnosis should suspect first.

A fault is in force for the length of its `inject` block. When the block ends, in whatever way, nothing is left of it.
A trap is a fault with a harmless companion that looks guilty: it is what misleads people (in the outage this service
answers to, a network hiccup did, for an hour), and should not mislead a diagnosis.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from seawall.clock import monotonic_s
from seawall.database import Endpoint
from seawall.database.session import open_session
from seawall.drills.burners import MODEST, burning, cores_of, quiet_core
from seawall.drills.hypothesis import Hypothesis
from seawall.drills.replica import lagging
from seawall.drills.sessions import ASK_S, crew, stranger
from seawall.drills.slow_disk import DiskTrouble, disk_trouble
from seawall.drills.small_disk import filled
from seawall.drills.tcp_proxy import Cut, TcpProxy, Weather
from seawall.drills.undo import POLL_S, see_through
from seawall.errors import NotRunning, SeawallError
from seawall.monitoring.things import Layer

BACK_WITHIN_S: Final = 90.0
"""How long a killed database may take until it answers again: its keeper waits longer after each failure to start."""

LOCKED_WITHIN_S: Final = 15.0
"""How long a lock may take to get, behind all that is under way."""

HEAVY: Final = """
    select count(*) from generate_series(1, 10000) as a, generate_series(1, 10000) as b, generate_series(1, 10000) as c
    where md5(a::text || b::text || c::text) = ''
"""
"""Takes a processor for days, and next to no memory or disk."""

LEAK: Final = """
    begin;
    select pg_current_xact_id();
    select bucket_id from buckets order by bucket_id limit 1 for key share
"""
"""What a handler does that forgets its transaction: others can still write, but not delete that bucket, and no dead row
can be removed."""

LAG_S: Final = 20.0
DISK_WAIT_S: Final = 0.25
LATENCY_S: Final = 0.15
NARROW_BYTES_PER_S: Final = 64 * 1024.0
HICCUP: Final = Weather(delay_s=0.08)
HICCUP_S: Final = 0.5
HICCUP_EVERY_S: Final = 2.0


class Need(StrEnum):
    """What a fault needs that not every place has. Each is a sentence's end: "it needs …"."""

    CLIENT_PATH = "a proxy between clients and node"
    DATABASE_PATH = "a proxy between node and database"
    REPLICA = "a replica of the database"
    DISK = "a node whose blobs are on a disk for drills"
    SMALL_DISK = "a database on a tmpfs, which only root can mount"
    NODES = "nodes on this machine"
    FLOOD = "somebody who can make more load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What there is to break: always a PostgreSQL on this machine, and whatever else this drill has set up.

    Args:
        superuser: the primary, as its administrator, past any proxy.
        service: the same as the service's role.
        data_dir: that of the server, in which `pg/` lies.
        node_pids: the nodes on this machine.
        replicas: the replicas, as their administrator.
        client_path: what all clients go through.
        database_path: what the nodes' connections to the database go through.
        disk: the file that tells nodes what is the matter with their disk (`slow_disk`).
        small_disk: the tmpfs on which the server's data lies.
        flood: has one tenant ask for far more than its share, for the length of a block.
    """

    superuser: Endpoint
    service: Endpoint
    data_dir: Path
    node_pids: tuple[int, ...] = ()
    replicas: tuple[Endpoint, ...] = ()
    client_path: TcpProxy | None = None
    database_path: TcpProxy | None = None
    disk: Path | None = None
    small_disk: Path | None = None
    flood: Callable[[], AbstractAsyncContextManager[object]] | None = None

    def has(self, need: Need) -> bool:
        """Return whether this is here."""
        present: dict[Need, object] = {
            Need.CLIENT_PATH: self.client_path,
            Need.DATABASE_PATH: self.database_path,
            Need.REPLICA: self.replicas,
            Need.DISK: self.disk,
            Need.SMALL_DISK: self.small_disk,
            Need.NODES: self.node_pids,
            Need.FLOOD: self.flood,
        }
        return bool(present[need])


Injector = Callable[[Place], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that can go wrong: how it is made to, what must hold, and what a diagnosis should say."""

    name: str
    about: str
    suspect: Layer
    hypothesis: Hypothesis
    inject: Injector
    needs: frozenset[Need] = frozenset()
    is_trap: bool = False

    def missing(self, place: Place) -> list[str]:
        """Return what it needs that this place does not have; where there is anything, it is skipped aloud."""
        return [str(need) for need in Need if need in self.needs and not place.has(need)]


# What happens in the database.


@asynccontextmanager
async def hog_connections(place: Place) -> AsyncIterator[None]:
    """Have another program, neither ours nor an administrator's, hold every connection that can be had."""
    async with (
        stranger(place.superuser, "seawall_drill_hog") as hog,
        crew(place.superuser, "drill connection hog") as members,
    ):
        await members.fill(hog)
        async with _beside(members.keep_filled(hog), "keep connections"):
            yield


@asynccontextmanager
async def leak_connections(place: Place) -> AsyncIterator[None]:
    """Have sessions of the service's own role sit in transactions, with locks, until it may have no more of them."""
    async with crew(place.superuser, "drill leaked connections") as members:
        await members.fill(place.service, then=LEAK)
        async with _beside(members.keep_filled(place.service, then=LEAK), "leak connections"):
            yield


@asynccontextmanager
async def slow_query(place: Place) -> AsyncIterator[None]:
    """Have twice as many heavy statements run as there are processors."""
    async with crew(place.superuser, "drill slow query") as members, AsyncExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            session = await members.open(place.superuser)
            await stack.enter_async_context(_beside(session.run(HEAVY, within_s=None), "slow query"))
        yield


def lock_table(mode: str) -> Injector:
    """Return what has another session hold a lock on the table that every request needs."""

    @asynccontextmanager
    async def inject(place: Place) -> AsyncIterator[None]:
        async with crew(place.superuser, "drill blocking lock") as members:
            session = await members.open(place.superuser)
            await session.run(f"begin; lock table current_objects in {mode} mode", within_s=LOCKED_WITHIN_S)
            yield

    return inject


@asynccontextmanager
async def sit_in_transaction(place: Place) -> AsyncIterator[None]:
    """Have a session sit in a transaction, with a lock that is in nobody's way."""
    async with crew(place.superuser, "drill idle session") as members:
        session = await members.open(place.superuser)
        await session.run("begin; select count(*) from accounts", within_s=ASK_S)
        yield


def kill_database(*, whole: bool) -> Injector:
    """Return what kills the database's first process, or one of its children: then it restarts by itself."""

    @asynccontextmanager
    async def inject(place: Place) -> AsyncIterator[None]:
        try:
            if whole:
                os.kill(postmaster_pid(place.data_dir), signal.SIGKILL)
            else:
                session = await open_session(place.superuser, application_name="drill victim")
                os.kill(session.pid, signal.SIGKILL)
                session.drop()
            yield
        finally:
            await see_through(_answers(place.superuser))

    return inject


@asynccontextmanager
async def lag_replicas(place: Place) -> AsyncIterator[None]:
    """Have every replica show what is written much later than it is written."""
    async with AsyncExitStack() as stack:
        for replica in place.replicas:
            await stack.enter_async_context(lagging(replica, by_s=LAG_S))
        yield


@asynccontextmanager
async def fill_small_disk(place: Place) -> AsyncIterator[None]:
    """Leave the database no room on its disk; afterwards it answers again."""
    assert place.small_disk is not None
    try:
        async with filled(place.small_disk):
            yield
    finally:
        await see_through(_answers(place.superuser))


# What happens around it.


def trouble_disk(trouble: DiskTrouble) -> Injector:
    """Return what makes the nodes' disk slow or full."""

    @asynccontextmanager
    async def inject(place: Place) -> AsyncIterator[None]:
        assert place.disk is not None
        with disk_trouble(place.disk, trouble):
            yield

    return inject


def client_weather(weather: Weather) -> Injector:
    """Return what makes the way between clients and node bad."""

    @asynccontextmanager
    async def inject(place: Place) -> AsyncIterator[None]:
        assert place.client_path is not None
        with place.client_path.under(weather):
            yield

    return inject


def database_weather(weather: Weather) -> Injector:
    """Return what makes the way between node and database bad."""

    @asynccontextmanager
    async def inject(place: Place) -> AsyncIterator[None]:
        assert place.database_path is not None
        with place.database_path.under(weather):
            yield

    return inject


@asynccontextmanager
async def hog_processor(place: Place) -> AsyncIterator[None]:
    """Have other processes use the cores the nodes run on."""
    async with burning(cores_of(place.node_pids)):
        yield


@asynccontextmanager
async def flood(place: Place) -> AsyncIterator[None]:
    """Have one tenant ask for far more than its share."""
    assert place.flood is not None
    async with place.flood():
        yield


# Traps: one thing is the cause, another looks like it.


@asynccontextmanager
async def hiccup_in_shortage(place: Place) -> AsyncIterator[None]:
    """Have no connections left, while the network hiccups now and then."""
    assert place.client_path is not None
    async with hog_connections(place), _beside(_hiccup(place.client_path), "hiccup"):
        yield


@asynccontextmanager
async def busy_neighbour_in_lock(place: Place) -> AsyncIterator[None]:
    """Have everybody wait for a lock, while a core that nodes do not need is busy."""
    core = quiet_core(busy=cores_of(place.node_pids), usable=os.sched_getaffinity(0))
    async with burning([core], burners=1, nice=MODEST), lock_table("access exclusive")(place):
        yield


@asynccontextmanager
async def old_transaction_in_latency(place: Place) -> AsyncIterator[None]:
    """Have a slow network, while somebody sits in a transaction that is in nobody's way."""
    async with sit_in_transaction(place), client_weather(Weather(delay_s=LATENCY_S))(place):
        yield


ANSWERED_WITHIN_S: Final = 7.0
"""How long anybody waits to be told that they cannot be served: 5 s for the database (`database_patience_s`), 1 s for
it to stop what it was doing (6.3 s in all were measured), and the rest for a busy machine."""

NOBODY: Final = Hypothesis(during_min=0.0, answered_within_s=ANSWERED_WITHIN_S)
KEEPS_SERVING: Final = Hypothesis(during_min=0.99)

FAULTS: Final[tuple[Fault, ...]] = (
    Fault(
        name="connection-hog",
        about="Another program holds every connection of the database that can be had.",
        suspect=Layer.CONNECTIONS,
        # Nodes keep what they have leased.
        hypothesis=KEEPS_SERVING,
        inject=hog_connections,
    ),
    Fault(
        name="leaked-connections",
        about="Sessions of our own role sit in transactions, with locks, until the role may have no more connections.",
        suspect=Layer.CONNECTIONS,
        hypothesis=KEEPS_SERVING,
        inject=leak_connections,
    ),
    Fault(
        name="slow-query",
        about="Heavy statements of another program saturate the database's processors.",
        suspect=Layer.STATEMENTS,
        # Each statement of ours gets its turn among four heavy ones.
        hypothesis=Hypothesis(during_min=0.95),
        inject=slow_query,
    ),
    Fault(
        name="blocking-lock",
        about="A session changes the table that every request needs, and does not commit: nobody can read or write.",
        suspect=Layer.LOCKS,
        hypothesis=NOBODY,
        inject=lock_table("access exclusive"),
    ),
    Fault(
        name="blocked-writes",
        about="A session holds a lock that keeps everybody from writing, as building an index does.",
        suspect=Layer.LOCKS,
        # Reads have lanes of their own.
        hypothesis=KEEPS_SERVING,
        inject=lock_table("share"),
    ),
    Fault(
        name="database-killed",
        about="The database's first process is killed by force; its keeper starts it again.",
        suspect=Layer.DATABASE,
        # It takes a second or two to start and to recover what was under way: half of ten seconds, on a slow machine.
        hypothesis=Hypothesis(during_min=0.5, answered_within_s=ANSWERED_WITHIN_S, recovered_within_s=10.0),
        inject=kill_database(whole=True),
    ),
    Fault(
        name="backend-killed",
        about="One of the database's processes is killed by force; it restarts them all by itself.",
        suspect=Layer.DATABASE,
        hypothesis=Hypothesis(during_min=0.5, answered_within_s=ANSWERED_WITHIN_S, recovered_within_s=10.0),
        inject=kill_database(whole=False),
    ),
    Fault(
        name="replica-lagging",
        about=f"Every replica shows what is written {LAG_S:g} s later than it is written.",
        suspect=Layer.REPLICA,
        # Replicas that lag are not asked.
        hypothesis=KEEPS_SERVING,
        inject=lag_replicas,
        needs=frozenset({Need.REPLICA}),
    ),
    Fault(
        name="full-database-disk",
        about="There is no room left on the database's disk.",
        suspect=Layer.DISK,
        # PostgreSQL stops when it cannot write its log, and starts again only when there is room.
        hypothesis=Hypothesis(during_min=0.0, answered_within_s=ANSWERED_WITHIN_S, recovered_within_s=60.0),
        inject=fill_small_disk,
        needs=frozenset({Need.SMALL_DISK}),
    ),
    Fault(
        name="slow-disk",
        about=f"The disk takes {DISK_WAIT_S:g} s longer for everything.",
        suspect=Layer.DISK,
        # What is read often is in memory.
        hypothesis=KEEPS_SERVING,
        inject=trouble_disk(DiskTrouble(wait_s=DISK_WAIT_S)),
        needs=frozenset({Need.DISK}),
    ),
    Fault(
        name="full-disk",
        about="There is no room left on the disk: writes are refused, reads are not.",
        suspect=Layer.DISK,
        hypothesis=KEEPS_SERVING,
        inject=trouble_disk(DiskTrouble(full=True)),
        needs=frozenset({Need.DISK}),
    ),
    Fault(
        name="network-latency",
        about=f"The way between clients and node takes {LATENCY_S:g} s, in each direction.",
        suspect=Layer.NETWORK,
        # Two or three ways make a request; all are served within a second.
        hypothesis=Hypothesis(during_min=0.95),
        inject=client_weather(Weather(delay_s=LATENCY_S)),
        needs=frozenset({Need.CLIENT_PATH}),
    ),
    Fault(
        name="network-narrow",
        about=f"Each connection of a client passes no more than {NARROW_BYTES_PER_S / 1024:g} KiB a second.",
        suspect=Layer.NETWORK,
        # Slow readers cost a file handle and nobody else's time; a small answer fits.
        hypothesis=Hypothesis(during_min=0.95),
        inject=client_weather(Weather(bytes_per_s=NARROW_BYTES_PER_S)),
        needs=frozenset({Need.CLIENT_PATH}),
    ),
    Fault(
        name="network-cut",
        about="Nothing arrives between clients and node, and nobody is told.",
        suspect=Layer.NETWORK,
        hypothesis=Hypothesis(during_min=0.0),
        inject=client_weather(Weather(cut=Cut.BLACK_HOLE)),
        needs=frozenset({Need.CLIENT_PATH}),
    ),
    Fault(
        name="network-reset",
        about="Connections between clients and node are reset, open and new ones.",
        suspect=Layer.NETWORK,
        hypothesis=Hypothesis(during_min=0.0),
        inject=client_weather(Weather(cut=Cut.RESET)),
        needs=frozenset({Need.CLIENT_PATH}),
    ),
    Fault(
        name="database-unreachable",
        about="Nothing arrives between node and database, and nobody is told.",
        suspect=Layer.NETWORK,
        # What was under way is given up, and its connections replaced, before anybody is served again.
        hypothesis=Hypothesis(during_min=0.0, answered_within_s=ANSWERED_WITHIN_S, recovered_within_s=10.0),
        inject=database_weather(Weather(cut=Cut.BLACK_HOLE)),
        needs=frozenset({Need.DATABASE_PATH}),
    ),
    Fault(
        name="cpu-hog",
        about="Other processes use the cores that the nodes run on.",
        suspect=Layer.PROCESSOR,
        # About a quarter of a core is left.
        hypothesis=Hypothesis(during_min=0.95),
        inject=hog_processor,
        needs=frozenset({Need.NODES}),
    ),
    Fault(
        name="noisy-tenant",
        about="One tenant asks for far more than its share; judged by the others.",
        suspect=Layer.TENANT,
        hypothesis=KEEPS_SERVING,
        inject=flood,
        needs=frozenset({Need.FLOOD}),
    ),
    Fault(
        name="trap-network-hiccup",
        about="There are no connections left, while the network hiccups: what misled people in the outage.",
        suspect=Layer.CONNECTIONS,
        # The hiccups are well within the second.
        hypothesis=KEEPS_SERVING,
        inject=hiccup_in_shortage,
        needs=frozenset({Need.CLIENT_PATH}),
        is_trap=True,
    ),
    Fault(
        name="trap-busy-neighbour",
        about="Everybody waits for a lock, while a core that nodes do not need is busy.",
        suspect=Layer.LOCKS,
        hypothesis=NOBODY,
        inject=busy_neighbour_in_lock,
        needs=frozenset({Need.NODES}),
        is_trap=True,
    ),
    Fault(
        name="trap-old-transaction",
        about="The network is slow, while somebody sits in a transaction that is in nobody's way.",
        suspect=Layer.NETWORK,
        hypothesis=Hypothesis(during_min=0.95),
        inject=old_transaction_in_latency,
        needs=frozenset({Need.CLIENT_PATH}),
        is_trap=True,
    ),
)


def fault_named(name: str) -> Fault | None:
    """Return the fault of that name."""
    return next((fault for fault in FAULTS if fault.name == name), None)


def postmaster_pid(data_dir: Path) -> int:
    """Return the first process of the PostgreSQL whose data lies in `data_dir`.

    Raises:
        NotRunning: there is none.
    """
    try:
        pid = int((data_dir / "pg" / "postmaster.pid").read_text().split("\n", 1)[0])
        if os.fsencode(data_dir / "pg") in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    except (OSError, ValueError) as error:
        raise NotRunning("PostgreSQL is not running") from error
    raise NotRunning("PostgreSQL is not running")


async def _answers(superuser: Endpoint) -> None:
    """Wait until the database can be asked and written to."""
    deadline_s = monotonic_s() + BACK_WITHIN_S
    while True:
        try:
            session = await open_session(superuser, application_name="drill is it back")
            try:
                await session.run("select pg_current_xact_id()", within_s=ASK_S)
            finally:
                session.drop()
        except SeawallError:
            if monotonic_s() > deadline_s:
                raise
            await asyncio.sleep(POLL_S)
        else:
            return


async def _hiccup(proxy: TcpProxy) -> None:
    """Be slow for a moment now and then, until cancelled."""
    while True:
        with proxy.under(HICCUP):
            await asyncio.sleep(HICCUP_S)
        await asyncio.sleep(HICCUP_EVERY_S - HICCUP_S)


@asynccontextmanager
async def _beside(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Have work done beside the block, until the block ends; that it failed is raised then."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await see_through(_ended(task))
    if not task.cancelled():
        task.result()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
