import asyncio
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
from tests.blobs.kit import files_under, stored

from seawall import clock
from seawall.blobs import BlobSettings, DiskBlobStore, Location
from seawall.errors import BlobMissing, Conflict

OTHER_PROCESS = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
except BlockingIOError:
    print("claimed")
else:
    print("free")
"""


def as_seen_by_another_process(path: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(path)], check=True, capture_output=True, text=True
    ).stdout.strip()


async def sealed(store: DiskBlobStore) -> list[str]:
    return [segment.name async for batch in store.sealed_segments() for segment in batch]


async def located(store: DiskBlobStore, *, older_than_s: float) -> list[str]:
    return [location async for batch in store.file_locations(older_than_s=older_than_s) for location in batch]


async def test_another_process_sees_that_the_writer_of_a_segment_lives(store: DiskBlobStore) -> None:
    location = await store.append(b"bytes")
    segment = store.settings.root / "segments" / Location.parse(location).container
    assert as_seen_by_another_process(segment) == "claimed"

    await store.__aexit__(None, None, None)

    assert as_seen_by_another_process(segment) == "free"


async def test_another_process_sees_that_the_writer_of_an_incoming_file_lives(store: DiskBlobStore) -> None:
    async with store.new_file() as writer:
        await store.in_thread(writer.write, b"bytes")
        (incoming,) = (store.settings.root / "incoming").iterdir()

        assert as_seen_by_another_process(incoming) == "claimed"


async def test_a_living_writers_segment_is_neither_sealed_nor_removable(store: DiskBlobStore) -> None:
    location = await store.append(b"bytes")
    segment = Location.parse(location).container

    assert await sealed(store) == []
    with pytest.raises(Conflict, match="living writer"):
        await store.remove_segment(segment)

    async with DiskBlobStore(store.settings) as other:
        await store.__aexit__(None, None, None)
        assert await sealed(other) == [segment]
        assert other.try_read(location, 5) == b"bytes"
        await other.remove_segment(segment)
        with pytest.raises(BlobMissing):
            await other.read(location, 5)


async def test_incoming_files_of_dead_writers_are_removed_and_those_of_the_living_kept(store: DiskBlobStore) -> None:
    incoming = store.settings.root / "incoming"
    (incoming / "dead").write_bytes(b"left behind")

    async with store.new_file() as writer:
        await store.in_thread(writer.write, b"bytes")
        assert await store.remove_leftovers(older_than_s=3600) == 0
        assert await store.remove_leftovers(older_than_s=0) == 1
        location = await writer.commit()

    assert list(incoming.iterdir()) == []
    await store.scrub(location, 5)


async def test_empty_directories_of_dead_processes_are_removed_and_others_kept(store: DiskBlobStore) -> None:
    location = await stored(store, b"bytes")
    directory = store.settings.root / "files" / Location.parse(location).container
    async with DiskBlobStore(store.settings) as other:
        kept = await stored(other, b"kept")
        await store.delete(location)
        assert await other.remove_leftovers(older_than_s=0) == 0  # its process may be about to put a file there
        store._directories._current.release()  # type: ignore[union-attr]
        store._directories._current = None

        assert await other.remove_leftovers(older_than_s=0) == 1
        assert not directory.exists()
        await other.scrub(kept, 4)


async def test_a_fresh_link_is_young_though_its_bytes_are_old(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await stored(store, b"bytes")
    place = Location.parse(old)
    os.utime(store.settings.root / "files" / place.container / place.entry, (0, 0))
    assert await located(store, older_than_s=60) == []

    monkeypatch.setattr("seawall.blobs.housekeeping.wall_s", lambda: clock.wall_s() + 60)

    assert await located(store, older_than_s=50) == [old]


async def test_files_are_listed_in_bounded_batches(store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.blobs.store.BATCH", 4)
    stored_at = {await stored(store, b"bytes") for _ in range(10)}

    batches = [batch async for batch in store.file_locations(older_than_s=0)]

    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert {location for batch in batches for location in batch} == stored_at


async def test_a_segment_may_be_removed_while_others_read_it(store: DiskBlobStore) -> None:
    async with DiskBlobStore(store.settings) as writer:
        locations = [await writer.append(b"%06d" % n) for n in range(200)]
    segment = Location.parse(locations[0]).container
    answers = 0

    async def read_all() -> None:
        nonlocal answers
        for n, location in cycle(enumerate(locations)):
            assert await store.read(location, 6) == b"%06d" % n
            answers += 1
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read_all()) for _ in range(4)]
    while answers < 100:
        await asyncio.sleep(0)
    await store.remove_segment(segment)
    outcomes = await asyncio.gather(*readers, return_exceptions=True)

    assert all(isinstance(outcome, BlobMissing) for outcome in outcomes)
    assert files_under(store.settings.root) == []


async def test_space_of_a_segment_removed_by_another_process_is_let_go(store: DiskBlobStore) -> None:
    async with DiskBlobStore(store.settings) as writer:
        location = await writer.append(b"bytes")
    assert store.try_read(location, 5) == b"bytes"
    (store.settings.root / "segments" / Location.parse(location).container).unlink()
    assert store.try_read(location, 5) == b"bytes"  # held open

    store.release_removed_segments()

    with pytest.raises(BlobMissing):
        store.try_read(location, 5)


async def test_no_more_segments_are_held_open_than_allowed(root: Path) -> None:
    chosen = BlobSettings(
        root=root, reserve_bytes=0, segment_blob_max_bytes=100, segment_size_bytes=100, open_segments_max=3
    )
    async with DiskBlobStore(chosen) as store:
        locations = [await store.append(b"%03d" % n + bytes(90)) for n in range(10)]
        with store.open(locations[0], 93) as reader:
            for n, location in enumerate(locations):
                data = store.try_read(location, 93)
                assert data is not None
                assert data.startswith(b"%03d" % n)
            assert len(store._segment_reader._open) == 3
            assert reader.try_verify(0)


async def test_what_the_store_is_doing_shows_in_its_repr(store: DiskBlobStore) -> None:
    await store.append(b"bytes")

    assert f"segment='{store.incarnation}-000000'" in repr(store)
    assert "is_open=True" in repr(store)
