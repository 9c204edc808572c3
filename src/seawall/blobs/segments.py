"""Small blobs, appended to segments that are shared by all writers of one process.

A segment has one writer, named by that process's incarnation, holding its lock; it is never reopened
for append. A record is a header (magic, length, CRC64NVME of the data) and the data, without padding,
so a segment can be walked alone. What follows the last record is zeros, or what a writer that died in
the middle of a group left there: nobody was told of it.

Overwriting zeros already on the disk spares fdatasync the file system's own bookkeeping, so a small
group that outgrows them also writes the next stretch: a group of 32 KiB takes 190 µs instead of 300
(ext4, 2026-11-23). Reserving the space with fallocate did not help: it leaves that bookkeeping to do.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from awscrt.checksums import crc64nvme

from seawall.blobs.disk import (
    DIRECT_UNIT_BYTES,
    INCOMING,
    SEGMENTS,
    ZEROS,
    Bytes,
    CachedReads,
    Descriptor,
    create_claimed,
    read_failure,
    read_fully,
    set_direct,
    sync_directory,
    write_failure,
    write_fully,
    write_units,
)
from seawall.blobs.file_reader import FileReader, Layout
from seawall.blobs.locations import container_name, parse_of_kind, segment_location
from seawall.blobs.settings import KIB, MIB
from seawall.blobs.threads import DiskThreads
from seawall.clock import monotonic_s
from seawall.errors import BlobCorrupt

_HEADER = struct.Struct("<4sIQ")
_MAGIC = b"SWr1"
HEADER_BYTES = _HEADER.size

# Larger groups pay for the journal once per many bytes; writing those twice would cost more.
ZEROED_BY_GROUPS_UP_TO_BYTES = 256 * KIB
ZEROED_AHEAD_BYTES = MIB

# Records that large are sent by sendfile, after a look in a thread if need be; smaller ones shall be found in the page
# cache by those who read at once what was just written.
DIRECT_FROM_BYTES = 128 * KIB

REMOVED_SEGMENTS_KEPT_OPEN_S = 10.0


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be appended: the header, made while its group was still waiting, and the data."""

    buffers: tuple[bytes | memoryview, ...]
    size_bytes: int

    @classmethod
    def of(cls, *data: Bytes) -> Self:
        """Return the record for these bytes, one after the other.

        Raises:
            ValueError: they are too many to be read in one go.
        """
        buffers = tuple(part if isinstance(part, bytes) else memoryview(part).cast("B") for part in data)
        size = sum(map(len, buffers))
        if size > MIB:
            raise ValueError(f"{size} bytes are too many for a segment; they belong in a file")
        crc = 0
        for buffer in buffers:
            crc = crc64nvme(buffer, crc)
        return cls((_HEADER.pack(_MAGIC, size, crc), *buffers), HEADER_BYTES + size)


class RecordSum:
    """The one checksum of a record, read from its header."""

    def __init__(self, header: bytes | memoryview, *, size: int, location: str) -> None:
        """Take in the header of `size` bytes of data.

        Raises:
            BlobCorrupt: it is not the header that was written for them.
        """
        magic, length, self.crc64nvme = _HEADER.unpack(header)
        self._location = location
        if magic != _MAGIC:
            raise BlobCorrupt(f"{location} has no record header: {magic!r} instead of {_MAGIC!r}")
        if length != size:
            raise BlobCorrupt(f"{location} is {length} bytes long instead of {size}")
        if size == 0:
            self.check(0, memoryview(b""))  # there is no frame that anybody else would check

    def check(self, index: int, data: memoryview) -> None:
        """Raise BlobCorrupt unless this is what was written; a record is one frame."""
        actual = crc64nvme(data)
        if actual != self.crc64nvme:
            raise BlobCorrupt(
                f"frame {index} of {self._location} has CRC64NVME {actual:016x} instead of {self.crc64nvme:016x}"
            )


def checked(record: memoryview, location: str) -> bytes:
    """Return the data of a record, header and all, if it is what was written; else raise BlobCorrupt."""
    data = record[HEADER_BYTES:]
    RecordSum(record[:HEADER_BYTES], size=len(data), location=location).check(0, data)
    return data.tobytes()


