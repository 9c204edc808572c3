"""Objects that come in parts: begun, filled, listed, completed or aborted.

Completing moves no bytes: the parts stay where they are and the object's row names their upload.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from seawall.access import Caller
from seawall.database import Transaction
from seawall.errors import (
    BadDigest,
    InvalidPart,
    InvalidPartOrder,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    OutcomeUnknown,
    PartTooSmall,
    PreconditionFailed,
    Unavailable,
)
from seawall.objects.buckets import QUERIES
from seawall.objects.digests import (
    DEFAULT_ALGORITHM,
    Digests,
    composite_checksum,
    composite_etag,
    full_object_checksum,
)
from seawall.objects.listing import BEYOND_EVERY_KEY, successor_of_prefix
from seawall.objects.store import CopiedPayload, ObjectStore, check_key, put_if
from seawall.objects.things import UNCONDITIONAL, Bucket, Condition, Description, Span, Version
from seawall.objects.writing import Payload, Stored, store_payload

PARTS_MAX = 10_000
PART_MIN_BYTES = 5 * 1024**2
UPLOADS_AT_ONCE = 1000
NO_UPLOAD = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload under way."""

    upload_id: UUID
    bucket: Bucket
    key: str
    initiator_id: int
    initiated_at: datetime
    description: Description
    checksum_algorithm: str | None
    full_object: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part as the catalogue has it."""

    part_number: int
    size_bytes: int
    etag: str
    last_modified: datetime
    checksum: str | None

    @classmethod
    def of(cls, row: Any) -> "Part":
        """Read a row of the catalogue."""
        return cls(**row)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPart:
    """One part as the client names it when completing."""

    part_number: int
    etag: str
    checksums: dict[str, str]


@dataclass(slots=True)
class UploadsPage:
    """A page of uploads. State: what was taken into it, and where the next one begins."""

    uploads: list[Any] = field(default_factory=list)
    common_prefixes: list[str] = field(default_factory=list)
    next_key: str = ""
    next_upload: UUID | None = None
    is_truncated: bool = False

    def take(self, row: Any, *, prefix: str, delimiter: str | None, after_key: str, limit: int) -> bool:
        """Take the next upload in order; return False when the page was full before."""
        common = ""
        if delimiter:
            head, found, _ = row["key"][len(prefix) :].partition(delimiter)
            common = prefix + head + found if found else ""
        if common and (common == after_key or self.common_prefixes[-1:] == [common]):
            return True
        if len(self.uploads) + len(self.common_prefixes) == limit:
            self.is_truncated = True
            return False
        if common:
            self.common_prefixes.append(common)
        else:
            self.uploads.append(row)
        self.next_key = common or row["key"]
        self.next_upload = None if common else row["upload_id"]
        return True


class Uploads:
    """The verbs on uploads. State: none of its own."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._database = store.database

    async def begin(
        self,
        caller: Caller,
        bucket_name: str,
        key: str,
        *,
        description: Description,
        checksum_algorithm: str | None,
        full_object: bool,
    ) -> UUID:
        """Begin an upload and return its id.

        Raises:
            NoSuchBucket, Denied, Invalid: it was not begun.
        """
        check_key(key)
        upload_id = uuid4()

        async def add(bucket: Bucket) -> Any:
            return await self._database.fetch_one(
                QUERIES["add_upload"],
                upload_id,
                bucket.bucket_id,
                key,
                caller.account_id,
                description.content_type,
                description.headers_json,
                checksum_algorithm,
                full_object,
            )

        if await self._store.buckets.using(caller, bucket_name, add) is None:
            raise NoSuchBucket
        return upload_id

    async def find(self, caller: Caller | None, bucket_name: str, key: str, upload_id: UUID) -> Upload:
        """Return an upload under way.

        Raises:
            NoSuchBucket, Denied.
            NoSuchUpload: it is over, or was never of this key.
        """
        bucket = await self._store.may_write(caller, bucket_name)
        row = await self._database.read(QUERIES["upload"], upload_id)
        if row is None or row["bucket_id"] != bucket.bucket_id:
            # The bucket may be gone, and made again under another number.
            bucket = await self._store.buckets.find(caller, bucket_name)
        if row is None or row["key"] != key or row["bucket_id"] != bucket.bucket_id:
            raise NoSuchUpload
        return Upload(
            upload_id=upload_id,
            bucket=bucket,
            key=key,
            initiator_id=row["initiator_id"],
            initiated_at=row["initiated_at"],
            description=Description.of(row),
            checksum_algorithm=row["checksum_algorithm"],
            full_object=row["full_object"],
        )

    async def put_part(
        self, upload: Upload, part_number: int, payload: Payload, digests: Digests
    ) -> tuple[Stored, datetime]:
        """Store one part; one sent before under the same number is replaced.

        Raises:
            NoSuchUpload: the upload ended meanwhile; the part is not kept.
            Invalid, StorageFull: as `ObjectStore.put`.
        """
        stored = await store_payload(
            payload, digests, self._store.blobs, inline_max_bytes=self._store.settings.inline_max_bytes
        )
        row = await self._database.fetch_one(
            QUERIES["put_part"],
            upload.upload_id,
            part_number,
            stored.size_bytes,
            stored.etag,
            stored.checksum,
            stored.inline,
            stored.location,
        )
        if row is None:
            raise NoSuchUpload
        return stored, row["last_modified"]

    async def copy_part(
        self,
        caller: Caller | None,
        upload: Upload,
        part_number: int,
        source: tuple[str, str],
        *,
        check: Callable[[Version], Span],
        digests: Digests,
    ) -> tuple[Stored, datetime]:
        """Store a stretch of another object as a part; `check` says which, or raises."""
        spans: list[Span] = []
        opened = await self._store.open(caller, *source, check=lambda version: spans.append(check(version)))
        with opened:
            return await self.put_part(upload, part_number, CopiedPayload(opened, spans[-1]), digests)

    async def parts(self, upload_id: UUID, *, after: int, limit: int) -> list[Part]:
        """Return parts by number, those behind `after`."""
        rows = await self._database.fetch(QUERIES["parts_after"], upload_id, after, limit)
        return [Part.of(row) for row in rows]

    async def span_of_part(self, version: Version, part_number: int) -> Span | None:
        """Return where the nth part of an object lies in it; None when it has fewer."""
        row = await self._database.fetch_one(QUERIES["part_by_rank"], version.upload_id, part_number - 1)
        return None if row is None else Span(start=row["start_byte"], stop=row["start_byte"] + row["size_bytes"])

    async def complete(
        self,
        upload: Upload,
        named: Sequence[NamedPart],
        *,
        checksum: str | None = None,
        size_bytes: int | None = None,
        condition: Condition = UNCONDITIONAL,
    ) -> Stored:
        """Make an object of the named parts, in one transaction.

        Args:
            upload: which one.
            named: the parts, by ascending number.
            checksum: what the object's is expected to be, as `ALGORITHM:value`.
            size_bytes: what the object's is expected to be.
            condition: on what is there already.

        Raises:
            NoSuchUpload: it is over, and did not become the present object.
            InvalidPart, InvalidPartOrder, PartTooSmall, BadDigest, PreconditionFailed, NoSuchKey:
                nothing happened, the upload is still under way.
        """
        numbers = [part.part_number for part in named]
        if not numbers or any(first >= second for first, second in pairwise(numbers)):
            raise InvalidPartOrder
        try:
            return await self._complete(upload, named, checksum=checksum, size_bytes=size_bytes, condition=condition)
        except OutcomeUnknown:
            # If it became the object, it is done. If not, the upload is under way as before.
            try:
                row = await self._database.fetch_one(
                    QUERIES["object_of_upload"], upload.bucket.bucket_id, upload.key, upload.upload_id
                )
            except Unavailable as error:
                raise OutcomeUnknown from error
            if row is None:
                raise
            return Stored(size_bytes=row["size_bytes"], etag=row["etag"], checksum=row["checksum"])

    async def _complete(
        self,
        upload: Upload,
        named: Sequence[NamedPart],
        *,
        checksum: str | None,
        size_bytes: int | None,
        condition: Condition,
    ) -> Stored:
        numbers = [part.part_number for part in named]
        async with self._database.transaction() as transaction:
            await transaction.fetch(QUERIES["share_bucket"], upload.bucket.bucket_id)
            if await transaction.fetch_one(QUERIES["hold_upload"], upload.upload_id) is None:
                return await self._completed_meanwhile(transaction, upload)
            rows = await transaction.fetch(QUERIES["parts_after"], upload.upload_id, 0, PARTS_MAX)
            stored = assemble(upload, named, {row["part_number"]: Part.of(row) for row in rows}, checksum=checksum)
            if size_bytes is not None and size_bytes != stored.stored.size_bytes:
                raise InvalidPart(f"The parts have {stored.stored.size_bytes} bytes together, not {size_bytes}.")
            others = {row["part_number"] for row in rows}.difference(numbers)
            if others:
                await transaction.fetch(QUERIES["remove_some_parts"], upload.upload_id, sorted(others))
            await transaction.fetch(QUERIES["place_parts"], upload.upload_id, numbers, stored.starts)
            await self._name(transaction.fetch_one, upload, stored.stored, condition)
            await transaction.fetch(QUERIES["remove_upload"], upload.upload_id)
        return stored.stored

    async def _completed_meanwhile(self, transaction: Transaction, upload: Upload) -> Stored:
        """Answer as whoever asked for the same first, and is being answered just now."""
        row = await transaction.fetch_one(
            QUERIES["object_of_upload"], upload.bucket.bucket_id, upload.key, upload.upload_id
        )
        if row is None:
            raise NoSuchUpload
        return Stored(size_bytes=row["size_bytes"], etag=row["etag"], checksum=row["checksum"])

    async def completed_before(self, caller: Caller | None, bucket_name: str, key: str, upload_id: UUID) -> Any:
        """Return the row of the object an upload became; None when it became none, or is another's."""
        bucket = await self._store.buckets.find(caller, bucket_name)
        return await self._database.fetch_one(QUERIES["object_of_upload"], bucket.bucket_id, key, upload_id)

    async def abort(self, upload: Upload) -> None:
        """End an upload; its parts become garbage.

        Raises:
            NoSuchUpload: it is over already.
        """
        async with self._database.transaction() as transaction:
            if await transaction.fetch_one(QUERIES["hold_upload"], upload.upload_id) is None:
                raise NoSuchUpload
            await transaction.fetch(QUERIES["remove_parts"], upload.upload_id)
            await transaction.fetch(QUERIES["remove_upload"], upload.upload_id)

    async def page(
        self,
        bucket: Bucket,
        *,
        prefix: str,
        delimiter: str | None,
        after_key: str,
        after_upload: UUID | None,
        limit: int,
    ) -> "UploadsPage":
        """Return a page of the uploads under way in a bucket, grouped at the delimiter."""
        page = UploadsPage()
        if not limit:
            return page
        stop = successor_of_prefix(prefix) or BEYOND_EVERY_KEY
        position: tuple[str, datetime | None, UUID] = (after_key, None, NO_UPLOAD)
        if after_upload is not None:
            row = await self._database.fetch_one(QUERIES["upload_position"], after_upload)
            if row is not None and row["key"] == after_key:
                position = (row["key"], row["initiated_at"], row["upload_id"])
        while True:
            rows = await self._database.fetch(
                QUERIES["uploads_after"], bucket.bucket_id, prefix, stop, *position, UPLOADS_AT_ONCE
            )
            for row in rows:
                if not page.take(row, prefix=prefix, delimiter=delimiter, after_key=after_key, limit=limit):
                    return page
            if len(rows) < UPLOADS_AT_ONCE:
                return page
            position = (rows[-1]["key"], rows[-1]["initiated_at"], rows[-1]["upload_id"])

    async def _name(
        self,
        fetch_one: Callable[..., Awaitable[Any]],
        upload: Upload,
        stored: Stored,
        condition: Condition,
    ) -> None:
        row = (
            upload.key,
            uuid4(),
            stored.size_bytes,
            stored.etag,
            upload.description.content_type,
            upload.description.headers_json,
            stored.checksum,
            None,
            None,
            upload.upload_id,
        )
        if condition:
            if not await put_if(fetch_one, upload.bucket, condition, *row):
                present = await fetch_one(QUERIES["current_version"], [upload.bucket.bucket_id], [upload.key])
                raise NoSuchKey if present is None and not condition.absent else PreconditionFailed
        elif await fetch_one(QUERIES["put_object_of_parts"], upload.bucket.bucket_id, *row) is None:
            raise NoSuchBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What the parts make, and where each starts in it."""

    stored: Stored
    starts: list[int]


def assemble(
    upload: Upload, named: Sequence[NamedPart], present: dict[int, Part], *, checksum: str | None
) -> Assembled:
    """Decide what object the named parts make.

    Raises:
        InvalidPart: one is not there, or is not the one that was sent last under its number.
        PartTooSmall: one that is not the last has less than 5 MiB.
        BadDigest: the object's checksum is not the expected one.
    """
    chosen: list[Part] = []
    for name in named:
        part = present.get(name.part_number)
        if part is None or part.etag != name.etag.strip('"'):
            raise InvalidPart
        for algorithm, value in name.checksums.items():
            if part.checksum != f"{algorithm}:{value}":
                raise InvalidPart
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size_bytes < PART_MIN_BYTES:
            raise PartTooSmall
    starts = [0]
    for part in chosen:
        starts.append(starts[-1] + part.size_bytes)
    return Assembled(
        stored=Stored(
            size_bytes=starts.pop(),
            etag=composite_etag([part.etag for part in chosen]),
            checksum=_checksum(upload, chosen, expected=checksum),
        ),
        starts=starts,
    )


def _checksum(upload: Upload, chosen: Sequence[Part], *, expected: str | None) -> str | None:
    """Return the checksum of the whole, from those of the parts; None where they do not make one."""
    algorithm = upload.checksum_algorithm or DEFAULT_ALGORITHM
    known = [(part.checksum, part.size_bytes) for part in chosen if part.checksum is not None]
    if len(known) < len(chosen) or not all(checksum.startswith(f"{algorithm}:") for checksum, _ in known):
        if expected is not None:
            raise BadDigest(f"The parts have no {algorithm} checksums that the one you specified could follow from.")
        return None
    if upload.full_object or upload.checksum_algorithm is None:
        checksum = full_object_checksum(known)
    else:
        checksum = composite_checksum(checksum for checksum, _ in known)
    # A composite may be named with or without the number of its parts.
    if expected is not None and expected not in {checksum, checksum.rpartition("-")[0]}:
        raise BadDigest(f"The {algorithm} you specified did not match the calculated checksum.")
    return checksum
