"""The blob store on a local disk: the one door to everything in this package."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from seawall.blobs import housekeeping
from seawall.blobs.directories import Directories
from seawall.blobs.disk import (
    DIRECT_UNIT_BYTES,
    INCOMING,
    Bytes,
    CachedReads,
    DiskReserve,
    prepare_root,
    takes_direct_writes,
    write_failure,
)
from seawall.blobs.file_reader import FileReader
from seawall.blobs.file_writer import FileWriter
from seawall.blobs.files import Files
from seawall.blobs.frames import FRAME_BYTES
from seawall.blobs.groups import GroupCommit, GroupLimits
from seawall.blobs.housekeeping import SealedSegment
from seawall.blobs.locations import is_container, new_file_name, new_incarnation
from seawall.blobs.segments import (
    HEADER_BYTES,
    FoundRecord,
    Record,
    SegmentReader,
    SegmentWriter,
    read_record,
    walk_records,
)
from seawall.blobs.settings import MIB, BlobSettings
from seawall.blobs.threads import DiskThreads
from seawall.clock import monotonic_s
from seawall.errors import Unavailable
from seawall.telemetry.segments import STOPWATCH, Segment, timed

P = ParamSpec("P")
T = TypeVar("T")

GROUP_MAX = 1024
GROUP_MAX_BYTES = 8 * MIB
BATCH = 1000


class DiskBlobStore:
    """Keeps immutable bytes under names that say nothing about them.

    State: the segment and the directory this process writes to, the segments it reads, its threads.
    Everything but `FileWriter.write` and `discard` belongs to the event loop. Entering the `async with`
    block prepares the root; leaving it waits for what was started, seals the segment and stops the threads.

    What is handed out is a location (see `Location`): as text, to be kept with the size in the catalogue.
    """

    def __init__(
        self, settings: BlobSettings, *, threads: DiskThreads | None = None, reserve: DiskReserve | None = None
    ) -> None:
        """Touch nothing yet.

        Args:
            settings: see there.
            threads: what waits for the disk; others than usual where it is to misbehave.
            reserve: what knows how full it is; likewise.
        """
        self.settings = settings
        self.incarnation = new_incarnation()
        self.reads_cached = 0
        self.reads_waited = 0
        self._is_open = False
        self._reserve = reserve or DiskReserve(settings.root, reserve_bytes=settings.reserve_bytes)
        self._cached = CachedReads(buffer_bytes=FRAME_BYTES + HEADER_BYTES)
        self._threads = threads or DiskThreads(threads=settings.threads, buffer_bytes=FRAME_BYTES)
        self._segment_reader = SegmentReader(settings.root, self._cached, open_max=settings.open_segments_max)
        self._segment_writer = SegmentWriter(
            settings.root,
            incarnation=self.incarnation,
            segment_size_bytes=settings.segment_size_bytes,
            buffer=self._threads.buffer,
        )
        self._appends: GroupCommit[Record, str] = GroupCommit(
            self._segment_writer.append,
            executor=self._threads.appender,
            limits=GroupLimits(
                queue_max=settings.append_queue_max,
                queue_max_bytes=settings.append_queue_max_bytes,
                group_max=GROUP_MAX,
                group_max_bytes=GROUP_MAX_BYTES,
            ),
        )
        self._directories = Directories(
            settings.root, self._threads, incarnation=self.incarnation, files_max=settings.files_per_directory
        )

        self._files = Files(
            settings.root,
            threads=self._threads,
            directories=self._directories,
            reserve=self._reserve,
            cached=self._cached,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._threads.run(self._prepare)
        except OSError as error:
            await self._threads.close()
            raise write_failure(error) from error
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        try:
            await self._appends.idle()
            await self._threads.close()
        finally:
            self._segment_writer.seal()
            self._segment_reader.close()
            self._directories.close()

    def _prepare(self) -> None:
        prepare_root(self.settings.root)
        probe = self.settings.root / INCOMING / new_file_name()
        direct = takes_direct_writes(probe, self._threads.buffer()[:DIRECT_UNIT_BYTES])
        self._files.direct = self._segment_writer.direct = direct

    @property
    def free_bytes(self) -> int:
        """How much room there is before writes are refused."""
        return self._reserve.free_bytes

    # Small blobs: records in segments.

    async def append(self, *data: Bytes) -> str:
        """Return the location of a small blob, given in one piece or several, once it survives a power cut.

        All who wait share one fdatasync. The data must not change until this returns; if the caller is
        cancelled, it may still be written, and then bears no name.

        Raises:
            Overloaded: too many writers wait already.
            StorageFull: the disk is full, or nearly.
            DiskFailed: the disk failed to store it.
        """
        if not self._is_open:
            raise Unavailable("the blob store is closed")
        record = Record.of(*data)
        size = record.size_bytes
        self._reserve.promise(size)
        watch = STOPWATCH.get()
        before = None if watch is None else watch.switch(Segment.DISK, monotonic_s())
        try:
            return await self._appends.join(record, size_bytes=size)
        finally:
            self._reserve.settle(size)
            if watch is not None and before is not None:
                watch.switch(before, monotonic_s())

    def check_room(self, size_bytes: int) -> None:
        """Refuse what would eat into the disk's reserve, though it goes to the database beside us.

        Raises:
            StorageFull.
        """
        self._reserve.check(size_bytes)

    def try_read(self, location: str, size: int) -> bytes | None:
        """Return a small blob, verified, or None if that would wait for the disk: then `read` it.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: the bytes are not what was written.
        """
        data = self._segment_reader.try_read(location, size)
        if data is not None:
            self.reads_cached += 1
        return data

    async def read(self, location: str, size: int) -> bytes:
        """Return a small blob, verified, in a thread if it must be.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: the bytes are not what was written.
        """
        data = self.try_read(location, size)
        if data is None:
            self.reads_waited += 1
            with timed(Segment.DISK):
                data = await self._threads.run(read_record, self.settings.root, location, size)
        return data

    # Large blobs: files of their own.

    def new_file(self, *, expected_bytes: int = 0) -> FileWriter:
        """Return a writer for a large blob: `write` in threads, then `commit`. Nothing is on the disk yet.

        Raises:
            StorageFull: there is no room for `expected_bytes`.
        """
        if not self._is_open:
            raise Unavailable("the blob store is closed")
        self._reserve.check(expected_bytes)
        return self._files.new()

    def open(self, location: str, size: int) -> FileReader:
        """Return a reader of a blob of either kind, to be closed by its `with` block.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: it is not as long as it must be.
        """
        if location.startswith("s/"):
            return self._segment_reader.open(location, size, threads=self._threads)
        return self._files.open(location, size)

    async def link(self, location: str) -> str:
        """Return a second location for a large blob, in the same time for any size.

        Either location may be deleted without the other. Where the file system allows no further hard
        link (ext4: 65,000), the file is copied.

        Raises:
            BlobMissing: there is no such blob.
            StorageFull: it had to be copied, and there is no room.
            DiskFailed: the disk failed; nothing was made.
        """
        if not self._is_open:
            raise Unavailable("the blob store is closed")
        with timed(Segment.DISK):
            return await self._files.link(location)

    async def delete(self, location: str) -> None:
        """Remove a large blob; one that is gone already is fine. Readers that have it open may finish.

        Raises:
            DiskFailed: the disk failed to.
        """
        await self._files.delete(location)

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a blocking call returns, such as `FileWriter.write`, made in one of the store's threads.

        A cancelled caller stops waiting; the call is still made.
        """
        with timed(Segment.DISK):
            return await self._threads.run(call, *args, **kwargs)

    # Housekeeping, for those who know the catalogue.

    async def file_locations(self, *, older_than_s: float) -> AsyncIterator[list[str]]:
        """Yield, in batches, the large blobs that were neither made nor linked for that long."""
        found = housekeeping.file_locations(self.settings.root, older_than_s=older_than_s)
        async for batch in self._batches(found):
            yield batch

    async def sealed_segments(self) -> AsyncIterator[list[SealedSegment]]:
        """Yield, in batches, the segments that no living process appends to."""
        async for batch in self._batches(housekeeping.sealed_segments(self.settings.root)):
            yield batch

    async def records(self, segment: str) -> AsyncIterator[list[FoundRecord]]:
        """Yield, in batches, the records of a segment, each verified.

        Raises:
            BlobMissing: there is no such segment.
        """
        _check_container(segment)
        async for batch in self._batches(walk_records(self.settings.root, segment)):
            yield batch

    async def scrub(self, location: str, size: int) -> None:
        """Read a blob of either kind from end to end.

        Raises:
            BlobMissing: there is none.
            BlobCorrupt: the bytes, or their checksums, are not what was written.
        """
        with self.open(location, size) as reader:
            await reader.crc64nvme()
            for index in reader.frames(0, size):
                await reader.verify(index)

    async def remove_leftovers(self, *, older_than_s: float) -> int:
        """Remove incoming files whose writer died that long ago, and empty directories; return how many."""
        return await self._threads.run(housekeeping.remove_leftovers, self.settings.root, older_than_s=older_than_s)

    async def remove_segment(self, segment: str) -> None:
        """Remove a segment; one that is gone already is fine.

        Raises:
            Conflict: a living process appends to it.
        """
        _check_container(segment)
        await self._threads.run(housekeeping.remove_segment, self.settings.root, segment)
        self._segment_reader.release(segment)

    def release_removed_segments(self) -> None:
        """Close the segments that another process removed, so that the disk gets their space back."""
        self._segment_reader.release_removed()

    async def _batches(self, found: Iterator[T]) -> AsyncIterator[list[T]]:
        while batch := await self._threads.run(list, islice(found, BATCH)):
            yield batch

    def __repr__(self) -> str:
        return (
            f"DiskBlobStore(root={str(self.settings.root)!r}, is_open={self._is_open}, {self._appends!r}, "
            f"{self._segment_writer!r}, {self._segment_reader!r}, {self._directories!r}, {self._reserve!r}, "
            f"{self._threads!r}, reads_cached={self.reads_cached}, reads_waited={self.reads_waited})"
        )


def _check_container(name: str) -> None:
    if not is_container(name):
        raise ValueError(f"{name!r} is not a segment name")
