"""The verbs on objects: put, open, look at, copy, delete, list.

Bytes come before the row on the way in, and the row before the bytes on the way out and away: a
crash leaves bytes without a name for the sweeper, never a name without bytes. Permissions are
checked here, so that no door can forget. No connection is held while bytes flow.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID, uuid4

from seawall.access import Caller
from seawall.blobs import DiskBlobStore
from seawall.database import Database, load_queries
from seawall.errors import (
    BlobMissing,
    Invalid,
    NoSuchBucket,
    NoSuchKey,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
)
from seawall.objects.buckets import QUERIES, Buckets
from seawall.objects.digests import Digests
from seawall.objects.listing import Page, page_bounds, read_page
from seawall.objects.reading import OpenObject, is_file, open_version
from seawall.objects.things import UNCONDITIONAL, Bucket, Condition, Description, Span, Version
from seawall.objects.writing import Payload, Stored, store_payload
from seawall.telemetry.segments import unwatched

CURRENT_VERSION = QUERIES["current_version"]
PUT_OBJECT = QUERIES["put_object"]
LIST_PAGE = load_queries(__package__, "listing.sql")["list_page"]

KEY_MAX_BYTES = 1024
# 5 GiB at once, as S3; more comes in parts.
OBJECT_MAX_BYTES = 5 * 1024**3
INLINE_MAX_BYTES = 2048

Check = Callable[[Version], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSettings:
    """What an operator chooses about objects."""

    inline_max_bytes: int = INLINE_MAX_BYTES


class ObjectStore:
    """Keeps objects. State: none of its own; see `Buckets`, `Database`, `DiskBlobStore`."""

    def __init__(self, database: Database, blobs: DiskBlobStore, settings: ObjectSettings) -> None:
        self.database = database
        self.blobs = blobs
        self.settings = settings
        self.buckets = Buckets(database)

    async def look_up(self, caller: Caller | None, bucket_name: str, key: str) -> Version:
        """Return the newest version of a key.

        Raises:
            NoSuchBucket, NoSuchKey, Denied.
        """
        row = await self._find_row(caller, bucket_name, key)
        if row is None:
            raise NoSuchKey
        return Version.of(row)

    async def open(
        self, caller: Caller | None, bucket_name: str, key: str, *, check: Check | None = None
    ) -> OpenObject:
        """Open the newest version of a key, to be closed by its `with` block.

        Args:
            caller: who wants to read.
            bucket_name: of the bucket.
            key: of the object.
            check: called with the version before its bytes are touched; what it raises goes out.

        Raises:
            NoSuchBucket, NoSuchKey, Denied.
            BlobMissing, BlobCorrupt: the bytes are not what was written.
        """
        version = await self.look_up(caller, bucket_name, key)
        if check is not None:
            check(version)
        try:
            return await open_version(version, self.database, self.blobs)
        except BlobMissing:
            # Overwritten or moved since the row was read. The present row is right, or nothing is.
            version = await self.look_up(caller, bucket_name, key)
            if check is not None:
                check(version)
            return await open_version(version, self.database, self.blobs)

    async def may_write(self, caller: Caller | None, bucket_name: str) -> Bucket:
        """Return the bucket if the caller may write to it: asked before a body is received.

        Raises:
            NoSuchBucket, Denied.
        """
        return self.buckets.known(caller, bucket_name) or await self.buckets.find(caller, bucket_name)

    async def put(
        self,
        caller: Caller | None,
        bucket_name: str,
        key: str,
        payload: Payload,
        *,
        digests: Digests,
        description: Description,
        condition: Condition = UNCONDITIONAL,
    ) -> Stored:
        """Store an object; when this returns, it survives a power cut.

        Raises:
            NoSuchBucket, Denied, PreconditionFailed, NoSuchKey: nothing was stored.
            Invalid: the payload is not what was announced; nothing was stored.
            StorageFull: there is no room.
        """
        check_key(key)
        bucket = await self.may_write(caller, bucket_name)
        await self.check_early(caller, bucket_name, key, condition)
        stored = await store_payload(payload, digests, self.blobs, inline_max_bytes=self.settings.inline_max_bytes)
        await self.name(caller, bucket, key, stored, description=description, condition=condition)
        return stored

    async def name(
        self,
        caller: Caller | None,
        bucket: Bucket,
        key: str,
        stored: Stored,
        *,
        description: Description,
        condition: Condition = UNCONDITIONAL,
    ) -> UUID:
        """Give durable bytes their name; errors as `put`."""
        version_id = uuid4()
        row = (
            key,
            version_id,
            stored.size_bytes,
            stored.etag,
            description.content_type,
            description.headers_json,
            stored.checksum,
            stored.inline,
            stored.location,
        )

        async def write(bucket: Bucket) -> bool:
            try:
                if condition:
                    return await put_if(self.database.fetch_one, bucket, condition, *row, None)
                written = await self.database.write(PUT_OBJECT, bucket.bucket_id, *row, identity_width=2, echo=2)
            except OutcomeUnknown:
                # The version's number is ours alone: if it is there, so is all of it. If not, the write was lost, or
                # something was written over it since; who asked must decide.
                present = await self._present(bucket, key)
                if present is None or present["version_id"] != version_id:
                    raise
                return True
            return written is not None

        if await write(bucket):
            return version_id
        # The bucket may be gone, and made again under another number.
        found = await self.buckets.find(caller, bucket.name)
        if found.bucket_id != bucket.bucket_id and await write(found):
            return version_id
        if condition:
            await self._explain(found, key, condition)
        raise NoSuchBucket

    async def copy(
        self,
        caller: Caller | None,
        source: tuple[str, str],
        target: tuple[str, str],
        *,
        check: Check,
        describe: Callable[[Version], Description],
        digests: Callable[[], Digests] | None,
        condition: Condition = UNCONDITIONAL,
    ) -> tuple[Version, Stored]:
        """Copy an object. Large ones take no longer than small ones, unless they came in parts.

        Args:
            caller: who must be able to read the one and write the other.
            source: bucket and key to copy from.
            target: bucket and key to copy to.
            check: called with the source's version; what it raises goes out.
            describe: what to say about the copy, knowing the source.
            digests: makes what shall hash the bytes again, where another checksum is wanted.
            condition: on what is there already.

        Raises:
            NoSuchBucket, NoSuchKey, Denied, PreconditionFailed, StorageFull: nothing was copied.
        """
        check_key(target[1])
        bucket = await self.may_write(caller, target[0])
        await self.check_early(caller, *target, condition)
        try:
            version, stored = await self._copy_bytes(await self.open(caller, *source, check=check), digests)
        except BlobMissing:
            # Deleted or moved while it was being copied: as in `open`.
            version, stored = await self._copy_bytes(await self.open(caller, *source, check=check), digests)
        await self.name(caller, bucket, target[1], stored, description=describe(version), condition=condition)
        return version, stored

    async def _copy_bytes(self, opened: OpenObject, digests: Callable[[], Digests] | None) -> tuple[Version, Stored]:
        with opened:
            version = opened.version
            if version.size_bytes > OBJECT_MAX_BYTES:
                raise Invalid(f"The copy source is larger than {OBJECT_MAX_BYTES} bytes: copy it in parts.")
            payload = CopiedPayload(opened, Span(start=0, stop=version.size_bytes))
            if digests is None and version.upload_id is None:
                return version, await self._copy_as_it_is(version, payload)
            stored = await store_payload(
                payload,
                digests() if digests is not None else Digests(),
                self.blobs,
                inline_max_bytes=self.settings.inline_max_bytes,
            )
            return version, stored

    async def _copy_as_it_is(self, version: Version, payload: "CopiedPayload") -> Stored:
        location = version.location
        if location is not None:
            if is_file(location):
                location = await self.blobs.link(location)
            else:
                location = await self.blobs.append(*await payload.read())
        return Stored(
            size_bytes=version.size_bytes,
            etag=version.etag,
            checksum=version.checksum,
            inline=version.inline,
            location=location,
        )

    async def delete(
        self, caller: Caller | None, bucket_name: str, keys: Sequence[str], *, etag: str | None = None
    ) -> None:
        """Delete objects; those that are not there are no error.

        Args:
            caller: who must be able to write to the bucket.
            bucket_name: of the bucket.
            keys: of the objects.
            etag: delete only this version of a single key.

        Raises:
            NoSuchBucket, Denied: nothing was deleted.
            PreconditionFailed, NoSuchKey: the version is another, or gone.
        """
        bucket = await self.buckets.find(caller, bucket_name)
        if etag is None:
            if keys:
                *others, last = dict.fromkeys(keys)
                # The request waits for the last one longest, as a rule: its time is what is told.
                besides = (unwatched(self._delete(bucket, key)) for key in others)
                await asyncio.gather(*besides, self._delete(bucket, last))
            return
        (key,) = keys
        row = await self.database.fetch_one(QUERIES["delete_object_if_match"], bucket.bucket_id, key, etag)
        if row is None:
            await self._explain(bucket, key, Condition(etag=etag))

    async def _delete(self, bucket: Bucket, key: str) -> None:
        try:
            await self.database.write(QUERIES["delete_object"], bucket.bucket_id, key, identity_width=2)
        except OutcomeUnknown:
            # Not again: what another has put meanwhile is not what was to be deleted.
            if await self._present(bucket, key) is not None:
                raise

    async def list(
        self, caller: Caller | None, bucket_name: str, *, prefix: str, delimiter: str, seek: str, limit: int
    ) -> tuple[Bucket, Page]:
        """Return a page of the keys and common prefixes from a seek position on.

        Raises:
            NoSuchBucket, Denied, Invalid.
        """
        bounds = page_bounds(prefix=prefix, delimiter=delimiter, seek=seek, max_keys=limit)

        async def ask(bucket: Bucket) -> tuple[Bucket, Page]:
            row = await self.database.fetch_one(LIST_PAGE, *bounds.arguments(bucket.bucket_id))
            return bucket, read_page(row, max_keys=limit)

        bucket = self.buckets.known(caller, bucket_name) or await self.buckets.find(caller, bucket_name)
        answer = await ask(bucket)
        if len(answer[1]):
            return answer
        # An empty page may mean that the bucket was deleted, or made again.
        found = await self.buckets.find(caller, bucket_name)
        return answer if found.bucket_id == bucket.bucket_id else await ask(found)

    async def check_early(self, caller: Caller | None, bucket_name: str, key: str, condition: Condition) -> None:
        """Refuse before the body is received what would be refused after it.

        Raises:
            NoSuchBucket, Denied, NoSuchKey, PreconditionFailed.
        """
        if not condition:
            return
        row = await self._find_row(caller, bucket_name, key)
        if condition.absent and row is not None:
            raise PreconditionFailed
        if condition.etag is not None:
            if row is None:
                raise NoSuchKey
            if row["etag"] != condition.etag:
                raise PreconditionFailed

    async def _find_row(self, caller: Caller | None, bucket_name: str, key: str) -> Any:
        bucket = self.buckets.known(caller, bucket_name)
        if bucket is not None:
            row = await self.database.read(CURRENT_VERSION, bucket.bucket_id, key)
            if row is not None:
                return row
        # Nothing is there, or the bucket is another by now.
        found = await self.buckets.find(caller, bucket_name)
        if bucket is not None and found.bucket_id == bucket.bucket_id:
            return None
        return await self.database.read(CURRENT_VERSION, found.bucket_id, key)

    async def _present(self, bucket: Bucket, key: str) -> Any:
        """Return the row of a key as the server that takes writes has it, also when stale answers are allowed.

        Raises:
            OutcomeUnknown: it cannot be looked up, so it stays unknown.
        """
        try:
            return await self.database.fetch_one(CURRENT_VERSION, [bucket.bucket_id], [key])
        except Unavailable as error:
            raise OutcomeUnknown from error

    async def _explain(self, bucket: Bucket, key: str, condition: Condition) -> NoReturn:
        """Say why a conditional write was not done."""
        if condition.etag is not None:
            row = await self.database.read(CURRENT_VERSION, bucket.bucket_id, key)
            if row is None:
                raise NoSuchKey
        raise PreconditionFailed


async def put_if(fetch_one: Callable[..., Awaitable[Any]], bucket: Bucket, condition: Condition, *row: object) -> bool:
    """Write an object's row if the condition holds, in one statement; return whether it was written."""
    if condition.absent:
        answer = await fetch_one(QUERIES["put_object_if_absent"], bucket.bucket_id, *row)
    else:
        answer = await fetch_one(QUERIES["put_object_if_match"], bucket.bucket_id, *row, condition.etag)
    return answer is not None


def check_key(key: str) -> None:
    """Refuse what cannot be a key.

    Raises:
        Invalid: it is empty, or holds a NUL or half of a surrogate pair.
        KeyTooLong: it has more than 1,024 bytes.
    """
    if not key:
        raise Invalid("A key has at least one character.")
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise Invalid("A key holds no half of a character.") from None
    if size_bytes > KEY_MAX_BYTES:
        raise KeyTooLong
    if "\0" in key:
        raise Invalid("A key holds no NUL character.")


class KeyTooLong(Invalid):
    """Your key is too long."""


class CopiedPayload:
    """A stretch of an object as the payload of another."""

    must_stream = False

    def __init__(self, source: OpenObject, span: Span) -> None:
        self.size_bytes = span.size_bytes
        self._source = source
        self._span = span

    async def read(self) -> list[memoryview]:
        """Return all of it."""
        return [memoryview(bytes(chunk)) async for chunk in self._source.chunks(self._span)]

    async def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield it chunk by chunk."""
        async for chunk in self._source.chunks(self._span):
            yield [chunk]

    def decode(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Return the pieces: they are not coded."""
        return pieces

    def finish(self, digests: Digests) -> None:
        """Accept: every chunk was verified when it was read."""
