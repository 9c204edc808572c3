"""A fault, rehearsed: on a throwaway service, under a steady load, judged by what people noticed.

    client path: users -> (proxy) -> node            database path: node -> (proxy) -> PostgreSQL

What a fault needs is set up for it and nothing else, so that the others are rehearsed on what operators run. The load
is light: a machine with two cores has room for it, and what is missed is missed because of the fault.
"""

import asyncio
import math
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from seawall.clock import monotonic_s
from seawall.database import Endpoint
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.drills.faults import Fault, Need, Place
from seawall.drills.generator import GeneratorFailed, Order, Progress, generate, verify_ledger
from seawall.drills.hypothesis import STEADY_FOR_S, Second, Verdict, judge
from seawall.drills.instance import (
    Cores,
    Instance,
    InstanceFailed,
    Stage,
    new_directory,
    running_instance,
    set_stage,
    shared_out,
    with_descendants,
)
from seawall.drills.load import GIVE_UP, Crowd, Kind, Load, Phase, Sort
from seawall.drills.outcomes import Series, Summary
from seawall.drills.replica import streaming_replica
from seawall.drills.small_disk import small_disk
from seawall.drills.tcp_proxy import TcpProxy, tcp_proxy
from seawall.drills.undo import see_through
from seawall.errors import Misconfigured, SeawallError
from seawall.service import watch_local_server

MIB: Final = 1024 * 1024

SECONDS: Final = 10.0
"""How long a fault is in force, unless told otherwise."""

BEFORE_S: Final = 5
SEEN_AFTER_S: Final = STEADY_FOR_S + 3
"""How long it is watched after it should have recovered: long enough for a steady state that begins late."""

LOAD_MAX_S: Final = 300.0
"""What a drill may take beside the seconds of its fault: to break something and to put it right has bounds of its own,
which together are shorter."""

WHOLE_MAX_S: Final = 600.0
"""What a drill may take in all, beside the seconds of its fault: then it is given up."""

READS_PER_S: Final = 100.0
WRITES_PER_S: Final = 10.0
THINK_S: Final = 5.0
OBJECT_BYTES: Final = 4096
"""Above what is kept in the database: small reads are of the disk too."""

PATIENCE_S: Final = 10.0
"""How long a user waits for an answer, however useless by then: longer than any hypothesis allows it to take."""

FLOOD_HOLD_S: Final = 0.02
"""With a tenant that floods, each request holds a connection for so long: else no tenant could ask for too much from
the same two cores."""

FLOOD_PER_S: Final = 1500.0
FLOOD_CONNECTIONS: Final = 256

DISK_BYTES: Final = 384 * MIB
DISK_MEMORY_BYTES: Final = 64 * MIB
DISK_CONFIGURATION: Final[Mapping[str, str]] = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
"""A database that fits on a small disk."""

KEEPER_PAUSE_S: Final = 0.2
"""Between two attempts to start a server of the drill's own that has no room to start."""

STEADY: Final = Crowd(
    name="people",
    phases=(Phase(rate_per_s=READS_PER_S + WRITES_PER_S, seconds=LOAD_MAX_S),),
    mix=(
        Sort(kind=Kind.GET, share=READS_PER_S),
        Sort(kind=Kind.PUT, share=WRITES_PER_S, size_bytes=OBJECT_BYTES),
    ),
    think_s=THINK_S,
    # A share of requests is judged, and one that comes again would be counted twice.
    retry=GIVE_UP,
    deadline_s=PATIENCE_S,
)

FLOOD: Final = Crowd(
    name="flood",
    phases=(Phase(rate_per_s=FLOOD_PER_S, seconds=LOAD_MAX_S),),
    mix=(Sort(kind=Kind.GET),),
    think_s=0.0,
    retry=GIVE_UP,
    deadline_s=1.0,
    user_connections=FLOOD_CONNECTIONS,
)


