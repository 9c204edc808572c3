"""Who signed this request, by Signature Version 4.

The work has two steps, so that the secret can be fetched between them: `parse` reads what the
request claims, `verify` believes it or refuses. Nothing here waits or reads a clock.

Header text is bytes as they came over the wire, decoded as Latin-1: what was signed is what was sent.
Where the documentation leaves a choice:

- A path is decoded and encoded again segment by segment, so that `%2F` inside a segment stays
  `%2F`; dots and double slashes are never folded away.
- A `+` in a query means a space, as S3's own parser has it, and is signed as `%20`.
- A header that was signed and did not arrive is refused, not taken for an empty one.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)", with its pages
"Signature calculations for the authorization header" and "Authenticating requests: using query
parameters".
"""

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from seawall.s3.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

SKEW_S_MAX = 15 * 60
"""How far a client's clock may be from ours; S3 allows the same."""

EXPIRES_S_MAX = 7 * 24 * 3600
"""A presigned URL lives a week at most, since its signing key does."""

ACCESS_KEY_LENGTH_MAX = 128
# An access key, and a date, region and service that we know; and a timestamp with room for white space.
CREDENTIAL_LENGTH_MAX = 256
TIMESTAMP_LENGTH_MAX = 32
"""IAM's limit on the length of an access key id."""


class Claim(NamedTuple):
    """What a request says about who sent it: read, not yet believed."""

    form: Literal["header", "presigned"]
    access_key: str
    date: str
    region: str
    scope: str
    timestamp: str
    signed_at_s: float
    expires_s: int
    payload: str
    signature: str
    canonical_request: str


class SigningKey:
    """A secret narrowed to one day and region.

    It is kept as the two half-finished hashes of HMAC, which makes a signature out of it nearly
    three times as fast as `hmac.digest`. State: none that changes.

    Source: RFC 2104, section 4, on storing the intermediate results.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: str, *, date: str, region: str) -> None:
        key = f"AWS4{secret}".encode()
        for part in (date, region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def sign(self, text: str) -> str:
        """Return the signature of `text`, in hexadecimal."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class Signed(NamedTuple):
    """A request whose signature holds, and what its chunks will be checked against.

    `payload` is what the client promised about the body: a SHA-256 in hexadecimal, or one of the
    words `UNSIGNED-PAYLOAD` and `STREAMING-…`.
    """

    form: Literal["header", "presigned"]
    access_key: str
    payload: str
    signature: str
    scope: str
    timestamp: str
    key: SigningKey


class SigningKeys:
    """Remembers the signing keys of those who signed lately. State: at most `limit` keys.

    The least recently used goes first. Only keys whose signature held are remembered, so nobody
    can push others out without a secret.
    """

    def __init__(self, *, limit: int = 4096) -> None:
        self.limit = limit
        self._keys: OrderedDict[tuple[str, str, str], SigningKey] = OrderedDict()

    def __repr__(self) -> str:
        return f"SigningKeys({len(self._keys)} of {self.limit})"

    def get(self, name: tuple[str, str, str]) -> SigningKey | None:
        """Return the key of a secret, date and region, if it is known."""
        key = self._keys.get(name)
        if key is not None:
            self._keys.move_to_end(name)
        return key

    def remember(self, name: tuple[str, str, str], key: SigningKey) -> None:
        """Keep a key for the next request."""
        self._keys[name] = key
        if len(self._keys) > self.limit:
            self._keys.popitem(last=False)


def parse(
    *, method: str, raw_path: str, raw_query: str, headers: Mapping[str, str], region: str | None = None
) -> Claim | None:
    """Read the claim of a request; None when it makes none, which means anonymous.

    Args:
        method: as sent.
        raw_path: percent-encoded, as it came, without the query.
        raw_query: as it came, without the question mark.
        headers: by lower-case name; values of a repeated one joined by commas.
        region: the only one to accept; None accepts any.

    Raises:
        S3Error: the claim is malformed, or leaves something unsigned that must be signed.
    """
    authorization = headers.get("authorization")
    pairs = _query_pairs(raw_query) if raw_query else []
    query = {name: value for name, _, value in pairs}

    if "X-Amz-Algorithm" in query:
        if authorization is not None:
            raise S3Error(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, "
                "Signature query string parameter or the Authorization header should be specified",
                fields={"ArgumentName": "Authorization"},
            )
        if len(query) != len(pairs):
            _refuse_repeated([name for name, _, _ in pairs])
        return _parse_presigned(
            method=method, raw_path=raw_path, query=query, pairs=pairs, headers=headers, region=region
        )
    if authorization is not None:
        return _parse_header(
            method=method, raw_path=raw_path, authorization=authorization, pairs=pairs, headers=headers, region=region
        )
    if query:
        _refuse_half_signed(query)
    return None


