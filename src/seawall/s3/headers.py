"""The headers of S3: what they ask, and how an object looks in them."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from seawall.errors import PreconditionFailed
from seawall.objects.digests import LENGTH_BYTES, Digests, read_checksum
from seawall.objects.things import UNCONDITIONAL, Condition, Description, Span, Version
from seawall.s3.errors import S3Error
from seawall.s3.operations import read_query

Headers = list[tuple[str, str]]

DEFAULT_CONTENT_TYPE = "binary/octet-stream"
METADATA_MAX_BYTES = 2048
USER_METADATA = "x-amz-meta-"
SYSTEM_METADATA = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
OVERRIDES: Final[Mapping[str, str]] = {
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
    "response-content-language": "content-language",
    "response-content-type": "content-type",
    "response-expires": "expires",
}
CHECKSUM_HEADERS: Final[Mapping[str, str]] = {f"x-amz-checksum-{name.lower()}": name for name in LENGTH_BYTES}
COMPOSABLE = frozenset({"CRC32", "CRC32C", "CRC64NVME"})

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RANGE = re.compile(r"bytes=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*", re.IGNORECASE)
_COPY_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{1,19})")


@lru_cache(maxsize=8192)
def http_date(moment: datetime) -> str:
    """Return a moment in UTC as HTTP writes it (RFC 9110, 5.6.7)."""
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02d} {_MONTHS[moment.month]} {moment.year:04d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} GMT"
    )


# What a write says about the object.


def read_description(headers: Mapping[str, str]) -> Description:
    """Collect what shall be given back with the object.

    Raises:
        S3Error: `MetadataTooLarge`.
    """
    kept = {name: headers[name] for name in SYSTEM_METADATA if name in headers}
    if "content-encoding" in kept:
        # The framing of the upload is no property of the object.
        codings = [coding.strip() for coding in kept["content-encoding"].split(",")]
        left = ",".join(coding for coding in codings if coding.lower() != "aws-chunked")
        kept["content-encoding"] = left
        if not left:
            del kept["content-encoding"]
    user = {name: value for name, value in headers.items() if name.startswith(USER_METADATA)}
    if user:
        if sum(len(name) - len(USER_METADATA) + len(value) for name, value in user.items()) > METADATA_MAX_BYTES:
            raise S3Error("MetadataTooLarge")
        kept.update(user)
    return Description(content_type=headers.get("content-type") or None, headers=kept)


def read_digests(headers: Mapping[str, str], *, payload: str, algorithm: str | None = None) -> Digests:
    """Prepare to check a body against all that was announced about it.

    Args:
        headers: of the request.
        payload: its `x-amz-content-sha256`, if that is a digest.
        algorithm: the checksum to keep where the headers name none.

    Raises:
        S3Error: `InvalidRequest` where two checksums are given.
    """
    named, value = read_announced_checksum(headers)
    trailer = CHECKSUM_HEADERS.get(headers.get("x-amz-trailer", "").strip().lower())
    stated = headers.get("x-amz-sdk-checksum-algorithm", "").upper()
    if stated and stated not in LENGTH_BYTES:
        raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")
    return Digests(
        algorithm=named or trailer or algorithm or stated or None,
        checksum=value,
        content_md5=headers.get("content-md5"),
        payload_sha256=payload if len(payload) == 64 else None,
    )


def require_length(headers: Mapping[str, str]) -> None:
    """Refuse a body nobody announced: taken for an empty one, it would overwrite what is there.

    Raises:
        S3Error: `MissingContentLength`.
    """
    if "content-length" not in headers and "transfer-encoding" not in headers:
        raise S3Error("MissingContentLength")


def read_announced_checksum(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the algorithm and value of the one `x-amz-checksum-…` header, if there is one.

    Raises:
        S3Error: `InvalidRequest` where there are two.
    """
    found = [name for name in headers if name in CHECKSUM_HEADERS]
    if not found:
        return None, None
    if len(found) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    algorithm = CHECKSUM_HEADERS[found[0]]
    value = headers[found[0]]
    read_checksum(algorithm, value.partition("-")[0])
    return algorithm, value