class CannotRehearse(RuntimeError):
    """What a fault needs cannot be had here. The message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """How a service took a fault: moments in seconds from the start of the load.

    `reads` are the small reads by second, `series` the counts of what became of them, `answers` all answers by how
    often they were given. `bottleneck` says why the figures are the generator's, if they are.
    """

    fault: Fault
    verdict: Verdict
    broken_s: float
    mended_s: float
    acknowledged_writes: int
    unreadable_writes: int
    reads: tuple[Second, ...]
    series: Series
    answers: Mapping[str, int]
    bottleneck: str | None

    @property
    def complaints(self) -> tuple[str, ...]:
        """In which way it was not as it should be; none where the hypothesis held."""
        doubt = () if self.bottleneck is None else (f"the figures are the generator's: {self.bottleneck}",)
        return self.verdict.complaints + doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRehearsed:
    """A fault nothing is known about: what it needs is not here (`is_skipped`), or its drill broke; `why` says more."""

    fault: Fault
    why: str
    is_skipped: bool


Result = Rehearsal | NotRehearsed


# Decisions.


def is_well(result: Result) -> bool:
    """Return whether it was as it should be: who skips a fault aloud has not failed."""
    return not result.complaints if isinstance(result, Rehearsal) else result.is_skipped


def load_of(fault: Fault, *, seconds: float) -> Load:
    """Return the load for a fault that is in force for so long: as long as it can take, for it is ended before."""
    whole = Phase(rate_per_s=READS_PER_S + WRITES_PER_S, seconds=LOAD_MAX_S + seconds + watched_s(fault))
    return Load(crowds=(replace(STEADY, phases=(whole,)),))


def watched_s(fault: Fault) -> float:
    """Return how long it is looked at after the fault was put right.

    >>> from seawall.drills.faults import FAULTS
    >>> watched_s(FAULTS[0])
    11.0
    """
    return fault.hypothesis.recovered_within_s + SEEN_AFTER_S


def settings_of(fault: Fault, *, database_url: str, disk: Path) -> dict[str, str]:
    """Return what the service is told for the sake of a fault.

    Args:
        fault: what is to be broken.
        database_url: the drill's own PostgreSQL; empty where the embedded one will do.
        disk: the file that says what the matter is with the disk.
    """
    settings = {}
    if database_url:
        settings["SEAWALL_DATABASE_URL"] = database_url
    if Need.DISK in fault.needs:
        settings["SEAWALL_DRILL_DISK"] = str(disk)
    if Need.FLOOD in fault.needs:
        settings["SEAWALL_DRILL_HOLD_S"] = str(FLOOD_HOLD_S)
    return settings


def needs_own_database(fault: Fault) -> bool:
    """Return whether the drill has to run the PostgreSQL, instead of the service's keeper."""
    return bool(fault.needs & {Need.DATABASE_PATH, Need.REPLICA, Need.SMALL_DISK})


def url_of(servers: list[Endpoint]) -> str:
    """Return the address of a primary and its replicas, which differ in where their sockets are.

    >>> ends = [Endpoint(host=host, port=5432, user="u", password="p", database="d") for host in ("/a", "/b")]
    >>> url_of(ends)
    'postgresql://u:p@/d?host=%2Fa%2C%2Fb&port=5432'
    """
    return replace(servers[0], host=",".join(server.host for server in servers)).url


def rehearsal_of(
    fault: Fault, summary: Summary, *, broken_s: float, mended_s: float, acknowledged: int, lost: int, unreadable: int
) -> Rehearsal:
    """Judge.

    Args:
        fault: what was broken.
        summary: what became of the load.
        broken_s: when the fault began, on the machine's monotonic clock.
        mended_s: when it was put right.
        acknowledged: how many writes were.
        lost: how many of those are not there as they were written, or cannot be read.
        unreadable: how many of `lost` cannot be read, so that nobody knows.
    """
    broken_s, mended_s = broken_s - summary.began_s, mended_s - summary.began_s
    # The last second is only part of one: then nobody came any more.
    reads = summary.reads[:-1]
    # It is broken when a second has just begun, and what happens then is the whole story where it mends itself.
    judged_from_s = float(math.floor(broken_s))
    return Rehearsal(
        fault=fault,
        verdict=judge(fault.hypothesis, reads, broken_s=judged_from_s, mended_s=mended_s, lost_writes=lost),
        broken_s=broken_s,
        mended_s=mended_s,
        acknowledged_writes=acknowledged,
        unreadable_writes=unreadable,
        reads=reads,
        series=summary.by_class["interactive"].series,
        answers=summary.answers,
        bottleneck=summary.effort.bottleneck,
    )


# Acting.


async def rehearse(
    fault: Fault,
    *,
    seconds: float = SECONDS,
    before_s: int = BEFORE_S,
    tell: Callable[[str], None] = lambda _: None,
    hear: Callable[[Progress], None] = lambda _: None,
    during: Callable[[Instance], Coroutine[object, object, None]] | None = None,
) -> Rehearsal:
    """Break something for so long, on a service under load, put it right, and say how it went.

    Whatever happens, nothing is left of it. The load is on for `before_s` before anything is broken. `tell` hears what
    is begun, `hear` each second of the load. `during` is what is done while it is broken; it is ended when it is put
    right.

    Raises:
        CannotRehearse: what the fault needs cannot be had here.
        InstanceFailed, GeneratorFailed: the drill could not be held.
        SeawallError, TimeoutError: it could not be broken, or not be put right.
    """
    async with AsyncExitStack() as stack:
        directory = new_directory()
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        tell("starting the service")
        scene = await _furnish(stack, fault, directory)
        missing = fault.missing(scene.place)
        if missing:
            raise CannotRehearse(f"it needs {', and '.join(missing)}")
        return await _perform(
            scene,
            fault,
            seconds=seconds,
            before_s=before_s,
            ledger=directory / "ledger",
            tell=tell,
            hear=hear,
            during=during,
        )


