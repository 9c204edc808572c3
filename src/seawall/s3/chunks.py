"""Take the aws-chunked framing off a body as it arrives, and check it.

Clients that cannot hash a body before they send it send it in chunks: each signed with the
signature of the one before, or unsigned with a checksum behind the last. Nothing here reads a
socket: bytes are fed in as they come, in pieces of any size, and the decoded ones come out as views
of the same memory.

A piece comes out before the signature of its chunk is known. What is made of it must not count
until `finish` has returned.

Source: Amazon S3 API Reference, "Signature calculations for the authorization header: Transferring
a payload in multiple chunks", the page of that name "including trailing headers", and "Checking
object integrity" on trailing checksums.
"""

import hashlib
import hmac
import re

from seawall.s3.errors import S3Error
from seawall.s3.signature import STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER, Signed

LINE_BYTES_MAX = 1024
"""A chunk's header is a size and a signature: 100 bytes, and room for what we refuse with a reason."""

TRAILER_BYTES_MAX = 4096
"""A trailer is a checksum or two and a signature."""

# Copying a hash that has seen nothing is four times as fast as starting one.
_SHA256 = hashlib.sha256()
_EMPTY_SHA256 = _SHA256.hexdigest()
_SIGNED_HEADER = re.compile(rb"([0-9a-fA-F]{1,16});chunk-signature=([0-9a-f]{64})\r\n")
_UNSIGNED_HEADER = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
_TRAILER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([!-~]+(?:[ \t]+[!-~]+)*)[ \t]*\r?\n")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


# What a decoder expects next. Plain words, since looking up a member of an enum costs a tenth of a microsecond.
_HEADER = "a chunk header"
_DATA = "the bytes of a chunk"
_LINE_END = "the end of a chunk"
_TRAILERS = "a trailer, or the end"
_NOTHING = "nothing more"
_GIVEN_UP = "nothing, after a refusal"


