"""Read the XML bodies of requests, and write those of answers.

A body is read as a stream, and refused at the first element that has no place there: it never
becomes a tree, so deep, wide or self-multiplying documents cost nothing. Answers are put together
from strings, which is ten times as fast as building a tree.

Element names and their order are those of the Amazon S3 API Reference, page by page. A checksum is
written `ALGORITHM:base64` everywhere in the house, and becomes `<ChecksumALGORITHM>` here.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Final, NamedTuple

from lxml import etree

from seawall.objects.digests import LENGTH_BYTES
from seawall.s3.errors import S3Error, escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

DELETED_OBJECTS_MAX = 1000
PARTS_MAX = 10_000

DELETE_BYTES_MAX = 2 * 1024 * 1024
"""A thousand keys of 1,024 bytes, with room for markup; S3 has the same limit."""

COMPLETE_BYTES_MAX = 4 * 1024 * 1024
"""Ten thousand parts, each with an ETag and a SHA-512, take 2.8 MiB."""

CONFIGURATION_BYTES_MAX = 16 * 1024

FIELD_LENGTH_MAX = 4096
"""No field is longer than a key, of 1,024 bytes; the rest is room to refuse with a better reason."""

Encode = Callable[[str], str]
"""How keys are written when the client asks for `encoding-type=url`."""

ObjectRow = tuple[str, int, str, float, str]
"""Key, size in bytes, ETag, last modified in seconds since 1970, checksum or ''."""

PartRow = tuple[int, datetime, str, int, str | None]
"""Number, last modified, ETag, size in bytes, checksum."""


class Owner(NamedTuple):
    """Whose something is, as S3 shows it."""

    id: str
    display_name: str


class ObjectToDelete(NamedTuple):
    """One object of a Delete request; the last three are conditions."""

    key: str
    version_id: str | None
    etag: str | None
    last_modified: datetime | None
    size_bytes: int | None


class DeleteRequest(NamedTuple):
    """What to delete, and whether only failures are to be told."""

    objects: list[ObjectToDelete]
    quiet: bool


class CompletedPart(NamedTuple):
    """One part of a CompleteMultipartUpload request, its checksums by algorithm."""

    number: int
    etag: str
    checksums: Mapping[str, str]


class DeletedObject(NamedTuple):
    """One line of the answer to a Delete request."""

    key: str
    version_id: str | None = None
    delete_marker: bool = False
    delete_marker_version_id: str | None = None


class ObjectParts(NamedTuple):
    """The parts of an object, as GetObjectAttributes pages through them: number, size, checksum."""

    parts: Sequence[tuple[int, int, str | None]]
    total: int
    marker: int
    next_marker: int
    max_parts: int
    is_truncated: bool


def parse_delete(body: bytes) -> DeleteRequest:
    """Read the body of DeleteObjects.

    Raises:
        S3Error: `MalformedXML`, or `MaxMessageLengthExceeded`.
    """
    fields, records = _read(
        body,
        bytes_max=DELETE_BYTES_MAX,
        root="Delete",
        fields=("Quiet",),
        record="Object",
        record_fields=("Key", "VersionId", "ETag", "LastModifiedTime", "Size"),
        records_max=DELETED_OBJECTS_MAX,
    )
    quiet = fields.get("Quiet", "false").strip()
    if not records or quiet not in ("true", "false"):
        raise _malformed()
    return DeleteRequest([_object_to_delete(record) for record in records], quiet == "true")


def parse_complete_multipart_upload(body: bytes) -> list[CompletedPart]:
    """Read the body of CompleteMultipartUpload; the order of the parts is as it came.

    Raises:
        S3Error: `MalformedXML`, or `MaxMessageLengthExceeded`.
    """
    _, records = _read(
        body,
        bytes_max=COMPLETE_BYTES_MAX,
        root="CompleteMultipartUpload",
        fields=(),
        record="Part",
        record_fields=("PartNumber", "ETag", *_CHECKSUM_ELEMENTS),
        records_max=PARTS_MAX,
    )
    if not records:
        raise _malformed()
    return [_completed_part(record) for record in records]


def parse_create_bucket(body: bytes) -> str | None:
    """Read the body of CreateBucket; return the region it asks for, if it does.

    Raises:
        S3Error: `MalformedXML`, or `MaxMessageLengthExceeded`.
    """
    fields, _ = _read(
        body,
        bytes_max=CONFIGURATION_BYTES_MAX,
        root="CreateBucketConfiguration",
        fields=("LocationConstraint",),
    )
    return fields.get("LocationConstraint", "").strip() or None


def list_buckets(
    buckets: Iterable[tuple[str, datetime, str]],
    *,
    owner: Owner,
    prefix: str | None = None,
    next_token: str | None = None,
) -> bytes:
    """Write the answer of ListBuckets: each bucket by name, time of creation and region."""
    items = "".join(
        [
            f"<Bucket><Name>{escape(name)}</Name><CreationDate>{_time(created)}</CreationDate>"
            f"<BucketRegion>{escape(region)}</BucketRegion></Bucket>"
            for name, created, region in buckets
        ]
    )
    return _document(
        "ListAllMyBucketsResult",
        f"{_owner(owner)}<Buckets>{items}</Buckets>{_given('ContinuationToken', next_token)}{_given('Prefix', prefix)}",
    )


def location(region: str) -> bytes:
    """Write the answer of GetBucketLocation, where us-east-1 goes without saying."""
    return _document("LocationConstraint", "" if region == "us-east-1" else escape(region))


def list_objects(
    rows: Sequence[ObjectRow],
    *,
    bucket: str,
    prefix: str,
    marker: str,
    next_marker: str | None,
    delimiter: str | None,
    max_keys: int,
    is_truncated: bool,
    common_prefixes: Sequence[str],
    owner: Owner,
    encode: Encode | None = None,
) -> bytes:
    """Write the answer of ListObjects, the first version."""
    write = encode or escape
    head = (
        f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix><Marker>{write(marker)}</Marker>"
        f"{_given('NextMarker', next_marker, write)}<MaxKeys>{max_keys}</MaxKeys>"
        f"{_given('Delimiter', delimiter, write)}{'<EncodingType>url</EncodingType>' if encode else ''}"
        f"<IsTruncated>{_bool(is_truncated)}</IsTruncated>"
    )
    return _document(
        "ListBucketResult", head + _contents(rows, owner, write) + _common_prefixes(common_prefixes, write)
    )


def list_objects_v2(
    rows: Sequence[ObjectRow],
    *,
    bucket: str,
    prefix: str,
    delimiter: str | None,
    max_keys: int,
    is_truncated: bool,
    common_prefixes: Sequence[str],
    start_after: str | None = None,
    token: str | None = None,
    next_token: str | None = None,
    owner: Owner | None = None,
    encode: Encode | None = None,
) -> bytes:
    """Write the answer of ListObjectsV2; the owner only where the client asked for it."""
    write = encode or escape
    head = (
        f"<Name>{escape(bucket)}</Name><Prefix>{write(prefix)}</Prefix>"
        f"{_given('ContinuationToken', token)}{_given('NextContinuationToken', next_token)}"
        f"{_given('StartAfter', start_after, write)}<KeyCount>{len(rows) + len(common_prefixes)}</KeyCount>"
        f"<MaxKeys>{max_keys}</MaxKeys>{_given('Delimiter', delimiter, write)}"
        f"{'<EncodingType>url</EncodingType>' if encode else ''}<IsTruncated>{_bool(is_truncated)}</IsTruncated>"
    )
    return _document(
        "ListBucketResult", head + _contents(rows, owner, write) + _common_prefixes(common_prefixes, write)
    )


def delete_result(deleted: Iterable[DeletedObject], refused: Iterable[tuple[str, str | None, S3Error]] = ()) -> bytes:
    """Write the answer of DeleteObjects: what is gone, and by key and version what is not."""
    gone = [
        f"<Deleted><Key>{escape(key)}</Key>{_given('VersionId', version_id)}"
        f"{'<DeleteMarker>true</DeleteMarker>' if delete_marker else ''}"
        f"{_given('DeleteMarkerVersionId', delete_marker_version_id)}</Deleted>"
        for key, version_id, delete_marker, delete_marker_version_id in deleted
    ]
    kept = [
        f"<Error><Key>{escape(key)}</Key>{_given('VersionId', version_id)}<Code>{error.code}</Code>"
        f"<Message>{escape(error.message)}</Message></Error>"
        for key, version_id, error in refused
    ]
    return _document("DeleteResult", "".join(chain(gone, kept)))


def copy_object_result(*, etag: str, last_modified: datetime, checksum: str | None) -> bytes:
    """Write the answer of CopyObject."""
    return _document("CopyObjectResult", _copied(etag, last_modified) + _checksum(checksum, with_type=True))


def copy_part_result(*, etag: str, last_modified: datetime, checksum: str | None) -> bytes:
    """Write the answer of UploadPartCopy."""
    return _document("CopyPartResult", _copied(etag, last_modified) + _checksum(checksum))


def initiate_multipart_upload(*, bucket: str, key: str, upload_id: str) -> bytes:
    """Write the answer of CreateMultipartUpload."""
    return _document(
        "InitiateMultipartUploadResult",
        f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key><UploadId>{escape(upload_id)}</UploadId>",
    )


def complete_multipart_upload(*, location: str, bucket: str, key: str, etag: str, checksum: str | None) -> bytes:
    """Write the answer of CompleteMultipartUpload; `location` is the object's URL."""
    return _document(
        "CompleteMultipartUploadResult",
        f"<Location>{escape(location)}</Location><Bucket>{escape(bucket)}</Bucket><Key>{escape(key)}</Key>"
        f"<ETag>&quot;{etag}&quot;</ETag>{_checksum(checksum, with_type=True)}",
    )


