"""The operations on multipart uploads."""

from collections.abc import Mapping
from uuid import UUID

from seawall.errors import NoSuchUpload
from seawall.objects import NamedPart, ObjectStore, Uploads
from seawall.objects.digests import DEFAULT_ALGORITHM
from seawall.objects.store import OBJECT_MAX_BYTES
from seawall.objects.things import Span, Version
from seawall.objects.uploads import PARTS_MAX, Upload
from seawall.s3 import xml
from seawall.s3.errors import S3Error
from seawall.s3.headers import (
    Headers,
    check_read_condition,
    checksum_headers,
    read_announced_checksum,
    read_copy_range,
    read_copy_source,
    read_description,
    read_digests,
    read_upload_checksum,
    read_write_condition,
    require_length,
)
from seawall.s3.listing_verbs import encoding_of
from seawall.s3.object_verbs import check_source_owner
from seawall.s3.operations import refuse_unbuilt
from seawall.s3.payload import read_payload
from seawall.s3.requests import S3Request, owner_of

PARTS_PAGE_MAX = 1000
UPLOADS_PAGE_MAX = 1000


class UploadVerbs:
    """CreateMultipartUpload, UploadPart(Copy), ListParts, Complete, Abort, ListMultipartUploads."""

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        self._store = store
        self._uploads = uploads

    async def _check_owner(self, request: S3Request) -> None:
        bucket = await self._store.buckets.find(request.caller, request.target.bucket)
        request.require_bucket_owner(await self._store.buckets.owner(bucket))

    async def create(self, request: S3Request) -> None:
        """Answer CreateMultipartUpload."""
        refuse_unbuilt(request.headers)
        await self._check_owner(request)
        algorithm, full_object = read_upload_checksum(request.headers)
        upload_id = await self._uploads.begin(
            request.identified_caller,
            request.target.bucket,
            request.target.key,
            description=read_description(request.headers),
            checksum_algorithm=algorithm,
            full_object=full_object,
        )
        headers: Headers = []
        if algorithm is not None:
            headers.append(("x-amz-checksum-algorithm", algorithm))
            headers.append(("x-amz-checksum-type", "FULL_OBJECT" if full_object else "COMPOSITE"))
        body = xml.initiate_multipart_upload(
            bucket=request.target.bucket, key=request.target.key, upload_id=upload_id.hex
        )
        request.respond_xml(body, headers)

    async def upload_part(self, request: S3Request) -> None:
        """Answer UploadPart."""
        refuse_unbuilt(request.headers)
        require_length(request.headers)
        number = _part_number(request)
        upload = await self._find(request)
        payload = read_payload(request.exchange.body, request.headers, request.signed)
        if payload.size_bytes > OBJECT_MAX_BYTES:
            raise S3Error("EntityTooLarge")
        _check_algorithm(request, upload)
        digests = read_digests(request.headers, payload=request.payload_digest, algorithm=upload.checksum_algorithm)
        stored, _ = await self._uploads.put_part(upload, number, payload, digests)
        # S3 gives a part's checksum back without saying of what type it is.
        headers = [("ETag", f'"{stored.etag}"'), *checksum_headers(stored.checksum)[:1]]
        request.respond(200, headers)

    async def upload_part_copy(self, request: S3Request) -> None:
        """Answer UploadPartCopy."""
        refuse_unbuilt(request.headers)
        number = _part_number(request)
        upload = await self._find(request)
        headers = request.headers
        source = read_copy_source(headers["x-amz-copy-source"])
        await check_source_owner(self._store, request, source[0])

        def check(version: Version) -> Span:
            check_read_condition(headers, version, prefix="x-amz-copy-source-")
            span = read_copy_range(headers.get("x-amz-copy-source-range"), version)
            if span.size_bytes > OBJECT_MAX_BYTES:
                raise S3Error("InvalidRequest", "The specified copy source is larger than the maximum part size.")
            return span

        digests = read_digests({}, payload="", algorithm=upload.checksum_algorithm)
        stored, modified = await self._uploads.copy_part(
            request.caller, upload, number, source, check=check, digests=digests
        )
        request.respond_xml(xml.copy_part_result(etag=stored.etag, last_modified=modified, checksum=stored.checksum))

    async def list_parts(self, request: S3Request) -> None:
        """Answer ListParts."""
        upload = await self._find(request)
        limit = request.number("max-parts", default=PARTS_PAGE_MAX, low=0, high=PARTS_PAGE_MAX)
        marker = request.number("part-number-marker", default=0, low=0, high=2**31 - 1)
        found = await self._uploads.parts(upload.upload_id, after=marker, limit=limit + 1)
        page = found[:limit]
        owner = await self._store.buckets.owner(upload.bucket)
        algorithm = upload.checksum_algorithm
        request.respond_xml(
            xml.list_parts(
                [
                    (
                        part.part_number,
                        part.last_modified,
                        part.etag,
                        part.size_bytes,
                        part.checksum if algorithm else None,
                    )
                    for part in page
                ],
                bucket=request.target.bucket,
                key=request.target.key,
                upload_id=upload.upload_id.hex,
                owner=owner_of(owner),
                marker=marker,
                next_marker=page[-1].part_number if page else 0,
                max_parts=limit,
                is_truncated=len(found) > limit,
                checksum_algorithm=algorithm,
                checksum_type=None if algorithm is None else "FULL_OBJECT" if upload.full_object else "COMPOSITE",
                encode=encoding_of(request),
            )
        )

    async def complete(self, request: S3Request) -> None:
        """Answer CompleteMultipartUpload."""
        condition = read_write_condition(request.headers)
        try:
            upload = await self._find(request)
        except NoSuchUpload:
            await self._completed_before(request)
            return
        # The digest here is that of the object to be, not of this document.
        algorithm, value = read_announced_checksum(request.headers)
        document = await request.read_document(xml.COMPLETE_BYTES_MAX, checksum_is_of_document=False)
        parts = xml.parse_complete_multipart_upload(document)
        size_bytes = _stated_size(request.headers)
        stored = await self._uploads.complete(
            upload,
            [NamedPart(part_number=part.number, etag=part.etag, checksums=dict(part.checksums)) for part in parts],
            checksum=None if value is None else f"{algorithm}:{value}",
            size_bytes=size_bytes,
            condition=condition,
        )
        self._respond_completed(request, etag=stored.etag, checksum=stored.checksum)

    async def abort(self, request: S3Request) -> None:
        """Answer AbortMultipartUpload."""
        await self._uploads.abort(await self._find(request))
        request.respond(204)

    async def list_uploads(self, request: S3Request) -> None:
        """Answer ListMultipartUploads."""
        query = request.query
        bucket = await self._store.buckets.find(request.caller, request.target.bucket)
        request.require_bucket_owner(await self._store.buckets.owner(bucket))
        limit = request.number("max-uploads", default=UPLOADS_PAGE_MAX, low=0, high=UPLOADS_PAGE_MAX)
        prefix = query.get("prefix", "")
        delimiter = query.get("delimiter") or None
        key_marker = query.get("key-marker", "")
        upload_marker = query.get("upload-id-marker", "") if key_marker else ""
        page = await self._uploads.page(
            bucket,
            prefix=prefix,
            delimiter=delimiter,
            after_key=key_marker,
            after_upload=_read_upload_id(upload_marker),
            limit=limit,
        )
        owner = await self._store.buckets.owner(bucket)
        request.respond_xml(
            xml.list_multipart_uploads(
                [(upload["key"], upload["upload_id"].hex, upload["initiated_at"]) for upload in page.uploads],
                bucket=bucket.name,
                prefix=prefix,
                delimiter=delimiter,
                key_marker=key_marker,
                upload_id_marker=upload_marker,
                next_key_marker=page.next_key if page.is_truncated else None,
                next_upload_id_marker=page.next_upload.hex if page.is_truncated and page.next_upload else None,
                max_uploads=limit,
                is_truncated=page.is_truncated,
                common_prefixes=page.common_prefixes,
                owner=owner_of(owner),
                encode=encoding_of(request),
            )
        )

    async def _find(self, request: S3Request) -> Upload:
        upload_id = _read_upload_id(request.query["uploadId"])
        if upload_id is None:
            await self._store.may_write(request.caller, request.target.bucket)
            raise NoSuchUpload
        upload = await self._uploads.find(request.caller, request.target.bucket, request.target.key, upload_id)
        request.require_bucket_owner(await self._store.buckets.owner(upload.bucket))
        return upload

    async def _completed_before(self, request: S3Request) -> None:
        """Answer a request to complete that is repeated because the first answer was lost."""
        upload_id = _read_upload_id(request.query["uploadId"])
        if upload_id is None:
            raise NoSuchUpload
        row = await self._uploads.completed_before(request.caller, request.target.bucket, request.target.key, upload_id)
        if row is None:
            raise NoSuchUpload
        self._respond_completed(request, etag=row["etag"], checksum=row["checksum"])

    def _respond_completed(self, request: S3Request, *, etag: str, checksum: str | None) -> None:
        host = request.headers.get("host", "")
        request.respond_xml(
            xml.complete_multipart_upload(
                location=f"http://{host}{request.exchange.path}",
                bucket=request.target.bucket,
                key=request.target.key,
                etag=etag,
                checksum=checksum,
            )
        )


def _read_upload_id(text: str) -> UUID | None:
    """Return the upload that is named; None where no upload can have that name."""
    try:
        return UUID(hex=text)
    except ValueError:
        return None


def _part_number(request: S3Request) -> int:
    text = request.query["partNumber"]
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= PARTS_MAX):
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {PARTS_MAX}, inclusive",
            fields={"ArgumentName": "partNumber", "ArgumentValue": text},
        )
    return int(text)


def _stated_size(headers: Mapping[str, str]) -> int | None:
    """Return how large the client says the object is; None where it says nothing."""
    text = headers.get("x-amz-mp-object-size")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise S3Error("InvalidRequest", "Value for x-amz-mp-object-size header is invalid.")
    return int(text)


def _check_algorithm(request: S3Request, upload: Upload) -> None:
    """Refuse a part whose checksum cannot become part of the object's."""
    algorithm, _ = read_announced_checksum(request.headers)
    wanted = upload.checksum_algorithm
    if algorithm is not None and wanted not in {None, algorithm, DEFAULT_ALGORITHM}:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {str(wanted).lower()}, "
            f"actual checksum Type: {algorithm.lower()}",
        )
