"""The body of a request as the house stores it: plain, or with S3's chunked coding taken off."""

from collections.abc import AsyncIterator, Mapping, Sequence

from seawall.edge import Body
from seawall.objects.digests import Digests
from seawall.s3.chunks import ChunkDecoder
from seawall.s3.errors import S3Error
from seawall.s3.headers import CHECKSUM_HEADERS
from seawall.s3.signature import Signed

# The framing of a small body: a line and a signature for each chunk of at least one byte would be
# absurd; real clients send 8 KiB and more.
FRAMING_MAX_BYTES = 64 * 1024


class HttpPayload:
    """A body on its way in. State: the decoder, when the body is coded."""

    def __init__(self, body: Body, *, size_bytes: int, decoder: ChunkDecoder | None) -> None:
        self.size_bytes = size_bytes
        self._body = body
        self._decoder = decoder

    @property
    def must_stream(self) -> bool:
        """Whether memory is too short just now to hold all of it."""
        return self._body.memory_is_scarce

    async def read(self) -> list[memoryview]:
        """Return all of it as received, in few pieces."""
        return await self._body.read(limit=self.size_bytes + (FRAMING_MAX_BYTES if self._decoder else 0))

    def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield it as received, in batches of pieces."""
        return self._body.batches()

    def decode(self, pieces: Sequence[memoryview]) -> Sequence[memoryview]:
        """Take S3's chunked coding off, checking each chunk's signature."""
        if self._decoder is None:
            return pieces
        decoder = self._decoder
        return [decoded for piece in pieces for decoded in decoder.feed(piece)]

    def finish(self, digests: Digests) -> None:
        """Check that the body is whole and what was announced.

        Raises:
            S3Error, Invalid: it is not.
        """
        trailing: str | None = None
        if self._decoder is not None:
            self._decoder.finish()
            values = [value for name, value in self._decoder.trailers.items() if name in CHECKSUM_HEADERS]
            trailing = values[0] if values else None
        digests.verify(trailing_checksum=trailing)


def read_payload(body: Body, headers: Mapping[str, str], signed: Signed | None) -> HttpPayload:
    """Decide how a body is coded and how long it is, before any of it is received.

    Raises:
        S3Error: `MissingContentLength`, `InvalidArgument`, or `NotImplemented` for a coding
            nobody uses.
    """
    form = signed.payload if signed is not None else headers.get("x-amz-content-sha256", "")
    if not form.startswith("STREAMING-"):
        if body.length is None:
            raise S3Error("MissingContentLength")
        return HttpPayload(body, size_bytes=body.length, decoder=None)
    announced = headers.get("x-amz-decoded-content-length")
    if announced is None:
        raise S3Error("MissingContentLength")
    if not (announced.isascii() and announced.isdigit() and len(announced) <= 18):
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length is not a number.")
    decoder = ChunkDecoder(
        form=form, signed=signed, decoded_length=int(announced), announced=headers.get("x-amz-trailer", "")
    )
    return HttpPayload(body, size_bytes=int(announced), decoder=decoder)
