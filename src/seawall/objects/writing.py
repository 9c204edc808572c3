"""Bytes on their way in: checked, hashed, and put where bodies of their size are kept.

A body of up to 2 KiB goes into its row, up to 1 MiB into a segment, and above that into a file.
Large bodies are decoded, hashed and written in worker threads, a batch at a time.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from seawall.blobs import DiskBlobStore
from seawall.clock import monotonic_s
from seawall.errors import IncompleteBody
from seawall.objects.digests import Digests
from seawall.telemetry.segments import STOPWATCH, Segment

# Hashing this much on the event loop costs less than the way to a thread and back.
# When memory is short, bodies from here on have files of their own; smaller ones weigh little.
STREAM_MIN_BYTES = 64 * 1024
HASH_ON_LOOP_MAX_BYTES = 64 * 1024


class Payload(Protocol):
    """A body as a door received it, or an object being copied."""

    size_bytes: int
    """How many bytes it has once decoded."""

    @property
    def must_stream(self) -> bool:
        """Whether memory is too short just now to hold all of it."""
        ...

    async def read(self) -> list[memoryview]:
        """Return all of it as received, in few pieces. Only for small ones."""
        ...

    def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield it as received, in batches of pieces."""
        ...

    def decode(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Take a door's coding off. Called in order, maybe in a thread."""
        ...

    def finish(self, digests: Digests) -> None:
        """Check that it is whole and that its digests are those that were announced.

        Raises:
            Invalid: it is not.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Durable bytes that have no name yet."""

    size_bytes: int
    etag: str
    checksum: str | None
    inline: bytes | None = None
    location: str | None = None


async def store_payload(payload: Payload, digests: Digests, blobs: DiskBlobStore, *, inline_max_bytes: int) -> Stored:
    """Receive a payload and make it durable.

    Raises:
        Invalid: it is not what was announced; nothing is kept.
        StorageFull: the disk has no room for it.
    """
    must_stream = payload.must_stream and payload.size_bytes > STREAM_MIN_BYTES
    if must_stream or payload.size_bytes > blobs.settings.segment_blob_max_bytes:
        return await _store_large(payload, digests, blobs)
    pieces = payload.decode(await payload.read())
    size_bytes = sum(map(len, pieces))
    if size_bytes <= HASH_ON_LOOP_MAX_BYTES:
        watch = STOPWATCH.get()
        before = None if watch is None else watch.switch(Segment.HASHING, monotonic_s())
        digests.update(*pieces)
        if watch is not None and before is not None:
            watch.switch(before, monotonic_s())
    else:
        await _in_thread(blobs, lambda: _hash(digests, pieces))
    _check(payload, digests, size_bytes)
    if size_bytes <= inline_max_bytes:
        blobs.check_room(size_bytes)
        return _stored(size_bytes, digests, inline=b"".join(pieces))
    return _stored(size_bytes, digests, location=await blobs.append(*pieces))


async def _store_large(payload: Payload, digests: Digests, blobs: DiskBlobStore) -> Stored:
    async with blobs.new_file(expected_bytes=payload.size_bytes) as writer:

        def take(batch: Sequence[memoryview]) -> float:
            pieces = payload.decode(batch)
            hashed_s = _hash(digests, pieces)
            writer.write(*pieces)
            return hashed_s

        async for batch in payload.batches():
            await _in_thread(blobs, partial(take, batch))
        _check(payload, digests, writer.size)
        location = await writer.commit()
    return _stored(payload.size_bytes, digests, location=location)


def _hash(digests: Digests, pieces: Sequence[memoryview]) -> float:
    """Hash what was received; return how long that took, in seconds."""
    began_s = monotonic_s()
    digests.update(*pieces)
    return monotonic_s() - began_s


async def _in_thread(blobs: DiskBlobStore, call: Callable[[], float]) -> None:
    """Make a call in one of the disk's threads that returns for how many seconds it hashed: the rest was the disk."""
    hashed_s = await blobs.in_thread(call)
    watch = STOPWATCH.get()
    if watch is not None:
        watch.move(hashed_s, charged=Segment.DISK, to=Segment.HASHING)


def _check(payload: Payload, digests: Digests, size_bytes: int) -> None:
    payload.finish(digests)
    if size_bytes != payload.size_bytes:
        raise IncompleteBody(f"{payload.size_bytes} bytes were announced and {size_bytes} arrived.")


def _stored(size_bytes: int, digests: Digests, *, inline: bytes | None = None, location: str | None = None) -> Stored:
    return Stored(size_bytes=size_bytes, etag=digests.etag, checksum=digests.checksum, inline=inline, location=location)