class SegmentWriter:
    """Appends groups of records durably. State: the open segment, where it ends, whether the disk takes direct writes.

    Lives in one thread. After any failure the segment is left as it is and the next group opens
    another: what an earlier group was told is still true, and what this one was not told never was.
    """

    def __init__(
        self, root: Path, *, incarnation: str, segment_size_bytes: int, buffer: Callable[[], memoryview]
    ) -> None:
        self.segment = ""
        self.end = 0
        self.direct = False
        self._buffer = buffer
        self._root = root
        self._incarnation = incarnation
        self._segment_size_bytes = segment_size_bytes
        self._opened = 0
        self._zeroed_to = 0
        self._fd = -1

    def append(self, records: Sequence[Record]) -> list[str]:
        """Write the records and return their locations, once all of them survive a power cut.

        Raises:
            StorageFull: the disk is full.
            DiskFailed: a write or an fdatasync failed.
        """
        size = sum(record.size_bytes for record in records)
        try:
            if self._fd < 0 or (self.end and self.end + size > self._segment_size_bytes):
                self.seal()
                self._open_next()
            return self._append(records, size)
        except OSError as error:
            self._abandon(error)
            raise write_failure(error) from error

    def _append(self, records: Sequence[Record], size: int) -> list[str]:
        parts = [part for record in records for part in record.buffers]
        if self.direct and min(record.size_bytes for record in records) >= DIRECT_FROM_BYTES:
            self._write_directly(parts)
        else:
            write_fully(self._fd, parts, self.end)
        new_end = self.end + size
        if new_end > self._zeroed_to and size <= ZEROED_BY_GROUPS_UP_TO_BYTES:
            with suppress(OSError):  # it is a favour to later groups; this one is written
                self._zeroed_to = new_end + os.pwrite(self._fd, ZEROS[:ZEROED_AHEAD_BYTES], new_end)
        os.fdatasync(self._fd)
        locations = []
        for record in records:
            locations.append(segment_location(self.segment, self.end))
            self.end += record.size_bytes
        return locations

    def _write_directly(self, parts: list[bytes | memoryview]) -> None:
        """Write past the page cache, but for the odd bytes at the end.

        The first unit may begin with bytes that were acknowledged; they are written again as they are.
        """
        start = self.end - self.end % DIRECT_UNIT_BYTES
        before = os.pread(self._fd, self.end - start, start)
        if len(before) != self.end - start:
            raise OSError(errno.EIO, "a segment is shorter than what was written to it")
        size = sum(map(len, parts))
        set_direct(self._fd, on=True)
        odd = write_units(self._fd, [before, *parts], start, buffer=self._buffer())
        set_direct(self._fd, on=False)
        write_fully(self._fd, [odd], self.end + size - len(odd))

    def _open_next(self) -> None:
        """Open a segment that other processes see only with its lock held, under a durable name."""
        name = container_name(self._incarnation, self._opened)
        self._opened += 1
        incoming, path = self._root / INCOMING / name, self._root / SEGMENTS / name
        fd = create_claimed(incoming)
        try:
            incoming.rename(path)
            sync_directory(path.parent)
        except OSError:
            os.close(fd)
            for leftover in (incoming, path):
                leftover.unlink(missing_ok=True)
            raise
        self._fd, self.segment, self.end, self._zeroed_to = fd, name, 0, 0

    def seal(self) -> None:
        """Cut off what was zeroed ahead and let go of the segment; one without records is removed."""
        if self._fd < 0:
            return
        with suppress(OSError):  # zeros at the end waste space, and harm nobody
            os.ftruncate(self._fd, self.end)
        self._let_go()

    def _abandon(self, error: OSError) -> None:
        if self._fd >= 0 and error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.seal()
        self._let_go()

    def _let_go(self) -> None:
        if self._fd < 0:
            return
        if self.end == 0:
            with suppress(OSError):
                (self._root / SEGMENTS / self.segment).unlink(missing_ok=True)
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)

    def __repr__(self) -> str:
        return f"SegmentWriter(segment={self.segment!r}, end={self.end}, is_open={self._fd >= 0})"


