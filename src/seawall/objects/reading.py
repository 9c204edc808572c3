"""An object opened for reading: its version, and its bytes in the order they go out."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Self

from seawall.blobs import DiskBlobStore, FileReader
from seawall.database import Database
from seawall.errors import BlobMissing
from seawall.objects.buckets import QUERIES
from seawall.objects.things import Span, Version

PARTS_OF_OBJECT = QUERIES["parts_of_object"]
READ_MAX_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A stretch of a blob on the disk. Its frames must be verified before they are sent."""

    reader: FileReader
    start: int
    stop: int


# Bytes are verified already; a file's are for the door to verify and send without copying.
Extent = memoryview | FileExtent


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the bytes of an object in parts lie, part by part: in the row or in a blob."""

    starts: Sequence[int]
    sizes_bytes: Sequence[int]
    locations: Sequence[str | None]
    inlines: Sequence[bytes | None]


class OpenObject:
    """One version of an object, ready to be read. State: the open file, or where its parts are.

    Leaving its `with` block closes the file. No database connection is held.
    """

    def __init__(
        self,
        version: Version,
        database: Database,
        blobs: DiskBlobStore,
        *,
        data: memoryview | None = None,
        reader: FileReader | None = None,
        parts: Parts | None = None,
    ) -> None:
        self.version = version
        self.data = data
        self._reader = reader
        self._parts = parts
        self._database = database
        self._blobs = blobs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    async def extents(self, span: Span) -> AsyncIterator[Extent]:
        """Yield the bytes of `span`, each extent valid until the next is asked for.

        Raises:
            BlobMissing, BlobCorrupt: the bytes are not what they were.
        """
        if span.start == span.stop:
            return
        if self.data is not None:
            yield self.data[span.start : span.stop]
        elif self._reader is not None:
            yield FileExtent(self._reader, span.start, span.stop)
        elif self._parts is not None:
            starts, sizes_bytes = self._parts.starts, self._parts.sizes_bytes
            for place in range(bisect_right(starts, span.start) - 1, len(starts)):
                start = max(span.start - starts[place], 0)
                stop = min(span.stop - starts[place], sizes_bytes[place])
                if start >= stop:
                    return
                opened = await self._open_part(place)
                if isinstance(opened, FileReader):
                    with opened:
                        yield FileExtent(opened, start, stop)
                else:
                    yield opened[start:stop]

    async def chunks(self, span: Span) -> AsyncIterator[memoryview]:
        """Yield the verified bytes of `span` in chunks of any size; errors as `extents`."""
        async for extent in self.extents(span):
            if isinstance(extent, FileExtent):
                async for chunk in extent.reader.chunks(extent.start, extent.stop):
                    yield chunk
            else:
                yield extent

    async def _open_part(self, place: int) -> memoryview | FileReader:
        try:
            return await self._try_to_open_part(place)
        except BlobMissing:
            # It was moved while the parts before it were on their way out, or the object is gone.
            self._parts = await _read_parts(self.version, self._database)
            return await self._try_to_open_part(place)

    async def _try_to_open_part(self, place: int) -> memoryview | FileReader:
        parts = self._parts
        assert parts is not None
        return await _open_bytes(
            self._blobs, parts.sizes_bytes[place], inline=parts.inlines[place], location=parts.locations[place]
        )


async def open_version(version: Version, database: Database, blobs: DiskBlobStore) -> OpenObject:
    """Open the bytes of a version.

    Raises:
        BlobMissing: they moved or were deleted since the row was read; a newer row says which.
        BlobCorrupt: they are not what was written.
    """
    if version.upload_id is not None:
        # All of them now: once the object is overwritten the catalogue forgets them, though their bytes stay
        # for those who have begun to read.
        return OpenObject(version, database, blobs, parts=await _read_parts(version, database))
    opened = await _open_bytes(blobs, version.size_bytes, inline=version.inline, location=version.location)
    if isinstance(opened, FileReader):
        return OpenObject(version, database, blobs, reader=opened)
    return OpenObject(version, database, blobs, data=opened)


def is_file(location: str) -> bool:
    """Whether a blob lies in a file of its own (see `seawall.blobs.Location`)."""
    return location.startswith("f/")


async def _open_bytes(
    blobs: DiskBlobStore, size_bytes: int, *, inline: bytes | None, location: str | None
) -> memoryview | FileReader:
    """Return the bytes of a small blob, a reader of a large one.

    A small one is read at once when it is in the page cache, else in a thread. A large one goes from
    the disk to the socket without coming by: below, the detour is cheaper.
    """
    if inline is not None:
        return memoryview(inline)
    assert location is not None
    if size_bytes > READ_MAX_BYTES or is_file(location):
        return blobs.open(location, size_bytes)
    data = blobs.try_read(location, size_bytes)
    return memoryview(data if data is not None else await blobs.read(location, size_bytes))


async def _read_parts(version: Version, database: Database) -> Parts:
    row = await database.read(PARTS_OF_OBJECT, version.upload_id)
    sizes_bytes = row["sizes_bytes"] or []
    *starts, end = accumulate(sizes_bytes, initial=0)
    if not sizes_bytes or end != version.size_bytes:
        raise BlobMissing("The object was overwritten or deleted just now.")
    return Parts(starts=starts, sizes_bytes=sizes_bytes, locations=row["locations"], inlines=row["inlines"])
