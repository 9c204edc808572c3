import base64
import hashlib
import hmac
import io
import zlib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given
from hypothesis import strategies as st

from seawall.s3.chunks import ChunkDecoder
from seawall.s3.errors import S3Error
from seawall.s3.signature import Signed, SigningKey

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
FORMS = [SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER]

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TIMESTAMP = "20130524T000000Z"
SCOPE = "20130524/us-east-1/s3/aws4_request"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
CHECKSUM = "x-amz-checksum-crc32"


def signed(seed: str = SEED) -> Signed:
    return Signed(
        form="header",
        access_key="AKIAIOSFODNN7EXAMPLE",
        payload=SIGNED,
        signature=seed,
        scope=SCOPE,
        timestamp=TIMESTAMP,
        key=SigningKey(SECRET, date="20130524", region="us-east-1"),
    )


def decoder(form: str, decoded_length: int, *, announced: str | None = None, seed: str = SEED) -> ChunkDecoder:
    announced = announced if announced is not None else "" if form == SIGNED else CHECKSUM
    return ChunkDecoder(form=form, signed=signed(seed), decoded_length=decoded_length, announced=announced)


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def sign(*lines: str) -> str:
    """Sign as the documentation says, without a line of ours."""
    key = f"AWS4{SECRET}".encode()
    for part in SCOPE.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, "\n".join(lines).encode(), "sha256").hex()


def encode(form: str, chunks: Sequence[bytes], *, line_end: bytes = b"\r\n") -> bytes:
    """Frame a body as a client does; `line_end` stands behind the checksum in the signed trailer."""
    trailer = f"{CHECKSUM}:{crc32(b''.join(chunks))}"
    previous = SEED
    out = bytearray()
    for chunk in [*chunks, b""]:
        if form == UNSIGNED_TRAILER:
            out += b"%x\r\n" % len(chunk)
        else:
            empty, digest = hashlib.sha256(b"").hexdigest(), hashlib.sha256(chunk).hexdigest()
            previous = sign("AWS4-HMAC-SHA256-PAYLOAD", TIMESTAMP, SCOPE, previous, empty, digest)
            out += b"%x;chunk-signature=%s\r\n" % (len(chunk), previous.encode())
        out += chunk + (b"\r\n" if chunk else b"")
    if form != SIGNED:
        out += trailer.encode() + (line_end if form == SIGNED_TRAILER else b"\r\n")
    if form == SIGNED_TRAILER:
        digest = hashlib.sha256(f"{trailer}\n".encode()).hexdigest()
        signature = sign("AWS4-HMAC-SHA256-TRAILER", TIMESTAMP, SCOPE, previous, digest)
        out += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return bytes(out + b"\r\n")


def decode(decoding: ChunkDecoder, encoded: bytes, cuts: Sequence[int] = ()) -> bytes:
    """Feed the stream cut at these places, and finish."""
    places = [0, *sorted(cut % (len(encoded) + 1) for cut in cuts), len(encoded)]
    pieces = [piece for start, stop in pairwise(places) for piece in decoding.feed(memoryview(encoded)[start:stop])]
    decoding.finish()
    return b"".join(pieces)


CHUNKS = st.lists(st.binary(min_size=1, max_size=200), max_size=5)
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@pytest.mark.parametrize("form", FORMS)
@given(chunks=CHUNKS, cuts=CUTS)
def test_a_body_comes_out_whole_however_it_is_cut(form: str, chunks: list[bytes], cuts: list[int]) -> None:
    body = b"".join(chunks)
    decoding = decoder(form, len(body))

    assert decode(decoding, encode(form, chunks), cuts) == body
    assert decoding.trailers == ({} if form == SIGNED else {CHECKSUM: crc32(body)})


@pytest.mark.parametrize("form", FORMS)
def test_a_body_comes_out_whole_byte_by_byte(form: str) -> None:
    encoded = encode(form, [b"first", b"second"])

    assert decode(decoder(form, 11), encoded, range(len(encoded))) == b"firstsecond"