def read_upload_checksum(headers: Mapping[str, str]) -> tuple[str | None, bool]:
    """Return which checksum an upload shall have, and whether it is that of the whole object.

    Raises:
        S3Error: `InvalidRequest` where there is no such checksum, or not of that type.
    """
    algorithm = headers.get("x-amz-checksum-algorithm", "").upper() or None
    if algorithm is not None and algorithm not in LENGTH_BYTES:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types.",
        )
    kind = headers.get("x-amz-checksum-type", "").upper()
    if kind not in {"", "COMPOSITE", "FULL_OBJECT"}:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if kind and algorithm is None:
        raise S3Error(
            "InvalidRequest",
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
        )
    if kind == "FULL_OBJECT" and algorithm not in COMPOSABLE:
        raise S3Error(
            "InvalidRequest", f"The FULL_OBJECT checksum type cannot be used with the {algorithm} checksum algorithm."
        )
    if kind == "COMPOSITE" and algorithm == "CRC64NVME":
        raise S3Error(
            "InvalidRequest", "The COMPOSITE checksum type cannot be used with the CRC64NVME checksum algorithm."
        )
    return algorithm, kind == "FULL_OBJECT" or algorithm in {None, "CRC64NVME"}


# Conditions.


def read_write_condition(headers: Mapping[str, str]) -> Condition:
    """Return what must hold for a write.

    Raises:
        S3Error: `NotImplemented` for what S3 does not do either.
    """
    none_match = headers.get("if-none-match")
    match = headers.get("if-match")
    if none_match is None and match is None:
        return UNCONDITIONAL
    if none_match is not None and (none_match.strip() != "*" or match is not None):
        raise S3Error("NotImplemented", "A write can be conditional on If-Match: an ETag, or on If-None-Match: *.")
    if none_match is not None:
        return Condition(absent=True)
    assert match is not None
    if match.strip() == "*":
        raise S3Error("NotImplemented", "A write can be conditional on If-Match: an ETag, or on If-None-Match: *.")
    return Condition(etag=match.strip().strip('"'))


def check_read_condition(headers: Mapping[str, str], version: Version, *, prefix: str = "") -> None:
    """Decide whether the version is one the reader wants.

    Args:
        headers: of the request.
        version: the present one.
        prefix: of the headers' names: empty, or `x-amz-copy-source-`.

    Raises:
        PreconditionFailed: it is another than the reader needs.
        S3Error: `NotModified`: the reader has it already.

    Source: RFC 9110, 13.2.2, and Amazon S3 API Reference, "GetObject", on combinations.
    """
    match = headers.get(f"{prefix}if-match")
    none_match = headers.get(f"{prefix}if-none-match")
    unmodified_since = headers.get(f"{prefix}if-unmodified-since")
    modified_since = headers.get(f"{prefix}if-modified-since")
    if match is not None:
        if not _matches(match, version.etag):
            raise PreconditionFailed
    elif unmodified_since is not None:
        moment = _read_http_date(unmodified_since)
        if moment is not None and version.last_modified.replace(microsecond=0) > moment:
            raise PreconditionFailed
    if none_match is not None:
        unwanted = _matches(none_match, version.etag)
    elif modified_since is not None:
        moment = _read_http_date(modified_since)
        unwanted = moment is not None and version.last_modified.replace(microsecond=0) <= moment
    else:
        return
    if unwanted:
        if prefix:
            raise PreconditionFailed
        raise S3Error(
            "NotModified", headers={"ETag": f'"{version.etag}"', "Last-Modified": http_date(version.last_modified)}
        )


def has_read_condition(headers: Mapping[str, str]) -> bool:
    """Whether any of the conditions on a read is there."""
    return (
        "if-match" in headers
        or "if-none-match" in headers
        or "if-modified-since" in headers
        or "if-unmodified-since" in headers
    )


def _matches(condition: str, etag: str) -> bool:
    if condition.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/").strip('"') == etag for tag in condition.split(","))


def _read_http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None  # A date that is none is ignored (RFC 9110, 13.1.3).
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


# Ranges.


