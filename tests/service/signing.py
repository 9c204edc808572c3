"""A small S3 client for what real ones do not send: every form of Signature V4, and anything malformed.

It builds requests byte for byte and sends them as they are. It shares no code with the service, so
that a mistake in signing cannot agree with itself.
"""

import base64
import binascii
import hashlib
import hmac
import http.client
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from tests.service.kit import Keys

REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"
CHUNKED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
CHUNKED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
EMPTY_SHA256 = hashlib.sha256().hexdigest()
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, byte for byte: the path and the query are sent as they stand here."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def target(self) -> str:
        """What stands in the first line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def with_headers(self, **headers: str) -> "Request":
        """Return the request with more headers, their underscores read as hyphens."""
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): headers[name] for name in headers}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """S3's name of the error; empty where there is none."""
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found[1].decode() if found else ""


Signer = Callable[[Request, Keys], Request]


# Signing.


def signed(request: Request, keys: Keys, *, payload: str | None = None, at_s: float | None = None) -> Request:
    """Sign in the Authorization header; `payload` is what is said of the body: its SHA-256 by default."""
    stamp = _stamp(at_s)
    payload = payload or hashlib.sha256(request.body).hexdigest()
    headers = {**request.headers, "x-amz-date": stamp, "x-amz-content-sha256": payload}
    names, signature, scope = _signature(replace(request, headers=headers), keys, stamp=stamp, payload=payload)
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return replace(request, headers=headers)


def signed_without_body(request: Request, keys: Keys) -> Request:
    """Sign in the Authorization header, but for the body."""
    return signed(request, keys, payload=UNSIGNED)


def presigned(request: Request, keys: Keys, *, expires_s: int = 60, at_s: float | None = None) -> Request:
    """Sign in the query."""
    stamp = _stamp(at_s)
    names = ";".join(sorted({"host", *(name.lower() for name in request.headers)}))
    scope = _scope(stamp)
    more = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{keys.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": names,
    }
    query = "&".join(
        [request.query, *(f"{name}={quote(value, safe='')}" for name, value in more.items())]
    ).removeprefix("&")
    draft = replace(request, query=query)
    _, signature, _ = _signature(draft, keys, stamp=stamp, payload=UNSIGNED)
    return replace(draft, query=f"{query}&X-Amz-Signature={signature}")


