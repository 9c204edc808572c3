"""Bad input through the real door: a clear answer, nothing stored, nothing leaked, and never our fault.

Each case has a name. What is sent is sent byte for byte; what may be refused by the HTTP layer
already is sent as bytes.
"""

import base64
import gzip
import hashlib
import json
import re
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote

import pytest
from mypy_boto3_s3 import S3Client
from tests.service.kit import KIB, MIB, Keys, RunningService, budgeted, keys_in, wait_until
from tests.service.signing import (
    Answer,
    Request,
    chunk_signed,
    chunk_signed_with_trailer,
    crc32,
    head_of,
    md5,
    presigned,
    send,
    send_bytes,
    signed,
    signed_without_body,
    unsigned_trailer,
)

from seawall.objects.digests import LENGTH_BYTES, new_hasher
from seawall.s3.operations import OPERATIONS, SUBRESOURCES

BODY = b"a body that must not be stored" * 5000


class Door:
    """The S3 door, through which whatever is asked gets an answer one can work with."""

    def __init__(self, service: RunningService, bucket: str) -> None:
        self.service = service
        self.bucket = bucket
        self.keys = service.root

    def ask(self, request: Request) -> Answer:
        """Send a request that is signed already, or not at all."""
        return self.checked(request, send(self.service.address, request))

    def ask_signed(self, method: str, key: str = "", query: str = "", body: bytes = b"", **headers: str) -> Answer:
        """Sign and send a request about a key, which is a part of the path as it goes over the wire."""
        path = f"/{self.bucket}/{key}" if key else f"/{self.bucket}"
        return self.ask(
            signed(Request(method=method, path=path, query=query, body=body).with_headers(**headers), self.keys)
        )

    def checked(self, request: Request, answer: Answer) -> Answer:
        """Make sure of what holds for every answer."""
        assert answer.status < 500 or answer.status == 501, f"{request}: {answer}"
        assert len(answer.headers["x-amz-request-id"]) == 16
        if answer.status >= 400 and request.method != "HEAD":
            assert answer.headers["content-type"] == "application/xml"
            assert answer.headers["x-amz-request-id"].encode() in answer.body
            assert answer.code
        return answer


@pytest.fixture
def door(service: RunningService, bucket: str) -> Door:
    return Door(service, bucket)


@pytest.fixture
def untouched(door: Door, s3: S3Client) -> Iterator[Door]:
    """A bucket with one object, which is all there is after the test, too."""
    s3.put_object(Bucket=door.bucket, Key="there", Body=b"before")
    before = keys_in(s3, door.bucket)
    yield door
    assert keys_in(s3, door.bucket) == before
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=door.bucket)


# Keys.

STRANGE_KEYS: Final[Mapping[str, str]] = {
    "an encoded slash": "a%2Fb",
    "dots": "..",
    "a way out": "../../../../etc/passwd",
    "an encoded way out": "%2e%2e%2f%2e%2e%2fetc",
    "one dot": "./a/./b",
    "slashes only": "//",
    "slashes at the start": "/a//b",
    "a slash at the end": "folder/",
    "a backslash": "a%5Cb%5C..%5Cc",
    "a space and a plus": "a%20b%2Bc",
    "a plus as it is": "a+b",
    "an encoded percent": "100%25%2F",
    "a line break": "a%0D%0AX-Injected%3A%20yes",
    "control characters": "%01%02%1F%7F",
    "markup": "%3Cscript%3E%26quot%3B%22'",
    "a question mark": "a%3Fb%23c",
    "beyond the plane": quote("😀/日本語/é"),
    "half an emoji's neighbours": quote("\ud7ff\ue000\uffff\U0010ffff"),
    "as long as can be": "k" * 1024,
    "as long as can be in two bytes": quote("é" * 512),
    "what looks like a query": "a%26uploads%3D",
}

BAD_KEYS: Final[Mapping[str, tuple[str, str]]] = {
    "a NUL": ("a%00b", "InvalidArgument"),
    "one byte too many": ("k" * 1025, "KeyTooLongError"),
    "one character too many": (quote("é" * 513), "KeyTooLongError"),
    "far too long": ("k" * 8000, "KeyTooLongError"),
    "no UTF-8": ("a%FFb", "InvalidURI"),
    "an overlong slash": ("a%C0%AFb", "InvalidURI"),
    "half an emoji": ("%ED%A0%BD", "InvalidURI"),
}


@pytest.mark.parametrize("name", STRANGE_KEYS)
def test_a_strange_key_is_a_key_like_any_other(door: Door, s3: S3Client, name: str) -> None:
    path = STRANGE_KEYS[name]
    key = unquote(path)

    put = door.ask_signed("PUT", path, body=b"strange")
    got = door.ask_signed("GET", path)
    listed = door.ask_signed("GET", query="encoding-type=url&list-type=2")
    gone = door.ask_signed("DELETE", path)

    assert (put.status, got.status, gone.status) == (200, 200, 204)
    assert got.body == b"strange"
    assert "x-injected" not in got.headers
    assert f"<Key>{quote(key, safe='/-_.~*')}</Key>".encode() in listed.body
    assert keys_in(s3, door.bucket) == {}


@pytest.mark.parametrize("name", BAD_KEYS)
@pytest.mark.parametrize(
    ("method", "query"),
    [("PUT", ""), ("GET", ""), ("HEAD", ""), ("DELETE", ""), ("POST", "uploads="), ("GET", "attributes=")],
)
def test_what_cannot_be_a_key_is_refused(untouched: Door, name: str, method: str, query: str) -> None:
    path, code = BAD_KEYS[name]

    answer = untouched.ask_signed(method, path, query, body=BODY if method == "PUT" else b"")

    assert answer.status == 400
    assert answer.code == ("" if method == "HEAD" else code)


@pytest.mark.parametrize("name", BAD_KEYS)
def test_what_cannot_be_a_key_is_neither_copied_to_nor_deleted_with_others(untouched: Door, name: str) -> None:
    path, _ = BAD_KEYS[name]
    source = f"/{untouched.bucket}/there"

    to = untouched.ask_signed("PUT", path, x_amz_copy_source=source)
    out_of = untouched.ask_signed("PUT", "copy", x_amz_copy_source=f"/{untouched.bucket}/{path}"[:4000])

    assert to.status == 400
    assert out_of.status in {400, 404}


