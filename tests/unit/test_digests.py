import base64
import hashlib
from collections.abc import Sequence

import pytest
from botocore import httpchecksum
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import BadDigest, Invalid, InvalidPart
from seawall.objects.digests import (
    LENGTH_BYTES,
    Buffer,
    Digests,
    MalformedChecksum,
    MalformedDigest,
    PayloadMismatch,
    composite_checksum,
    composite_etag,
    full_object_checksum,
    new_hasher,
    read_checksum,
)

CHECK = b"123456789"
KNOWN = {
    "CRC32": "cbf43926",
    "CRC32C": "e3069283",
    "CRC64NVME": "ae8b14860a799888",
    "SHA1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "SHA256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "SHA512": (
        "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274a"
        "d27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85"
    ),
    "MD5": "25f9e794323b453885f5181f1b624d0b",
    "XXHASH64": "8cb841db40e6ae83",
}
THEIRS = {
    "CRC32": httpchecksum.CrtCrc32Checksum,
    "CRC32C": httpchecksum.CrtCrc32cChecksum,
    "CRC64NVME": httpchecksum.CrtCrc64NvmeChecksum,
    "SHA1": httpchecksum.Sha1Checksum,
    "SHA256": httpchecksum.Sha256Checksum,
    "SHA512": httpchecksum.Sha512Checksum,
    "XXHASH64": httpchecksum.CrtXxhash64Checksum,
    "XXHASH3": httpchecksum.CrtXxhash3Checksum,
    "XXHASH128": httpchecksum.CrtXxhash128Checksum,
}
CRCS = ["CRC32", "CRC32C", "CRC64NVME"]


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def digest_of(algorithm: str, body: bytes) -> bytes:
    hasher = new_hasher(algorithm)
    hasher.update(body)
    return hasher.digest()


def checksum_of(algorithm: str, body: bytes) -> str:
    return f"{algorithm}:{b64(digest_of(algorithm, body))}"


def over(body: Buffer, **expected: str) -> Digests:
    digests = Digests(**expected)
    digests.update(body)
    return digests


@pytest.mark.parametrize("algorithm", KNOWN)
def test_an_algorithm_gives_its_published_check_value(algorithm: str) -> None:
    assert digest_of(algorithm, CHECK).hex() == KNOWN[algorithm]


@pytest.mark.parametrize("algorithm", ["XXHASH64", "XXHASH3", "XXHASH128"])
def test_xxhash_of_nothing_is_as_published(algorithm: str) -> None:
    published = {
        "XXHASH64": "ef46db3751d8e999",
        "XXHASH3": "2d06800538d394c2",
        "XXHASH128": "99aa06d3014798d86001c324468d497f",
    }

    assert new_hasher(algorithm).digest().hex() == published[algorithm]


@pytest.mark.parametrize("algorithm", THEIRS)
@given(body=st.binary(max_size=300))
def test_an_algorithm_gives_what_botocore_sends(algorithm: str, body: bytes) -> None:
    theirs = THEIRS[algorithm]().handle(body)

    assert checksum_of(algorithm, body) == f"{algorithm}:{theirs}"


