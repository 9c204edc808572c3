import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.objects.kit import INLINE_MAX, SEGMENT_MAX, SIZES, Node, assert_catalogue_is_whole

from seawall import clock
from seawall.access import Caller
from seawall.blobs import housekeeping
from seawall.errors import BlobMissing, NoSuchKey
from seawall.objects import sweeper as sweepers
from seawall.objects.sweeper import LOOK_EVERY_S, UNNAMED_AGE_S, Sweeper

SMALL, LARGE = SEGMENT_MAX // 2, SEGMENT_MAX + 1


class Clocks:
    """The clocks as the sweeper reads them. State: how far they were put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ahead_s = self.monotonic_ahead_s = 0.0
        for reader in (sweepers, housekeeping):
            monkeypatch.setattr(reader, "wall_s", lambda: clock.wall_s() + self.wall_ahead_s)
        monkeypatch.setattr(sweepers, "monotonic_s", lambda: clock.monotonic_s() + self.monotonic_ahead_s)

    def let_pass(self, seconds: float) -> None:
        """Time passes, as all clocks say."""
        self.wall_ahead_s += seconds
        self.monotonic_ahead_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def blob_root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def a_sweeper(node: Node, *, grace_s: float = 0.0) -> Sweeper:
    return Sweeper(node.database, node.blobs, grace_s=grace_s, interval_s=0.01)


async def sealed(node: Node, caller: Caller, bucket: str) -> None:
    """Fill the segment that is being written, so that those before it are sealed."""
    for n in range(5):
        await node.put(caller, bucket, f"filler {n}", bytes(SEGMENT_MAX))


def files_in(root: Path, kind: str) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / kind).rglob("*") if path.is_file())


# What lost its name.


async def test_the_file_of_an_object_that_is_gone_goes_after_the_grace_period(
    node: Node, alice: Caller, bucket: str, blob_root: Path, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for key in ("kept", "deleted", "overwritten"):
        await node.put(alice, bucket, key, bytes(LARGE))
    await node.store.delete(alice, bucket, ["deleted"])
    await node.put(alice, bucket, "overwritten", b"small now")

    early = await a_sweeper(node, grace_s=900.0).sweep()
    assert (early.files_removed, len(files_in(blob_root, "files"))) == (0, 3)
    await connection.execute("update garbage set since = now() - interval '901 s' where location <> 'x'")
    swept = await a_sweeper(node, grace_s=900.0).sweep()

    assert (swept.files_removed, len(files_in(blob_root, "files"))) == (2, 1)
    assert await connection.fetchval("select count(*) from garbage") == 0
    assert await node.get(alice, bucket, "kept") == bytes(LARGE)


async def test_the_parts_of_uploads_that_came_to_nothing_go_too(
    node: Node, alice: Caller, bucket: str, blob_root: Path, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    aborted, completed = [await node.begin(alice, bucket, key) for key in ("aborted", "completed")]
    for upload in (aborted, completed):
        named = [await node.put_part(upload, number, bytes(LARGE)) for number in (1, 2, 2, 3)]
    await node.uploads.abort(aborted)
    await node.uploads.complete(completed, [named[0], named[2]])
    await node.store.buckets.add(alice, "doomed", region="")
    doomed = await node.begin(alice, "doomed", "key")
    await node.put_part(doomed, 1, bytes(LARGE))
    await node.store.buckets.delete(alice, "doomed")

    swept = await a_sweeper(node).sweep()

    assert swept.files_removed == 4 + 2 + 1
    assert len(files_in(blob_root, "files")) == 2
    assert await connection.fetchval("select count(*) from garbage") == 0
    assert await node.get(alice, bucket, "completed") == bytes(2 * LARGE)


async def test_a_copy_outlives_its_source(node: Node, alice: Caller, bucket: str) -> None:
    for size in (SMALL, LARGE):
        data = random.Random(size).randbytes(size)
        await node.put(alice, bucket, "source", data)
        await node.copy(alice, (bucket, "source"), (bucket, "copy"))
        await node.store.delete(alice, bucket, ["source"])
        await sealed(node, alice, bucket)
        for _ in range(3):
            await a_sweeper(node).sweep(compact_above=0.0)

        assert await node.get(alice, bucket, "copy") == data


async def test_garbage_that_has_a_name_all_the_same_is_not_removed(
    node: Node, alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await node.put(alice, bucket, "key", bytes(LARGE))
    await connection.execute("insert into garbage select location, size_bytes, '2000-01-01' from current_objects")

    swept = await a_sweeper(node).sweep()

    assert swept.files_removed == 0
    assert await node.get(alice, bucket, "key") == bytes(LARGE)


# Segments.


async def test_a_segment_in_which_everything_lost_its_name_is_removed_after_the_grace_period(
    node: Node, alice: Caller, bucket: str, blob_root: Path, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for n in range(30):
        await node.put(alice, bucket, f"{n}", bytes(SMALL))
    await node.store.delete(alice, bucket, [f"{n}" for n in range(30)])
    await sealed(node, alice, bucket)
    before = len(files_in(blob_root, "segments"))

    assert (await a_sweeper(node, grace_s=900.0).sweep()).segments_removed == 0
    swept = await a_sweeper(node).sweep()

    assert swept.segments_removed >= 3
    assert len(files_in(blob_root, "segments")) == before - swept.segments_removed
    left = {row[0] for row in await connection.fetch("select split_part(location, '/', 2) from garbage")}
    assert left <= {Path(name).name for name in files_in(blob_root, "segments")}


async def test_a_segment_that_is_mostly_garbage_is_rewritten_and_nothing_is_lost(
    node: Node, alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    bodies = {f"{n}": random.Random(n).randbytes(SMALL) for n in range(40)}
    for key, data in bodies.items():
        await node.put(alice, bucket, key, data)
    gone = [key for key in bodies if int(key) % 4]
    await node.store.delete(alice, bucket, gone)
    await sealed(node, alice, bucket)

    sweeper = a_sweeper(node)
    first, second = await sweeper.sweep(), await sweeper.sweep()

    assert first.segments_compacted > 0
    assert first.blobs_moved > 0
    assert second.segments_removed >= first.segments_compacted
    for key in bodies.keys() - gone:
        assert await node.get(alice, bucket, key) == bodies[key]
    await assert_catalogue_is_whole(connection)


async def test_bytes_on_their_way_to_a_name_are_safe_in_a_segment_full_of_garbage(
    node: Node, alice: Caller, bucket: str
) -> None:
    for n in range(6):
        await node.put(alice, bucket, f"{n}", bytes(SMALL))
    on_its_way = await node.blobs.append(b"x" * SMALL)
    await sealed(node, alice, bucket)
    await node.store.delete(alice, bucket, [f"{n}" for n in range(6)])

    for _ in range(3):
        await a_sweeper(node).sweep()

    assert await node.blobs.read(on_its_way, SMALL) == b"x" * SMALL


async def test_a_blob_that_cannot_be_read_stays_where_it_is_and_is_told_once(
    node: Node,
    alice: Caller,
    bucket: str,
    connection: "asyncpg.Connection[asyncpg.Record]",
    caplog: pytest.LogCaptureFixture,
) -> None:
    for n in range(7):
        await node.put(alice, bucket, f"{n}", bytes([n]) * SMALL)
    await node.store.delete(alice, bucket, ["2", "3", "4", "5"])
    await sealed(node, alice, bucket)
    location = await connection.fetchval("select location from current_objects where key = '1'")
    damage(node, location)

    sweeper = a_sweeper(node)
    for _ in range(3):
        await sweeper.sweep()

    assert await connection.fetchval("select location from current_objects where key = '1'") == location
    assert [record.message for record in caplog.records].count("sweep.unreadable") == 1
    assert await node.get(alice, bucket, "0") == bytes([0]) * SMALL
    assert (await sweeper.scrub()).corrupt != []


async def test_garbage_in_a_segment_that_is_gone_is_forgotten(
    node: Node, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("insert into garbage values ('s/0123456789abcdef-000000/0000000000', 5)")

    await a_sweeper(node).sweep()

    assert await connection.fetchval("select count(*) from garbage") == 0


async def test_no_read_fails_while_segments_are_rewritten_and_keys_change(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    first, second = nodes
    keys = [f"{n}" for n in range(20)]
    written: dict[str, set[bytes]] = {key: {b"first"} for key in keys}
    for key in keys:
        await first.put(alice, bucket, key, b"first")
    deleted: set[str] = set()
    stop = asyncio.Event()
    chance = random.Random(7)

    async def write(node: Node) -> None:
        while not stop.is_set():
            key = chance.choice(keys)
            if chance.random() < 0.2:
                deleted.add(key)
                await node.store.delete(alice, bucket, [key])
            else:
                data = chance.randbytes(chance.choice(SIZES))
                written[key].add(data)
                await node.put(alice, bucket, key, data)

    async def copy(node: Node) -> None:
        while not stop.is_set():
            source, target = chance.choice(keys), f"copy {chance.randrange(5)}"
            try:
                await node.copy(alice, (bucket, source), (bucket, target))
            except NoSuchKey:
                assert source in deleted

    reads = 0

    async def read(node: Node) -> None:
        nonlocal reads
        while not stop.is_set():
            key = chance.choice(keys)
            try:
                data = await node.get(alice, bucket, key)
            except NoSuchKey:
                assert key in deleted
            else:
                assert data in written[key]
                reads += 1
            await asyncio.sleep(0)

    async def sweep() -> int:
        sweeper, moved = a_sweeper(second, grace_s=0.2), 0
        while not stop.is_set():
            moved += (await sweeper.sweep(compact_above=0.01)).blobs_moved
        return moved

    async with asyncio.TaskGroup() as group:
        for node in nodes:
            for act in (write, read, read, copy):
                group.create_task(act(node))
        sweeping = group.create_task(sweep())
        await asyncio.sleep(5)
        stop.set()

    assert sweeping.result() > 0
    assert reads > 100
    await assert_catalogue_is_whole(connection)
    scrubbed = await a_sweeper(first).scrub()
    assert (scrubbed.missing, scrubbed.corrupt) == ([], [])


# One sweeper at a time.


async def test_of_two_sweepers_one_works(nodes: tuple[Node, Node]) -> None:
    swept = await asyncio.gather(*(a_sweeper(node).sweep() for node in nodes))

    assert sorted(one.skipped for one in swept) == [False, True]
    assert not (await a_sweeper(nodes[1]).sweep()).skipped


async def test_a_sweeper_goes_round_until_it_is_cancelled(node: Node, alice: Caller, bucket: str) -> None:
    await node.put(alice, bucket, "key", bytes(LARGE))
    await node.store.delete(alice, bucket, ["key"])

    task = asyncio.create_task(a_sweeper(node).run())
    while (await node.database.fetch_one(sweepers.QUERIES["garbage_files"], "", 0.0)) is not None:
        await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


# What never had a name.


async def unnamed_file(node: Node) -> str:
    async with node.blobs.new_file() as writer:
        await node.blobs.in_thread(writer.write, bytes(LARGE))
        return await writer.commit()


async def test_a_file_that_never_had_a_name_is_removed_when_it_is_old_in_two_looks(
    node: Node, alice: Caller, bucket: str, clocks: Clocks, blob_root: Path
) -> None:
    await unnamed_file(node)
    await node.put(alice, bucket, "named", bytes(LARGE))
    sweeper = a_sweeper(node)

    removed = [(await sweeper.sweep()).unnamed_removed]
    for _ in range(3):
        clocks.let_pass(max(UNNAMED_AGE_S, LOOK_EVERY_S) + 1)
        removed.append((await sweeper.sweep()).unnamed_removed)

    assert removed == [0, 0, 1, 0]
    assert len(files_in(blob_root, "files")) == 1
    assert await node.get(alice, bucket, "named") == bytes(LARGE)


async def test_a_clock_that_jumps_ahead_removes_nothing_that_is_on_its_way_to_a_name(
    node: Node, clocks: Clocks
) -> None:
    sweeper = a_sweeper(node)
    location = await unnamed_file(node)
    segment = await node.blobs.append(bytes(SMALL))
    for _ in range(4):
        await node.blobs.append(bytes(SEGMENT_MAX))

    clocks.wall_ahead_s = 10 * UNNAMED_AGE_S
    for _ in range(5):
        await sweeper.sweep()

    with node.blobs.open(location, LARGE):
        assert await node.blobs.read(segment, SMALL) == bytes(SMALL)


async def test_what_got_its_name_between_two_looks_is_kept(
    node: Node, alice: Caller, bucket: str, clocks: Clocks, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await node.put(alice, bucket, "key", bytes(LARGE))
    await connection.execute("create table aside as select * from current_objects")
    await connection.execute("alter table current_objects disable trigger user; delete from current_objects")
    sweeper = a_sweeper(node)
    clocks.let_pass(UNNAMED_AGE_S + 1)
    await sweeper.sweep()
    await connection.execute("insert into current_objects select * from aside")

    clocks.let_pass(LOOK_EVERY_S + 1)
    swept = await sweeper.sweep()

    assert swept.unnamed_removed == 0
    assert await node.get(alice, bucket, "key") == bytes(LARGE)


async def test_a_segment_in_which_nothing_ever_had_a_name_is_removed_when_it_is_old_in_two_looks(
    node: Node, clocks: Clocks
) -> None:
    location = await node.blobs.append(bytes(SMALL))
    for _ in range(4):
        await node.blobs.append(bytes(SEGMENT_MAX))
    sweeper = a_sweeper(node)

    removed = []
    for _ in range(3):
        clocks.let_pass(max(UNNAMED_AGE_S, LOOK_EVERY_S) + 1)
        removed.append((await sweeper.sweep()).segments_removed)

    assert removed == [0, 1, 0]
    with pytest.raises(BlobMissing):
        await node.blobs.read(location, SMALL)


async def test_what_a_dead_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    node: Node, clocks: Clocks, blob_root: Path
) -> None:
    (blob_root / "incoming" / "left-behind").write_bytes(b"half of a body")
    async with node.blobs.new_file() as writer:
        await node.blobs.in_thread(writer.write, bytes(LARGE))
        clocks.let_pass(UNNAMED_AGE_S + 1)
        swept = await a_sweeper(node).sweep()
        location = await writer.commit()

    assert swept.leftovers_removed == 1
    with node.blobs.open(location, LARGE):
        assert files_in(blob_root, "incoming") == []


# Looking at what is kept.


def damage(node: Node, location: str) -> None:
    """Flip a byte of a blob."""
    kind, container, entry = location.split("/")
    root = node.blobs.settings.root
    path, at = (
        (root / "segments" / container, int(entry) + 20) if kind == "s" else (root / "files" / container / entry, 20)
    )
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, bytes([os.pread(descriptor, 1, at)[0] ^ 1]), at)
    os.close(descriptor)


@pytest.mark.parametrize("size", [INLINE_MAX + 1, LARGE])
async def test_a_flipped_byte_is_found_wherever_it_is(
    node: Node, alice: Caller, bucket: str, size: int, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for key in ("sound", "damaged", "lost"):
        await node.put(alice, bucket, key, bytes(size))
    upload = await node.begin(alice, bucket, "in parts")
    await node.uploads.complete(upload, [await node.put_part(upload, 1, bytes(size))])
    rows = await connection.fetch("select key, location from current_objects where location is not null")
    where = {row["key"]: row["location"] for row in rows}
    damage(node, where["damaged"])
    damage(node, await connection.fetchval("select location from parts"))

    scrubbed = await a_sweeper(node).scrub()

    assert (scrubbed.blobs, scrubbed.size_bytes) == (4, 4 * size)
    assert len(scrubbed.corrupt) == 2
    assert "key 'damaged'" in "".join(scrubbed.corrupt)
    assert upload.upload_id.hex in "".join(scrubbed.corrupt)
    assert scrubbed.missing == []


async def test_bytes_that_are_gone_are_found(node: Node, alice: Caller, bucket: str, blob_root: Path) -> None:
    await node.put(alice, bucket, "file", bytes(LARGE))
    await node.put(alice, bucket, "segment", bytes(SMALL))
    for name in (*files_in(blob_root, "files"), *files_in(blob_root, "segments")):
        (blob_root / name).unlink()

    scrubbed = await a_sweeper(node).scrub()

    assert len(scrubbed.missing) == 2
    assert scrubbed.corrupt == []


async def test_what_was_deleted_while_it_was_being_looked_at_is_not_reported(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("missing", "damaged"):
        await node.put(alice, bucket, key, bytes(LARGE))
    real: Callable[..., Any] = node.blobs.scrub

    async def deleted_just_before(location: str, size: int) -> None:
        await node.store.delete(alice, bucket, ["missing", "damaged"])
        if location == first:
            await node.blobs.delete(location)
        else:
            damage(node, location)
        await real(location, size)

    first = (await node.store.look_up(alice, bucket, "missing")).location
    monkeypatch.setattr(node.blobs, "scrub", deleted_just_before)

    scrubbed = await a_sweeper(node).scrub()

    assert (scrubbed.missing, scrubbed.corrupt, scrubbed.blobs) == ([], [], 2)