@pytest.mark.parametrize(
    "name",
    ["a", "a%00b", "%FF", "Upper", "under_score", "..", "a..b", "192.168.0.1", "-a-", "x" * 64, "x" * 3000, "%2F", "é"],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_what_cannot_be_a_bucket_is_refused(door: Door, s3: S3Client, name: str, method: str) -> None:
    before = len(s3.list_buckets()["Buckets"])

    answer = door.ask(signed(Request(method=method, path=f"/{quote(name, safe='%')}"), door.keys))

    assert answer.status in ({400} if method == "PUT" else {400, 404})
    assert len(s3.list_buckets()["Buckets"]) == before


# Bodies that are not what was announced.


def put(**headers: str) -> Request:
    return Request(method="PUT", path="", body=BODY).with_headers(**headers)


def checksum(algorithm: str, body: bytes) -> str:
    hasher = new_hasher(algorithm)
    hasher.update(body)
    return base64.b64encode(hasher.digest()).decode()


def wrong_checksums() -> dict[str, tuple[Request, str]]:
    cases = {}
    for algorithm, length in LENGTH_BYTES.items():
        header = f"x-amz-checksum-{algorithm.lower()}"
        short = base64.b64encode(b"x" * (length - 1)).decode()
        cases[f"{header} of another body"] = (put(**{header: checksum(algorithm, b"other")}), "BadDigest")
        cases[f"{header} too short"] = (put(**{header: short}), "InvalidRequest")
        cases[f"{header} that is no base64"] = (put(**{header: "!" * 8}), "InvalidRequest")
    return cases


BAD_PUTS: Final[Mapping[str, tuple[Request, str]]] = {
    **wrong_checksums(),
    "Content-MD5 of another body": (put(content_md5=md5(b"other")), "BadDigest"),
    "Content-MD5 in hexadecimal": (put(content_md5=hashlib.md5(BODY).hexdigest()), "InvalidDigest"),
    "Content-MD5 of nothing": (put(content_md5=""), "InvalidDigest"),
    "two checksums": (
        put(x_amz_checksum_crc32=crc32(BODY), x_amz_checksum_sha1=checksum("SHA1", BODY)), "InvalidRequest",
    ),
    "a checksum nobody knows": (put(x_amz_sdk_checksum_algorithm="CRC16"), "InvalidRequest"),
    "metadata of more than 2 KiB": (put(x_amz_meta_a="v" * 2048), "MetadataTooLarge"),
    "metadata of more than 2 KiB together": (
        put(**{f"x-amz-meta-{number:02d}": "v" * 99 for number in range(21)}), "MetadataTooLarge",
    ),
    "encryption": (put(x_amz_server_side_encryption="aws:kms"), "NotImplemented"),
    "a customer's key": (put(x_amz_server_side_encryption_customer_algorithm="AES256"), "NotImplemented"),
    "tags": (put(x_amz_tagging="a=b"), "NotImplemented"),
    "a public object": (put(x_amz_acl="public-read"), "NotImplemented"),
    "a grant": (put(x_amz_grant_read='uri="http://acs.amazonaws.com/groups/global/AllUsers"'), "NotImplemented"),
    "a lock": (put(x_amz_object_lock_mode="COMPLIANCE"), "NotImplemented"),
    "an archive": (put(x_amz_storage_class="GLACIER"), "NotImplemented"),
    "a redirection": (put(x_amz_website_redirect_location="https://evil.example"), "NotImplemented"),
    "a condition nobody knows": (put(If_None_Match='"etag"'), "NotImplemented"),
    "an ETag of what is not there": (put(If_Match='"etag"'), "NoSuchKey"),
    "a bucket of somebody else": (put(x_amz_expected_bucket_owner="somebody"), "AccessDenied"),
    "a copy of nothing": (put(x_amz_copy_source=""), "InvalidArgument"),
    "a copy of a slash": (put(x_amz_copy_source="/"), "InvalidArgument"),
    "a copy of a bucket": (put(x_amz_copy_source="bucket"), "InvalidArgument"),
    "a copy of a bucket with a slash": (put(x_amz_copy_source="bucket/"), "InvalidArgument"),
    "a copy of no UTF-8": (put(x_amz_copy_source="bucket/%FF"), "InvalidArgument"),
    "a copy out of no bucket": (put(x_amz_copy_source="no-such-bucket/key"), "NoSuchBucket"),
    "a copy of a bucket with a NUL": (put(x_amz_copy_source="a%00b/key"), "InvalidArgument"),
    "a copy of a key with a NUL": (put(x_amz_copy_source="bucket/a%00b"), "InvalidArgument"),
    "a copy of an old version": (put(x_amz_copy_source="bucket/key?versionId=abc"), "NotImplemented"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PUTS)
def test_a_bad_write_is_refused_and_nothing_is_stored(untouched: Door, name: str) -> None:
    draft, code = BAD_PUTS[name]
    request = replace(draft, path=f"/{untouched.bucket}/bad")

    answer = untouched.ask(signed(request, untouched.keys))

    assert answer.code == code, answer
    assert 400 <= answer.status < 500 or code == "NotImplemented"


@pytest.mark.parametrize("size", [10, 100 * KIB, 3 * MIB])
def test_a_body_that_is_not_what_was_signed_is_not_stored(untouched: Door, size: int) -> None:
    request = Request(method="PUT", path=f"/{untouched.bucket}/bad", body=b"a" * size)

    altered = untouched.ask(replace(signed(request, untouched.keys), body=b"b" * size))
    claimed = untouched.ask(signed(request, untouched.keys, payload=hashlib.sha256(b"other").hexdigest()))
    nonsense = untouched.ask(signed(request, untouched.keys, payload="nonsense"))

    assert (altered.status, altered.code) == (400, "XAmzContentSHA256Mismatch")
    assert (claimed.status, claimed.code) == (400, "XAmzContentSHA256Mismatch")
    assert (nonsense.status, nonsense.code) == (400, "InvalidArgument")


@pytest.mark.parametrize("size", [10, 100 * KIB, 3 * MIB])
@pytest.mark.parametrize("sent", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("sign", [signed_without_body, chunk_signed, chunk_signed_with_trailer, unsigned_trailer])
def test_a_body_that_ends_too_early_is_not_stored(
    untouched: Door, sign: Callable[[Request, Keys], Request], size: int, sent: float
) -> None:
    request = sign(Request(method="PUT", path=f"/{untouched.bucket}/bad", body=b"a" * size), untouched.keys)
    head = head_of(request.with_headers(Content_Length=str(len(request.body))))
    part = request.body[: int(len(request.body) * sent)]

    answer = send_bytes(untouched.service.address, head + part, method="PUT", end=True)

    assert untouched.checked(request, answer).code == "IncompleteBody"
    assert answer.status == 400


def test_a_client_that_goes_away_in_the_middle_of_a_body_leaves_nothing(untouched: Door) -> None:
    body = b"a" * (3 * MIB)
    request = signed(Request(method="PUT", path=f"/{untouched.bucket}/bad", body=body), untouched.keys)
    head = head_of(request.with_headers(Content_Length=str(len(body))))

    for sent in (0, 1, MIB, len(body) - 1):
        with socket.create_connection(untouched.service.address) as connection:
            connection.sendall(head + body[:sent])
            # Closing with a reset, as a crash does.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert untouched.ask_signed("HEAD", "bad").status == 404


def test_a_body_without_a_length_is_refused(untouched: Door) -> None:
    request = signed_without_body(Request(method="PUT", path=f"/{untouched.bucket}/bad"), untouched.keys)
    chunked = request.with_headers(Transfer_Encoding="chunked")

    without = send_bytes(untouched.service.address, head_of(request), method="PUT")
    in_chunks = send_bytes(untouched.service.address, head_of(chunked) + b"3\r\nbad\r\n0\r\n\r\n", method="PUT")

    for answer in (without, in_chunks):
        assert untouched.checked(request, answer).status == 411
        assert answer.code == "MissingContentLength"


@pytest.mark.parametrize(
    ("length", "code"),
    [(5 * 1024**3 + 1, "EntityTooLarge"), (10**17, "EntityTooLarge")],
)
def test_a_body_that_is_too_long_is_refused_before_it_is_sent(untouched: Door, length: int, code: str) -> None:
    request = signed_without_body(Request(method="PUT", path=f"/{untouched.bucket}/bad"), untouched.keys)
    head = head_of(request.with_headers(Content_Length=str(length), Expect="100-continue"))

    answer = send_bytes(untouched.service.address, head, method="PUT")

    assert untouched.checked(request, answer).code == code
    assert answer.status == 400


# Bodies in chunks.

Tampering = Callable[[bytes], bytes]


def swapped(body: bytes) -> bytes:
    """Change the order of the first two chunks, which are equally long."""
    chunk = body.index(b"\r\n") + 2 + 64 * KIB + 2
    return body[chunk : 2 * chunk] + body[:chunk] + body[2 * chunk :]


SIGNED_TAMPERING: Final[Mapping[str, tuple[Tampering, set[str]]]] = {
    "a byte of a chunk": (lambda body: body.replace(b"must", b"MUST", 1), {"SignatureDoesNotMatch"}),
    "a byte of the last chunk": (lambda body: b"MUST".join(body.rsplit(b"must", 1)), {"SignatureDoesNotMatch"}),
    "a chunk's signature": (
        lambda body: body.replace(b"chunk-signature=", b"chunk-signature=0", 1), {"InvalidRequest"},
    ),
    "every signature": (
        lambda body: re.sub(rb"(?<=chunk-signature=)[0-9a-f]{64}", b"0" * 64, body),
        {"SignatureDoesNotMatch"},
    ),
    "the order of chunks": (swapped, {"SignatureDoesNotMatch"}),
    "a chunk's size, too small": (lambda body: body.replace(b"10000;", b"ffff;", 1), {"SignatureDoesNotMatch"}),
    "a chunk's size, too large": (
        lambda body: body.replace(b"10000;", b"10001;", 1), {"SignatureDoesNotMatch", "InvalidRequest"},
    ),
    "a chunk's size, far too large": (lambda body: body.replace(b"10000;", b"ffffffff;", 1), {"InvalidRequest"}),
    "a chunk's size, negative": (lambda body: body.replace(b"10000;", b"-1;", 1), {"InvalidRequest"}),
    "no signature": (
        lambda body: body.replace(body[body.index(b";") : body.index(b"\r\n")], b"", 1), {"InvalidRequest"},
    ),
    "no last chunk": (lambda body: body[: body.rindex(b"0;chunk")], {"IncompleteBody"}),
    "a chunk after the last": (lambda body: body + b"0\r\n\r\n", {"InvalidRequest", "MalformedTrailerError"}),
    "a line without an end": (lambda body: b"a" * 5000 + body, {"InvalidRequest"}),
    "bare line feeds": (lambda body: body.replace(b"\r\n", b"\n"), {"InvalidRequest"}),
}  # fmt: skip

TRAILER_TAMPERING: Final[Mapping[str, tuple[Tampering, set[str]]]] = {
    "the trailer's value": (
        lambda body: body.replace(f"crc32:{crc32(BODY)}".encode(), b"crc32:AAAAAA=="),
        {"BadDigest", "SignatureDoesNotMatch"},
    ),
    "the trailer's name": (lambda body: body.replace(b"checksum-crc32:", b"checksum-sha1:"), {"MalformedTrailerError"}),
    "no trailer": (
        lambda body: body.replace(f"x-amz-checksum-crc32:{crc32(BODY)}\r\n".encode(), b""), {"MalformedTrailerError"},
    ),
    "a trailer nobody announced": (
        lambda body: body.replace(b"x-amz-checksum-crc32:", b"x-amz-meta-a:b\r\nx-amz-checksum-crc32:"),
        {"MalformedTrailerError"},
    ),
    "a trailer without an end": (lambda body: body.removesuffix(b"\r\n"), {"IncompleteBody"}),
    "a trailer far too long": (
        lambda body: body.replace(b"x-amz-checksum-crc32:", b"x-amz-checksum-crc32:" + b" " * 9000),
        {"MalformedTrailerError", "InvalidRequest"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("sign", [chunk_signed, chunk_signed_with_trailer])
@pytest.mark.parametrize("name", SIGNED_TAMPERING)
def test_what_was_changed_in_a_signed_chunk_is_not_stored(
    untouched: Door, sign: Callable[[Request, Keys], Request], name: str
) -> None:
    tamper, codes = SIGNED_TAMPERING[name]
    request = sign(Request(method="PUT", path=f"/{untouched.bucket}/bad", body=BODY), untouched.keys)
    altered = replace(request, body=tamper(request.body))

    answer = untouched.ask(altered)

    assert altered.body != request.body
    assert 400 <= answer.status < 500
    assert answer.code in codes | ({"MalformedTrailerError"} if sign is chunk_signed_with_trailer else set())


@pytest.mark.parametrize("sign", [unsigned_trailer, chunk_signed_with_trailer])
@pytest.mark.parametrize("name", TRAILER_TAMPERING)
def test_what_was_changed_in_a_trailer_is_noticed_and_nothing_is_stored(
    untouched: Door, sign: Callable[[Request, Keys], Request], name: str
) -> None:
    tamper, codes = TRAILER_TAMPERING[name]
    request = sign(Request(method="PUT", path=f"/{untouched.bucket}/bad", body=BODY), untouched.keys)
    altered = replace(request, body=tamper(request.body))

    answer = untouched.ask(altered)

    assert altered.body != request.body
    assert 400 <= answer.status < 500
    assert answer.code in codes


@pytest.mark.parametrize("said", ["0", "1", str(len(BODY) - 1), str(len(BODY) + 1), "-1", "many", "9" * 30])
def test_chunks_of_another_length_than_announced_are_not_stored(untouched: Door, said: str) -> None:
    request = unsigned_trailer(Request(method="PUT", path=f"/{untouched.bucket}/bad", body=BODY), untouched.keys)
    payload = request.headers["x-amz-content-sha256"]
    headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
    headers["x-amz-decoded-content-length"] = said

    answer = untouched.ask(signed(replace(request, headers=headers), untouched.keys, payload=payload))

    assert answer.status == 400
    assert answer.code in {"InvalidRequest", "IncompleteBody", "InvalidArgument"}


def test_a_compressed_body_is_kept_as_it_is(door: Door) -> None:
    bomb = gzip.compress(bytes(20 * MIB))

    stored = door.ask_signed("PUT", "bomb", body=bomb, Content_Encoding="gzip")
    found = door.ask_signed("GET", "bomb", Accept_Encoding="identity")
    zipped = door.ask_signed("PUT", "zipped", body=zlib.compress(b"deflated"), Content_Encoding="deflate, br")

    assert (stored.status, zipped.status) == (200, 200)
    assert found.headers["content-encoding"] == "gzip"
    assert found.headers["content-length"] == str(len(bomb))
    assert found.body == bomb


def test_metadata_of_just_2_kib_is_kept_whatever_its_bytes(door: Door) -> None:
    value = "é".encode().decode("latin-1") * 1023 + "x"

    stored = door.ask_signed("PUT", "key", body=b"x", x_amz_meta_a=value)
    found = door.ask_signed("HEAD", "key")

    assert stored.status == 200
    assert found.headers["x-amz-meta-a"] == value


# Links.

Forgery = Callable[[Request], Request]

FORGERIES: Final[Mapping[str, tuple[Forgery, str]]] = {
    "another key": (lambda link: replace(link, path=link.path + "x"), "SignatureDoesNotMatch"),
    "another verb": (lambda link: replace(link, method="DELETE"), "SignatureDoesNotMatch"),
    "to write": (lambda link: replace(link, method="PUT", body=b"overwritten"), "SignatureDoesNotMatch"),
    "a longer life": (
        lambda link: replace(link, query=link.query.replace("Expires=60", "Expires=604800")), "SignatureDoesNotMatch",
    ),
    "no end of life": (
        lambda link: replace(link, query=link.query.replace("&X-Amz-Expires=60", "")),
        "AuthorizationQueryParametersError",
    ),
    "a later start": (
        lambda link: replace(link, query=link.query.replace("T", "T", 1).replace("Z&X-Amz-Exp", "1Z&X-Amz-Exp")),
        "AuthorizationQueryParametersError",
    ),
    "another parameter": (
        lambda link: replace(link, query="response-content-type=text/html&" + link.query), "SignatureDoesNotMatch",
    ),
    "another header": (lambda link: link.with_headers(x_amz_acl="public-read"), "AccessDenied"),
    "another account": (
        lambda link: replace(link, query=link.query.replace("SWTESTROOT", "SOMEBODY")), "InvalidAccessKeyId",
    ),
    "no signature": (
        lambda link: replace(link, query=link.query.partition("&X-Amz-Signature")[0]),
        "AuthorizationQueryParametersError",
    ),
    "two signatures": (
        lambda link: replace(link, query=f"{link.query}&X-Amz-Signature={'0' * 64}"),
        "AuthorizationQueryParametersError",
    ),
    "a signature of another length": (lambda link: replace(link, query=link.query[:-1]), "SignatureDoesNotMatch"),
    "a signature in capitals": (
        lambda link: replace(link, query=link.query[:-64] + link.query[-64:].upper()), "SignatureDoesNotMatch",
    ),
    "a header besides": (lambda link: link.with_headers(Authorization="AWS4-HMAC-SHA256 "), "InvalidArgument"),
    "another algorithm": (
        lambda link: replace(link, query=link.query.replace("HMAC-SHA256", "HMAC-SHA1")),
        "AuthorizationQueryParametersError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_link_that_was_altered_opens_nothing(untouched: Door, name: str) -> None:
    forge, code = FORGERIES[name]
    link = presigned(Request(method="GET", path=f"/{untouched.bucket}/there"), untouched.keys)
    forged = forge(link)

    sound = untouched.ask(link)
    answer = untouched.ask(forged)

    assert sound.body == b"before"
    assert forged != link
    assert 400 <= answer.status < 500
    assert answer.code == code
    assert b"before" not in answer.body


# What a proxy, or somebody who plays one, says about the client.


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7;proto=https;host=evil.example"},
        {"X-Forwarded-Host": "other.s3.seawall.test", "X-Original-URL": "/admin"},
        {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"},
        {"X-Real-IP": "203.0.113.7", "True-Client-IP": "203.0.113.7"},
    ],
    ids=" ".join,
)
def test_headers_that_claim_to_be_a_proxys_change_nothing(untouched: Door, headers: Mapping[str, str]) -> None:
    request = signed(Request(method="GET", path=f"/{untouched.bucket}/there"), untouched.keys)
    forged = replace(request, headers={**request.headers, **headers})
    anonymous = Request(method="GET", path=f"/{untouched.bucket}/there", headers=headers)

    answer = untouched.ask(forged)
    denied = untouched.ask(anonymous)

    assert answer.body == b"before"
    assert denied.status == 403
    logs = untouched.service.data_dir / "log"
    peers = wait_until(
        lambda: {
            json.loads(line)["peer"]
            for path in logs.glob("requests-*.jsonl")
            for line in path.read_text().splitlines()
            if f'"{request.path}"' in line
        },
        within_s=5,
        what="the requests are logged",
    )
    assert peers == {"127.0.0.1"}


def test_headers_that_look_like_our_own_words_are_not_taken_for_metadata(door: Door) -> None:
    stored = door.ask_signed(
        "PUT", "key", body=b"x", x_amz_meta_="empty name", x_amz_version_id="made up", ETag='"made up"',
        Last_Modified="Sat, 01 Jan 2000 00:00:00 GMT", x_amz_request_id="made up", x_seawall_account="1",
        x_amz_meta_x_amz_meta_a="nested",
    )  # fmt: skip
    found = door.ask_signed("HEAD", "key")

    assert stored.status == 200
    assert found.headers["etag"] == f'"{hashlib.md5(b"x").hexdigest()}"'
    assert found.headers["x-amz-meta-x-amz-meta-a"] == "nested"
    assert "2000" not in found.headers["last-modified"]
    assert not {"x-amz-version-id", "x-seawall-account"} & set(found.headers)
    assert found.headers["x-amz-request-id"] != "made up"


# Documents.

BILLION_LAUGHS = (
    "<!DOCTYPE lolz [<!ENTITY l0 'lol'>"
    + "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
    + "]><CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&l9;</ETag></Part></CompleteMultipartUpload>"
).encode()
FILE_ENTITY = (
    b'<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&secret;</ETag></Part></CompleteMultipartUpload>"
)


def named_parts(*parts: tuple[object, str]) -> bytes:
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


ETAG = "0" * 32

BAD_DOCUMENTS: Final[Mapping[str, tuple[bytes, str]]] = {
    "nothing": (b"", "MalformedXML"),
    "no XML": (b"\x00\xff\xfe", "MalformedXML"),
    "half a document": (named_parts((1, ETAG))[:-5], "MalformedXML"),
    "two documents": (named_parts((1, ETAG)) * 2, "MalformedXML"),
    "another document": (b"<Delete><Object><Key>a</Key></Object></Delete>", "MalformedXML"),
    "no part": (b"<CompleteMultipartUpload/>", "MalformedXML"),
    "a billion laughs": (BILLION_LAUGHS, "MalformedXML"),
    "a file as an entity": (FILE_ENTITY, "MalformedXML"),
    "elements in elements": (
        b"<CompleteMultipartUpload>" + b"<Part>" * 20_000 + b"</Part>" * 20_000 + b"</CompleteMultipartUpload>",
        "MalformedXML",
    ),
    "a thousand attributes": (
        b"<CompleteMultipartUpload " + b" ".join(b"a%d='b'" % n for n in range(1000)) + b"/>", "MalformedXML",
    ),
    "another encoding": (named_parts((1, ETAG)).decode().encode("utf-16"), "MalformedXML"),
    "an encoding nobody knows": (b'<?xml version="1.0" encoding="nonsense"?><a/>', "MalformedXML"),
    "a part that never was": (named_parts((2, ETAG)), "InvalidPart"),
    "another ETag": (named_parts((1, ETAG)), "InvalidPart"),
    "ten thousand parts that never were": (named_parts(*((n, ETAG) for n in range(1, 10_001))), "InvalidPart"),
    "a part too many": (named_parts(*((n, ETAG) for n in range(1, 10_002))), "MalformedXML"),
    "parts in disorder": (named_parts((2, ETAG), (1, ETAG)), "InvalidPartOrder"),
    "a part twice": (named_parts((1, ETAG), (1, ETAG)), "InvalidPartOrder"),
    "part zero": (named_parts((0, ETAG)), "MalformedXML"),
    "a part of no number": (named_parts(("one", ETAG)), "MalformedXML"),
    "a part of a strange number": (named_parts(("²", ETAG)), "MalformedXML"),
    "a part of a number far too long": (named_parts(("9" * 4000, ETAG)), "MalformedXML"),
    "a part without an ETag": (
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>", "MalformedXML",
    ),
    "an ETag far too long": (named_parts((1, "0" * 100_000)), "MalformedXML"),
    "5 MiB": (b"<CompleteMultipartUpload>" + b" " * (5 * MIB), "MaxMessageLengthExceeded"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_a_bad_list_of_parts_completes_nothing(door: Door, s3: S3Client, name: str) -> None:
    document, code = BAD_DOCUMENTS[name]
    upload = s3.create_multipart_upload(Bucket=door.bucket, Key="key")["UploadId"]
    s3.upload_part(Bucket=door.bucket, Key="key", UploadId=upload, PartNumber=1, Body=b"part")

    answer = door.ask_signed("POST", "key", f"uploadId={upload}", body=document)

    assert answer.status == 400
    assert answer.code == code, answer
    assert b"root:" not in answer.body
    assert keys_in(s3, door.bucket) == {}
    assert len(s3.list_parts(Bucket=door.bucket, Key="key", UploadId=upload)["Parts"]) == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("partNumber=0&uploadId={id}", "InvalidArgument"),
        ("partNumber=10001&uploadId={id}", "InvalidArgument"),
        ("partNumber=-1&uploadId={id}", "InvalidArgument"),
        ("partNumber=one&uploadId={id}", "InvalidArgument"),
        ("partNumber=%C2%B2&uploadId={id}", "InvalidArgument"),
        ("partNumber=" + "9" * 5000 + "&uploadId={id}", "InvalidArgument"),
        ("partNumber=&uploadId={id}", "InvalidArgument"),
        ("partNumber=1&uploadId=", "NoSuchUpload"),
        ("partNumber=1&uploadId=nonsense", "NoSuchUpload"),
        ("partNumber=1&uploadId=%00", "InvalidArgument"),
        ("partNumber=1&uploadId=" + "0" * 32, "NoSuchUpload"),
        ("partNumber=1", "NotImplemented"),
    ],
)
def test_a_part_that_belongs_nowhere_is_not_stored(door: Door, s3: S3Client, query: str, code: str) -> None:
    upload = s3.create_multipart_upload(Bucket=door.bucket, Key="key")["UploadId"]

    answer = door.ask_signed("PUT", "key", query.format(id=upload), body=b"part")

    assert answer.code == code
    assert "Parts" not in s3.list_parts(Bucket=door.bucket, Key="key", UploadId=upload)
    assert keys_in(s3, door.bucket) == {}


def delete(*keys: str) -> bytes:
    return ("<Delete>" + "".join(f"<Object><Key>{key}</Key></Object>" for key in keys) + "</Delete>").encode()


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (delete("there"), {}, "InvalidRequest"),
        (delete("there"), {"Content-MD5": md5(b"other")}, "BadDigest"),
        (delete("there"), {"x-amz-checksum-crc32": crc32(b"other")}, "BadDigest"),
        (delete(*map(str, range(1001))), {"Content-MD5": md5(delete(*map(str, range(1001))))}, "MalformedXML"),
        (delete(), {"Content-MD5": md5(delete())}, "MalformedXML"),
        (b"<Delete>", {"Content-MD5": md5(b"<Delete>")}, "MalformedXML"),
        (BILLION_LAUGHS, {"Content-MD5": md5(BILLION_LAUGHS)}, "MalformedXML"),
    ],
    ids=["unchecked", "wrong MD5", "wrong CRC32", "too many", "none", "half", "a billion laughs"],
)
def test_a_bad_list_of_keys_deletes_nothing(
    untouched: Door, body: bytes, headers: Mapping[str, str], code: str
) -> None:
    request = Request(method="POST", path=f"/{untouched.bucket}", query="delete=", headers=headers, body=body)

    answer = untouched.ask(signed(request, untouched.keys))

    assert (answer.status, answer.code) == (400, code)


def test_keys_that_cannot_be_are_told_apart_from_those_that_were_deleted(door: Door, s3: S3Client) -> None:
    s3.put_object(Bucket=door.bucket, Key="there", Body=b"x")
    body = delete("there", "k" * 1025)

    answer = door.ask_signed("POST", "", "delete=", body=body, Content_MD5=md5(body))

    assert answer.status == 200
    assert answer.body.count(b"<Deleted>") == 1
    assert answer.body.count(b"<Error>") == 1
    assert keys_in(s3, door.bucket) == {}


# What is not built.

BUILT_METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")


@pytest.mark.parametrize("method", BUILT_METHODS)
@pytest.mark.parametrize("scope", ["bucket", "object"])
def test_what_is_not_built_is_said_to_be_not_built(untouched: Door, scope: str, method: str) -> None:
    unbuilt = [name for name in sorted(SUBRESOURCES) if (scope, method, frozenset({name})) not in OPERATIONS]
    key = "there" if scope == "object" else ""

    answers = {
        name: untouched.ask_signed(method, key, f"{name}=", body=b"" if method in {"GET", "HEAD"} else b"<X/>")
        for name in unbuilt
    }

    assert {"acl", "tagging", "policy", "versioning", "lifecycle"} <= set(unbuilt)
    assert {name: answer.status for name, answer in answers.items() if answer.status != 501} == {}
    if method != "HEAD":
        assert {answer.code for answer in answers.values()} == {"NotImplemented"}


def test_an_upload_by_a_form_is_not_built(untouched: Door) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nbad\r\n--b--\r\n'
    form = Request(
        method="POST",
        path=f"/{untouched.bucket}",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        body=body,
    )

    anonymous = untouched.ask(form)
    owner = untouched.ask(signed(form, untouched.keys))

    assert {anonymous.code, owner.code} == {"NotImplemented"}


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "LINK", "PURGE"])
@pytest.mark.parametrize("key", ["", "there"])
def test_a_method_nobody_knows_does_nothing(untouched: Door, method: str, key: str) -> None:
    answer = untouched.ask_signed(method, key, body=b"x")

    assert answer.status in {405, 501}
    assert answer.code in {"MethodNotAllowed", "NotImplemented"}


# What is asked about a bucket.

NASTY: Final = (
    "", " ", "-1", "0", "1e9", "0x10", "²", "٣", "9" * 19, "9" * 4400, "true", "null", "None", "*", "\x7f", "é",
    "ÿ" * 50, "../..", "%00", "%", "bytes=0-", "bytes=-0", "bytes=9-1", f"bytes={'9' * 30}-", "bytes=0-0,5-6",
    "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Feb 2024 25:61:61 GMT", "Mon, 01 Jan 0001 00:00:00 +2359",
    "Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "Mon, 01 Jan 99999 00:00:00 GMT", "20240101T000000Z",
    "<a>&amp;</a>", "'; drop table objects; --", "${jndi:ldap://x}", "W/\"x\"", '"', "a" * 3000, "AES256", "SHA256",
)  # fmt: skip
"""Values somebody will send one day."""

NASTY_NOW: Final = budgeted(short=NASTY[::4], usual=NASTY)

QUERIES: Final = (
    "prefix", "delimiter", "marker", "max-keys", "encoding-type", "start-after", "continuation-token", "fetch-owner",
    "key-marker", "upload-id-marker", "max-uploads", "max-parts", "part-number-marker", "partNumber", "versionId",
    "max-buckets", "x-id", "response-content-type", "response-expires", "response-content-disposition",
    "response-cache-control", "X-Amz-Security-Token", "X-Amz-Expires",
)  # fmt: skip

HEADERS: Final = (
    "Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Content-MD5",
    "Content-Type", "Content-Encoding", "Cache-Control", "Expires", "Date", "Expect-CT", "x-amz-acl",
    "x-amz-storage-class", "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since", "x-amz-metadata-directive", "x-amz-checksum-crc32",
    "x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode", "x-amz-sdk-checksum-algorithm",
    "x-amz-trailer", "x-amz-decoded-content-length", "x-amz-expected-bucket-owner", "x-amz-object-attributes",
    "x-amz-max-parts", "x-amz-part-number-marker", "x-amz-mp-object-size", "x-amz-meta-a", "x-amz-security-token",
    "x-amz-request-payer", "x-amz-tagging", "x-amz-bucket-object-lock-enabled", "x-amz-object-ownership",
    "x-amz-website-redirect-location", "x-amz-write-offset-bytes",
)  # fmt: skip


@pytest.mark.parametrize("query", ["", "list-type=2&", "uploads=&", "location=&"])
def test_no_value_in_the_query_of_a_list_is_our_fault(untouched: Door, query: str) -> None:
    for name, value in product(QUERIES, [*NASTY_NOW, "\0", "a\0b"]):
        untouched.ask_signed("GET", "", f"{query}{name}={quote(value, safe='')}")
    for name in QUERIES:
        untouched.ask_signed("GET", "", f"{query}{name}={quote_from_bytes(bytes([0xFF, 0xC0]))}")
        untouched.ask_signed("GET", "", f"{query}{name}")


def test_no_value_in_the_query_of_an_object_is_our_fault(untouched: Door) -> None:
    for name, value in product(QUERIES, [*NASTY_NOW, "\0", "a\r\nX-Injected: yes"]):
        answer = untouched.ask_signed("GET", "there", f"{name}={quote(value, safe='')}")

        assert "x-injected" not in answer.headers


@pytest.mark.parametrize(
    ("method", "key", "query"),
    [
        ("GET", "there", ""),
        ("HEAD", "there", ""),
        ("GET", "there", "attributes="),
        ("POST", "key", "uploadId=" + "0" * 32),
        ("POST", "", "delete="),
        ("GET", "", "list-type=2"),
    ],
)
def test_no_header_is_our_fault(untouched: Door, method: str, key: str, query: str) -> None:
    for name, value in product(HEADERS, NASTY_NOW):
        sent = value.encode().decode("latin-1") if value.strip("\x7f") else "x"
        request = Request(method=method, path=f"/{untouched.bucket}/{key}".rstrip("/"), query=query)
        untouched.ask(signed(replace(request, headers={name: sent}), untouched.keys))


@pytest.mark.parametrize(
    ("method", "query"), [("PUT", ""), ("POST", "uploads="), ("DELETE", ""), ("POST", "uploadId={id}")]
)
def test_no_header_of_a_write_is_our_fault(door: Door, s3: S3Client, method: str, query: str) -> None:
    upload = s3.create_multipart_upload(Bucket=door.bucket, Key="key")["UploadId"]
    for name, value in product(HEADERS, NASTY_NOW):
        sent = value.encode().decode("latin-1") if value.strip("\x7f") else "x"
        request = Request(method=method, path=f"/{door.bucket}/key", query=query.format(id=upload), body=b"x")
        door.ask(signed(replace(request, headers={name: sent}), door.keys))


# What is no request.

NO_REQUESTS: Final[Mapping[str, tuple[bytes, int]]] = {
    "nothing like HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a line feed in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz-meta-a: b\nX-Injected: c\r\n\r\n", 400),
    "a carriage return in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz-meta-a: b\rc\r\n\r\n", 400),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz-meta-a: b\0c\r\n\r\n", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz-meta-a: b\r\n c\r\n\r\n", 400),
    "a space in a header's name": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz meta: b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two lengths": (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
    "a length of no number": (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n", 400),
    "a negative length": (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "a length and chunks": (
        b"PUT /b/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "a coding nobody knows": (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "bytes beyond ASCII in the path": (b"GET /b/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an old version": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "an expectation nobody knows": (b"PUT /b/k HTTP/1.1\r\nHost: a\r\nExpect: 200\r\nContent-Length: 1\r\n\r\n", 417),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: a\r\nx-amz-meta-a: " + b"b" * 20_000, 431),
    "a hundred headers and one": (
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(101)) + b"\r\n", 431,
    ),
    "a tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", 405),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_is_refused_and_the_connection_closed(service: RunningService, name: str) -> None:
    data, status = NO_REQUESTS[name]

    answer = send_bytes(service.address, data)

    assert answer.status == status, answer
    assert answer.headers["connection"] == "close"
    assert "x-injected" not in answer.headers


# Clients that wait to be asked for the body.


@pytest.mark.parametrize("size", [0, 1, 100 * KIB])
def test_a_client_that_waits_for_leave_is_given_it_before_the_answer(door: Door, size: int) -> None:
    # Also for an empty body: some clients take an answer without leave for the last on a connection.
    request = signed(Request(method="PUT", path=f"/{door.bucket}/key", body=b"a" * size), door.keys)
    head = head_of(request.with_headers(Content_Length=str(size), Expect="100-continue"))

    with socket.create_connection(door.service.address, timeout=10) as connection:
        connection.sendall(head)
        leave = connection.recv(25)
        connection.sendall(request.body)
        answer = connection.recv(1000)

    assert leave == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_waits_for_leave_and_is_refused_is_told_that_the_connection_ends(untouched: Door) -> None:
    # Otherwise some (awscli 1 among them) misread the answer to the next request on it, and wait for a minute.
    request = Request(method="PUT", path=f"/{untouched.bucket}/bad", body=BODY).with_headers(
        Content_Length=str(len(BODY)), Expect="100-continue", Connection="keep-alive"
    )

    answer = send_bytes(untouched.service.address, head_of(replace(request, body=b"")), method="PUT")

    assert answer.status == 403
    assert answer.headers["connection"] == "close"


# Asked for what is not built, by a header or a parameter: refused, never half done.


@pytest.mark.parametrize(
    "header",
    [
        "x_amz_if_match_size",
        "x_amz_if_match_last_modified_time",
        "if_none_match",
    ],
)
def test_a_condition_that_is_not_built_deletes_nothing(door: Door, header: str) -> None:
    door.ask_signed("PUT", "kept", body=b"here")

    answer = door.ask_signed("DELETE", "kept", query="", body=b"", **{header: "99"})

    assert (answer.status, answer.code) == (501, "NotImplemented")
    assert door.ask_signed("GET", "kept").body == b"here"


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amz_bucket_object_lock_enabled": "true"},
        {"x_amz_acl": "public-read"},
        {"x_amz_grant_read": 'id="somebody"'},
        {"x_amz_object_ownership": "ObjectWriter"},
    ],
)
def test_a_bucket_that_could_not_be_as_it_was_asked_for_is_not_made(door: Door, headers: dict[str, str]) -> None:
    bucket = f"{door.bucket}-asked"
    made = door.ask(signed(Request(method="PUT", path=f"/{bucket}").with_headers(**headers), door.keys))

    assert (made.status, made.code) == (501, "NotImplemented")
    assert door.ask(signed(Request(method="HEAD", path=f"/{bucket}"), door.keys)).status == 404


