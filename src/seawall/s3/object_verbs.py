"""The operations on single objects, and DeleteObjects."""

from collections.abc import Mapping

from seawall.clock import now
from seawall.errors import SeawallError
from seawall.objects import ObjectStore, Uploads
from seawall.objects.digests import LENGTH_BYTES, Digests
from seawall.objects.reading import Extent, FileExtent, OpenObject
from seawall.objects.store import OBJECT_MAX_BYTES, check_key
from seawall.objects.things import Description, Span, Version
from seawall.s3 import xml
from seawall.s3.errors import S3Error, translate
from seawall.s3.headers import (
    Headers,
    apply_overrides,
    check_read_condition,
    checksum_headers,
    has_read_condition,
    http_date,
    read_copy_source,
    read_description,
    read_digests,
    read_range,
    read_write_condition,
    require_length,
    version_headers,
)
from seawall.s3.operations import refuse_unbuilt
from seawall.s3.payload import read_payload
from seawall.s3.requests import S3Request
from seawall.telemetry.purpose import without_deadline

EXPECTED_OWNER = "x-amz-expected-bucket-owner"
EXPECTED_SOURCE_OWNER = "x-amz-source-expected-bucket-owner"
CUSTOMER_KEY = "x-amz-server-side-encryption-customer-algorithm"
# Only an ETag can be a condition of deleting.
UNBUILT_CONDITIONS = frozenset({"x-amz-if-match-size", "x-amz-if-match-last-modified-time", "if-none-match"})
ATTRIBUTES = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})
ATTRIBUTE_PARTS_MAX = 1000


