"""The words S3 clients expect when something goes wrong.

Clients decide by the code whether to retry, to give up or to ask for a password, so codes and
messages are S3's own, spelled as S3 spells them. Below the door nothing knows them: there errors
are named where they happen, and `translate` puts them into S3's words, once.

Source: Amazon S3 API Reference, "Error responses".
"""

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from seawall import errors
from seawall.blobs import DiskFailed
from seawall.edge import ClientGone, Exchange
from seawall.objects import digests, store

CODES: Final[Mapping[str, tuple[HTTPStatus, str]]] = {
    "AccessDenied": (HTTPStatus.FORBIDDEN, "Access Denied"),
    "AuthorizationHeaderMalformed": (
        HTTPStatus.BAD_REQUEST,
        "The authorization header that you provided is not valid.",
    ),
    "AuthorizationQueryParametersError": (
        HTTPStatus.BAD_REQUEST,
        "The authorization query parameters that you provided are not valid.",
    ),
    "BadDigest": (
        HTTPStatus.BAD_REQUEST,
        "The Content-MD5 or checksum value that you specified did not match what the server received.",
    ),
    "BadRequest": (HTTPStatus.BAD_REQUEST, "Bad Request"),
    "BucketAlreadyExists": (
        HTTPStatus.CONFLICT,
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
        "Please select a different name and try again.",
    ),
    "BucketAlreadyOwnedByYou": (
        HTTPStatus.CONFLICT,
        "Your previous request to create the named bucket succeeded and you already own it.",
    ),
    "BucketNotEmpty": (HTTPStatus.CONFLICT, "The bucket you tried to delete is not empty"),
    "ConditionalRequestConflict": (
        HTTPStatus.CONFLICT,
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    ),
    "EntityTooLarge": (HTTPStatus.BAD_REQUEST, "Your proposed upload exceeds the maximum allowed size"),
    "EntityTooSmall": (
        HTTPStatus.BAD_REQUEST,
        "Your proposed upload is smaller than the minimum allowed size",
    ),
    "ExpiredToken": (HTTPStatus.BAD_REQUEST, "The provided token has expired."),
    "IllegalLocationConstraintException": (
        HTTPStatus.BAD_REQUEST,
        "The specified location constraint is incompatible for the region specific endpoint this request was sent to.",
    ),
    "IncompleteBody": (
        HTTPStatus.BAD_REQUEST,
        "You did not provide the number of bytes specified by the Content-Length HTTP header",
    ),
    "InsufficientStorage": (
        HTTPStatus.INSUFFICIENT_STORAGE,
        "There is not enough free space to store what you sent.",
    ),
    "InternalError": (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "We encountered an internal error. Please try again.",
    ),
    "InvalidAccessKeyId": (
        HTTPStatus.FORBIDDEN,
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    "InvalidArgument": (HTTPStatus.BAD_REQUEST, "Invalid Argument"),
    "InvalidBucketName": (HTTPStatus.BAD_REQUEST, "The specified bucket is not valid."),
    "InvalidBucketState": (HTTPStatus.CONFLICT, "The request is not valid with the current state of the bucket."),
    "InvalidDigest": (HTTPStatus.BAD_REQUEST, "The Content-MD5 you specified was invalid."),
    "InvalidEncryptionAlgorithmError": (
        HTTPStatus.BAD_REQUEST,
        "The encryption request that you specified is not valid. The valid value is AES256.",
    ),
    "InvalidLocationConstraint": (HTTPStatus.BAD_REQUEST, "The specified location-constraint is not valid"),
    "InvalidObjectState": (HTTPStatus.FORBIDDEN, "The operation is not valid for the object's storage class"),
    "InvalidPart": (
        HTTPStatus.BAD_REQUEST,
        "One or more of the specified parts could not be found. The part may not have been uploaded, "
        "or the specified entity tag may not match the part's entity tag.",
    ),
    "InvalidPartNumber": (
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        "The requested partnumber is not satisfiable",
    ),
    "InvalidPartOrder": (
        HTTPStatus.BAD_REQUEST,
        "The list of parts was not in ascending order. Parts must be ordered by part number.",
    ),
    "InvalidRange": (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "The requested range is not satisfiable"),
    "InvalidRequest": (HTTPStatus.BAD_REQUEST, "Invalid Request"),
    "InvalidStorageClass": (HTTPStatus.BAD_REQUEST, "The storage class you specified is not valid"),
    "InvalidTag": (HTTPStatus.BAD_REQUEST, "The tag provided was not a valid tag."),
    "InvalidToken": (HTTPStatus.BAD_REQUEST, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": (HTTPStatus.BAD_REQUEST, "Couldn't parse the specified URI."),
    "KeyTooLongError": (HTTPStatus.BAD_REQUEST, "Your key is too long"),
    "MalformedACLError": (
        HTTPStatus.BAD_REQUEST,
        "The XML you provided was not well-formed or did not validate against our published schema",
    ),
    "MalformedPOSTRequest": (
        HTTPStatus.BAD_REQUEST,
        "The body of your POST request is not well-formed multipart/form-data.",
    ),
    "MalformedPolicy": (HTTPStatus.BAD_REQUEST, "Policies must be valid JSON and the first byte must be '{'"),
    "MalformedTrailerError": (
        HTTPStatus.BAD_REQUEST,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    ),
    "MalformedXML": (
        HTTPStatus.BAD_REQUEST,
        "The XML you provided was not well-formed or did not validate against our published schema",
    ),
    "MaxMessageLengthExceeded": (HTTPStatus.BAD_REQUEST, "Your request was too big."),
    "MaxPostPreDataLengthExceededError": (
        HTTPStatus.BAD_REQUEST,
        "Your POST request fields preceding the upload file were too large.",
    ),
    "MetadataTooLarge": (
        HTTPStatus.BAD_REQUEST,
        "Your metadata headers exceed the maximum allowed metadata size",
    ),
    "MethodNotAllowed": (
        HTTPStatus.METHOD_NOT_ALLOWED,
        "The specified method is not allowed against this resource.",
    ),
    "MissingContentLength": (HTTPStatus.LENGTH_REQUIRED, "You must provide the Content-Length HTTP header."),
    "MissingRequestBodyError": (HTTPStatus.BAD_REQUEST, "Request body is empty."),
    "MissingSecurityHeader": (HTTPStatus.BAD_REQUEST, "Your request was missing a required header"),
    "NoSuchBucket": (HTTPStatus.NOT_FOUND, "The specified bucket does not exist"),
    "NoSuchBucketPolicy": (HTTPStatus.NOT_FOUND, "The bucket policy does not exist"),
    "NoSuchCORSConfiguration": (HTTPStatus.NOT_FOUND, "The CORS configuration does not exist"),
    "NoSuchKey": (HTTPStatus.NOT_FOUND, "The specified key does not exist."),
    "NoSuchLifecycleConfiguration": (HTTPStatus.NOT_FOUND, "The lifecycle configuration does not exist"),
    "NoSuchTagSet": (HTTPStatus.NOT_FOUND, "The TagSet does not exist"),
    "NoSuchUpload": (
        HTTPStatus.NOT_FOUND,
        "The specified upload does not exist. The upload ID may be invalid, "
        "or the upload may have been aborted or completed.",
    ),
    "NoSuchVersion": (HTTPStatus.NOT_FOUND, "The specified version does not exist."),
    "NotImplemented": (
        HTTPStatus.NOT_IMPLEMENTED,
        "A header or query you provided requested a function that is not implemented",
    ),
    "NotModified": (HTTPStatus.NOT_MODIFIED, "Not Modified"),
    "ObjectLockConfigurationNotFoundError": (
        HTTPStatus.NOT_FOUND,
        "Object Lock configuration does not exist for this bucket",
    ),
    "OperationAborted": (
        HTTPStatus.CONFLICT,
        "A conflicting conditional operation is currently in progress against this resource. Please try again.",
    ),
    "OwnershipControlsNotFoundError": (HTTPStatus.NOT_FOUND, "The bucket ownership controls were not found"),
    "PreconditionFailed": (
        HTTPStatus.PRECONDITION_FAILED,
        "At least one of the pre-conditions you specified did not hold",
    ),
    "RequestHeaderSectionTooLarge": (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "Your request header section exceeds the maximum allowed request header section size.",
    ),
    "RequestTimeTooSkewed": (
        HTTPStatus.FORBIDDEN,
        "The difference between the request time and the current time is too large.",
    ),
    "RequestTimeout": (
        HTTPStatus.BAD_REQUEST,
        "Your socket connection to the server was not read from or written to within the timeout period. "
        "Idle connections will be closed.",
    ),
    "ServerSideEncryptionConfigurationNotFoundError": (
        HTTPStatus.NOT_FOUND,
        "The server side encryption configuration was not found",
    ),
    "ServiceUnavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "Service is unable to handle request."),
    "SignatureDoesNotMatch": (
        HTTPStatus.FORBIDDEN,
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    ),
    "SlowDown": (HTTPStatus.SERVICE_UNAVAILABLE, "Please reduce your request rate."),
    "TooManyBuckets": (HTTPStatus.BAD_REQUEST, "You have attempted to create more buckets than allowed"),
    "UnexpectedContent": (HTTPStatus.BAD_REQUEST, "This request does not support content."),
    "XAmzContentChecksumMismatch": (
        HTTPStatus.BAD_REQUEST,
        "The provided 'x-amz-checksum' header does not match what was computed.",
    ),
    "XAmzContentSHA256Mismatch": (
        HTTPStatus.BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
}
"""Every code this door may answer, with its status and S3's usual message."""

S3_ERRORS: Final[Mapping[type[errors.SeawallError], str]] = {
    errors.SeawallError: "InternalError",
    errors.Missing: "NoSuchKey",
    errors.NoSuchBucket: "NoSuchBucket",
    errors.NoSuchKey: "NoSuchKey",
    errors.NoSuchUpload: "NoSuchUpload",
    errors.NoSuchAccount: "InvalidAccessKeyId",
    errors.Denied: "AccessDenied",
    errors.Conflict: "OperationAborted",
    errors.BucketExists: "BucketAlreadyExists",
    errors.BucketOwned: "BucketAlreadyOwnedByYou",
    errors.BucketNotEmpty: "BucketNotEmpty",
    errors.AccountExists: "OperationAborted",
    errors.PreconditionFailed: "PreconditionFailed",
    errors.Invalid: "InvalidArgument",
    errors.BadDigest: "BadDigest",
    store.KeyTooLong: "KeyTooLongError",
    digests.PayloadMismatch: "XAmzContentSHA256Mismatch",
    digests.MalformedDigest: "InvalidDigest",
    digests.MalformedChecksum: "InvalidRequest",
    errors.IncompleteBody: "IncompleteBody",
    errors.InvalidPart: "InvalidPart",
    errors.InvalidPartOrder: "InvalidPartOrder",
    errors.PartTooSmall: "EntityTooSmall",
    errors.InvalidSpan: "InvalidRange",
    errors.Unavailable: "ServiceUnavailable",
    errors.Overloaded: "SlowDown",
    errors.DatabaseDown: "ServiceUnavailable",
    errors.OutcomeUnknown: "ServiceUnavailable",
    errors.DeadlineExceeded: "SlowDown",
    errors.StorageFull: "InsufficientStorage",
    errors.BlobMissing: "InternalError",
    errors.BlobCorrupt: "InternalError",
    DiskFailed: "ServiceUnavailable",
    ClientGone: "InternalError",
    errors.NotRunning: "InternalError",
    errors.Misconfigured: "InternalError",
}
"""What each failure of the house is called in S3's words."""


class S3Error(Exception):
    """An answer other than success, ready to be written.

    `fields` are elements of the body beside code and message (`BucketName`, `Region`);
    `headers` go on the response (`Retry-After`).
    """

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, usual = CODES[code]
        self.code = code
        self.message = message or usual
        self.fields: Mapping[str, str] = fields or {}
        self.headers: Mapping[str, str] = headers or {}
        super().__init__(f"{code}: {self.message}")


def translate(error: Exception) -> S3Error:
    """Return how S3 clients see a failure: the entry of its nearest ancestor.

    Of the message only what the raiser wrote about the request goes out. What went wrong inside
    (any 5xx) stays in the log, and so does everything unforeseen.
    """
    if isinstance(error, S3Error):
        return error
    if not isinstance(error, errors.SeawallError):
        return S3Error("InternalError")
    code = next(S3_ERRORS[cls] for cls in type(error).__mro__ if cls in S3_ERRORS)
    if CODES[code][0] >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait_s = getattr(error, "retry_after_s", None)
        return S3Error(code, headers=None if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))})
    written = str(error)
    usual = (type(error).__doc__ or "").strip()
    return S3Error(code, "" if written == usual else written)