@pytest.mark.parametrize(
    ("method", "header"),
    [*product(["GET", "HEAD", "PUT"], ["customer_algorithm"]), ("PUT", "bucket_key_enabled"), ("PUT", "context")],
)
def test_encryption_nobody_does_is_not_promised(door: Door, method: str, header: str) -> None:
    door.ask_signed("PUT", "plain", body=b"plain")

    answer = door.ask_signed(
        method, "plain", query="", body=b"", **{f"x_amz_server_side_encryption_{header}": "AES256"}
    )

    assert answer.status == 501


def test_a_copy_from_a_bucket_that_is_not_whose_it_should_be_is_refused(door: Door) -> None:
    door.ask_signed("PUT", "source", body=b"bytes")
    copied = door.ask_signed(
        "PUT", "copy", x_amz_copy_source=f"/{door.bucket}/source", x_amz_source_expected_bucket_owner="0" * 64
    )

    assert (copied.status, copied.code) == (403, "AccessDenied")
    assert door.ask_signed("GET", "copy").status == 404


@pytest.mark.parametrize(("method", "key"), [("POST", "key"), ("GET", "")])
def test_an_upload_in_a_bucket_that_is_not_whose_it_should_be_is_refused(door: Door, method: str, key: str) -> None:
    answer = door.ask_signed(method, key, query="uploads=", x_amz_expected_bucket_owner="0" * 64)

    assert (answer.status, answer.code) == (403, "AccessDenied")