class ChunkDecoder:
    """Decodes one body. State: where in the framing it is, the bytes to come, the last signature.

    After a refusal it refuses everything.

    Args:
        form: the value of x-amz-content-sha256.
        signed: the request's signature, from which the first chunk's follows; the unsigned form
            does without.
        decoded_length: the value of x-amz-decoded-content-length.
        announced: the value of x-amz-trailer, names separated by commas.

    Raises:
        S3Error: the form is one we do not know.
    """

    def __init__(self, *, form: str, signed: Signed | None, decoded_length: int, announced: str = "") -> None:
        if form not in (STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER):
            raise S3Error("NotImplemented", f"{form} is not supported.")
        if form != STREAMING_UNSIGNED_TRAILER and signed is None:
            raise S3Error("AccessDenied", "Signed chunks need a signed request.")
        self.trailers: dict[str, str] = {}
        self._form = form
        self._signed = None if form == STREAMING_UNSIGNED_TRAILER else signed
        self._previous = signed.signature if signed else ""
        self._announced = {name.strip(" \t").lower() for name in announced.split(",")} - {""}
        self._to_come = decoded_length
        self._expecting = _HEADER
        self._chunk_left = 0
        self._chunk_signature = ""
        self._hash = _SHA256.copy()
        self._partial_line = b""
        self._trailer_bytes = 0
        self._trailer_signature = ""
        self._after_bare_line = False

    def __repr__(self) -> str:
        return f"ChunkDecoder(expecting {self._expecting}, {self._to_come} bytes to come)"

    def feed(self, data: bytes | bytearray | memoryview) -> list[memoryview]:
        """Return the decoded pieces in `data`, in order, without copying them.

        Raises:
            S3Error: `SignatureDoesNotMatch` for a chunk or trailer that was altered,
                `InvalidRequest` for broken framing, `MalformedTrailerError`, or `IncompleteBody`
                when the last chunk comes too early.
        """
        try:
            return self._decode(memoryview(data))
        except S3Error:
            self._expecting = _GIVEN_UP
            raise

    def finish(self) -> None:
        """Make sure that the body was complete.

        Raises:
            S3Error: `IncompleteBody`.
        """
        if self._expecting != _NOTHING:
            raise S3Error("IncompleteBody")

    def _decode(self, data: memoryview) -> list[memoryview]:
        pieces = []
        at, end = 0, len(data)
        while at < end:
            if self._expecting == _DATA:
                piece = data[at : at + self._chunk_left]
                at += len(piece)
                pieces.append(piece)
                self._take(piece)
            else:
                line, at = self._read_line(data, at)
                if line:
                    self._take_line(line)
        return pieces

    def _read_line(self, data: memoryview, at: int) -> tuple[bytes, int]:
        """Return the line that ends in `data`, or nothing yet; and where to go on."""
        if self._expecting in (_NOTHING, _GIVEN_UP):
            raise S3Error("InvalidRequest", "There are bytes after the end of the body.")
        room = LINE_BYTES_MAX - len(self._partial_line)
        found = bytes(data[at : at + room])
        length = found.find(b"\n") + 1
        if length == 0 and len(found) == room:
            raise S3Error("InvalidRequest", f"A line between chunks is longer than {LINE_BYTES_MAX} bytes.")
        line = self._partial_line + (found[:length] if length else found)
        self._partial_line = b"" if length else line
        return (line if length else b""), at + (length or len(found))

    def _take(self, piece: memoryview) -> None:
        self._chunk_left -= len(piece)
        self._to_come -= len(piece)
        if self._signed:
            self._hash.update(piece)
        if self._chunk_left == 0:
            if self._signed:
                self._check_chunk(self._signed, self._hash.hexdigest())
                self._hash = _SHA256.copy()
            self._expecting = _LINE_END

    def _take_line(self, line: bytes) -> None:
        if self._expecting == _TRAILERS:
            self._take_trailer(line)
        elif self._expecting == _HEADER:
            self._take_header(line)
        elif line == b"\r\n":
            self._expecting = _HEADER
        else:
            raise S3Error("InvalidRequest", "A chunk does not end where its size says.")

    def _take_header(self, line: bytes) -> None:
        header = (_SIGNED_HEADER if self._signed else _UNSIGNED_HEADER).fullmatch(line)
        if header is None:
            raise S3Error("InvalidRequest", "A chunk header is not well-formed.")
        size = int(header[1], 16)
        if size > self._to_come:
            raise S3Error("InvalidRequest", "The body is longer than x-amz-decoded-content-length says.")
        if self._signed:
            self._chunk_signature = header[2].decode()
        if size:
            self._chunk_left = size
            self._expecting = _DATA
            return
        if self._to_come:
            raise S3Error("IncompleteBody", "The body is shorter than x-amz-decoded-content-length says.")
        if self._signed:
            self._check_chunk(self._signed, _EMPTY_SHA256)
        self._expecting = _TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        """Read one line behind the last chunk.

        S3's own example ends a signed trailer with LF CR LF, and some clients follow it, so there
        a line may end with a bare LF, and an empty one may come before the signature.
        """
        self._trailer_bytes += len(line)
        if line == b"\r\n":
            if self._after_bare_line:
                self._after_bare_line = False
                return
            self._check_trailers()
            self._expecting = _NOTHING
            return
        trailer = _TRAILER.fullmatch(line)
        bare = not line.endswith(b"\r\n")
        complete = bool(self._trailer_signature)
        if trailer is None or complete or self._trailer_bytes > TRAILER_BYTES_MAX or self._form == STREAMING_SIGNED:
            raise S3Error("MalformedTrailerError")
        name, value = trailer[1].decode().lower(), trailer[2].decode()
        if self._form == STREAMING_SIGNED_TRAILER and name == _TRAILER_SIGNATURE and not bare:
            self._trailer_signature = value
        elif name in self.trailers or name not in self._announced or (bare and not self._signed):
            raise S3Error("MalformedTrailerError")
        else:
            self.trailers[name] = value
        self._after_bare_line = bare

    def _check_chunk(self, signed: Signed, sha256: str) -> None:
        self._check(
            signed,
            f"AWS4-HMAC-SHA256-PAYLOAD\n{signed.timestamp}\n{signed.scope}\n{self._previous}\n{_EMPTY_SHA256}\n{sha256}",
            self._chunk_signature,
        )
        self._previous = self._chunk_signature

    def _check_trailers(self) -> None:
        if self.trailers.keys() != self._announced:
            raise S3Error("MalformedTrailerError")
        if self._form == STREAMING_SIGNED_TRAILER and self._signed:
            lines = "".join(f"{name}:{value}\n" for name, value in self.trailers.items())
            sha256 = hashlib.sha256(lines.encode()).hexdigest()
            signed = self._signed
            self._check(
                signed,
                f"AWS4-HMAC-SHA256-TRAILER\n{signed.timestamp}\n{signed.scope}\n{self._previous}\n{sha256}",
                self._trailer_signature,
            )

    def _check(self, signed: Signed, text: str, given: str) -> None:
        if not hmac.compare_digest(signed.key.sign(text), given):
            raise S3Error("SignatureDoesNotMatch")