def list_parts(
    rows: Iterable[PartRow],
    *,
    bucket: str,
    key: str,
    upload_id: str,
    owner: Owner,
    marker: int,
    next_marker: int,
    max_parts: int,
    is_truncated: bool,
    checksum_algorithm: str | None = None,
    checksum_type: str | None = None,
    encode: Encode | None = None,
) -> bytes:
    """Write the answer of ListParts; the owner is the initiator too."""
    parts = [
        f"<Part><PartNumber>{number}</PartNumber><LastModified>{_time(last_modified)}</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{size_bytes}</Size>{_checksum(checksum)}</Part>"
        for number, last_modified, etag, size_bytes, checksum in rows
    ]
    return _document(
        "ListPartsResult",
        f"<Bucket>{escape(bucket)}</Bucket><Key>{(encode or escape)(key)}</Key>"
        f"{'<EncodingType>url</EncodingType>' if encode else ''}<UploadId>{escape(upload_id)}</UploadId>"
        f"{_owner(owner, 'Initiator')}{_owner(owner)}<StorageClass>STANDARD</StorageClass>"
        f"<PartNumberMarker>{marker}</PartNumberMarker><NextPartNumberMarker>{next_marker}</NextPartNumberMarker>"
        f"<MaxParts>{max_parts}</MaxParts><IsTruncated>{_bool(is_truncated)}</IsTruncated>"
        f"{_given('ChecksumAlgorithm', checksum_algorithm)}{_given('ChecksumType', checksum_type)}{''.join(parts)}",
    )


