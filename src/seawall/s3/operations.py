"""Which operation a request asks for.

S3 tells operations apart by method, by whether a bucket and a key are named, and by flags in the
query. A flag that names something we have not built is answered `NotImplemented`: to ignore it
would be to do something else than what was asked.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from seawall.s3.errors import S3Error
from seawall.telemetry.points import GROUPS
from seawall.telemetry.purpose import Urgency

SUBRESOURCES: Final = frozenset(
    {
        "abac",
        "accelerate",
        "acl",
        "analytics",
        "annotation",
        "annotations",
        "append",
        "attributes",
        "cors",
        "delete",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "lifecycle",
        "location",
        "logging",
        "metadataAnnotationTable",
        "metadataConfiguration",
        "metadataInventoryTable",
        "metadataJournalTable",
        "metadataTable",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "partNumber",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "renameObject",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "select-type",
        "session",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versioning",
        "versions",
        "website",
    }
)
"""What a query can name beside the object itself. Source: Amazon S3 API Reference, all actions."""

SIGNATURE_PARAMETERS: Final = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Content-Sha256",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
    }
)
"""What a presigned link says of its own signature.

Source: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters".
"""


UNBUILT_STARTS: Final = ("x-amz-server-side-encryption", "x-amz-copy-source-server-side-encryption")

UNBUILT_HEADERS: Final = frozenset(
    {
        "x-amz-grant-full-control",
        "x-amz-grant-read",
        "x-amz-grant-read-acp",
        "x-amz-grant-write",
        "x-amz-grant-write-acp",
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
        "x-amz-object-lock-legal-hold",
        "x-amz-bucket-object-lock-enabled",
        "x-amz-tagging",
        "x-amz-tagging-directive",
        "x-amz-website-redirect-location",
        "x-amz-write-offset-bytes",
    }
)
"""Headers that ask for what is not built. A write that asks for it must not be half done."""

# What an account that owns its buckets has anyway.
BUILT_ACLS: Final = frozenset({"private", "bucket-owner-full-control", "bucket-owner-read"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request names: a bucket and a key, both empty where it names none."""

    bucket: str
    key: str


def read_target(raw_path: str, host: str, *, domains: Collection[str]) -> Target:
    """Find bucket and key in the path, or the bucket in the host name (virtual-host style).

    Raises:
        S3Error: `InvalidURI` where the name is not UTF-8, `InvalidBucketName` where it holds a NUL.
    """
    path = raw_path[1:]
    if domains and (bucket := _bucket_in(host, domains)):
        return Target(bucket=bucket, key=_decoded(path))
    bucket, _, key = path.partition("/")
    bucket = _decoded(bucket)
    if "\0" in bucket:
        # PostgreSQL cannot even be asked for it.
        raise S3Error("InvalidBucketName")
    return Target(bucket=bucket, key=_decoded(key))


def _bucket_in(host: str, domains: Collection[str]) -> str:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.lower()
    for domain in domains:
        if name.endswith(f".{domain}"):
            return name[: -len(domain) - 1]
    return ""


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI: the name is not UTF-8.") from None


def read_query(raw_query: str) -> dict[str, str]:
    """Return the query's parameters but those of a link's own signature; of one that is repeated, the first counts.

    Raises:
        S3Error: `InvalidURI` where it is not UTF-8, `InvalidArgument` where it holds a NUL.
    """
    if "%00" in raw_query:
        raise S3Error("InvalidArgument", "A parameter holds no NUL character.")
    query: dict[str, str] = {}
    for pair in raw_query.split("&"):
        name, _, value = pair.partition("=")
        if pair and name not in SIGNATURE_PARAMETERS:
            query.setdefault(_decoded(name.replace("+", " ")), _decoded(value.replace("+", " ")))
    return query


