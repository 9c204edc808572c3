"""A fault breaks what it says, and nothing of it is left, whether it ends, or the drill fails or is cancelled."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.drills.conftest import DATABASE_CONNECTIONS
from tests.drills.kit import Flood

from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.database import Endpoint
from seawall.database.session import Session, open_session
from seawall.drills.burners import BURN
from seawall.drills.faults import DISK_WAIT_S, FAULTS, LATENCY_S, Fault, Need, Place, fault_named, postmaster_pid
from seawall.drills.sessions import stranger
from seawall.drills.slow_disk import drill_blob_store
from seawall.drills.tcp_proxy import FAIR, TcpProxy
from seawall.drills.undo import see_through, until
from seawall.errors import DatabaseDown, DeadlineExceeded, StorageFull, Unavailable

SOON_S = 5.0
HERE = [fault for fault in FAULTS if not fault.needs & {Need.REPLICA, Need.SMALL_DISK}]
"""Those for which the furnished place has everything; the others have tests of their own."""

by_name = pytest.mark.parametrize("fault", HERE, ids=lambda fault: fault.name)


def named(name: str) -> Fault:
    fault = fault_named(name)
    assert fault is not None
    return fault


@asynccontextmanager
async def session_of(endpoint: Endpoint) -> AsyncIterator[Session]:
    """Have a session of an innocent program."""
    session = await open_session(endpoint, application_name="a test")
    try:
        yield session
    finally:
        session.drop()


async def scars(place: Place) -> list[str]:
    """Return what is left of faults."""
    found = [str(pid) for pid in burners()]
    async with session_of(place.superuser) as session:
        for question in (
            "select string_agg(application_name, ', ') from pg_stat_activity where application_name like 'drill%'",
            "select string_agg(rolname, ', ') from pg_roles where rolname like 'seawall_drill%'",
            "select string_agg(name, ', ') from pg_settings where sourcefile like '%auto.conf'",
        ):
            found.append(await session.value(question, within_s=SOON_S) or "")
    paths = [proxy for proxy in (place.client_path, place.database_path) if proxy is not None]
    found += [repr(proxy) for proxy in paths if proxy.weather != FAIR]
    if place.disk is not None:
        found += [str(path) for path in place.disk.parent.iterdir()]
    if isinstance(place.flood, Flood) and place.flood.under_way:
        found.append("a flood")
    return [scar for scar in found if scar]


async def nothing_is_left(place: Place) -> None:
    """Wait until a server has noticed that the last of us has gone, which must be soon."""

    async def is_whole() -> bool:
        return await scars(place) == []

    try:
        await until(is_whole, within_s=SOON_S, what="nothing is left")
    except TimeoutError:
        assert await scars(place) == []


def burners() -> list[int]:
    """Return our children that burn."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if BURN.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def until_gone(pids: Collection[int]) -> None:
    """Wait for processes to end: one that the database has no session for any more may take a moment."""

    async def are_gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids)

    await until(are_gone, within_s=SOON_S, what="the processes have ended")