def test_the_documented_chunks_are_believed() -> None:
    encoded = (
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
    )

    assert decode(decoder(SIGNED, 66560), encoded) == b"a" * 66560


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n\r\n"])
def test_the_documented_trailer_is_believed(line_end: bytes) -> None:
    encoded = (
        b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n"
        + b"x-amz-checksum-crc32c:sOO8/Q=="
        + line_end
        + b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
    )
    decoding = decoder(SIGNED_TRAILER, 66560, announced="x-amz-checksum-crc32c", seed=TRAILER_SEED)

    assert decode(decoding, encoded) == b"a" * 66560
    assert decoding.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


@given(body=st.binary(max_size=300), chunk_size=st.integers(1, 100), cuts=CUTS)
def test_what_botocore_sends_is_understood(body: bytes, chunk_size: int, cuts: list[int]) -> None:
    wrapper = AwsChunkedWrapper(
        io.BytesIO(body), checksum_cls=Crc32Checksum, checksum_name=CHECKSUM, chunk_size=chunk_size
    )
    decoding = decoder(UNSIGNED_TRAILER, len(body))

    assert decode(decoding, wrapper.read(), cuts) == body
    assert decoding.trailers == {CHECKSUM: crc32(body)}


def test_what_botocore_sends_without_a_checksum_is_understood() -> None:
    encoded = AwsChunkedWrapper(io.BytesIO(b"body")).read()

    assert decode(decoder(UNSIGNED_TRAILER, 4, announced=""), encoded) == b"body"


def test_a_piece_is_a_view_of_what_was_fed() -> None:
    data = encode(UNSIGNED_TRAILER, [b"x" * 1000])

    (piece,) = decoder(UNSIGNED_TRAILER, 1000).feed(data)

    assert piece.obj is data


@pytest.mark.parametrize("form", [SIGNED, SIGNED_TRAILER])
def test_a_signed_body_with_any_byte_altered_is_refused(form: str) -> None:
    encoded = encode(form, [b"in front", b"behind"])
    # The name of a trailer may be in capitals, as that of any header.
    names = [CHECKSUM.encode(), b"x-amz-trailer-signature"]
    starts = {name: encoded.find(name) for name in names if name in encoded}
    in_names = {start + offset for name, start in starts.items() for offset in range(len(name))}

    for position, byte in enumerate(encoded):
        for flipped in (byte ^ 0x01, byte ^ 0x80, *((byte ^ 0x20,) if position not in in_names else ())):
            altered = encoded[:position] + bytes([flipped]) + encoded[position + 1 :]
            with pytest.raises(S3Error) as refused:
                decode(decoder(form, 14), altered)
            assert refused.value.status in {400, 403}


@pytest.mark.parametrize("form", FORMS)
def test_a_body_that_ends_early_is_incomplete(form: str) -> None:
    encoded = encode(form, [b"first", b"second"])

    for length in range(len(encoded)):
        with pytest.raises(S3Error) as refused:
            decode(decoder(form, 11), encoded[:length])
        assert refused.value.code == "IncompleteBody"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extra", [b"\r\n", b"0\r\n\r\n", b"x"])
def test_a_body_that_goes_on_is_refused(form: str, extra: bytes) -> None:
    encoded = encode(form, [b"first"])
    decoding = decoder(form, 5)

    with pytest.raises(S3Error) as refused:
        decode(decoding, encoded + extra)

    assert refused.value.code == "InvalidRequest"
    with pytest.raises(S3Error):
        decoding.finish()


@pytest.mark.parametrize("form", FORMS)
def test_a_body_longer_than_announced_is_refused_before_it_is_read(form: str) -> None:
    encoded = encode(form, [b"first", b"second"])

    with pytest.raises(S3Error) as refused:
        decoder(form, 10).feed(encoded)

    assert refused.value.code == "InvalidRequest"


@pytest.mark.parametrize("form", FORMS)
def test_a_body_shorter_than_announced_is_incomplete(form: str) -> None:
    with pytest.raises(S3Error) as refused:
        decoder(form, 12).feed(encode(form, [b"first", b"second"]))

    assert refused.value.code == "IncompleteBody"


