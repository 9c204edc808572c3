import asyncio
import errno
import fcntl
import os
import random
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from unittest.mock import Mock

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.blobs.kit import stored, written

from seawall.blobs import FRAME_BYTES, BlobSettings, DiskBlobStore, Location
from seawall.blobs.disk import takes_direct_writes

KIB = 1024
SHARES_A_STORE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SMALL = st.integers(0, 5000) | st.sampled_from([128 * KIB, FRAME_BYTES - 1, FRAME_BYTES])
LARGE = st.integers(0, 3 * FRAME_BYTES) | st.sampled_from([n * FRAME_BYTES + off for n in (1, 2) for off in (-1, 0, 1)])


@SHARES_A_STORE
@given(sizes=st.lists(SMALL, min_size=1, max_size=10), seed=st.integers())
async def test_small_blobs_written_together_read_back_as_they_were(
    store: DiskBlobStore, sizes: list[int], seed: int
) -> None:
    blobs = [random.Random(seed + n).randbytes(size) for n, size in enumerate(sizes)]

    locations = await asyncio.gather(*(store.append(blob) for blob in blobs))

    assert [await store.read(location, len(blob)) for location, blob in zip(locations, blobs, strict=True)] == blobs
    assert [store.try_read(location, len(blob)) for location, blob in zip(locations, blobs, strict=True)] == blobs


@SHARES_A_STORE
@given(size=LARGE, cuts=st.lists(st.integers(0, 3 * FRAME_BYTES), max_size=5), ends=st.tuples(LARGE, LARGE))
async def test_a_file_written_in_any_pieces_reads_back_in_any_span(
    store: DiskBlobStore, size: int, cuts: list[int], ends: tuple[int, int]
) -> None:
    data = random.Random(size).randbytes(size)
    pieces = [data[start:stop] for start, stop in pairwise(sorted([0, size, *(min(cut, size) for cut in cuts)]))]
    start, stop = sorted(min(end, size) for end in ends)

    async with store.new_file() as writer:
        await written(store, writer, *pieces[:2])
        for piece in pieces[2:]:
            await written(store, writer, piece)
        location = await writer.commit()

    assert writer.size == size
    assert writer.crc64nvme == crc64nvme(data)
    with store.open(location, size) as reader:
        assert await reader.crc64nvme() == crc64nvme(data)
        assert b"".join([bytes(chunk) async for chunk in reader.chunks(start, stop)]) == data[start:stop]
        assert all(reader.try_verify(index) for index in reader.frames(start, stop))