def used_s(pid: int) -> float:
    """Return how many seconds of a processor a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Of every fault.


@by_name
async def test_nothing_is_left_of_a_fault_when_it_ends_or_the_drill_fails(fault: Fault, furnished_place: Place) -> None:
    async with fault.inject(furnished_place):
        pass
    await nothing_is_left(furnished_place)

    with pytest.raises(ZeroDivisionError):
        async with fault.inject(furnished_place):
            raise ZeroDivisionError
    await nothing_is_left(furnished_place)


@by_name
async def test_nothing_is_left_of_a_fault_whose_drill_is_cancelled(fault: Fault, furnished_place: Place) -> None:
    broken = asyncio.Event()

    async def drill() -> None:
        async with fault.inject(furnished_place):
            broken.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(drill())
    await asyncio.wait_for(broken.wait(), 30)
    task.cancel()
    # And again, by somebody who is impatient.
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_is_left(furnished_place)


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05])
@by_name
async def test_nothing_is_left_of_a_fault_that_is_cancelled_on_its_way(
    fault: Fault, after_s: float, furnished_place: Place
) -> None:
    async def drill() -> None:
        async with fault.inject(furnished_place):
            await asyncio.sleep(60)

    task = asyncio.create_task(drill())
    await asyncio.sleep(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_is_left(furnished_place)


@by_name
def test_what_a_fault_needs_is_said_where_it_is_missing(fault: Fault) -> None:
    nowhere = Endpoint(host="", port=0, user="", password="", database="")
    bare = Place(superuser=nowhere, service=nowhere, data_dir=Path())

    assert fault.missing(bare) == [str(need) for need in Need if need in fault.needs]


async def test_what_was_broken_is_see_through_even_for_the_impatient() -> None:
    steps: list[str] = []

    async def undo() -> None:
        for step in ("one", "two", "three"):
            await asyncio.sleep(0.01)
            steps.append(step)

    task = asyncio.create_task(see_through(undo()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert steps == ["one", "two", "three"]


# In the database.


async def test_a_connection_hog_leaves_none_to_others_and_takes_what_they_give_back(place: Place) -> None:
    async with stranger(place.superuser, "seawall_drill_other") as other, session_of(other) as early:
        async with named("connection-hog").inject(place):
            with pytest.raises(DatabaseDown, match="no more connections"):
                await open_session(other, application_name="a test")
            # Ours can still have those that are kept for them.
            async with session_of(place.service):
                pass
            early.drop()
            await asyncio.sleep(0.3)

            async def is_taken() -> bool:
                try:
                    (await open_session(other, application_name="a test")).drop()
                except DatabaseDown:
                    return True
                return False

            await until(is_taken, within_s=SOON_S, what="the hog has what was given back")

        async with session_of(other):
            pass


async def test_leaked_connections_hold_locks_and_all_that_the_role_may_have(place: Place) -> None:
    async with named("leaked-connections").inject(place):
        with pytest.raises(DatabaseDown, match="no more connections"):
            await open_session(place.service, application_name="a test")
        async with session_of(place.superuser) as session:
            idle = await session.value(
                "select count(*) from pg_stat_activity where usename = 'seawall' and state = 'idle in transaction'"
                " and backend_xid is not null",
                within_s=SOON_S,
            )
            locks = await session.value(
                "select count(*) from pg_locks where relation = 'buckets'::regclass and granted", within_s=SOON_S
            )

    assert min(idle, locks) >= DATABASE_CONNECTIONS - 10
    async with session_of(place.service):
        pass


async def test_slow_queries_use_the_databases_processors(place: Place) -> None:
    async with named("slow-query").inject(place), session_of(place.superuser) as session:
        pids = [
            int(pid)
            for pid in (
                await session.value(
                    "select string_agg(pid::text, ' ') from pg_stat_activity"
                    " where application_name = 'drill slow query'",
                    within_s=SOON_S,
                )
            ).split()
        ]
        before_s = sum(map(used_s, pids))
        await asyncio.sleep(0.5)
        used = sum(map(used_s, pids)) - before_s
        active = await session.value(
            "select count(*) from pg_stat_activity where state = 'active' and application_name = 'drill slow query'",
            within_s=SOON_S,
        )

    assert active == len(pids) == 2 * (os.cpu_count() or 1)
    assert used > 0.2
    await until_gone(pids)


READ = "select count(*) from current_objects"
WRITE = "delete from current_objects where false"


@pytest.mark.parametrize(
    ("name", "blocked"),
    [("blocking-lock", [READ, WRITE]), ("blocked-writes", [WRITE]), ("trap-busy-neighbour", [READ, WRITE])],
)
async def test_a_blocking_lock_keeps_others_waiting(name: str, blocked: list[str], furnished_place: Place) -> None:
    async with session_of(furnished_place.service) as session:
        await session.run("set lock_timeout = 300", within_s=SOON_S)
        async with named(name).inject(furnished_place):
            for statement in (READ, WRITE):
                if statement in blocked:
                    with pytest.raises(Unavailable, match="busy"):
                        await session.run(statement, within_s=SOON_S)
                else:
                    await session.run(statement, within_s=SOON_S)
        await session.run(WRITE, within_s=SOON_S)


async def test_a_killed_database_is_gone_and_comes_back(place: Place) -> None:
    before = postmaster_pid(place.data_dir)

    async with named("database-killed").inject(place):
        with pytest.raises(DatabaseDown):
            await open_session(place.superuser, application_name="a test")

    assert postmaster_pid(place.data_dir) != before


async def test_a_killed_backend_takes_everybodys_connections_with_it(place: Place) -> None:
    before = postmaster_pid(place.data_dir)
    async with session_of(place.service) as bystander, named("backend-killed").inject(place):
        with pytest.raises(DatabaseDown):
            await bystander.value("select pg_sleep(5)", within_s=SOON_S)

    assert postmaster_pid(place.data_dir) == before


# Around it.


async def test_a_slow_disk_keeps_writes_waiting_and_a_full_one_refuses_them(
    furnished_place: Place, open_directory: Callable[[], Path]
) -> None:
    assert furnished_place.disk is not None
    settings = BlobSettings(root=open_directory() / "blobs", reserve_bytes=0)

    async def took_s(store: DiskBlobStore) -> float:
        began_s = time.monotonic()
        # They go together, as ever: ten writers wait little longer than one.
        await asyncio.gather(*(store.append(b"a small blob") for _ in range(10)))
        return time.monotonic() - began_s

    async with drill_blob_store(settings, trouble_file=furnished_place.disk) as store:
        location = await store.append(b"some bytes")
        assert await took_s(store) < DISK_WAIT_S
        async with named("slow-disk").inject(furnished_place):
            await asyncio.sleep(0.12)
            assert DISK_WAIT_S < await took_s(store) < 4 * DISK_WAIT_S
            assert store.try_read(location, len(b"some bytes")) in {b"some bytes", None}
        async with named("full-disk").inject(furnished_place):
            await asyncio.sleep(0.12)
            with pytest.raises(StorageFull):
                await store.append(b"one more")
            with pytest.raises(StorageFull):
                store.new_file(expected_bytes=1)
            with pytest.raises(StorageFull):
                store.check_room(1)
            assert await store.read(location, len(b"some bytes")) == b"some bytes"
        await asyncio.sleep(0.12)
        assert await took_s(store) < DISK_WAIT_S


async def echoed_s(proxy: TcpProxy) -> float:
    """Return how long it takes until something comes back."""
    assert isinstance(proxy.address, tuple)
    reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        began_s = time.monotonic()
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        return time.monotonic() - began_s
    finally:
        writer.transport.abort()


async def test_the_clients_network_is_slow_cut_or_rough(furnished_place: Place) -> None:
    proxy = furnished_place.client_path
    assert proxy is not None

    assert await echoed_s(proxy) < LATENCY_S
    async with named("network-latency").inject(furnished_place):
        assert await echoed_s(proxy) >= 2 * LATENCY_S
    async with named("network-cut").inject(furnished_place):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(echoed_s(proxy), 0.2)
    async with named("network-reset").inject(furnished_place):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await echoed_s(proxy)
    assert await echoed_s(proxy) < LATENCY_S


async def test_a_hiccup_comes_and_goes(furnished_place: Place) -> None:
    proxy = furnished_place.client_path
    assert proxy is not None

    async with named("trap-network-hiccup").inject(furnished_place):
        await asyncio.sleep(0.05)
        slow_s = await echoed_s(proxy)
        await asyncio.sleep(0.6)
        quick_s = await echoed_s(proxy)

    assert slow_s >= 0.15 > quick_s


async def test_a_database_behind_a_black_hole_does_not_answer_until_it_ends(furnished_place: Place) -> None:
    proxy = furnished_place.database_path
    assert proxy is not None
    assert isinstance(proxy.address, Path)
    behind = replace(furnished_place.service, host=str(proxy.address.parent))

    async with session_of(behind) as session:
        assert await session.value("select 1", within_s=SOON_S) == 1
        async with named("database-unreachable").inject(furnished_place):
            with pytest.raises((DatabaseDown, DeadlineExceeded)):
                await session.value("select 1", within_s=0.2)
    async with session_of(behind) as session:
        assert await session.value("select 1", within_s=SOON_S) == 1


@pytest.mark.parametrize("name", ["cpu-hog", "trap-busy-neighbour"])
async def test_a_hog_burns_the_nodes_core_and_a_neighbour_another(name: str, furnished_place: Place) -> None:
    (node,) = furnished_place.node_pids

    async with named(name).inject(furnished_place):
        pids = burners()
        await asyncio.sleep(0.5)
        used = sum(map(used_s, pids))
        cores = set().union(*map(os.sched_getaffinity, pids))

    assert used > 0.05
    if name == "cpu-hog":
        assert cores == os.sched_getaffinity(node)
    elif len(os.sched_getaffinity(0)) > 1:
        assert not cores & os.sched_getaffinity(node)
    await until_gone(pids)


async def test_a_noisy_tenant_floods_for_as_long_as_the_fault_lasts(furnished_place: Place) -> None:
    flood = furnished_place.flood
    assert isinstance(flood, Flood)

    async with named("noisy-tenant").inject(furnished_place):
        assert flood.under_way

    assert (flood.under_way, flood.floods) == (False, 1)