def verify(claim: Claim, *, secret: str, now_s: float, keys: SigningKeys) -> Signed:
    """Believe a claim, or refuse it.

    Raises:
        S3Error: `SignatureDoesNotMatch`, `RequestTimeTooSkewed`, or `AccessDenied` for a presigned
            URL before or after its time.
    """
    form, access_key, date, region, scope, timestamp, signed_at_s, expires_s, payload, given, canonical = claim
    age_s = now_s - signed_at_s
    if age_s < -SKEW_S_MAX or age_s > expires_s:
        raise _untimely(claim, now_s)

    name = (secret, date, region)
    known = keys.get(name)
    key = known or SigningKey(secret, date=date, region=region)
    digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
    text = f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
    if not hmac.compare_digest(key.sign(text), given):
        raise S3Error(
            "SignatureDoesNotMatch",
            fields={
                "AWSAccessKeyId": access_key,
                "StringToSign": text,
                "SignatureProvided": given,
                "CanonicalRequest": canonical,
            },
        )
    if known is None:
        keys.remember(name, key)
    return Signed(form, access_key, payload, given, scope, timestamp, key)


def canonical_path(raw_path: str) -> str:
    """Return a path as it is signed: each byte of each segment encoded, or not, in the one right way.

    >>> canonical_path("/photos/a+b//../c%2fd ~%7E")
    '/photos/a%2Bb//../c%2Fd%20~~'
    """
    if _CANONICAL_PATH.fullmatch(raw_path):
        return raw_path
    return "/".join(_encoded(segment) for segment in raw_path.split("/"))


# Every byte but the unreserved ones is encoded, in capitals. What these do not match is not wrong: it is encoded
# again, slowly.
_PLAIN = "[A-Za-z0-9_.~-]"
_ESCAPE = "%(?:2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF]|[0189A-F][0-9A-F])"
_TEXT = f"{_PLAIN}*+(?:{_ESCAPE}{_PLAIN}*+)*+"
_PAIR = f"{_PLAIN}{_TEXT}(?:={_TEXT})?"
_CANONICAL_PATH = re.compile(f"(?:/{_TEXT})++")
_CANONICAL_QUERY = re.compile(f"{_PAIR}(?:&{_PAIR})*+")
_SPACES = re.compile("[ \t]+")
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_TIMESTAMP = re.compile("[0-9]{8}T[0-9]{6}Z")
_PAYLOAD_WORDS = frozenset(
    {
        UNSIGNED_PAYLOAD,
        STREAMING_SIGNED,
        STREAMING_SIGNED_TRAILER,
        STREAMING_UNSIGNED_TRAILER,
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
    }
)


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.encode()), safe="")


def _query_pairs(raw_query: str) -> list[tuple[str, str, str]]:
    """Return (name, "=" or "", value), encoded and in the order they are signed in.

    >>> _query_pairs("uploads&prefix=a+b/c")
    [('prefix', '=', 'a%20b%2Fc'), ('uploads', '', '')]
    """
    if _CANONICAL_QUERY.fullmatch(raw_query):
        pairs = [part.partition("=") for part in raw_query.split("&")]
    else:
        parts = [part.partition("=") for part in raw_query.replace("+", "%20").split("&") if part]
        pairs = [(_encoded(name), equals, _encoded(value)) for name, equals, value in parts]
    pairs.sort()
    return pairs