async def rehearse_each(
    faults: Iterable[Fault],
    *,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda _: None,
    hear: Callable[[str, Progress], None] = lambda *_: None,
) -> list[Result]:
    """Rehearse one after the other, each within bounds; one that cannot be held does not keep the others from it."""
    results: list[Result] = []
    for fault in faults:
        try:
            async with asyncio.timeout(WHOLE_MAX_S + seconds):
                results.append(await rehearse(fault, seconds=seconds, tell=tell, hear=partial(hear, fault.name)))
        except CannotRehearse as error:
            results.append(NotRehearsed(fault=fault, why=str(error), is_skipped=True))
        except (InstanceFailed, GeneratorFailed, SeawallError, TimeoutError, OSError) as error:
            results.append(NotRehearsed(fault=fault, why=str(error) or "it took too long", is_skipped=False))
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """A service with what a fault needs; `order` is for the load."""

    place: Place
    stage: Stage
    direct: Instance


async def _furnish(stack: AsyncExitStack, fault: Fault, directory: Path) -> _Scene:
    """Set up what a fault needs, and the service on it."""
    cores = shared_out(os.sched_getaffinity(0))
    database = await _own_database(stack, fault, directory, cores) if needs_own_database(fault) else _OwnDatabase()
    disk = directory / "disk.json"
    settings = settings_of(fault, database_url=url_of(database.servers) if database.servers else "", disk=disk)
    instance = await stack.enter_async_context(running_instance(settings, database_dir=database.data_dir))
    client_path, reached = None, instance
    if Need.CLIENT_PATH in fault.needs:
        client_path = await stack.enter_async_context(tcp_proxy(instance.s3_address))
        assert isinstance(client_path.address, tuple)
        reached = replace(instance, s3_address=client_path.address)
    stage = await set_stage(reached, users=STEADY.users + FLOOD.users, object_bytes=OBJECT_BYTES)
    place = Place(
        superuser=instance.superuser_database,
        service=instance.service_database,
        data_dir=database.data_dir or instance.data_dir,
        node_pids=tuple(instance.node_pids()),
        replicas=database.replicas,
        client_path=client_path,
        database_path=database.path,
        disk=disk if Need.DISK in fault.needs else None,
        small_disk=database.small_disk,
        flood=(lambda: _flood(stage)) if Need.FLOOD in fault.needs else None,
    )
    return _Scene(place=place, stage=stage, direct=instance)


@asynccontextmanager
async def _flood(stage: Stage) -> AsyncIterator[None]:
    """Have the last user ask for far more than their share, for the length of the block."""
    # Not one of those who make the steady load, who are the first.
    order = stage.order(Load(crowds=(FLOOD,)))
    async with _loading(replace(order, users=order.users[-1:])):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnDatabase:
    """A PostgreSQL of the drill's own, as the service sees it (`servers`); nothing where there is none."""

    servers: list[Endpoint] = field(default_factory=list)
    data_dir: Path | None = None
    replicas: tuple[Endpoint, ...] = ()
    path: TcpProxy | None = None
    small_disk: Path | None = None


async def _own_database(stack: AsyncExitStack, fault: Fault, directory: Path, cores: Cores) -> _OwnDatabase:
    """Run a PostgreSQL beside the service, kept running as its keeper would, with what a fault needs around it."""
    root, disk, local = directory, None, LocalServerSettings(data_dir=directory / "data")
    if Need.SMALL_DISK in fault.needs:
        root = _new_directory_in(directory, "disk")
        try:
            disk = await stack.enter_async_context(small_disk(root, size_bytes=DISK_BYTES))
        except Misconfigured as error:
            raise CannotRehearse(str(error)) from error
        local = LocalServerSettings(data_dir=root / "data", memory_bytes=DISK_MEMORY_BYTES, extra=DISK_CONFIGURATION)
    server = await stack.enter_async_context(LocalServer(local))
    await stack.enter_async_context(_kept(server))
    pids = {server.pid}
    servers, replicas = [server.service], []
    if Need.REPLICA in fault.needs:
        replica = await stack.enter_async_context(
            streaming_replica(
                superuser=server.superuser, service=server.service, directory=_new_directory_in(directory, "replica")
            )
        )
        pids.add(replica.pid)
        servers.append(replica.service)
        replicas.append(replica.superuser)
    path = None
    if Need.DATABASE_PATH in fault.needs:
        sockets, name = _new_directory_in(directory, "sockets"), f".s.PGSQL.{server.service.port}"
        path = await stack.enter_async_context(tcp_proxy(Path(server.service.host) / name, listen=sockets / name))
        servers = [replace(server.service, host=str(sockets))]
    _pin(pids, cores)
    return _OwnDatabase(servers=servers, data_dir=local.data_dir, replicas=tuple(replicas), path=path, small_disk=disk)