HOISTED = {
    "x-amz-server-side-encryption": ("AES256", "NotImplemented"),
    "x-amz-acl": ("public-read", "NotImplemented"),
    "x-amz-tagging": ("a=b", "NotImplemented"),
    "x-amz-checksum-crc32": ("AAAAAA==", "BadDigest"),
    "x-amz-copy-source": ("/nowhere/at-all", "NoSuchBucket"),
}
"""Headers that a link may carry, with the answer to a PUT of some bytes."""


@pytest.mark.parametrize("name", HOISTED)
def test_what_a_link_says_in_its_query_counts_as_if_it_were_a_header(door: Door, name: str) -> None:
    value, code = HOISTED[name]
    link = Request(method="PUT", path=f"/{door.bucket}/linked", query=f"{name}={quote(value, safe='')}", body=b"bytes")

    answer = door.ask(presigned(link, door.keys))

    assert answer.code == code
    assert door.ask_signed("HEAD", "linked").status == 404


def test_metadata_in_a_link_is_kept(door: Door) -> None:
    link = Request(method="PUT", path=f"/{door.bucket}/linked", query="x-amz-meta-colour=blue", body=b"bytes")

    for _ in range(2):
        assert door.ask(presigned(link, door.keys)).status == 200
        assert door.ask_signed("HEAD", "linked").headers["x-amz-meta-colour"] == "blue"