def find_operation(method: str, target: Target, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the name of the operation, as S3 spells it.

    Raises:
        S3Error: `NotImplemented`, or `MethodNotAllowed`.
    """
    if target.key:
        scope = "object"
    elif target.bucket:
        scope = "bucket"
    else:
        scope = "service"
    flags = frozenset(SUBRESOURCES.intersection(query)) if query else frozenset()
    if scope == "bucket" and "list-type" in query:
        if query["list-type"] != "2":
            raise S3Error("InvalidArgument", "Invalid list-type specified.")
        flags |= {"list-type=2"}
    if "x-amz-copy-source" in headers and method == "PUT":
        flags |= {"copy"}
    operation = OPERATIONS.get((scope, method, flags))
    if operation is None:
        if method not in {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}:
            raise S3Error("MethodNotAllowed")
        raise S3Error("NotImplemented")
    if query.get("versionId", "null") not in {"null", ""} and scope == "object":
        raise S3Error("NotImplemented", "Versions are not kept yet.")
    return operation


def hoisted(query: Mapping[str, str], headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers, and those that a presigned link carries in its query: S3 reads them alike.

    A header that was sent counts, not the one in the link.
    """
    found = {name.lower(): value for name, value in query.items() if name[:6].lower() == "x-amz-"}
    return {**found, **headers} if found else headers


def refuse_unbuilt(headers: Mapping[str, str]) -> None:
    """Refuse a request that asks for what we cannot do.

    Raises:
        S3Error: `NotImplemented`.
    """
    for name, value in headers.items():
        if name == "x-amz-bucket-object-lock-enabled" and value.lower() == "false":
            continue  # rclone says so when it wants none
        if name[:6] == "x-amz-" and (name in UNBUILT_HEADERS or name.startswith(UNBUILT_STARTS)):
            raise S3Error("NotImplemented", f"The header {name} asks for functionality that is not implemented.")
    if headers.get("x-amz-acl", "private") not in BUILT_ACLS:
        raise S3Error("NotImplemented", "The only access control list is private.")
    if headers.get("x-amz-storage-class", "STANDARD") != "STANDARD":
        raise S3Error("NotImplemented", "The only storage class is STANDARD.")
    if headers.get("x-amz-object-ownership", "BucketOwnerEnforced") != "BucketOwnerEnforced":
        raise S3Error("NotImplemented", "The only object ownership is BucketOwnerEnforced.")


def _flags(*names: str) -> frozenset[str]:
    return frozenset(names)


OPERATIONS: Final[Mapping[tuple[str, str, frozenset[str]], str]] = {
    ("service", "GET", _flags()): "ListBuckets",
    ("bucket", "GET", _flags()): "ListObjects",
    ("bucket", "GET", _flags("list-type=2")): "ListObjectsV2",
    ("bucket", "GET", _flags("location")): "GetBucketLocation",
    ("bucket", "GET", _flags("uploads")): "ListMultipartUploads",
    ("bucket", "PUT", _flags()): "CreateBucket",
    ("bucket", "HEAD", _flags()): "HeadBucket",
    ("bucket", "DELETE", _flags()): "DeleteBucket",
    ("bucket", "POST", _flags("delete")): "DeleteObjects",
    ("object", "GET", _flags()): "GetObject",
    ("object", "GET", _flags("partNumber")): "GetObject",
    ("object", "GET", _flags("attributes")): "GetObjectAttributes",
    ("object", "GET", _flags("uploadId")): "ListParts",
    ("object", "HEAD", _flags()): "HeadObject",
    ("object", "HEAD", _flags("partNumber")): "HeadObject",
    ("object", "PUT", _flags()): "PutObject",
    ("object", "PUT", _flags("copy")): "CopyObject",
    ("object", "PUT", _flags("partNumber", "uploadId")): "UploadPart",
    ("object", "PUT", _flags("partNumber", "uploadId", "copy")): "UploadPartCopy",
    ("object", "POST", _flags("uploads")): "CreateMultipartUpload",
    ("object", "POST", _flags("uploadId")): "CompleteMultipartUpload",
    ("object", "DELETE", _flags()): "DeleteObject",
    ("object", "DELETE", _flags("uploadId")): "AbortMultipartUpload",
}
"""What is built. The list in the README is checked against this one."""

URGENCIES: Final[Mapping[str, Urgency]] = {
    **{
        operation: Urgency.INTERACTIVE
        for operation in OPERATIONS.values()
        if operation.startswith(("Get", "Head", "List"))
    },
    # Each of these ends something that holds disk and rows.
    "CompleteMultipartUpload": Urgency.CRITICAL,
    "AbortMultipartUpload": Urgency.CRITICAL,
}
"""Who goes first when not everybody can; other operations are of normal urgency."""

READING: Final = frozenset({"GetObject", "HeadObject"})
WRITING: Final = frozenset(
    {
        "PutObject",
        "CopyObject",
        "DeleteObject",
        "DeleteObjects",
        "CreateMultipartUpload",
        "UploadPart",
        "UploadPartCopy",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
    }
)
"""What counts as reads and as writes where requests are looked at apart (`telemetry.points.GROUPS`)."""

_PLACES: Final = {
    **{operation: GROUPS.index("others") for operation in OPERATIONS.values()},
    **dict.fromkeys(READING, GROUPS.index("reads")),
    **dict.fromkeys(WRITING, GROUPS.index("writes")),
}


def group_of(operation: str, method: str) -> int:
    """Return the place in `GROUPS` of a request; by its method alone where nobody looked what was asked.

    >>> GROUPS[group_of("GetObject", "GET")], GROUPS[group_of("refused", "PUT")]
    ('reads', 'writes')
    """
    place = _PLACES.get(operation)
    if place is None:
        return GROUPS.index("reads" if method in {"GET", "HEAD"} else "writes")
    return place