def read_range(headers: Mapping[str, str], version: Version) -> Span | None:
    """Return the span a reader asked for; None for the whole object.

    One range is served; several, or what is no range, give the whole object, as at S3.

    Raises:
        S3Error: `InvalidRange`: it lies behind the end.
    """
    header = headers.get("range")
    if header is None:
        return None
    if_range = headers.get("if-range")
    if if_range is not None and not _if_range_holds(if_range, version):
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    size = version.size_bytes
    if not found[1]:
        length = min(int(found[2]), size)
        start, stop = size - length, size
        satisfiable = length > 0
    else:
        start = int(found[1])
        if found[2] and int(found[2]) < start:
            return None
        stop = min(int(found[2]) + 1, size) if found[2] else size
        satisfiable = start < size
    if not satisfiable:
        raise S3Error(
            "InvalidRange",
            fields={"RangeRequested": header, "ActualObjectSize": str(size)},
            headers={"Content-Range": f"bytes */{size}"},
        )
    return Span(start=start, stop=stop)


def _if_range_holds(condition: str, version: Version) -> bool:
    if condition.startswith('"'):
        return condition.strip('"') == version.etag
    moment = _read_http_date(condition)
    return moment is not None and version.last_modified.replace(microsecond=0) == moment


def read_copy_range(header: str | None, version: Version) -> Span:
    """Return the span of the copy source a part is made of.

    Raises:
        S3Error: `InvalidArgument` where it is no range, `InvalidRange` where it leaves the source.
    """
    if header is None:
        return Span(start=0, stop=version.size_bytes)
    found = _COPY_RANGE.fullmatch(header)
    if found is None or int(found[1]) > int(found[2]):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            fields={"ArgumentName": "x-amz-copy-source-range", "ArgumentValue": header},
        )
    if int(found[2]) >= version.size_bytes:
        raise S3Error("InvalidRange", f"Range specified is not valid for source object of size: {version.size_bytes}")
    return Span(start=int(found[1]), stop=int(found[2]) + 1)


def read_copy_source(header: str) -> tuple[str, str]:
    """Return bucket and key of the object to copy.

    Raises:
        S3Error: `InvalidArgument` where it names none.
    """
    path, _, raw_query = header.partition("?")
    try:
        text = unquote_to_bytes(path.encode("latin-1")).decode().removeprefix("/")
    except UnicodeDecodeError:
        text = ""
    bucket, _, key = text.partition("/")
    if not bucket or not key or "\0" in text:
        raise S3Error(
            "InvalidArgument",
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            fields={"ArgumentName": "x-amz-copy-source", "ArgumentValue": header},
        )
    if raw_query and read_query(raw_query).get("versionId", "null") not in {"null", ""}:
        raise S3Error("NotImplemented", "Versions are not kept yet.")
    return bucket, key


# How an object looks.


def version_headers(version: Version) -> Headers:
    """Return the headers that describe a version."""
    headers: Headers = [
        ("Last-Modified", http_date(version.last_modified)),
        ("ETag", f'"{version.etag}"'),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", version.content_type or DEFAULT_CONTENT_TYPE),
    ]
    if version.headers_json is not None:
        headers.extend(version.headers.items())
    return headers


def checksum_headers(checksum: str | None) -> Headers:
    """Return the headers that carry a checksum."""
    if checksum is None:
        return []
    algorithm, _, value = checksum.partition(":")
    kind = "COMPOSITE" if "-" in value else "FULL_OBJECT"
    return [(f"x-amz-checksum-{algorithm.lower()}", value), ("x-amz-checksum-type", kind)]


def apply_overrides(headers: Headers, query: Mapping[str, str]) -> Headers:
    """Replace headers by those the query wants instead.

    Raises:
        S3Error: `InvalidArgument` where a value holds a line break.
    """
    wanted: dict[str, str] = {}
    for parameter, name in OVERRIDES.items():
        if parameter in query:
            value = query[parameter]
            if any(character < " " or character == "\x7f" for character in value):
                raise S3Error("InvalidArgument", f"The value of {parameter} holds control characters.")
            wanted[name] = value.encode().decode("latin-1")
    if not wanted:
        return headers
    kept = [(name, value) for name, value in headers if name.lower() not in wanted]
    return [*kept, *((name.title(), value) for name, value in wanted.items())]
