import asyncio

import pytest
from tests.blobs.kit import SystemCalls, files_under, stored

from seawall.blobs import DiskBlobStore, DiskFailed
from seawall.errors import StorageFull

IO_ERROR = OSError(5, "Input/output error")
DISK_FULL = OSError(28, "No space left on device")


async def test_a_segment_has_a_durable_name_before_its_first_record_is_acknowledged(
    store: DiskBlobStore, calls: SystemCalls
) -> None:
    await store.append(b"first")

    assert calls.made == [
        ("rename", "incoming"),
        ("fsync", "segments"),
        ("pwritev", "segments"),
        ("fdatasync", "segments"),
    ]


async def test_a_later_record_costs_one_write_and_one_fdatasync(store: DiskBlobStore, calls: SystemCalls) -> None:
    await store.append(b"first")
    calls.made.clear()

    await store.append(b"second")

    assert calls.made == [("pwritev", "segments"), ("fdatasync", "segments")]


async def test_a_file_is_durable_then_named_then_its_name_is_durable(store: DiskBlobStore, calls: SystemCalls) -> None:
    await stored(store, b"first" * 1000)
    directory = f"files/{store.incarnation}-000000"

    assert calls.made == [
        ("pwritev", "incoming"),
        ("mkdir", "files"),
        ("fsync", "files"),
        ("pwritev", "incoming"),
        ("fdatasync", "incoming"),
        ("rename", "incoming"),
        ("fsync", "files"),
    ]
    assert files_under(store.settings.root)[0].startswith(directory)


async def test_a_link_is_acknowledged_once_its_name_is_durable(store: DiskBlobStore, calls: SystemCalls) -> None:
    location = await stored(store, b"bytes")
    calls.made.clear()

    await store.link(location)

    assert [name for name, _ in calls.made] == ["link", "fsync"]


async def test_all_writers_that_wait_share_one_fdatasync(store: DiskBlobStore, calls: SystemCalls) -> None:
    await asyncio.gather(*(store.append(bytes(100)) for _ in range(100)))

    assert calls.count("fdatasync") == 1


async def test_files_finished_together_share_directory_fsyncs(store: DiskBlobStore, calls: SystemCalls) -> None:
    await asyncio.gather(*(stored(store, bytes(100)) for _ in range(100)))

    assert calls.count("fdatasync") == 100
    assert calls.count("fsync") < 60


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
async def test_a_failed_append_is_told_to_its_whole_group_and_never_tried_again(
    store: DiskBlobStore, calls: SystemCalls, call: str
) -> None:
    before = await store.append(b"before")
    calls.made.clear()

    calls.fails[call] = IO_ERROR
    answers = await asyncio.gather(*(store.append(b"lost") for _ in range(5)), return_exceptions=True)
    del calls.fails[call]

    assert {type(answer) for answer in answers} == {DiskFailed}
    assert calls.count(call) == 1
    after = await store.append(b"after")
    assert after.split("/")[1] != before.split("/")[1]
    assert [await store.read(before, 6), await store.read(after, 5)] == [b"before", b"after"]


async def test_a_segment_that_failed_before_its_first_record_leaves_nothing(
    store: DiskBlobStore, calls: SystemCalls
) -> None:
    for call in ("fsync", "rename", "pwritev", "fdatasync"):
        calls.fails = {call: IO_ERROR}
        with pytest.raises(DiskFailed):
            await store.append(b"lost")

    assert files_under(store.settings.root) == []


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "rename", "mkdir", "fsync"])
@pytest.mark.parametrize(("error", "told"), [(IO_ERROR, DiskFailed), (DISK_FULL, StorageFull)])
async def test_a_file_that_failed_anywhere_leaves_nothing_and_is_not_tried_again(
    store: DiskBlobStore, calls: SystemCalls, call: str, error: OSError, told: type[Exception]
) -> None:
    calls.fails[call] = error

    with pytest.raises(told):
        await stored(store, b"lost")

    del calls.fails[call]
    assert calls.count(call) == 1
    assert files_under(store.settings.root) == []
    await store.scrub(await stored(store, b"found"), 5)


async def test_a_failed_directory_fsync_is_told_to_all_who_shared_it(store: DiskBlobStore, calls: SystemCalls) -> None:
    before = await stored(store, b"before")
    calls.fails["fsync"] = IO_ERROR

    answers = await asyncio.gather(*(stored(store, b"lost") for _ in range(20)), return_exceptions=True)

    del calls.fails["fsync"]
    assert {type(answer) for answer in answers} == {DiskFailed}
    after = await stored(store, b"after")
    assert after.split("/")[1] != before.split("/")[1]
    assert len(files_under(store.settings.root)) == 2


async def test_a_full_disk_refuses_a_record_and_gives_back_what_was_half_written(
    store: DiskBlobStore, calls: SystemCalls
) -> None:
    before = await store.append(b"before")

    calls.fails["pwritev"] = DISK_FULL
    with pytest.raises(StorageFull):
        await store.append(b"lost")

    segment = store.settings.root / "segments" / before.split("/")[1]
    assert segment.stat().st_size == 16 + 6
    assert await store.read(before, 6) == b"before"


async def test_a_sealed_segment_ends_with_its_last_record(store: DiskBlobStore) -> None:
    location = await store.append(b"only")

    await store.__aexit__(None, None, None)

    assert (store.settings.root / "segments" / location.split("/")[1]).stat().st_size == 16 + 4
