"""The checksums of a file blob, one per frame of 1 MiB, and the trailer that keeps them.

A file is its data, then the trailer: a table of one CRC64NVME per frame, and a footer (magic, version,
frame size, data size, CRC64NVME of the table and of the footer so far). The data starts at zero and is
contiguous, so that sendfile can take any of it.
"""

import struct

from awscrt.checksums import combine_crc64nvme, crc64nvme

from seawall.blobs.settings import MIB
from seawall.errors import BlobCorrupt

FRAME_BYTES = MIB

_CRC = struct.Struct("<Q")
_FOOTER = struct.Struct("<8sHHIQ")
_MAGIC = b"SeawallF"
_VERSION = 1


def frame_count(size: int) -> int:
    """Return how many frames hold `size` bytes."""
    return -(-size // FRAME_BYTES)


def frames_of(start: int, stop: int) -> range:
    """Return the indexes of the frames that overlap the bytes `start` up to `stop`."""
    return range(start // FRAME_BYTES, frame_count(stop) if start < stop else start // FRAME_BYTES)


def trailer_bytes(size: int) -> int:
    """Return how long the trailer of `size` bytes of data is."""
    return frame_count(size) * _CRC.size + _FOOTER.size + _CRC.size


class RunningSums:
    """The checksums of data that is still arriving. State: finished frames, and the one begun."""

    def __init__(self) -> None:
        self.size = 0
        self._table = bytearray()
        self._before = 0
        self._frame = 0

    def add(self, data: memoryview) -> None:
        """Take in the next bytes."""
        at = 0
        while at < len(data):
            part = data[at : at + FRAME_BYTES - self.size % FRAME_BYTES]
            self._frame = crc64nvme(part, self._frame)
            self.size += len(part)
            at += len(part)
            if self.size % FRAME_BYTES == 0:
                self._table += _CRC.pack(self._frame)
                self._before = self._combined(FRAME_BYTES)
                self._frame = 0

    @property
    def crc64nvme(self) -> int:
        """The checksum of all data so far."""
        return self._combined(self.size % FRAME_BYTES)

    def trailer(self) -> bytes:
        """Return the trailer for the data so far."""
        table = bytes(self._table)
        if self.size % FRAME_BYTES:
            table += _CRC.pack(self._frame)
        checked = table + _FOOTER.pack(_MAGIC, _VERSION, 0, FRAME_BYTES, self.size)
        return checked + _CRC.pack(crc64nvme(checked))

    def _combined(self, frame_size: int) -> int:
        """Return the checksum of the finished frames and of the `frame_size` bytes after them."""
        combined: int = combine_crc64nvme(self._before, self._frame, frame_size)
        return combined


class FrameSums:
    """The checksums of a stored file, read from its trailer."""

    def __init__(self, trailer: bytes, *, size: int, location: str) -> None:
        """Take in the trailer of `size` bytes of data.

        Raises:
            BlobCorrupt: it is not the trailer that was written for them.
        """
        self._trailer = trailer
        self._location = location
        self._size = size
        checked = trailer[: -_CRC.size]
        actual, (expected,) = crc64nvme(checked), _CRC.unpack_from(trailer, len(checked))
        if actual != expected:
            raise BlobCorrupt(f"the trailer of {location} has CRC64NVME {actual:016x} instead of {expected:016x}")
        found = _FOOTER.unpack_from(checked, len(checked) - _FOOTER.size)
        if found != (_MAGIC, _VERSION, 0, FRAME_BYTES, size):
            raise BlobCorrupt(f"the trailer of {location} is for something else: {found!r}")

    def check(self, index: int, frame: memoryview) -> None:
        """Raise BlobCorrupt unless this is what was written as the frame of that index."""
        actual, (expected,) = crc64nvme(frame), _CRC.unpack_from(self._trailer, index * _CRC.size)
        if actual != expected:
            raise BlobCorrupt(
                f"frame {index} of {self._location} has CRC64NVME {actual:016x} instead of {expected:016x}"
            )

    @property
    def crc64nvme(self) -> int:
        """The checksum of the whole data."""
        combined = 0
        for index in range(frame_count(self._size)):
            frame_size = min(FRAME_BYTES, self._size - index * FRAME_BYTES)
            combined = combine_crc64nvme(combined, *_CRC.unpack_from(self._trailer, index * _CRC.size), frame_size)
        return combined