def _new_directory_in(directory: Path, name: str) -> Path:
    """Make one that PostgreSQL's user may pass through."""
    made = directory / name
    made.mkdir()
    made.chmod(0o711)
    return made


def _pin(pids: set[int], cores: Cores) -> None:
    """Have processes, and all they have started, run where the service does."""
    if cores.service is not None:
        for pid in with_descendants(pids):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, cores.service)


@asynccontextmanager
async def _kept(server: LocalServer) -> AsyncIterator[None]:
    """Have a server started again when it dies, for the length of the block."""

    async def keep() -> None:
        while True:
            with suppress(SeawallError):
                await watch_local_server(server)
            # It cannot start, for there is no room: as its keeper does, try again.
            await asyncio.sleep(KEEPER_PAUSE_S)

    keeping = asyncio.create_task(keep(), name="keep the drill's database")
    try:
        yield
    finally:
        keeping.cancel()
        await see_through(_ended(keeping))


async def _perform(
    scene: _Scene,
    fault: Fault,
    *,
    seconds: float,
    before_s: int,
    ledger: Path,
    tell: Callable[[str], None],
    hear: Callable[[Progress], None],
    during: Callable[[Instance], Coroutine[object, object, None]] | None,
) -> Rehearsal:
    """Put the load on, break, put right, watch, and look whether everything acknowledged is there."""
    steady, enough = asyncio.Event(), asyncio.Event()

    def listen(progress: Progress) -> None:
        if progress.second + 1 >= before_s:
            steady.set()
        hear(progress)

    order = scene.stage.order(load_of(fault, seconds=seconds), ledger=ledger)
    async with _loading(order, hear=listen, enough=enough) as loading:
        tell("a steady load, to see what is usual")
        await _unless_it_ends(steady.wait(), loading)
        tell(f"{fault.name}: {fault.about}")
        broken_s = monotonic_s()
        async with fault.inject(scene.place), _beside(during, scene.direct):
            await _unless_it_ends(asyncio.sleep(seconds), loading)
            tell("putting it right")
        mended_s = monotonic_s()
        tell("watching it recover")
        await _unless_it_ends(asyncio.sleep(watched_s(fault)), loading)
        enough.set()
        summary = await loading
    tell("reading everything that was acknowledged")
    found = await verify_ledger(ledger, scene.direct.target(scene.stage.bucket), scene.direct.root_keys)
    return rehearsal_of(
        fault,
        summary,
        broken_s=broken_s,
        mended_s=mended_s,
        acknowledged=found.acknowledged,
        lost=found.acknowledged - found.intact,
        unreadable=found.unreadable,
    )


@asynccontextmanager
async def _beside(
    during: Callable[[Instance], Coroutine[object, object, None]] | None, instance: Instance
) -> AsyncIterator[None]:
    """Have something done for the length of the block; what went wrong with it is raised when that ends."""
    if during is None:
        yield
        return
    doing = asyncio.create_task(during(instance), name="during a fault")
    try:
        yield
        if doing.done():
            doing.result()
    finally:
        doing.cancel()
        await see_through(_ended(doing))


@asynccontextmanager
async def _loading(
    order: Order, *, hear: Callable[[Progress], None] = lambda _: None, enough: asyncio.Event | None = None
) -> AsyncIterator[asyncio.Task[Summary]]:
    """Have a load on the service for the length of the block at the most; its generator is gone afterwards."""
    loading = asyncio.create_task(generate(order, hear=hear, enough=enough), name="load of a drill")
    try:
        yield loading
    finally:
        loading.cancel()
        await see_through(_ended(loading))


async def _unless_it_ends(work: Coroutine[object, object, object], loading: asyncio.Task[Summary]) -> None:
    """Do something while there is load.

    Raises:
        GeneratorFailed: there is none any more.
    """
    doing = asyncio.create_task(work)
    try:
        await asyncio.wait([doing, loading], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            raise GeneratorFailed("the load generator ended before the drill")
    finally:
        doing.cancel()


async def _ended(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended, in whatever way; whoever needs to know how has asked it."""
    await asyncio.gather(task, return_exceptions=True)
