import asyncio
import os
import random
import threading
from collections.abc import Awaitable, Callable

import pytest
from tests.blobs.kit import files_under, stored

from seawall.blobs import FRAME_BYTES, DiskBlobStore

ATTEMPTS = 60


async def cancelled_at_every_await(operation: Callable[[], Awaitable[object]]) -> int:
    """Run an operation again and again, cancelled after more and more turns of the loop; count those that were."""
    cancelled = 0
    for turns in range(ATTEMPTS):
        task = asyncio.ensure_future(operation())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.sleep(random.random() * 0.0005 * (turns % 5))
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            cancelled += 1
        else:
            task.result()
    return cancelled


async def test_a_cancelled_upload_leaves_no_file_and_no_descriptor(
    store: DiskBlobStore, leaves_nothing_open: Callable[[], list[str]]
) -> None:
    data, kept = bytes(FRAME_BYTES + 1), set()

    async def upload() -> None:
        kept.add(await stored(store, data))

    assert await cancelled_at_every_await(upload) > 5
    await store.__aexit__(None, None, None)

    assert files_under(store.settings.root) == sorted(location.replace("f/", "files/") for location in kept)
    assert leaves_nothing_open() == []


async def test_a_commit_cancelled_without_its_block_leaves_nothing_either(
    store: DiskBlobStore, leaves_nothing_open: Callable[[], list[str]]
) -> None:
    kept = set()

    async def upload() -> None:
        writer = store.new_file()
        writer.write(b"bytes")
        kept.add(await writer.commit())

    assert await cancelled_at_every_await(upload) > 5
    await store.__aexit__(None, None, None)

    assert files_under(store.settings.root) == sorted(location.replace("f/", "files/") for location in kept)
    assert leaves_nothing_open() == []


async def test_a_cancelled_link_leaves_no_file(store: DiskBlobStore) -> None:
    source = await stored(store, b"bytes")
    kept = {source}

    async def link() -> None:
        kept.add(await store.link(source))

    assert await cancelled_at_every_await(link) > 5
    await store.__aexit__(None, None, None)

    assert files_under(store.settings.root) == sorted(location.replace("f/", "files/") for location in kept)


async def test_a_cancelled_append_harms_nobody_in_its_group(store: DiskBlobStore) -> None:
    for turns in range(ATTEMPTS):
        others = [asyncio.create_task(store.append(b"stays %d" % n)) for n in range(5)]
        gone = asyncio.create_task(store.append(b"goes"))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        gone.cancel()
        locations = await asyncio.gather(*others)
        await asyncio.wait([gone])
        assert [await store.read(location, 7) for location in locations] == [b"stays %d" % n for n in range(5)]


async def test_a_cancelled_reader_closes_only_when_its_thread_is_done(
    store: DiskBlobStore, leaves_nothing_open: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = await stored(store, bytes(100))
    await store.append(b"so that there is something else to be opened")
    may_go_on, real_preadv = threading.Event(), os.preadv

    def slow(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags == 0:
            may_go_on.wait(10)
        return real_preadv(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", slow)

    async def read() -> None:
        with store.open(location, 100) as reader:
            await reader.verify(0)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])

    assert any(location.removeprefix("f/") in path for path in leaves_nothing_open())
    may_go_on.set()
    await store.__aexit__(None, None, None)
    assert leaves_nothing_open() == []


async def test_cancelled_cold_reads_leave_no_descriptor(
    store: DiskBlobStore, leaves_nothing_open: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = await store.append(bytes(500)), await stored(store, bytes(2 * FRAME_BYTES))
    monkeypatch.setattr(store._cached, "is_supported", False)

    async def read() -> None:
        await store.read(small, 500)
        with store.open(large, 2 * FRAME_BYTES) as reader:
            await reader.verify(0)
            async for _ in reader.chunks(0, 2 * FRAME_BYTES):
                pass
        await store.scrub(large, 2 * FRAME_BYTES)

    assert await cancelled_at_every_await(read) > 5
    await store.__aexit__(None, None, None)

    assert leaves_nothing_open() == []


async def test_a_discard_beside_a_write_leaves_nothing(
    store: DiskBlobStore, leaves_nothing_open: Callable[[], list[str]]
) -> None:
    for _ in range(30):
        writer = store.new_file()
        writing = asyncio.ensure_future(store.in_thread(writer.write, bytes(300_000)))
        await asyncio.sleep(random.random() * 0.0003)
        await writer.abort()
        await asyncio.wait([writing])
        assert writing.exception() is None or isinstance(writing.exception(), ValueError)

    assert leaves_nothing_open() == []
    assert files_under(store.settings.root) == []


async def test_closing_waits_for_what_was_started(store: DiskBlobStore) -> None:
    waiting = [asyncio.create_task(store.append(bytes(100))) for _ in range(50)]
    uploads = [asyncio.create_task(stored(store, bytes(100))) for _ in range(5)]
    while not all(task.done() for task in uploads):
        await asyncio.sleep(0)

    await store.__aexit__(None, None, None)

    assert all([isinstance(await task, str) for task in (*waiting, *uploads)])