def chunk_signed(
    request: Request, keys: Keys, *, chunk_bytes: int = 64 * 1024, trailer: Mapping[str, str] | None = None
) -> Request:
    """Sign the head, then each chunk of the body with the signature of the one before, then the trailer."""
    stamp = _stamp(None)
    headers = {**request.headers, "content-encoding": "aws-chunked"}
    headers["x-amz-decoded-content-length"] = str(len(request.body))
    if trailer is not None:
        headers["x-amz-trailer"] = ",".join(trailer)
    word = CHUNKED if trailer is None else CHUNKED_TRAILER
    head = signed(replace(request, headers=headers), keys, payload=word)
    stamp = head.headers["x-amz-date"]
    key, scope = _signing_key(keys, stamp), _scope(stamp)
    before = head.headers["Authorization"].rpartition("Signature=")[2]
    pieces = []
    for start in [*range(0, len(request.body), chunk_bytes), len(request.body)]:
        chunk = request.body[start : start + chunk_bytes]
        digest = hashlib.sha256(chunk).hexdigest()
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{stamp}\n{scope}\n{before}\n{EMPTY_SHA256}\n{digest}"
        before = hmac.digest(key, text.encode(), "sha256").hex()
        pieces.append(f"{len(chunk):x};chunk-signature={before}\r\n".encode() + chunk + b"\r\n")
    if trailer is not None:
        lines = "".join(f"{name}:{value}\n" for name, value in trailer.items())
        digest = hashlib.sha256(lines.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256-TRAILER\n{stamp}\n{scope}\n{before}\n{digest}"
        last = hmac.digest(key, text.encode(), "sha256").hex()
        pieces[-1] = pieces[-1].removesuffix(b"\r\n")
        pieces.append((lines.replace("\n", "\r\n") + f"x-amz-trailer-signature:{last}\r\n\r\n").encode())
    return replace(head, body=b"".join(pieces))


def chunk_signed_with_trailer(request: Request, keys: Keys) -> Request:
    """Sign each chunk, and a checksum behind the last."""
    return chunk_signed(request, keys, trailer={"x-amz-checksum-crc32": crc32(request.body)})


def unsigned_trailer(
    request: Request, keys: Keys | None, *, checksum: str | None = None, chunk_bytes: int = 64 * 1024
) -> Request:
    """Sign the head only; the body comes in chunks, and its CRC32 behind the last."""
    value = crc32(request.body) if checksum is None else checksum
    headers = {
        **request.headers,
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(request.body)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    draft = replace(request, headers=headers)
    if keys is None:
        head = draft.with_headers(x_amz_content_sha256=UNSIGNED_TRAILER)
    else:
        head = signed(draft, keys, payload=UNSIGNED_TRAILER)
    chunks = [request.body[start : start + chunk_bytes] for start in range(0, len(request.body), chunk_bytes)]
    framed = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return replace(head, body=framed + f"0\r\nx-amz-checksum-crc32:{value}\r\n\r\n".encode())


def crc32(body: bytes) -> str:
    """Return the CRC32 as S3 writes it."""
    return base64.b64encode(binascii.crc32(body).to_bytes(4, "big")).decode()


def md5(body: bytes) -> str:
    """Return the MD5 as Content-MD5 has it."""
    return base64.b64encode(hashlib.md5(body).digest()).decode()


# Sending.

HOST: Final = "seawall.test"
"""What every request here calls the service; signatures cover it."""


def send(address: tuple[str, int], request: Request) -> Answer:
    """Send a request with the length its body has, and return the answer."""
    headers = dict(request.headers)
    if request.body or request.method in {"PUT", "POST"}:
        headers.setdefault("Content-Length", str(len(request.body)))
    head = head_of(replace(request, headers=headers))
    return send_bytes(address, head + request.body, method=request.method)


def head_of(request: Request) -> bytes:
    """Return the head of a request as it goes over the wire."""
    headers = {"Host": HOST, "Connection": "close", **request.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {request.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def send_bytes(address: tuple[str, int], data: bytes, *, method: str = "GET", end: bool = False) -> Answer:
    """Send bytes as they are (and, where `end`, no more), and return the answer to them."""
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        try:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It was refused before the end; the answer is there.
        return read_answer(connection, method=method)


def read_answer(connection: socket.socket, *, method: str = "GET") -> Answer:
    """Read one answer off a connection."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=headers, body=response.read())
    finally:
        response.close()


# Inside.


def _stamp(at_s: float | None) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() if at_s is None else at_s))


def _scope(stamp: str) -> str:
    return f"{stamp[:8]}/{REGION}/s3/aws4_request"


def _signing_key(keys: Keys, stamp: str) -> bytes:
    key = f"AWS4{keys.secret_key}".encode()
    for part in (stamp[:8], REGION, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _signature(request: Request, keys: Keys, *, stamp: str, payload: str) -> tuple[str, str, str]:
    """Return the names of the signed headers, the signature, and its scope."""
    headers = {"host": HOST, **{name.lower(): " ".join(value.split()) for name, value in request.headers.items()}}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    query = "&".join(sorted(part if "=" in part else f"{part}=" for part in request.query.split("&") if part))
    path = "/".join(quote(unquote_to_bytes(segment), safe="~") for segment in request.path.split("/"))
    canonical = f"{request.method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    scope = _scope(stamp)
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    return names, hmac.digest(_signing_key(keys, stamp), text.encode(), "sha256").hex(), scope
