"""A stored blob, open in the file or segment that holds it: verified frame by frame before any of it is sent."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

from seawall.blobs.disk import CachedReads, Descriptor, read_failure, read_fully
from seawall.blobs.frames import FRAME_BYTES, frame_count, frames_of
from seawall.blobs.threads import DiskThreads
from seawall.errors import BlobCorrupt
from seawall.telemetry.segments import Segment, timed

T = TypeVar("T")

READAHEAD_BYTES = 4 * FRAME_BYTES


class Sums(Protocol):
    """The checksums of one blob: a file has a table of them, a record in a segment has one."""

    @property
    def crc64nvme(self) -> int:
        """The checksum of the whole data."""
        ...

    def check(self, index: int, frame: memoryview) -> None:
        """Raise BlobCorrupt unless this is what was written as the frame of that index."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where, in an open file, a blob's data and checksums lie; `parse` makes sense of the latter."""

    data_offset: int
    sums_offset: int
    sums_bytes: int
    parse: Callable[[bytes], Sums]


class FileReader:
    """One stored blob, open. State: the descriptor, and the checksums once they were read.

    Belongs to the event loop; its `with` block closes it. Send nothing of a frame before it is verified;
    byte n of the blob is byte `data_offset` + n of `fd`.
    """

    def __init__(
        self,
        location: str,
        size: int,
        descriptor: Descriptor,
        layout: Layout,
        *,
        threads: DiskThreads,
        cached: CachedReads,
    ) -> None:
        """Take over one hold of the descriptor."""
        self.location = location
        self.size = size
        self.data_offset = layout.data_offset
        self._descriptor = descriptor
        self._layout = layout
        self._threads = threads
        self._cached = cached
        self._sums: Sums | None = None
        self._is_open = True

    @property
    def fd(self) -> int:
        """The descriptor, for sendfile. Valid until `close`."""
        if not self._is_open:
            raise ValueError("the file is closed")
        return self._descriptor.fd

    @property
    def frame_bytes(self) -> int:
        """The size of every frame but the last."""
        return FRAME_BYTES

    @property
    def frame_count(self) -> int:
        """How many frames there are."""
        return frame_count(self.size)

    def frames(self, start: int, stop: int) -> range:
        """Return the indexes of the frames that overlap the bytes `start` up to `stop`."""
        return frames_of(start, stop)

    def try_verify(self, index: int) -> bool:
        """Return True once a frame is verified, or False if that would wait for the disk.

        Raises:
            BlobCorrupt: the frame, or its checksum, is not what was written.
        """
        frame = self._cached.buffer[: self._frame_size(index)]
        if not self._try_fill(index, frame):
            return False
        self._checked(index, frame)
        return True

    async def verify(self, index: int) -> None:
        """Verify a frame, waiting for the disk, and have it read the next ones meanwhile.

        Raises:
            BlobCorrupt: the frame, or its checksum, is not what was written.
        """
        with timed(Segment.DISK):
            await self._in_thread(lambda: self._fill(index, self._threads.buffer()[: self._frame_size(index)]))

    async def crc64nvme(self) -> int:
        """Return the checksum of the whole data, as it was when written."""
        if not self._try_load():
            with timed(Segment.DISK):
                await self._in_thread(self._load)
        assert self._sums is not None
        return self._sums.crc64nvme

    async def chunks(self, start: int, stop: int) -> AsyncIterator[memoryview]:
        """Yield the bytes `start` up to `stop`, verified, one frame or less at a time.

        Raises:
            BlobCorrupt: a frame, or its checksum, is not what was written.
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"bytes {start} up to {stop} are not within {self.size}")
        for index in self.frames(start, stop):
            frame = memoryview(bytearray(self._frame_size(index)))
            if self._try_fill(index, frame):
                self._checked(index, frame)
                await asyncio.sleep(0)  # a large file in the page cache must not keep the loop to itself
            else:
                with timed(Segment.DISK):
                    await self._in_thread(self._fill, index, frame)
            first = index * FRAME_BYTES
            yield frame[max(start - first, 0) : stop - first]

    def close(self) -> None:
        """Close the file; a thread that still reads it finishes first."""
        if self._is_open:
            self._is_open = False
            self._descriptor.release()

    def _frame_size(self, index: int) -> int:
        if not 0 <= index < self.frame_count:
            raise IndexError(f"{self.location} has {self.frame_count} frames, and none of index {index}")
        return min(FRAME_BYTES, self.size - index * FRAME_BYTES)

    def _try_fill(self, index: int, frame: memoryview) -> bool:
        try:
            return self._try_load() and self._cached.read(self.fd, frame, self.data_offset + index * FRAME_BYTES)
        except OSError as error:
            raise read_failure(error, self.location) from error

    def _try_load(self) -> bool:
        if self._sums is None:
            sums = memoryview(bytearray(self._layout.sums_bytes))
            if self._cached.read(self.fd, sums, self._layout.sums_offset):
                self._sums = self._layout.parse(sums.tobytes())
        return self._sums is not None

    def _load(self) -> Sums:
        if self._sums is None:
            sums = memoryview(bytearray(self._layout.sums_bytes))
            self._read(sums, self._layout.sums_offset)
            self._sums = self._layout.parse(sums.tobytes())
        return self._sums

    def _fill(self, index: int, frame: memoryview) -> None:
        """Read and verify one frame, waiting for the disk."""
        start = index * FRAME_BYTES
        offset = self.data_offset + start
        ahead = min(len(frame) + READAHEAD_BYTES, self.size - start)
        with suppress(OSError):  # advice only
            os.posix_fadvise(self._descriptor.fd, offset, ahead, os.POSIX_FADV_WILLNEED)
        sums = self._load()
        self._read(frame, offset)
        sums.check(index, frame)

    def _read(self, into: memoryview, offset: int) -> None:
        try:
            is_whole = read_fully(self._descriptor.fd, into, offset)
        except OSError as error:
            raise read_failure(error, self.location) from error
        if not is_whole:
            raise BlobCorrupt(f"{self.location} is cut off before byte {offset + len(into)}")

    def _checked(self, index: int, frame: memoryview) -> None:
        assert self._sums is not None
        self._sums.check(index, frame)

    def _in_thread(self, call: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Make a call in a thread, the file staying open until it ends, whatever becomes of the caller."""
        self._descriptor.hold()
        try:
            made: Future[T] = self._threads.submit(call, *args)
        except BaseException:
            self._descriptor.release()
            raise
        made.add_done_callback(lambda _: self._descriptor.release())
        return asyncio.wrap_future(made)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FileReader({self.location}, size={self.size}, is_open={self._is_open})"