def list_multipart_uploads(
    uploads: Iterable[tuple[str, str, datetime]],
    *,
    bucket: str,
    prefix: str,
    delimiter: str | None,
    key_marker: str,
    upload_id_marker: str,
    next_key_marker: str | None,
    next_upload_id_marker: str | None,
    max_uploads: int,
    is_truncated: bool,
    common_prefixes: Sequence[str],
    owner: Owner,
    encode: Encode | None = None,
) -> bytes:
    """Write the answer of ListMultipartUploads: each upload by key, id and time of initiation."""
    write = encode or escape
    who = f"{_owner(owner, 'Initiator')}{_owner(owner)}<StorageClass>STANDARD</StorageClass>"
    items = [
        f"<Upload><Key>{write(key)}</Key><UploadId>{escape(upload_id)}</UploadId>{who}"
        f"<Initiated>{_time(initiated)}</Initiated></Upload>"
        for key, upload_id, initiated in uploads
    ]
    return _document(
        "ListMultipartUploadsResult",
        f"<Bucket>{escape(bucket)}</Bucket><KeyMarker>{write(key_marker)}</KeyMarker>"
        f"<UploadIdMarker>{escape(upload_id_marker)}</UploadIdMarker>"
        f"{_given('NextKeyMarker', next_key_marker, write)}{_given('NextUploadIdMarker', next_upload_id_marker)}"
        f"<Prefix>{write(prefix)}</Prefix>{_given('Delimiter', delimiter, write)}"
        f"{'<EncodingType>url</EncodingType>' if encode else ''}<MaxUploads>{max_uploads}</MaxUploads>"
        f"<IsTruncated>{_bool(is_truncated)}</IsTruncated>{''.join(items)}{_common_prefixes(common_prefixes, write)}",
    )