def respond_error(exchange: Exchange, error: S3Error) -> None:
    """Answer a request with an error, as S3 does."""
    exchange.error = error.code
    headers = [("x-amz-request-id", exchange.request_id), *error.headers.items()]
    if error.status == HTTPStatus.NOT_MODIFIED:
        exchange.respond(error.status, headers)
        return
    headers = [("Content-Type", "application/xml"), *headers]
    body = error_xml(error, exchange.path, exchange.request_id)
    if exchange.method == "HEAD":
        exchange.respond_head(error.status, headers, content_length=len(body))
    else:
        exchange.respond(error.status, headers, body)


def error_xml(error: S3Error, resource: str, request_id: str) -> bytes:
    """Return the body of the answer, as S3 writes it."""
    fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in error.fields.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>{fields}"
        f"<Resource>{escape(resource)}</Resource><RequestId>{escape(request_id)}</RequestId></Error>"
    ).encode()


def escape(text: str) -> str:
    """Return `text` as XML character data.

    Keys may hold characters that XML 1.0 cannot express at all. They leave as numeric references,
    as S3 writes them, although strict parsers refuse those: that is what `encoding-type=url` is
    for. A carriage return needs one too, or parsers read it as a line feed.

    >>> escape("a<b>\\x01")
    'a&lt;b&gt;&#x1;'
    """
    return _UNSAFE.sub(_reference, text) if _UNSAFE.search(text) else text


_UNSAFE = re.compile('[&<>"\\x00-\\x1f\ud800-\udfff\ufffe\uffff]')
_NAMED: Final[Mapping[str, str]] = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def _reference(found: re.Match[str]) -> str:
    character = found.group()
    return _NAMED.get(character) or f"&#x{ord(character):x};"