class ObjectVerbs:
    """GetObject, HeadObject, PutObject, CopyObject, DeleteObject(s), GetObjectAttributes."""

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        self._store = store
        self._uploads = uploads

    async def get_object(self, request: S3Request) -> None:
        """Answer GetObject."""
        bucket, key = request.target.bucket, request.target.key
        check_key(key)
        if EXPECTED_OWNER in request.headers:
            await self._check_owner(request)
        if CUSTOMER_KEY in request.headers:
            refuse_unbuilt(request.headers)
        check = None
        if has_read_condition(request.headers):
            check = lambda version: check_read_condition(request.headers, version)  # noqa: E731
        with await self._store.open(request.caller, bucket, key, check=check) as opened:
            status, headers, span = await self._describe(request, opened.version)
            if opened.data is not None:
                data = opened.data if span.size_bytes == len(opened.data) else opened.data[span.start : span.stop]
                request.exchange.respond(status, headers, data)
            else:
                await self._stream(request, opened, status, headers, span)

    async def head_object(self, request: S3Request) -> None:
        """Answer HeadObject."""
        check_key(request.target.key)
        await self._check_owner(request)
        if CUSTOMER_KEY in request.headers:
            refuse_unbuilt(request.headers)
        version = await self._store.look_up(request.caller, request.target.bucket, request.target.key)
        check_read_condition(request.headers, version)
        status, headers, span = await self._describe(request, version)
        request.exchange.respond_head(status, headers, content_length=span.size_bytes)

    async def put_object(self, request: S3Request) -> None:
        """Answer PutObject."""
        headers = request.headers
        check_key(request.target.key)
        refuse_unbuilt(headers)
        require_length(headers)
        await self._check_owner(request)
        payload = read_payload(request.exchange.body, headers, request.signed)
        if payload.size_bytes > OBJECT_MAX_BYTES:
            raise S3Error(
                "EntityTooLarge",
                fields={"ProposedSize": str(payload.size_bytes), "MaxSizeAllowed": str(OBJECT_MAX_BYTES)},
            )
        stored = await self._store.put(
            request.caller,
            request.target.bucket,
            request.target.key,
            payload,
            digests=read_digests(headers, payload=request.payload_digest),
            description=read_description(headers),
            condition=read_write_condition(headers),
        )
        request.respond(200, [("ETag", f'"{stored.etag}"'), *checksum_headers(stored.checksum)])

    async def copy_object(self, request: S3Request) -> None:
        """Answer CopyObject."""
        headers = request.headers
        refuse_unbuilt(headers)
        await self._check_owner(request)
        source = read_copy_source(headers["x-amz-copy-source"])
        await check_source_owner(self._store, request, source[0])
        target = (request.target.bucket, request.target.key)
        directive = headers.get("x-amz-metadata-directive", "COPY").upper()
        if directive not in {"COPY", "REPLACE"}:
            raise S3Error("InvalidArgument", "Unknown metadata directive.")
        if source == target and directive == "COPY":
            raise S3Error(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing the "
                "object's metadata, storage class, website redirect location or encryption attributes.",
            )
        algorithm = headers.get("x-amz-checksum-algorithm", "").upper() or None
        if algorithm is not None and algorithm not in LENGTH_BYTES:
            raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")

        def describe(version: Version) -> Description:
            if directive == "REPLACE":
                return read_description(headers)
            return Description(content_type=version.content_type, headers=version.headers)

        _, stored = await self._store.copy(
            request.caller,
            source,
            target,
            check=lambda version: check_read_condition(headers, version, prefix="x-amz-copy-source-"),
            describe=describe,
            digests=None if algorithm is None else lambda: Digests(algorithm=algorithm),
            condition=read_write_condition(headers),
        )
        request.respond_xml(xml.copy_object_result(etag=stored.etag, last_modified=now(), checksum=stored.checksum))

    async def delete_object(self, request: S3Request) -> None:
        """Answer DeleteObject."""
        check_key(request.target.key)
        await self._check_owner(request)
        if not UNBUILT_CONDITIONS.isdisjoint(request.headers):
            raise S3Error("NotImplemented", "Only the ETag can be a condition.")
        match = request.headers.get("if-match")
        etag = None if match is None or match.strip() == "*" else match.strip().strip('"')
        await self._store.delete(request.caller, request.target.bucket, [request.target.key], etag=etag)
        request.respond(204)

    async def delete_objects(self, request: S3Request) -> None:
        """Answer DeleteObjects."""
        await self._store.may_write(request.caller, request.target.bucket)
        await self._check_owner(request)
        asked = xml.parse_delete(await request.read_document(xml.DELETE_BYTES_MAX, must_be_checked=True))
        plain: list[str] = []
        refused: list[tuple[str, str | None, S3Error]] = []
        deleted: list[str] = []
        for item in asked.objects:
            try:
                check_key(item.key)
                if item.version_id not in {None, "null"}:
                    raise S3Error("NotImplemented", "Versions are not kept yet.")
                if item.last_modified is not None or item.size_bytes is not None:
                    raise S3Error("NotImplemented", "Only the ETag can be a condition.")
                if item.etag is None:
                    plain.append(item.key)
                else:
                    await self._store.delete(request.caller, request.target.bucket, [item.key], etag=item.etag)
                    deleted.append(item.key)
            except (S3Error, SeawallError) as error:
                refused.append((item.key, item.version_id, translate(error)))
        await self._store.delete(request.caller, request.target.bucket, plain)
        gone = [] if asked.quiet else [xml.DeletedObject(key) for key in [*plain, *deleted]]
        request.respond_xml(xml.delete_result(gone, refused))

    async def get_object_attributes(self, request: S3Request) -> None:
        """Answer GetObjectAttributes."""
        check_key(request.target.key)
        await self._check_owner(request)
        wanted = {name.strip() for name in request.headers.get("x-amz-object-attributes", "").split(",")} - {""}
        if not wanted or not wanted <= ATTRIBUTES:
            raise S3Error("InvalidArgument", "Invalid attribute name specified.")
        version = await self._store.look_up(request.caller, request.target.bucket, request.target.key)
        check_read_condition(request.headers, version)
        parts = None
        if "ObjectParts" in wanted and version.upload_id is not None:
            parts = await self._attribute_parts(request.headers, version)
        body = xml.object_attributes(
            etag=version.etag if "ETag" in wanted else None,
            checksum=version.checksum if "Checksum" in wanted else None,
            parts=parts,
            storage_class="STANDARD" if "StorageClass" in wanted else None,
            size_bytes=version.size_bytes if "ObjectSize" in wanted else None,
        )
        request.respond_xml(body, [("Last-Modified", http_date(version.last_modified))])

    async def _attribute_parts(self, headers: Mapping[str, str], version: Version) -> xml.ObjectParts:
        limit = _header_number(headers, "x-amz-max-parts", default=ATTRIBUTE_PARTS_MAX)
        marker = _header_number(headers, "x-amz-part-number-marker", default=0)
        assert version.upload_id is not None
        limit = min(limit, ATTRIBUTE_PARTS_MAX)
        found = await self._uploads.parts(version.upload_id, after=marker, limit=limit + 1)
        page = found[:limit]
        composite = version.checksum is not None and "-" in version.checksum
        return xml.ObjectParts(
            parts=[(part.part_number, part.size_bytes, part.checksum if composite else None) for part in page],
            total=version.parts_count or 1,
            marker=marker,
            next_marker=page[-1].part_number if page else 0,
            max_parts=limit,
            is_truncated=len(found) > limit,
        )

    async def _describe(self, request: S3Request, version: Version) -> tuple[int, Headers, Span]:
        """Decide status, headers and span of the answer to GET and HEAD."""
        headers = request.with_id(version_headers(version))
        span: Span | None
        if "partNumber" in request.query:
            number = request.number("partNumber", default=1, low=1, high=10_000)
            if "range" in request.headers:
                raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
            span = await self._part(version, number)
            if version.parts_count is not None:
                headers.append(("x-amz-mp-parts-count", str(version.parts_count)))
        else:
            span = read_range(request.headers, version)
        if request.query:
            headers = apply_overrides(headers, request.query)
        if request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and span is None:
            headers.extend(checksum_headers(version.checksum))
        if span is None:
            return 200, headers, Span(start=0, stop=version.size_bytes)
        headers.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{version.size_bytes}"))
        return 206, headers, span

    async def _part(self, version: Version, number: int) -> Span:
        span: Span | None = None
        if version.upload_id is not None:
            span = await self._uploads.span_of_part(version, number)
        elif number == 1:
            span = Span(start=0, stop=version.size_bytes)
        if span is None:
            raise S3Error("InvalidPartNumber")
        return span

    async def _stream(self, request: S3Request, opened: OpenObject, status: int, headers: Headers, span: Span) -> None:
        exchange = request.exchange
        extents = opened.extents(span)
        # The first bytes are found and verified before the first line is sent: after it, no error can be told.
        extent = await anext(extents, None)
        verified = await _verify_first(extent)
        without_deadline()
        await exchange.start(status, headers, content_length=span.size_bytes)
        while extent is not None:
            if isinstance(extent, FileExtent):
                reader = extent.reader
                for index in reader.frames(extent.start, extent.stop):
                    if index != verified and not reader.try_verify(index):
                        await reader.verify(index)
                    verified = None
                    start = max(extent.start, index * reader.frame_bytes)
                    stop = min(extent.stop, (index + 1) * reader.frame_bytes)
                    await exchange.send_file(
                        reader.fd, start=reader.data_offset + start, stop=reader.data_offset + stop
                    )
            else:
                await exchange.write(extent)
            extent = await anext(extents, None)

    async def _check_owner(self, request: S3Request) -> None:
        if EXPECTED_OWNER in request.headers:
            bucket = await self._store.may_write(request.caller, request.target.bucket)
            request.require_bucket_owner(await self._store.buckets.owner(bucket))


async def check_source_owner(store: ObjectStore, request: S3Request, bucket_name: str) -> None:
    """Refuse to copy from a bucket that is not whose the client expects.

    Raises:
        NoSuchBucket, Denied.
    """
    if EXPECTED_SOURCE_OWNER in request.headers:
        bucket = await store.buckets.find(request.caller, bucket_name)
        request.require_bucket_owner(await store.buckets.owner(bucket), header=EXPECTED_SOURCE_OWNER)


async def _verify_first(extent: Extent | None) -> int | None:
    """Verify the first frame of a file, and return its index; None where there is nothing to verify."""
    if not isinstance(extent, FileExtent):
        return None
    index = next(iter(extent.reader.frames(extent.start, extent.stop)), None)
    if index is not None and not extent.reader.try_verify(index):
        await extent.reader.verify(index)
    return index


def _header_number(headers: Mapping[str, str], name: str, *, default: int) -> int:
    text = headers.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise S3Error("InvalidArgument", f"{name} is not a number.")
    return int(text)