class SegmentReader:
    """Reads records on the event loop, from the page cache. State: the segments it holds open.

    Never waits for the disk, except to open a segment. When too many are open, the one opened first is
    let go, whether used or not: opening it again costs 4 µs, and keeping count would cost every read.
    """

    def __init__(self, root: Path, cached: CachedReads, *, open_max: int) -> None:
        self._segments = root / SEGMENTS
        self._cached = cached
        self._open_max = open_max
        self._open: dict[str, Descriptor] = {}
        self._removed_looked_for_at_s = monotonic_s()

    def try_read(self, location: str, size: int) -> bytes | None:
        """Return the verified data, or None if that would wait for the disk.

        Raises:
            BlobMissing: the segment is gone.
            BlobCorrupt: the record is not what was written.
        """
        segment, _, offset = location[2:].rpartition("/")
        record = self._cached.buffer[: HEADER_BYTES + size]
        try:
            fd = (self._open.get(segment) or self._opened(location)).fd
            if len(record) != HEADER_BYTES + size or not self._cached.read(fd, record, int(offset)):
                return None
        except OSError as error:
            raise read_failure(error, location) from error
        return checked(record, location)

    def open(self, location: str, size: int, *, threads: DiskThreads) -> FileReader:
        """Return a reader of one record.

        Raises:
            BlobMissing: the segment is gone.
        """
        place = parse_of_kind(location, "segment")
        try:
            descriptor = self._open.get(place.container) or self._opened(location)
        except OSError as error:
            raise read_failure(error, location) from error
        descriptor.hold()
        layout = Layout(
            data_offset=place.offset + HEADER_BYTES,
            sums_offset=place.offset,
            sums_bytes=HEADER_BYTES,
            parse=partial(RecordSum, size=size, location=location),
        )
        return FileReader(location, size, descriptor, layout, threads=threads, cached=self._cached)

    def _opened(self, location: str) -> Descriptor:
        segment = parse_of_kind(location, "segment").container
        if monotonic_s() - self._removed_looked_for_at_s > REMOVED_SEGMENTS_KEPT_OPEN_S:
            self.release_removed()
        descriptor = Descriptor(os.open(self._segments / segment, os.O_RDONLY | os.O_CLOEXEC))
        while len(self._open) >= self._open_max:
            self.release(next(iter(self._open)))
        self._open[segment] = descriptor
        return descriptor

    def release_removed(self) -> None:
        """Let go of segments that somebody removed, so that their space is freed."""
        self._removed_looked_for_at_s = monotonic_s()
        for segment in [name for name, descriptor in self._open.items() if os.fstat(descriptor.fd).st_nlink == 0]:
            self.release(segment)

    def release(self, segment: str) -> None:
        """Let go of one segment, if it is open."""
        descriptor = self._open.pop(segment, None)
        if descriptor is not None:
            descriptor.release()

    def close(self) -> None:
        """Let go of all segments."""
        for segment in list(self._open):
            self.release(segment)

    def __repr__(self) -> str:
        return f"SegmentReader(open={len(self._open)}, open_max={self._open_max})"


def read_record(root: Path, location: str, size: int) -> bytes:
    """Return the verified data of one record, waiting for the disk.

    Raises:
        BlobMissing: the segment is gone.
        BlobCorrupt: the record is not what was written.
    """
    place = parse_of_kind(location, "segment")
    record = memoryview(bytearray(HEADER_BYTES + size))
    try:
        fd = os.open(root / SEGMENTS / place.container, os.O_RDONLY | os.O_CLOEXEC)
        try:
            is_whole = read_fully(fd, record, place.offset)
        finally:
            os.close(fd)
    except OSError as error:
        raise read_failure(error, location) from error
    if not is_whole:
        raise BlobCorrupt(f"{location} is cut off before its {size} bytes end")
    return checked(record, location)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRecord:
    """A record met on a walk: `size_bytes` is its data's, and location and size are as `append` gave them."""

    location: str
    size_bytes: int
    is_intact: bool


def walk_records(root: Path, segment: str) -> Iterator[FoundRecord]:
    """Yield the records of one segment in order, holding one of them in memory at a time.

    A header that makes no sense hides all that follows, and ends the walk with a record of size 0 that
    is not intact. In a segment whose writer died that may be a group nobody was told of: only the
    catalogue knows whether anything is missing.

    Raises:
        BlobMissing: the segment is gone.
    """
    try:
        fd = os.open(root / SEGMENTS / segment, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise read_failure(error, segment_location(segment, 0)) from error
    try:
        size = os.fstat(fd).st_size
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        offset = 0
        while offset < size:
            record = _walk_one(fd, segment, offset, size)
            if record is None:
                return
            yield record
            if record.size_bytes == 0 and not record.is_intact:
                return
            offset += HEADER_BYTES + record.size_bytes
    finally:
        os.close(fd)


def _walk_one(fd: int, segment: str, offset: int, end: int) -> FoundRecord | None:
    """Return the record at `offset`, or None if nothing but zeros is left."""
    location = segment_location(segment, offset)
    header = os.pread(fd, HEADER_BYTES, offset)
    if len(header) == HEADER_BYTES and header.startswith(_MAGIC):
        length = _HEADER.unpack(header)[1]
        if length <= MIB and offset + HEADER_BYTES + length <= end:
            record = memoryview(bytearray(HEADER_BYTES + length))
            try:
                is_whole = read_fully(fd, record, offset)
                checked(record, location)
            except (OSError, BlobCorrupt):
                is_whole = False
            return FoundRecord(location=location, size_bytes=length, is_intact=is_whole)
    elif _is_zero(fd, offset, end):
        return None
    return FoundRecord(location=location, size_bytes=0, is_intact=False)


def _is_zero(fd: int, offset: int, end: int) -> bool:
    while offset < end:
        stretch = os.pread(fd, min(len(ZEROS), end - offset), offset)
        if not stretch or stretch != ZEROS[: len(stretch)]:
            return not stretch
        offset += len(stretch)
    return True