@pytest.mark.parametrize("form", [SIGNED, SIGNED_TRAILER])
def test_chunks_in_another_order_are_refused(form: str) -> None:
    encoded = encode(form, [b"aaaa", b"bbbb"])
    first, second, end = encoded[:90], encoded[90:180], encoded[180:]
    assert first.endswith(b"aaaa\r\n")
    assert second.endswith(b"bbbb\r\n")

    with pytest.raises(S3Error) as refused:
        decode(decoder(form, 8), second + first + end)

    assert refused.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "header", [b"\r\n", b"g\r\n", b"+1\r\n", b"0x1\r\n", b"1 \r\n", b"1\n", b"1;a=b\r\n", b"-1\r\n"]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_chunk_header_is_a_size_and_nothing_else(form: str, header: bytes) -> None:
    with pytest.raises(S3Error) as refused:
        decoder(form, 1).feed(header)

    assert refused.value.code == "InvalidRequest"


def test_a_chunk_header_has_no_end_of_its_own_choosing() -> None:
    decoding = decoder(UNSIGNED_TRAILER, 1)
    for _ in range(1023):
        decoding.feed(b"0")

    with pytest.raises(S3Error) as refused:
        decoding.feed(b"0")

    assert refused.value.code == "InvalidRequest"


@pytest.mark.parametrize(
    "trailers",
    [
        b"\r\n",
        b"x-amz-checksum-crc32\r\n\r\n",
        b"x-amz-checksum-crc32:\r\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-sha1:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\r\nx-amz-acl:public-read\r\n\r\n",
        b"x-amz-checksum-crc32 :AAAAAA==\r\n\r\n",
        b" x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32:AA\rAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32:AA\0AAA==\r\n\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\r\nx-amz-trailer-signature:0\r\n\r\n",
    ],
)
def test_trailers_are_those_announced(trailers: bytes) -> None:
    with pytest.raises(S3Error) as refused:
        decode(decoder(UNSIGNED_TRAILER, 0), b"0\r\n" + trailers)

    assert refused.value.code == "MalformedTrailerError"


def test_trailers_are_short() -> None:
    names = [f"x-amz-checksum-{number}" for number in range(100)]
    decoding = decoder(UNSIGNED_TRAILER, 0, announced=",".join(names))

    with pytest.raises(S3Error) as refused:
        decode(decoding, b"0\r\n" + b"".join(f"{name}:{'A' * 50}\r\n".encode() for name in names) + b"\r\n")

    assert refused.value.code == "MalformedTrailerError"


def test_a_signed_body_without_trailers_has_none() -> None:
    encoded = encode(SIGNED, [b"body"]).removesuffix(b"\r\n") + b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"

    with pytest.raises(S3Error) as refused:
        decode(decoder(SIGNED, 4, announced=CHECKSUM), encoded)

    assert refused.value.code == "MalformedTrailerError"


def test_a_signed_trailer_needs_its_signature() -> None:
    encoded = encode(SIGNED_TRAILER, [b"body"])
    start = encoded.index(b"x-amz-trailer-signature")

    with pytest.raises(S3Error) as refused:
        decode(decoder(SIGNED_TRAILER, 4), encoded[:start] + b"\r\n")

    assert refused.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("form", ["STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "UNSIGNED-PAYLOAD", ""])
def test_other_forms_are_not_decoded(form: str) -> None:
    with pytest.raises(S3Error) as refused:
        decoder(form, 0)

    assert refused.value.code == "NotImplemented"


@pytest.mark.parametrize("form", [SIGNED, SIGNED_TRAILER])
def test_signed_chunks_need_a_signed_request(form: str) -> None:
    with pytest.raises(S3Error) as refused:
        ChunkDecoder(form=form, signed=None, decoded_length=0)

    assert refused.value.code == "AccessDenied"


def test_a_decoder_shows_where_it_is() -> None:
    decoding = decoder(UNSIGNED_TRAILER, 5)
    decoding.feed(b"5\r\nab")

    assert repr(decoding) == "ChunkDecoder(expecting the bytes of a chunk, 3 bytes to come)"
