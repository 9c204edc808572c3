"""Say what bytes are, and whether they are the ones the client meant.

Every body is hashed while it streams: MD5 for its ETag, one checksum to keep, and whatever else
the client sent a value of. A checksum is written `ALGORITHM:base64`, as `CRC32:NSRBwg==`; one of a
composite of N parts ends in `-N`.

Hashing releases the interpreter for buffers of 2 KiB and more, so large bodies hash in a thread.

Source: Amazon S3 User Guide, "Checking object integrity in Amazon S3"; the byte order of the CRCs
and of XXHash is big-endian, as the AWS clients have it.
"""

import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from awscrt import checksums

from seawall.errors import BadDigest, Invalid, InvalidPart

DEFAULT_ALGORITHM = "CRC64NVME"
"""What is kept when the client names none; S3 has the same."""

LENGTH_BYTES: Final[Mapping[str, int]] = {
    "CRC32": 4,
    "CRC32C": 4,
    "CRC64NVME": 8,
    "SHA1": 20,
    "SHA256": 32,
    "SHA512": 64,
    "MD5": 16,
    "XXHASH64": 8,
    "XXHASH3": 8,
    "XXHASH128": 16,
}
"""Every checksum algorithm, with the length of its value."""

Buffer = bytes | bytearray | memoryview


class PayloadMismatch(BadDigest):
    """The bytes received do not have the SHA-256 that was signed."""


class MalformedDigest(Invalid):
    """The Content-MD5 you specified was invalid."""


class MalformedChecksum(Invalid):
    """The checksum you specified is not one of its algorithm."""