def object_attributes(
    *,
    etag: str | None = None,
    checksum: str | None = None,
    parts: ObjectParts | None = None,
    storage_class: str | None = None,
    size_bytes: int | None = None,
) -> bytes:
    """Write the answer of GetObjectAttributes: those that were asked for, None for the others.

    The ETag stands without quotes here, as S3 has it.
    """
    summed = f"<Checksum>{_checksum(checksum, with_type=True)}</Checksum>" if checksum else ""
    size = "" if size_bytes is None else f"<ObjectSize>{size_bytes}</ObjectSize>"
    return _document(
        "GetObjectAttributesResponse",
        f"{_given('ETag', etag)}{summed}{_object_parts(parts) if parts else ''}"
        f"{_given('StorageClass', storage_class)}{size}",
    )


_CHECKSUM_ELEMENTS: Final[Mapping[str, str]] = {f"Checksum{algorithm}": algorithm for algorithm in LENGTH_BYTES}
_SUMMED: Final[Mapping[str, str]] = {
    f"{algorithm}{mark}": f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm><ChecksumType>{kind}</ChecksumType>"
    for algorithm in LENGTH_BYTES
    for mark, kind in (("", "FULL_OBJECT"), ("-", "COMPOSITE"))
}
_TWO_DIGITS = tuple(f"{number:02}" for number in range(60))
_THREE_DIGITS = tuple(f"{number:03}" for number in range(1000))
_NUMBER = re.compile("[0-9]{1,18}")
# Formatting a number with leading zeros costs three times as much as the rest of a listing's line.
_MILLISECONDS: Final = tuple(f".{min(number, 999):03d}Z" for number in range(1001))
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([^"']*)["']""")


class _Body:
    """Collects the text of a flat document, and refuses any other. State: where it is, the fields so far.

    lxml calls it element by element: a root, fields in it, and records of fields.
    """

    def __init__(
        self,
        *,
        root: str,
        fields: Collection[str],
        record: str | None,
        record_fields: Collection[str],
        records_max: int,
    ) -> None:
        self.fields: dict[str, str] = {}
        self.records: list[dict[str, str]] = []
        self._records_max = records_max
        self._record = record
        self._in_root = _tags(fields if record is None else (*fields, record))
        self._in_record = _tags(record_fields)
        self._allowed = _tags((root,))
        self._into: dict[str, str] | None = None
        self._field: str | None = None
        self._text = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        name = self._allowed.get(tag)
        into = self._into
        if name is None or self._field is not None:
            raise _malformed()
        if into is None:
            self._into = self.fields
            self._allowed = self._in_root
        elif into is self.fields and name == self._record:
            if len(self.records) == self._records_max:
                raise _malformed()
            self._into = {}
            self._allowed = self._in_record
            self.records.append(self._into)
        elif name in into:
            raise _malformed()
        else:
            self._field = name

    def end(self, tag: str) -> None:
        if self._field is not None and self._into is not None:
            self._into[self._field] = self._text
            self._field = None
            self._text = ""
        else:
            self._into = self.fields
            self._allowed = self._in_root

    def data(self, text: str) -> None:
        if self._field is not None:
            self._text += text
            if len(self._text) > FIELD_LENGTH_MAX:
                raise _malformed()
        elif text.strip(" \t\r\n"):
            raise _malformed()

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise _malformed()

    def close(self) -> None:
        pass


def _tags(names: Iterable[str]) -> dict[str, str]:
    """Return element names as lxml tells them, in S3's namespace or none, by what they mean."""
    return {tag: name for name in names for tag in (name, f"{{{NAMESPACE}}}{name}")}


def _read(
    body: bytes,
    *,
    bytes_max: int,
    root: str,
    fields: Collection[str],
    record: str | None = None,
    record_fields: Collection[str] = (),
    records_max: int = 0,
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the fields under the root, and the fields of each record."""
    if len(body) > bytes_max:
        raise S3Error("MaxMessageLengthExceeded")
    stated = _ENCODING.match(body)
    if stated and stated[1].lower() not in (b"utf-8", b"us-ascii"):
        raise _malformed()
    target = _Body(root=root, fields=fields, record=record, record_fields=record_fields, records_max=records_max)
    parser = etree.XMLParser(  # type: ignore[call-overload]  # types-lxml wants every callback, lxml those there are
        target=target,
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
    )
    try:
        etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise _malformed() from None
    return target.fields, target.records


def _object_to_delete(record: Mapping[str, str]) -> ObjectToDelete:
    key = record.get("Key")
    version_id = record.get("VersionId")
    if not key or version_id == "":
        raise _malformed()
    last_modified = record.get("LastModifiedTime")
    size = record.get("Size")
    return ObjectToDelete(
        key,
        version_id,
        _unquoted(record["ETag"]) if "ETag" in record else None,
        None if last_modified is None else _read_time(last_modified.strip()),
        None if size is None else _read_number(size.strip()),
    )


def _completed_part(record: Mapping[str, str]) -> CompletedPart:
    if "PartNumber" not in record or "ETag" not in record:
        raise _malformed()
    number = _read_number(record["PartNumber"].strip())
    if not 1 <= number <= PARTS_MAX:
        raise _malformed()
    checksums = {}
    if len(record) > 2:
        summed = record.keys() & _CHECKSUM_ELEMENTS.keys()
        checksums = {_CHECKSUM_ELEMENTS[name]: record[name].strip() for name in summed}
    return CompletedPart(number, _unquoted(record["ETag"]), checksums)


def _unquoted(etag: str) -> str:
    return etag.strip().removeprefix('"').removesuffix('"')


def _read_number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _malformed()
    return int(text)


def _read_time(text: str) -> datetime:
    """Read either form clients send: ISO 8601, or the one of HTTP headers."""
    try:
        moment = datetime.fromisoformat(text) if text[:1].isdecimal() else parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _malformed() from None


def _malformed() -> S3Error:
    return S3Error("MalformedXML")


def _document(root: str, content: str) -> bytes:
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{content}</{root}>').encode()


def _contents(rows: Sequence[ObjectRow], owner: Owner | None, write: Encode) -> str:
    """Write a page of objects: the one place here where microseconds count."""
    tail = f"</Size><StorageClass>STANDARD</StorageClass>{_owner(owner) if owner else ''}</Contents>"
    is_plain = write is escape and _is_plain("".join([row[0] for row in rows]))
    # Neighbours were often written in the same second, and nearly always with the same algorithm.
    seconds: dict[int, str] = {}
    prefix, summed = "?", ""
    written: list[str] = []
    for key, size_bytes, etag, modified_s, checksum in rows:
        second = int(modified_s)
        moment = seconds.get(second)
        if moment is None:
            moment = seconds[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        if not checksum:
            prefix, summed = "?", ""
        elif not checksum.startswith(prefix) or "-" in checksum:
            summed = _summed(checksum)
            prefix = "?" if "-" in checksum else checksum[: checksum.index(":") + 1]
        written.append(
            f"<Contents><Key>{key if is_plain else write(key)}</Key>"
            f"<LastModified>{moment}{_MILLISECONDS[int((modified_s - second) * 1000 + 1e-3)]}</LastModified>"
            f"<ETag>&quot;{etag}&quot;</ETag>{summed}<Size>{size_bytes}{tail}"
        )
    return "".join(written)


def _is_plain(text: str) -> bool:
    """Tell whether nothing needs escaping; no is always a safe answer."""
    return text.isprintable() and "&" not in text and "<" not in text and ">" not in text and '"' not in text


def _summed(checksum: str) -> str:
    algorithm = checksum.partition(":")[0]
    return _SUMMED[f"{algorithm}-" if "-" in checksum else algorithm]


def _checksum(checksum: str | None, *, with_type: bool = False) -> str:
    if not checksum:
        return ""
    algorithm, _, value = checksum.partition(":")
    kind = f"<ChecksumType>{_checksum_type(value)}</ChecksumType>" if with_type else ""
    return f"<Checksum{algorithm}>{value}</Checksum{algorithm}>{kind}"


def _checksum_type(value: str) -> str:
    return "COMPOSITE" if "-" in value else "FULL_OBJECT"


def _copied(etag: str, last_modified: datetime) -> str:
    return f"<LastModified>{_time(last_modified)}</LastModified><ETag>&quot;{etag}&quot;</ETag>"


def _object_parts(parts: ObjectParts) -> str:
    items = [
        f"<Part><PartNumber>{number}</PartNumber><Size>{size_bytes}</Size>{_checksum(checksum)}</Part>"
        for number, size_bytes, checksum in parts.parts
    ]
    return (
        f"<ObjectParts><PartsCount>{parts.total}</PartsCount><PartNumberMarker>{parts.marker}</PartNumberMarker>"
        f"<NextPartNumberMarker>{parts.next_marker}</NextPartNumberMarker><MaxParts>{parts.max_parts}</MaxParts>"
        f"<IsTruncated>{_bool(parts.is_truncated)}</IsTruncated>{''.join(items)}</ObjectParts>"
    )


def _common_prefixes(prefixes: Sequence[str], write: Encode) -> str:
    return "".join([f"<CommonPrefixes><Prefix>{write(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes])


def _owner(owner: Owner, element: str = "Owner") -> str:
    return f"<{element}><ID>{escape(owner.id)}</ID><DisplayName>{escape(owner.display_name)}</DisplayName></{element}>"


def _given(element: str, value: str | None, write: Encode = escape) -> str:
    return "" if value is None else f"<{element}>{write(value)}</{element}>"


def _bool(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


def _time(moment: datetime) -> str:
    """Write a moment, which is in UTC, to the millisecond: three times as fast as `isoformat`."""
    return (
        f"{moment.year}-{_TWO_DIGITS[moment.month]}-{_TWO_DIGITS[moment.day]}T{_TWO_DIGITS[moment.hour]}:"
        f"{_TWO_DIGITS[moment.minute]}:{_TWO_DIGITS[moment.second]}.{_THREE_DIGITS[moment.microsecond // 1000]}Z"
    )