@SHARES_A_STORE
@given(size=st.integers(0, 300 * KIB))
async def test_a_record_can_be_opened_and_sent_like_a_file(store: DiskBlobStore, size: int) -> None:
    data = random.Random(size).randbytes(size)
    location = await store.append(data[: size // 3], memoryview(data)[size // 3 :])

    with store.open(location, size) as reader:
        for index in reader.frames(0, size):
            await reader.verify(index)
            assert reader.try_verify(index)
        assert os.pread(reader.fd, size, reader.data_offset) == data
        assert await reader.crc64nvme() == crc64nvme(data)
        assert b"".join([bytes(chunk) async for chunk in reader.chunks(0, size)]) == data


@SHARES_A_STORE
@given(groups=st.lists(st.lists(SMALL | st.just(300 * KIB), min_size=1, max_size=3), max_size=6), seed=st.integers())
async def test_small_and_large_records_written_one_after_the_other_leave_each_other_alone(
    store: DiskBlobStore, groups: list[list[int]], seed: int
) -> None:
    blobs: dict[str, bytes] = {}
    for number, sizes in enumerate(groups):
        bodies = [random.Random(f"{seed} {number} {place}").randbytes(size) for place, size in enumerate(sizes)]
        locations = await asyncio.gather(*map(store.append, bodies))
        blobs.update(zip(locations, bodies, strict=True))

    assert {location: await store.read(location, len(blob)) for location, blob in blobs.items()} == blobs


async def test_locations_of_one_segment_sort_as_they_lie_on_the_disk(store: DiskBlobStore) -> None:
    locations = [await store.append(bytes(size)) for size in (0, 5, 200_000, 1, 900_000)]

    assert locations == sorted(locations)
    assert len({Location.parse(location).container for location in locations}) == 1


async def test_a_name_is_never_given_twice_for_the_same_bytes(store: DiskBlobStore) -> None:
    assert (
        len({await store.append(b"same") for _ in range(20)} | {await stored(store, b"same") for _ in range(20)}) == 40
    )


async def test_a_record_larger_than_a_frame_is_refused_as_a_mistake(store: DiskBlobStore) -> None:
    with pytest.raises(ValueError, match="belong in a file"):
        await store.append(bytes(FRAME_BYTES + 1))


async def test_a_cold_blob_is_read_in_a_thread_and_never_on_the_loop(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = await store.append(b"cold"), await stored(store, b"cold")
    monkeypatch.setattr(store._cached, "is_supported", False)

    assert store.try_read(small, 4) is None
    assert await store.read(small, 4) == b"cold"
    with store.open(large, 4) as reader:
        assert not reader.try_verify(0)
        await reader.verify(0)
        assert [bytes(chunk) async for chunk in reader.chunks(1, 3)] == [b"ol"]
    assert store.reads_waited == 1


async def test_a_file_system_that_cannot_read_without_waiting_is_asked_once(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, asked = await store.append(b"bytes"), []

    def unsupported(fd: int, *_: object) -> int:
        asked.append(fd)
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", unsupported)
        assert [store.try_read(location, 5) for _ in range(3)] == [None, None, None]

    assert len(asked) == 1
    assert await store.read(location, 5) == b"bytes"


async def test_segments_and_directories_are_rolled_when_full(root: Path) -> None:
    chosen = BlobSettings(
        root=root, reserve_bytes=0, segment_blob_max_bytes=1000, segment_size_bytes=5000, files_per_directory=3
    )
    async with DiskBlobStore(chosen) as store:
        records = [await store.append(bytes(900)) for _ in range(20)]
        files = [await stored(store, bytes(10)) for _ in range(7)]

        assert len({Location.parse(location).container for location in records}) == 4
        assert len({Location.parse(location).container for location in files}) == 3
        assert all([await store.read(location, 900) == bytes(900) for location in records])


async def test_a_process_that_wrote_nothing_leaves_only_the_three_directories(store: DiskBlobStore) -> None:
    await store.__aexit__(None, None, None)

    assert sorted(path.name for path in store.settings.root.rglob("*")) == ["files", "incoming", "segments"]
    assert store.settings.root.stat().st_mode & 0o777 == 0o700


async def test_a_link_outlives_the_blob_it_was_made_from(store: DiskBlobStore) -> None:
    data = random.Random(1).randbytes(FRAME_BYTES + 5)
    first = await stored(store, data)

    second = await store.link(first)
    await store.delete(first)
    await store.delete(first)

    assert second != first
    await store.scrub(second, len(data))


async def test_a_file_that_can_have_no_further_link_is_copied_with_its_checksums(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(2).randbytes(2 * FRAME_BYTES + 5)
    first = await stored(store, data)

    def too_many(*_: object) -> None:
        raise OSError(31, "Too many links")

    monkeypatch.setattr(os, "link", too_many)
    second = await store.link(first)

    await store.scrub(second, len(data))
    with store.open(first, len(data)) as one, store.open(second, len(data)) as other:
        assert os.fstat(one.fd).st_ino != os.fstat(other.fd).st_ino


async def test_a_reader_that_has_a_blob_open_may_finish_after_its_deletion(store: DiskBlobStore) -> None:
    location = await stored(store, b"still here")

    with store.open(location, 10) as reader:
        await store.delete(location)
        assert [bytes(chunk) async for chunk in reader.chunks(0, 10)] == [b"still here"]


@SHARES_A_STORE
@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=8), step=st.integers(1, 2000))
async def test_writes_that_the_system_cuts_short_are_continued(
    store: DiskBlobStore, sizes: list[int], step: int
) -> None:
    blobs = [random.Random(size).randbytes(size) for size in sizes]
    real_pwritev = os.pwritev

    def short(fd: int, buffers: list[bytes], offset: int) -> int:
        return real_pwritev(fd, [b"".join(buffers)[:step]], offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pwritev", short)
        records = await asyncio.gather(*(store.append(blob) for blob in blobs))
        files = [await stored(store, blob) for blob in blobs]

    for blob, record, file in zip(blobs, records, files, strict=True):
        assert await store.read(record, len(blob)) == blob
        await store.scrub(file, len(blob))


async def test_more_pieces_than_one_call_may_take_are_written_in_order(store: DiskBlobStore) -> None:
    pieces = [b"%04d" % n for n in range(3000)]

    record = await store.append(*pieces)
    async with store.new_file() as writer:
        await written(store, writer, *pieces)
        file = await writer.commit()

    assert await store.read(record, 12_000) == b"".join(pieces)
    with store.open(file, 12_000) as reader:
        assert [bytes(chunk) async for chunk in reader.chunks(0, 12_000)] == [b"".join(pieces)]


@pytest.mark.parametrize("place", ["on a disk", "in memory"])
async def test_pieces_of_any_size_become_one_file_wherever_it_lies(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "in memory":
        monkeypatch.setattr("seawall.blobs.store.takes_direct_writes", lambda *_: False)
    sizes = random.Random(5).choices([0, 1, 4095, 4096, 4097, 100_000, FRAME_BYTES, 3 * FRAME_BYTES + 7], k=24)
    pieces = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    data = b"".join(pieces)

    async with DiskBlobStore(BlobSettings(root=tmp_path / "blobs", reserve_bytes=0)) as store:
        async with store.new_file() as writer:
            for first in range(0, len(pieces), 3):
                await written(store, writer, *pieces[first : first + 3])
            location = await writer.commit()

        await store.scrub(location, len(data))
        with store.open(location, len(data)) as reader:
            assert b"".join([bytes(chunk) async for chunk in reader.chunks(0, len(data))]) == data


async def test_a_large_blob_goes_past_the_page_cache_where_the_disk_allows_it(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_directly: list[tuple[bool, int]] = []
    real_pwritev = os.pwritev

    def watched(fd: int, buffers: list[bytes], offset: int) -> int:
        count = real_pwritev(fd, buffers, offset)
        written_directly.append((bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT), count))
        return count

    monkeypatch.setattr(os, "pwritev", watched)
    # What the disk of this machine allows, found out as the store does.
    expected = takes_direct_writes(store.settings.root / "incoming" / "probe", memoryview(mmap(-1, 4096)))
    written_directly.clear()
    await stored(store, bytes(2 * FRAME_BYTES + 5000))

    assert [directly for directly, _ in written_directly] == [expected, expected, expected, False]
    assert [count for _, count in written_directly[:3]] == [FRAME_BYTES, FRAME_BYTES, 4096]
    assert list((store.settings.root / "incoming").iterdir()) == []


def test_a_disk_without_direct_writes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unaligned = memoryview(mmap(-1, 8192))[1:4097]

    assert not takes_direct_writes(tmp_path / "probe", unaligned)
    monkeypatch.setattr("os.pwritev", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    assert not takes_direct_writes(tmp_path / "probe", memoryview(mmap(-1, 4096)))
    assert list(tmp_path.iterdir()) == []


async def test_a_frame_or_span_that_does_not_exist_is_a_mistake(store: DiskBlobStore) -> None:
    location = await stored(store, bytes(100))

    with store.open(location, 100) as reader:
        with pytest.raises(IndexError, match="none of index 1"):
            reader.try_verify(1)
        with pytest.raises(ValueError, match="not within 100"):
            _ = [chunk async for chunk in reader.chunks(50, 101)]
    with pytest.raises(ValueError, match="closed"):
        _ = reader.fd