def _parse_presigned(
    *,
    method: str,
    raw_path: str,
    query: Mapping[str, str],
    pairs: list[tuple[str, str, str]],
    headers: Mapping[str, str],
    region: str | None,
) -> Claim:
    try:
        algorithm = query["X-Amz-Algorithm"]
        credential = query["X-Amz-Credential"].replace("%2F", "/")
        timestamp = query["X-Amz-Date"]
        lifetime = query["X-Amz-Expires"]
        signed_headers = query["X-Amz-SignedHeaders"].replace("%3B", ";")
        signature = query["X-Amz-Signature"]
    except KeyError:
        raise S3Error(
            "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
            "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        ) from None
    if algorithm != ALGORITHM:
        raise _bad_algorithm()
    if "%" in credential:
        credential = unquote(credential)
    access_key, date, stated_region, scope = _read_credential(credential, "presigned", region)

    expires_s = _read_expires(lifetime)
    signed_at_s = _read_timestamp(timestamp)
    if signed_at_s is None:
        raise S3Error(
            "AuthorizationQueryParametersError",
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
        )
    if timestamp[:8] != date:
        raise _malformed(
            "presigned", f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{timestamp}".'
        )

    payload = query.get("X-Amz-Content-SHA256") or headers.get("x-amz-content-sha256") or UNSIGNED_PAYLOAD
    if payload != UNSIGNED_PAYLOAD:
        _check_payload(payload)
    canonical_headers = _canonical_headers("presigned", signed_headers, headers)
    path = canonical_path(raw_path)
    signed_query = "&".join([f"{name}={value}" for name, _, value in pairs if name != "X-Amz-Signature"])
    canonical = f"{method}\n{path}\n{signed_query}\n{canonical_headers}\n{signed_headers}\n{payload}"
    return Claim(
        "presigned",
        access_key,
        date,
        stated_region,
        scope,
        timestamp,
        signed_at_s,
        expires_s,
        payload,
        signature,
        canonical,
    )


def _parse_header(
    *,
    method: str,
    raw_path: str,
    authorization: str,
    pairs: list[tuple[str, str, str]],
    headers: Mapping[str, str],
    region: str | None,
) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise _bad_authorization(algorithm)
    parts = rest.split(",")
    stated = {name: value for name, _, value in [part.strip(" \t").partition("=") for part in parts]}
    try:
        credential, signed_headers, signature = stated["Credential"], stated["SignedHeaders"], stated["Signature"]
    except KeyError:
        raise _malformed("header", "Credential, SignedHeaders and Signature are required.") from None
    if len(parts) != 3:
        raise _malformed("header", "it must hold Credential, SignedHeaders and Signature, once each.")
    access_key, date, stated_region, scope = _read_credential(credential, "header", region)

    timestamp, signed_at_s = _read_date_headers(headers)
    if timestamp[:8] != date:
        raise _malformed(
            "header", f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{timestamp}".'
        )
    if not signature.isascii():
        raise S3Error("SignatureDoesNotMatch")

    payload = headers.get("x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    _check_payload(payload)
    canonical_headers = _canonical_headers("header", signed_headers, headers)
    path = canonical_path(raw_path)
    query = "&".join([f"{name}={value}" for name, _, value in pairs]) if pairs else ""
    canonical = f"{method}\n{path}\n{query}\n{canonical_headers}\n{signed_headers}\n{payload}"
    return Claim(
        "header",
        access_key,
        date,
        stated_region,
        scope,
        timestamp,
        signed_at_s,
        SKEW_S_MAX,
        payload,
        signature,
        canonical,
    )


def _read_credential(
    credential: str, form: Literal["header", "presigned"], region: str | None
) -> tuple[str, str, str, str]:
    """Return the access key, date, region and scope."""
    # Before anything is remembered of it: whoever sent it proved nothing yet.
    if len(credential) > CREDENTIAL_LENGTH_MAX:
        raise S3Error("InvalidAccessKeyId")
    return _split_credential(credential, form, region)


# The same client signs thousands of requests with the same credential and, on a link, at the same time.
@lru_cache(maxsize=4096)
def _split_credential(
    credential: str, form: Literal["header", "presigned"], region: str | None
) -> tuple[str, str, str, str]:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5:
        raise _malformed(
            form, 'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".'
        )
    access_key, date, stated_region, service, terminator = parts
    if service != "s3":
        raise _malformed(form, f'incorrect service "{service}". This endpoint belongs to "s3".')
    if terminator != "aws4_request":
        raise _malformed(form, f'incorrect terminal "{terminator}". This endpoint uses "aws4_request".')
    if not stated_region or (region is not None and stated_region != region):
        raise _malformed(
            form,
            f"the region '{stated_region}' is wrong; expecting '{region or 'us-east-1'}'",
            fields={"Region": region or "us-east-1"},
        )
    if not 0 < len(access_key) <= ACCESS_KEY_LENGTH_MAX or not access_key.isascii() or not access_key.isprintable():
        raise S3Error("InvalidAccessKeyId")
    return access_key, date, stated_region, f"{date}/{stated_region}/s3/aws4_request"


def _read_timestamp(text: str) -> float | None:
    return _seconds_of(text) if len(text) <= TIMESTAMP_LENGTH_MAX else None


@lru_cache(maxsize=4096)
def _seconds_of(text: str) -> float | None:
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _read_date_headers(headers: Mapping[str, str]) -> tuple[str, float]:
    """Return the time of signing, in the form it was signed in and in seconds."""
    timestamp = headers.get("x-amz-date")
    if timestamp is None:
        timestamp = headers.get("date", "")
        if timestamp and not timestamp[0].isdecimal():
            try:
                moment = parsedate_to_datetime(timestamp)
                zone = moment.tzinfo or UTC
                timestamp = moment.replace(tzinfo=zone).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
            except (ValueError, OverflowError):
                timestamp = ""
    signed_at_s = _read_timestamp(timestamp)
    if signed_at_s is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    return timestamp, signed_at_s


@lru_cache(maxsize=256)
def _read_expires(text: str) -> int:
    if not text.isdecimal():
        negative = text.startswith("-") and text[1:].isdecimal()
        problem = "must be non-negative" if negative else "should be a number"
        raise S3Error("AuthorizationQueryParametersError", f"X-Amz-Expires {problem}")
    # Length before value: Python refuses to read very long numbers.
    if len(text) > 10 or int(text) > EXPIRES_S_MAX:
        raise S3Error(
            "AuthorizationQueryParametersError",
            f"X-Amz-Expires must be less than a week (in seconds) that is {EXPIRES_S_MAX}",
        )
    return int(text)


def _check_payload(payload: str) -> None:
    if payload not in _PAYLOAD_WORDS and not _SHA256.fullmatch(payload):
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
            fields={"ArgumentName": "x-amz-content-sha256", "ArgumentValue": payload},
        )


def _canonical_headers(form: Literal["header", "presigned"], signed_headers: str, headers: Mapping[str, str]) -> str:
    """Return the lines of the signed headers, having made sure that nothing escapes signing."""
    names = signed_headers.split(";")
    if "host" not in names:
        raise _malformed(form, "SignedHeaders must contain host.")
    # A presigned URL takes x-amz-content-sha256 into its signature as the last line.
    unsigned = [name for name in headers if name[:6] == "x-amz-" and name not in names]
    if unsigned and not (form == "presigned" and unsigned == ["x-amz-content-sha256"]):
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            fields={"HeadersNotSigned": ", ".join(unsigned)},
        )
    lines = []
    for name in names:
        value = headers.get(name)
        if value is None:
            raise S3Error("SignatureDoesNotMatch", fields={"HeadersMissing": name})
        value = value.strip(" \t")
        if "  " in value or "\t" in value:
            value = _SPACES.sub(" ", value)
        lines.append(f"{name}:{value}\n")
    return "".join(lines)


