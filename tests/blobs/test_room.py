import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.blobs.kit import files_under, stored, written

from seawall.blobs import BlobSettings, DiskBlobStore, DiskFailed
from seawall.errors import Overloaded, StorageFull, Unavailable

MIB = 1024 * 1024


def pretend_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_bytes, f_frsize=1))


async def test_the_reserve_is_never_written_into_and_reading_and_deleting_go_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DiskBlobStore(BlobSettings(root=root, reserve_bytes=10 * MIB)) as store:
        small, large = await store.append(b"small"), await stored(store, b"large")
        pretend_free(monkeypatch, 10 * MIB + 100)
        store._reserve._seen_at_s = float("-inf")

        with pytest.raises(StorageFull):
            await store.append(bytes(200))
        with pytest.raises(StorageFull):
            await stored(store, bytes(200))
        with pytest.raises(StorageFull):
            store.new_file(expected_bytes=200)

        assert await store.read(small, 5) == b"small"
        await store.scrub(large, 5)
        await store.link(large)
        await store.delete(large)


async def test_a_burst_cannot_run_past_the_reserve_between_two_looks_at_the_disk(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, 10_000)

    answers = await asyncio.gather(*(store.append(bytes(1000)) for _ in range(50)), return_exceptions=True)

    assert sum(1 for answer in answers if isinstance(answer, str)) == 9
    assert {type(answer) for answer in answers if not isinstance(answer, str)} == {StorageFull}


async def test_a_file_that_outgrows_the_room_is_removed_at_once(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, 3 * MIB)
    writer = store.new_file()
    await written(store, writer, bytes(MIB), bytes(MIB))

    with pytest.raises(StorageFull):
        await written(store, writer, bytes(2 * MIB))

    assert files_under(store.settings.root) == []
    with pytest.raises(ValueError, match="discarded"):
        writer.write(b"more")


async def test_what_was_promised_is_settled_whatever_happened(store: DiskBlobStore) -> None:
    await store.append(b"small")
    await stored(store, b"large")
    waiting = asyncio.create_task(store.append(b"cancelled"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert store._reserve.promised_bytes == 0


async def test_a_full_queue_refuses_at_once_and_what_waits_is_served(root: Path) -> None:
    async with DiskBlobStore(BlobSettings(root=root, append_queue_max=10, reserve_bytes=0)) as store:
        answers = await asyncio.gather(*(store.append(b"bytes") for _ in range(15)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [str] * 10 + [Overloaded] * 5


async def test_the_queue_is_bounded_in_bytes_too(root: Path) -> None:
    chosen = BlobSettings(root=root, reserve_bytes=0, segment_blob_max_bytes=1000, append_queue_max_bytes=5000)
    async with DiskBlobStore(chosen) as store:
        answers = await asyncio.gather(*(store.append(bytes(1000)) for _ in range(10)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [str] * 4 + [Overloaded] * 6


@pytest.mark.parametrize(
    "nonsense",
    [
        {"segment_blob_max_bytes": 0},
        {"segment_blob_max_bytes": 2 * MIB},
        {"segment_size_bytes": 1000},
        {"append_queue_max_bytes": 1000},
        {"threads": 0},
        {"reserve_bytes": -1},
    ],
)
def test_settings_refuse_to_be_nonsense(root: Path, nonsense: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(nonsense))):
        BlobSettings(root=root, **nonsense)


def test_settings_need_only_a_root(root: Path) -> None:
    assert BlobSettings(root=root).segment_blob_max_bytes <= MIB


async def test_a_process_out_of_descriptors_is_overloaded_and_loses_nothing(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = await store.append(b"small"), await stored(store, b"large")

    def too_many(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", too_many)
        with pytest.raises(Overloaded):
            store.open(large, 5)
        with pytest.raises(Overloaded):
            store.try_read(small, 5)
        with pytest.raises(Overloaded):
            await stored(store, b"other")

    assert store.try_read(small, 5) == b"small"
    await store.scrub(large, 5)


async def test_a_closed_store_takes_nothing_more(store: DiskBlobStore) -> None:
    location = await stored(store, b"bytes")
    await store.__aexit__(None, None, None)

    with pytest.raises(Unavailable, match="closed"):
        await store.append(b"late")
    with pytest.raises(Unavailable, match="closed"):
        store.new_file()
    with pytest.raises(Unavailable, match="closed"):
        await store.link(location)


async def test_a_root_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")

    with pytest.raises(DiskFailed, match="Not a directory"):
        async with DiskBlobStore(BlobSettings(root=tmp_path / "file" / "blobs")):
            pytest.fail("it must not open")
