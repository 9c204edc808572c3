import os
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.blobs.kit import path_of, stored

from seawall.blobs import FRAME_BYTES, DiskBlobStore, Location
from seawall.errors import BlobCorrupt, BlobMissing

SHARES_A_STORE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = [0, 1, 1000, FRAME_BYTES, FRAME_BYTES + 1]


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


async def is_told_by_every_reader(store: DiskBlobStore, location: str, size: int) -> None:
    async def frame_by_frame() -> None:
        with store.open(location, size) as reader:
            assert all(reader.try_verify(index) for index in reader.frames(0, size))
            await reader.crc64nvme()

    async def in_chunks() -> None:
        with store.open(location, size) as reader:
            async for _ in reader.chunks(0, size):
                pass
            await reader.crc64nvme()

    for read in (partial(store.scrub, location, size), frame_by_frame, in_chunks):
        with pytest.raises(BlobCorrupt, match=location):
            await read()


@SHARES_A_STORE
@given(size=st.sampled_from(SIZES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
async def test_a_flipped_bit_anywhere_in_a_file_is_told(
    store: DiskBlobStore, size: int, where: float, bit: int
) -> None:
    location = await stored(store, random.Random(size).randbytes(size))
    path = path_of(store, location)

    flip(path, int(where * path.stat().st_size), bit)

    await is_told_by_every_reader(store, location, size)


@SHARES_A_STORE
@given(size=st.sampled_from(SIZES[:-1]), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
async def test_a_flipped_bit_anywhere_in_a_record_is_told(
    store: DiskBlobStore, size: int, where: float, bit: int
) -> None:
    location = await store.append(random.Random(size).randbytes(size))

    flip(path_of(store, location), Location.parse(location).offset + int(where * (16 + size)), bit)

    with pytest.raises(BlobCorrupt, match=location):
        await store.read(location, size)
    with pytest.raises(BlobCorrupt, match=location):
        store.try_read(location, size)
    await is_told_by_every_reader(store, location, size)


@SHARES_A_STORE
@given(size=st.sampled_from(SIZES), left=st.floats(0, 1, exclude_max=True))
async def test_a_file_cut_off_anywhere_is_told_as_soon_as_it_is_opened(
    store: DiskBlobStore, size: int, left: float
) -> None:
    location = await stored(store, bytes(size))
    path = path_of(store, location)

    os.truncate(path, int(left * path.stat().st_size))

    with pytest.raises(BlobCorrupt, match=location):
        store.open(location, size)


async def test_a_file_cut_off_while_it_is_read_is_told(store: DiskBlobStore) -> None:
    location = await stored(store, bytes(2 * FRAME_BYTES))

    with store.open(location, 2 * FRAME_BYTES) as reader:
        await reader.verify(0)
        os.truncate(path_of(store, location), FRAME_BYTES + 5)
        assert not reader.try_verify(1)
        with pytest.raises(BlobCorrupt, match="cut off"):
            await reader.verify(1)


async def test_a_record_cut_off_is_told(store: DiskBlobStore) -> None:
    location = await store.append(bytes(1000))
    os.truncate(path_of(store, location), 500)

    assert store.try_read(location, 1000) is None
    with pytest.raises(BlobCorrupt, match="cut off"):
        await store.read(location, 1000)


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_a_size_that_is_not_the_blobs_own_is_told(store: DiskBlobStore, wrong: int) -> None:
    small, large = await store.append(bytes(1000)), await stored(store, bytes(1000))

    with pytest.raises(BlobCorrupt, match=small):
        await store.read(small, 1000 + wrong)
    with pytest.raises(BlobCorrupt, match=large):
        store.open(large, 1000 + wrong)


async def test_a_location_in_the_middle_of_a_record_is_told(store: DiskBlobStore) -> None:
    location = await store.append(bytes(1000))

    with pytest.raises(BlobCorrupt, match="no record header"):
        await store.read(location[:-1] + "7", 100)


async def test_an_unreadable_disk_counts_as_corruption(store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = await store.append(b"bytes"), await stored(store, b"bytes")

    def unreadable(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, store.open(large, 5) as reader:
        patched.setattr(os, "preadv", unreadable)
        with pytest.raises(BlobCorrupt, match="cannot read"):
            store.try_read(small, 5)
        with pytest.raises(BlobCorrupt, match="cannot read"):
            reader.try_verify(0)
        with pytest.raises(BlobCorrupt, match="cannot read"):
            await reader.verify(0)


async def test_what_is_not_there_is_missing(store: DiskBlobStore) -> None:
    nowhere = "0123456789abcdef-000000"
    record, file = f"s/{nowhere}/0000000000", f"f/{nowhere}/{'0' * 24}"

    with pytest.raises(BlobMissing, match=record):
        store.try_read(record, 5)
    with pytest.raises(BlobMissing, match=record):
        await store.read(record, 5)
    for location in (record, file):
        with pytest.raises(BlobMissing, match=location):
            store.open(location, 5)
    with pytest.raises(BlobMissing, match=file):
        await store.link(file)
    await store.delete(file)
    await store.remove_segment(nowhere)


@pytest.mark.parametrize(
    "text",
    ["", "s/../0", "f/../../etc/passwd", "s/0123456789abcdef-000000/-1", "f/0123456789abcdef-000000/..", "s/x/0\n"],
)
async def test_what_is_no_location_never_becomes_a_path(store: DiskBlobStore, text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        store.open(text, 5)
    with pytest.raises(ValueError, match="is not a"):
        store.try_read(text, 5)
    with pytest.raises(ValueError, match="is not a"):
        await store.delete(text)


async def test_a_walk_meets_every_record_and_says_which_is_damaged(store: DiskBlobStore) -> None:
    sizes = [100, 0, 5000, 17]
    locations = [await store.append(os.urandom(size)) for size in sizes]
    flip(path_of(store, locations[2]), Location.parse(locations[2]).offset + 16 + 99, 0)

    found = [record async for batch in store.records(Location.parse(locations[0]).container) for record in batch]

    assert [record.location for record in found] == locations
    assert [record.size_bytes for record in found] == sizes
    assert [record.is_intact for record in found] == [True, True, False, True]


async def test_a_walk_ends_at_a_header_that_makes_no_sense(store: DiskBlobStore) -> None:
    locations = [await store.append(bytes(100)) for _ in range(3)]
    flip(path_of(store, locations[1]), Location.parse(locations[1]).offset, 0)

    found = [record async for batch in store.records(Location.parse(locations[0]).container) for record in batch]

    assert [(record.location, record.is_intact) for record in found] == [(locations[0], True), (locations[1], False)]


async def test_a_walk_tells_zeros_in_the_middle_from_the_end(store: DiskBlobStore) -> None:
    locations = [await store.append(bytes(100)) for _ in range(3)]
    path = path_of(store, locations[1])
    with path.open("r+b") as file:
        file.seek(Location.parse(locations[1]).offset)
        file.write(bytes(116))

    found = [record async for batch in store.records(Location.parse(locations[0]).container) for record in batch]

    assert [(record.location, record.is_intact) for record in found] == [(locations[0], True), (locations[1], False)]
