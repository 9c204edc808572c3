"""What tests of objects do again and again: put bytes, get them, look at what the catalogue holds."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import asyncpg

from seawall.access import Caller
from seawall.blobs import DiskBlobStore
from seawall.database import Database
from seawall.objects import NamedPart, ObjectStore, Uploads
from seawall.objects.digests import Digests
from seawall.objects.things import UNCONDITIONAL, Condition, Description, Span
from seawall.objects.uploads import Upload
from seawall.objects.writing import Stored

INLINE_MAX = 64
SEGMENT_MAX = 4096
SIZES = [0, 1, INLINE_MAX, INLINE_MAX + 1, SEGMENT_MAX, SEGMENT_MAX + 1, 3 * SEGMENT_MAX]
"""On both sides of where one tier ends and the next begins."""
PART_MIN = 100


class BytesPayload:
    """A body that is here already."""

    must_stream = False

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data

    async def read(self) -> list[memoryview]:
        """Return all of it."""
        return [memoryview(self._data)]

    async def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield it in two pieces."""
        middle = len(self._data) // 2
        yield [memoryview(self._data)[:middle], memoryview(self._data)[middle:]]

    def decode(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Return the pieces: they are not coded."""
        return pieces

    def finish(self, digests: Digests) -> None:
        """Accept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What one node has: its own connections and memory, and the disk and catalogue of all."""

    database: Database
    blobs: DiskBlobStore
    store: ObjectStore
    uploads: Uploads

    async def put(
        self, caller: Caller, bucket: str, key: str, data: bytes, *, condition: Condition = UNCONDITIONAL
    ) -> Stored:
        """Store an object."""
        description = Description(content_type="text/plain", headers={"x-amz-meta-size": str(len(data))})
        return await self.store.put(
            caller, bucket, key, BytesPayload(data), digests=Digests(), description=description, condition=condition
        )

    async def get(self, caller: Caller, bucket: str, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of an object, or a stretch of them."""
        with await self.store.open(caller, bucket, key) as opened:
            size_bytes = opened.version.size_bytes
            span = Span(start=min(start, size_bytes), stop=size_bytes if stop is None else min(stop, size_bytes))
            return b"".join([bytes(chunk) async for chunk in opened.chunks(span)])

    async def begin(self, caller: Caller, bucket: str, key: str) -> Upload:
        """Begin an upload."""
        upload_id = await self.uploads.begin(
            caller, bucket, key, description=Description(), checksum_algorithm=None, full_object=False
        )
        return await self.uploads.find(caller, bucket, key, upload_id)

    async def put_part(self, upload: Upload, number: int, data: bytes) -> NamedPart:
        """Store a part; return how to name it when completing."""
        stored, _ = await self.uploads.put_part(upload, number, BytesPayload(data), Digests())
        return NamedPart(part_number=number, etag=stored.etag, checksums={})

    async def copy(self, caller: Caller, source: tuple[str, str], target: tuple[str, str]) -> None:
        """Copy an object as it is."""
        await self.store.copy(
            caller,
            source,
            target,
            check=lambda _version: None,
            describe=lambda version: Description(content_type=version.content_type, headers=version.headers),
            digests=None,
        )

    async def keys(self, caller: Caller, bucket: str) -> list[str]:
        """Return all keys of a bucket."""
        _, page = await self.store.list(caller, bucket, prefix="", delimiter="", seek="", limit=1000)
        return list(page.keys)


LOST_AND_FOUND = {
    "objects in a bucket that is gone": """
        select count(*) from current_objects where bucket_id not in (select bucket_id from buckets)
    """,
    "uploads in a bucket that is gone": """
        select count(*) from uploads where bucket_id not in (select bucket_id from buckets)
    """,
    "parts of nothing": """
        select count(*) from parts
        where upload_id not in (select upload_id from uploads)
            and upload_id not in (select upload_id from current_objects where upload_id is not null)
    """,
    "blobs that are both named and garbage": """
        select count(*) from garbage
        where location in (select location from current_objects union all select location from parts)
    """,
}


async def assert_catalogue_is_whole(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Fail when the catalogue holds what should have gone with something else."""
    found = {what: await connection.fetchval(query) for what, query in LOST_AND_FOUND.items()}
    assert found == dict.fromkeys(LOST_AND_FOUND, 0)
