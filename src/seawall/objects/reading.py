"""An object opened for reading: its version, and its bytes in the order they go out."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from seawall.blobs import DiskBlobStore, FileReader
from seawall.database import Database
from seawall.objects.buckets import QUERIES
from seawall.objects.things import Span, Version

READ_MAX_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A stretch of a blob on the disk. Its frames must be verified before they are sent."""

    reader: FileReader
    start: int
    stop: int


# Bytes are verified already; a file's are for the door to verify and send without copying.
Extent = memoryview | FileExtent


class OpenObject:
    """One version of an object, ready to be read. State: the open file, if there is one.

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
    ) -> None:
        self.version = version
        self.data = data
        self._reader = reader
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
        else:
            async for part in self._parts(span):
                start = max(span.start - part["start_byte"], 0)
                stop = min(span.stop - part["start_byte"], part["size_bytes"])
                if part["inline"] is not None:
                    yield memoryview(part["inline"])[start:stop]
                elif is_sent_from_disk(part["location"], part["size_bytes"]):
                    with self._blobs.open(part["location"], part["size_bytes"]) as reader:
                        yield FileExtent(reader, start, stop)
                else:
                    data = await read_segment(self._blobs, part["location"], part["size_bytes"])
                    yield data[start:stop]

    async def chunks(self, span: Span) -> AsyncIterator[memoryview]:
        """Yield the verified bytes of `span` in chunks of any size; errors as `extents`."""
        async for extent in self.extents(span):
            if isinstance(extent, FileExtent):
                async for chunk in extent.reader.chunks(extent.start, extent.stop):
                    yield chunk
            else:
                yield extent

    async def _parts(self, span: Span) -> AsyncIterator[Any]:
        after = 0
        while True:
            page = await self._database.fetch(
                QUERIES["parts_between"], self.version.upload_id, span.start, span.stop, after
            )
            for part in page:
                yield part
            if not page or page[-1]["start_byte"] + page[-1]["size_bytes"] >= span.stop:
                return
            after = page[-1]["part_number"]


async def open_version(version: Version, database: Database, blobs: DiskBlobStore) -> OpenObject:
    """Open the bytes of a version.

    Raises:
        BlobMissing: they moved or were deleted since the row was read; a newer row says which.
        BlobCorrupt: they are not what was written.
    """
    if version.inline is not None:
        return OpenObject(version, database, blobs, data=memoryview(version.inline))
    if version.location is None:
        return OpenObject(version, database, blobs)
    if is_sent_from_disk(version.location, version.size_bytes):
        return OpenObject(version, database, blobs, reader=blobs.open(version.location, version.size_bytes))
    data = await read_segment(blobs, version.location, version.size_bytes)
    return OpenObject(version, database, blobs, data=data)


def is_file(location: str) -> bool:
    """Whether a blob lies in a file of its own (see `seawall.blobs.Location`)."""
    return location.startswith("f/")


def is_sent_from_disk(location: str, size_bytes: int) -> bool:
    """Whether a blob goes from the disk to the socket without coming by: below, the detour is cheaper."""
    return size_bytes > READ_MAX_BYTES or is_file(location)


async def read_segment(blobs: DiskBlobStore, location: str, size_bytes: int) -> memoryview:
    """Read a small blob: at once when it is in the page cache, else in a thread."""
    data = blobs.try_read(location, size_bytes)
    return memoryview(data if data is not None else await blobs.read(location, size_bytes))