def _refuse_repeated(names: list[str]) -> None:
    repeated = next((name for name in names if name.startswith("X-Amz-") and names.count(name) > 1), None)
    if repeated is not None:
        raise S3Error("AuthorizationQueryParametersError", f"{repeated} must be given once.")


def _refuse_half_signed(query: Mapping[str, str]) -> None:
    """Refuse what is meant to be signed, but is not in a way we know, rather than serve it as anonymous."""
    if "X-Amz-Signature" in query or "X-Amz-Credential" in query:
        raise _bad_algorithm()
    if "AWSAccessKeyId" in query and "Signature" in query:
        raise _bad_authorization("AWS")


def _bad_algorithm() -> S3Error:
    return S3Error("AuthorizationQueryParametersError", f'X-Amz-Algorithm only supports "{ALGORITHM}"')


def _bad_authorization(scheme: str) -> S3Error:
    if scheme.startswith("AWS"):
        return S3Error(
            "InvalidRequest",
            f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}.",
        )
    return S3Error("InvalidArgument", "Unsupported Authorization Type", fields={"ArgumentName": "Authorization"})


def _malformed(
    form: Literal["header", "presigned"], detail: str, *, fields: Mapping[str, str] | None = None
) -> S3Error:
    if form == "header":
        return S3Error(
            "AuthorizationHeaderMalformed", f"The authorization header is malformed; {detail}", fields=fields
        )
    return S3Error(
        "AuthorizationQueryParametersError", f"Error parsing the X-Amz-Credential parameter; {detail}", fields=fields
    )


def _untimely(claim: Claim, now_s: float) -> S3Error:
    server_time = _written(now_s)
    if claim.form == "header":
        return S3Error(
            "RequestTimeTooSkewed",
            fields={
                "RequestTime": claim.timestamp,
                "ServerTime": server_time,
                "MaxAllowedSkewMilliseconds": str(SKEW_S_MAX * 1000),
            },
        )
    if claim.signed_at_s > now_s:
        return S3Error("AccessDenied", "Request is not valid yet", fields={"ServerTime": server_time})
    return S3Error(
        "AccessDenied",
        "Request has expired",
        fields={
            "X-Amz-Expires": str(claim.expires_s),
            "Expires": _written(claim.signed_at_s + claim.expires_s),
            "ServerTime": server_time,
        },
    )


def _written(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