class Hasher(Protocol):
    """Takes bytes, gives a digest: hashlib's objects do, and ours for the rest."""

    def update(self, data: Buffer, /) -> None:
        """Go on with more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class Digests:
    """Runs every digest one body needs. State: the hashers, and the bytes so far.

    Args:
        algorithm: the checksum to keep; the default one when None.
        checksum: its expected value in base64, when it is known before the body.
        content_md5: the expected MD5 in base64.
        payload_sha256: the expected SHA-256 in hexadecimal.

    Raises:
        MalformedDigest, MalformedChecksum: a value cannot be one of its algorithm.
        Invalid: there is no such algorithm.
    """

    __slots__ = (
        "_algorithm",
        "_expected",
        "_expected_md5",
        "_expected_sha256",
        "_kept",
        "_md5",
        "_sha256",
        "_updates",
        "size_bytes",
    )

    def __init__(
        self,
        *,
        algorithm: str | None = None,
        checksum: str | None = None,
        content_md5: str | None = None,
        payload_sha256: str | None = None,
    ) -> None:
        self.size_bytes = 0
        self._algorithm = algorithm or DEFAULT_ALGORITHM
        self._expected = None if checksum is None else read_checksum(self._algorithm, checksum)
        self._expected_md5 = None if content_md5 is None else _read_md5(content_md5)
        self._expected_sha256 = None if payload_sha256 is None else _read_sha256(payload_sha256)

        self._md5 = _MD5.copy()
        self._kept = self._md5 if algorithm == "MD5" else new_hasher(self._algorithm)
        self._updates = (self._md5.update,) if self._kept is self._md5 else (self._md5.update, self._kept.update)
        self._sha256 = self._kept
        if payload_sha256 is not None and algorithm != "SHA256":
            self._sha256 = hashlib.sha256()
            self._updates = (*self._updates, self._sha256.update)

    def __repr__(self) -> str:
        return f"Digests({self._algorithm} of {self.size_bytes} bytes)"

    def update(self, *pieces: Buffer) -> None:
        """Go on with the next bytes of the body."""
        for data in pieces:
            self.size_bytes += len(data)
            for update in self._updates:
                update(data)

    def verify(self, *, trailing_checksum: str | None = None) -> None:
        """Make sure that the body is what the client meant; `trailing_checksum` came behind it.

        Raises:
            PayloadMismatch: it is not the body that was signed.
            BadDigest: it does not have the MD5 or checksum sent.
            MalformedChecksum: the trailing one cannot be one of its algorithm.
        """
        if self._expected_sha256 is not None and self._sha256.digest() != self._expected_sha256:
            raise PayloadMismatch
        if self._expected_md5 is not None and self._md5.digest() != self._expected_md5:
            raise BadDigest("The Content-MD5 you specified did not match what we received.")
        if self._expected is not None:
            self._check(self._expected)
        if trailing_checksum is not None:
            self._check(read_checksum(self._algorithm, trailing_checksum))

    @property
    def etag(self) -> str:
        """The MD5 of the body in hexadecimal, without quotes."""
        return self._md5.hexdigest()

    @property
    def checksum(self) -> str:
        """The checksum to keep, as `ALGORITHM:base64`."""
        return f"{self._algorithm}:{_base64(self._kept.digest())}"

    def _check(self, expected: bytes) -> None:
        if self._kept.digest() != expected:
            raise BadDigest(f"The {self._algorithm} you specified did not match the calculated checksum.")


def new_hasher(algorithm: str) -> Hasher:
    """Return a hasher that has seen nothing.

    Raises:
        Invalid: there is no such algorithm.
    """
    try:
        return _HASHERS[algorithm]()
    except KeyError:
        raise Invalid(f"There is no checksum algorithm {algorithm}.") from None


def read_checksum(algorithm: str, value: str) -> bytes:
    """Return the digest that base64 text stands for.

    Raises:
        MalformedChecksum: it is not base64, or not as long as the algorithm's digests are.
        Invalid: there is no such algorithm.
    """
    length = LENGTH_BYTES.get(algorithm)
    if length is None:
        raise Invalid(f"There is no checksum algorithm {algorithm}.")
    digest = _read_base64(value)
    if digest is None or len(digest) != length:
        raise MalformedChecksum(f"Value for x-amz-checksum-{algorithm.lower()} is invalid.")
    return digest


def composite_etag(part_etags: Iterable[str]) -> str:
    """Return the ETag of an object made of parts: the MD5 of their MD5s, and how many there are.

    >>> composite_etag(["d41d8cd98f00b204e9800998ecf8427e"])
    '59adb24ef3cdbe0297f05b395827453f-1'
    """
    digests = [bytes.fromhex(etag) for etag in part_etags]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def composite_checksum(part_checksums: Iterable[str]) -> str:
    """Return the checksum of an object made of parts: that of their checksums, and how many there are.

    Raises:
        Invalid: the algorithm is CRC64NVME, of which S3 makes no composites.
        InvalidPart: there is no part, or the parts have different algorithms.
    """
    algorithm, digests = _read_parts(part_checksums)
    if algorithm == "CRC64NVME":
        raise Invalid("The COMPOSITE checksum type is not supported for CRC64NVME.")
    hasher = new_hasher(algorithm)
    hasher.update(b"".join(digests))
    return f"{algorithm}:{_base64(hasher.digest())}-{len(digests)}"


def full_object_checksum(parts: Iterable[tuple[str, int]]) -> str:
    """Return the checksum of the bytes of all parts, from the checksum and size in bytes of each.

    Nothing is read again: a CRC of two strings follows from the CRCs of both and the length of the
    second.

    Raises:
        Invalid: the algorithm is no CRC.
        InvalidPart: there is no part, or the parts have different algorithms.
    """
    known = list(parts)
    algorithm, digests = _read_parts(checksum for checksum, _ in known)
    combine = _COMBINE.get(algorithm)
    if combine is None:
        raise Invalid(f"The FULL_OBJECT checksum type is not supported for {algorithm}.")
    total = 0
    for digest, (_, size_bytes) in zip(digests, known, strict=True):
        total = combine(total, int.from_bytes(digest, "big"), size_bytes)
    return f"{algorithm}:{_base64(total.to_bytes(LENGTH_BYTES[algorithm], 'big'))}"


class _Crc:
    """A running CRC. State: its value so far."""

    __slots__ = ("_function", "_length_bytes", "_value")

    def __init__(self, function: Callable[[Buffer, int], int], length_bytes: int) -> None:
        self._function = function
        self._length_bytes = length_bytes
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length_bytes, "big")


class _XxHash:
    """XXHash under the names hashlib uses. State: the hash so far."""

    __slots__ = ("_hash", "digest")

    def __init__(self, started: checksums.XXHash) -> None:
        self._hash = started
        self.digest = started.finalize

    def update(self, data: Buffer, /) -> None:
        # Alone among awscrt's checksums, this one takes nothing but bytes.
        self._hash.update(data if isinstance(data, bytes) else bytes(data))


# Copying a hash that has seen nothing is four times as fast as starting one.
_MD5 = hashlib.md5(usedforsecurity=False)

_HASHERS: Final[Mapping[str, Callable[[], Hasher]]] = {
    "CRC32": lambda: _Crc(checksums.crc32, 4),
    "CRC32C": lambda: _Crc(checksums.crc32c, 4),
    "CRC64NVME": lambda: _Crc(checksums.crc64nvme, 8),
    "SHA1": lambda: hashlib.sha1(usedforsecurity=False),
    "SHA256": hashlib.sha256,
    "SHA512": hashlib.sha512,
    "MD5": _MD5.copy,
    "XXHASH64": lambda: _XxHash(checksums.XXHash.new_xxhash64()),
    "XXHASH3": lambda: _XxHash(checksums.XXHash.new_xxhash3_64()),
    "XXHASH128": lambda: _XxHash(checksums.XXHash.new_xxhash3_128()),
}

_COMBINE: Final[Mapping[str, Callable[[int, int, int], int]]] = {
    "CRC32": checksums.combine_crc32,
    "CRC32C": checksums.combine_crc32c,
    "CRC64NVME": checksums.combine_crc64nvme,
}


def _base64(digest: bytes) -> str:
    return binascii.b2a_base64(digest, newline=False).decode()


def _read_base64(value: str) -> bytes | None:
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return None


def _read_md5(value: str) -> bytes:
    digest = _read_base64(value)
    if digest is None or len(digest) != LENGTH_BYTES["MD5"]:
        raise MalformedDigest
    return digest


def _read_sha256(value: str) -> bytes:
    try:
        digest = bytes.fromhex(value)
    except ValueError:
        digest = b""
    if len(digest) != LENGTH_BYTES["SHA256"] or len(value) != 2 * len(digest):
        raise MalformedChecksum("The SHA-256 of the payload is invalid.")
    return digest


def _read_parts(part_checksums: Iterable[str]) -> tuple[str, list[bytes]]:
    """Return the algorithm all parts share, and their digests."""
    parts = [checksum.partition(":") for checksum in part_checksums]
    algorithms = {algorithm for algorithm, _, _ in parts}
    if len(algorithms) != 1:
        raise InvalidPart("The parts have no one checksum algorithm in common.")
    algorithm = algorithms.pop()
    return algorithm, [read_checksum(algorithm, value) for _, _, value in parts]