def test_a_listing_of_a_type_nobody_knows_is_refused(door: Door) -> None:
    assert door.ask_signed("GET", query="list-type=3").code == "InvalidArgument"


def test_buckets_are_listed_by_region(door: Door) -> None:
    def buckets_in(region: str) -> bytes:
        asked = Request(method="GET", path="/", query=f"bucket-region={region}")
        return door.ask(signed(asked, door.keys)).body

    name = f"<Name>{door.bucket}</Name>".encode()
    assert name in buckets_in("us-east-1")
    assert name not in buckets_in("eu-west-9")


def test_a_part_checksum_of_another_algorithm_is_looked_at(door: Door) -> None:
    begun = door.ask_signed("POST", "parts", query="uploads=")
    upload = re.search(rb"<UploadId>(.*)</UploadId>", begun.body)
    assert upload is not None
    query = f"uploadId={upload[1].decode()}"
    etag = door.ask_signed("PUT", "parts", query=f"partNumber=1&{query}", body=b"part").headers["etag"]
    wrong = base64.b64encode(bytes(32)).decode()
    document = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag>"
        f"<ChecksumSHA256>{wrong}</ChecksumSHA256></Part></CompleteMultipartUpload>"
    )

    assert door.ask_signed("POST", "parts", query=query, body=document.encode()).code == "InvalidPart"


def test_what_strangers_claim_to_be_signed_by_is_not_kept_in_memory(door: Door) -> None:
    request = Request(method="GET", path="/")
    credential = f"{'A' * 20}/20261124/{'r' * 14_000}/s3/aws4_request"
    claim = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature={'0' * 64}"

    assert door.ask(request.with_headers(authorization=claim)).code == "InvalidAccessKeyId"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"]
)
def test_a_refusal_before_the_door_has_a_request_id_too(service: RunningService, data: bytes) -> None:
    answer = send_bytes(service.address, data)

    assert answer.status in {400, 431}
    assert len(answer.headers["x-amz-request-id"]) == 16