@pytest.mark.parametrize("algorithm", LENGTH_BYTES)
@given(pieces=st.lists(st.binary(max_size=50), max_size=5))
def test_it_makes_no_difference_how_a_body_arrives(algorithm: str, pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    digests = Digests(algorithm=algorithm)

    for number, piece in enumerate(pieces):
        forms: list[Buffer] = [piece, bytearray(piece), memoryview(piece), memoryview(bytearray(piece))]
        digests.update(forms[number % 4])

    assert digests.size_bytes == len(body)
    assert digests.etag == hashlib.md5(body).hexdigest()
    assert digests.checksum == checksum_of(algorithm, body)
    assert len(digest_of(algorithm, body)) == LENGTH_BYTES[algorithm]


def test_a_body_nobody_says_anything_about_gets_a_crc64() -> None:
    digests = over(CHECK)

    digests.verify()

    assert digests.checksum == checksum_of("CRC64NVME", CHECK)
    assert repr(digests) == "Digests(CRC64NVME of 9 bytes)"


@pytest.mark.parametrize("algorithm", LENGTH_BYTES)
def test_a_checksum_is_held_to_wherever_it_stands(algorithm: str) -> None:
    value = b64(digest_of(algorithm, CHECK))

    over(CHECK, algorithm=algorithm, checksum=value).verify()
    over(CHECK, algorithm=algorithm).verify(trailing_checksum=value)
    with pytest.raises(BadDigest, match=algorithm):
        over(b"other", algorithm=algorithm, checksum=value).verify()
    with pytest.raises(BadDigest, match=algorithm):
        over(b"other", algorithm=algorithm).verify(trailing_checksum=value)


@pytest.mark.parametrize("algorithm", LENGTH_BYTES)
def test_everything_may_be_promised_at_once(algorithm: str) -> None:
    promised = {
        "algorithm": algorithm,
        "checksum": b64(digest_of(algorithm, CHECK)),
        "content_md5": b64(hashlib.md5(CHECK).digest()),
        "payload_sha256": hashlib.sha256(CHECK).hexdigest(),
    }

    over(CHECK, **promised).verify()

    assert over(CHECK, **promised).etag == hashlib.md5(CHECK).hexdigest()


def test_each_broken_promise_has_its_own_name() -> None:
    with pytest.raises(PayloadMismatch):
        over(b"other", payload_sha256=hashlib.sha256(CHECK).hexdigest()).verify()
    with pytest.raises(BadDigest, match="Content-MD5") as refused:
        over(b"other", content_md5=b64(hashlib.md5(CHECK).digest())).verify()
    assert not isinstance(refused.value, PayloadMismatch)


@pytest.mark.parametrize("value", ["", "x", "AAAA", b64(b"\0" * 15), b64(b"\0" * 17), b64(b"\0" * 16)[:-1], "ü" * 24])
def test_a_content_md5_that_cannot_be_one_is_refused_before_the_body(value: str) -> None:
    with pytest.raises(MalformedDigest):
        Digests(content_md5=value)


@pytest.mark.parametrize("value", ["", "00", "g" * 64, "00 " * 32, "00" * 33])
def test_a_payload_hash_that_cannot_be_one_is_refused_before_the_body(value: str) -> None:
    with pytest.raises(MalformedChecksum):
        Digests(payload_sha256=value)


@pytest.mark.parametrize("algorithm", LENGTH_BYTES)
def test_a_checksum_that_cannot_be_one_is_refused(algorithm: str) -> None:
    length = LENGTH_BYTES[algorithm]
    good = b64(b"\0" * length)

    for value in ("", b64(b"\0" * (length - 1)), b64(b"\0" * (length + 1)), good + "\n", " " + good, good + "-1", "!"):
        with pytest.raises(MalformedChecksum, match=f"x-amz-checksum-{algorithm.lower()}"):
            Digests(algorithm=algorithm, checksum=value)
        with pytest.raises(MalformedChecksum):
            over(CHECK, algorithm=algorithm).verify(trailing_checksum=value)
    assert read_checksum(algorithm, good) == b"\0" * length


def test_there_are_no_other_algorithms() -> None:
    with pytest.raises(Invalid):
        Digests(algorithm="CRC16")
    with pytest.raises(Invalid):
        read_checksum("crc32", "AAAAAA==")


def test_the_etag_of_parts_is_the_md5_of_their_md5s() -> None:
    parts = [hashlib.md5(body) for body in (b"first", b"second")]

    expected = hashlib.md5(parts[0].digest() + parts[1].digest()).hexdigest()

    assert composite_etag(part.hexdigest() for part in parts) == f"{expected}-2"


@pytest.mark.parametrize("algorithm", [algorithm for algorithm in LENGTH_BYTES if algorithm != "CRC64NVME"])
def test_a_composite_is_the_checksum_of_checksums(algorithm: str) -> None:
    bodies = [b"first", b"second", b"third"]

    composite = composite_checksum(checksum_of(algorithm, body) for body in bodies)

    assert composite == checksum_of(algorithm, b"".join(digest_of(algorithm, body) for body in bodies)) + "-3"


@pytest.mark.parametrize("algorithm", CRCS)
@given(bodies=st.lists(st.binary(max_size=100), min_size=1, max_size=6))
def test_the_crc_of_an_object_follows_from_those_of_its_parts(algorithm: str, bodies: list[bytes]) -> None:
    parts = [(checksum_of(algorithm, body), len(body)) for body in bodies]

    assert full_object_checksum(parts) == checksum_of(algorithm, b"".join(bodies))


def test_some_checksums_cannot_be_combined() -> None:
    with pytest.raises(Invalid):
        composite_checksum([checksum_of("CRC64NVME", CHECK)])
    with pytest.raises(Invalid):
        full_object_checksum([(checksum_of("SHA256", CHECK), 9)])


@pytest.mark.parametrize("algorithms", [[], ["CRC32", "CRC32C"]])
def test_parts_have_one_algorithm_in_common(algorithms: Sequence[str]) -> None:
    checksums = [checksum_of(algorithm, CHECK) for algorithm in algorithms]

    with pytest.raises(InvalidPart):
        composite_checksum(checksums)
    with pytest.raises(InvalidPart):
        full_object_checksum([(checksum, 9) for checksum in checksums])
