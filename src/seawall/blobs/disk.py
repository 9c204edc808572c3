"""What the operating system is asked to do, and what its refusals mean.

Everything here is small and synchronous. A write that failed is never tried again: after a failed
fdatasync the kernel may call pages clean that never reached the disk, so a second one proves nothing.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from seawall.blobs.settings import MIB
from seawall.clock import monotonic_s
from seawall.errors import BlobCorrupt, BlobMissing, Overloaded, SeawallError, StorageFull, Unavailable

Bytes = bytes | bytearray | memoryview

INCOMING = "incoming"
FILES = "files"
SEGMENTS = "segments"

IOV_MAX = os.sysconf("SC_IOV_MAX")
FREE_SPACE_SEEN_FOR_S = 0.25
# Direct writes begin and end at multiples of this, in the file and in memory. No disk asks for more.
DIRECT_UNIT_BYTES = 4096

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


class DiskFailed(Unavailable):
    """The disk failed to do what was asked; nothing was acknowledged."""


def write_failure(error: OSError) -> SeawallError:
    """Return what a failed write means to the caller."""
    if error.errno in _NO_SPACE:
        return StorageFull()
    if error.errno in _NO_DESCRIPTORS:
        return Overloaded()
    return DiskFailed(f"the disk failed to store the bytes: {error.strerror}")


def read_failure(error: OSError, location: str) -> SeawallError:
    """Return what a failed read means to the caller.

    An I/O error counts as corruption: the bytes that were acknowledged cannot be had back from this
    disk, and whoever looks after corrupt blobs has to look after this one.
    """
    if error.errno == errno.ENOENT:
        return BlobMissing(f"no bytes are stored under {location}")
    if error.errno in _UNREADABLE:
        return BlobCorrupt(f"the disk cannot read {location}: {error.strerror}")
    if error.errno in _NO_DESCRIPTORS:
        return Overloaded()
    return DiskFailed(f"the disk failed to read {location}: {error.strerror}")


class Descriptor:
    """A file descriptor that closes when its last holder lets go. State: how many hold it.

    A caller that is cancelled closes its reader while a thread still reads. Closing the number then
    would hand the thread whatever file is opened next.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> int:
        """Return the descriptor, open until the matching `release`."""
        with self._lock:
            if self._holders == 0:
                raise ValueError("the file is closed")
            self._holders += 1
            return self.fd

    def release(self) -> None:
        """Let go; the last one to do so closes."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                os.close(self.fd)

    def __repr__(self) -> str:
        return f"Descriptor(fd={self.fd}, holders={self._holders})"


class DiskReserve:
    """Refuses writes that would eat into the last free bytes. State: what was free, and what is promised.

    Free space is asked for at most every `FREE_SPACE_SEEN_FOR_S`; in between, what was promised and
    written since is deducted, so that a burst cannot run past the reserve.
    """

    def __init__(self, root: Path, *, reserve_bytes: int) -> None:
        self.reserve_bytes = reserve_bytes
        self.promised_bytes = 0
        self._root = root
        self._free_bytes = 0
        self._seen_at_s = float("-inf")
        self._lock = threading.Lock()

    def promise(self, size_bytes: int) -> None:
        """Set `size_bytes` aside until `settle`.

        Raises:
            StorageFull: that would leave less than the reserve. Nothing is set aside.
        """
        with self._lock:
            self._check(size_bytes)
            self.promised_bytes += size_bytes

    def settle(self, size_bytes: int) -> None:
        """Count `size_bytes` of promises as written, or given up."""
        with self._lock:
            self.promised_bytes -= size_bytes
            self._free_bytes -= size_bytes

    @property
    def free_bytes(self) -> int:
        """How much can be written before the reserve is touched, as of at most `FREE_SPACE_SEEN_FOR_S` ago."""
        with self._lock:
            self._see()
            return self._free_bytes - self.promised_bytes - self.reserve_bytes

    def check(self, size_bytes: int) -> None:
        """Raise StorageFull if `size_bytes` could not be promised now."""
        with self._lock:
            self._check(size_bytes)

    def _see(self) -> None:
        now_s = monotonic_s()
        if now_s - self._seen_at_s > FREE_SPACE_SEEN_FOR_S:
            seen = os.statvfs(self._root)
            self._free_bytes = seen.f_bavail * seen.f_frsize
            self._seen_at_s = now_s

    def _check(self, size_bytes: int) -> None:
        self._see()
        if self._free_bytes - self.promised_bytes - size_bytes < self.reserve_bytes:
            raise StorageFull

    def __repr__(self) -> str:
        return (
            f"DiskReserve(free_bytes={self._free_bytes}, promised_bytes={self.promised_bytes}, "
            f"reserve_bytes={self.reserve_bytes})"
        )


class CachedReads:
    """Reads what is in the page cache and nothing else. State: one buffer, and whether the disk allows it.

    Belongs to the event loop's thread: the buffer is reused by the next read.
    """

    def __init__(self, *, buffer_bytes: int) -> None:
        self.is_supported = True
        self.buffer = memoryview(bytearray(buffer_bytes))

    def read(self, fd: int, into: memoryview, offset: int) -> bool:
        """Fill `into` from `offset`; return False, having filled any part of it, if that would wait for the disk."""
        if not self.is_supported:
            return False
        try:
            return os.preadv(fd, [into], offset, os.RWF_NOWAIT) == len(into)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.is_supported = False
            return False


def read_fully(fd: int, into: memoryview, offset: int) -> bool:
    """Fill `into` from `offset`, waiting for the disk; return False if the file ends first."""
    filled = 0
    while filled < len(into):
        got = os.preadv(fd, [into[filled:]], offset + filled)
        if got == 0:
            return False
        filled += got
    return True


def write_fully(fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
    """Write all buffers (of bytes) one after the other from `offset`; return how many bytes that was."""
    start = offset
    for first in range(0, len(buffers), IOV_MAX):
        rest = buffers[first : first + IOV_MAX]
        left = sum(map(len, rest))
        while left:
            written = os.pwritev(fd, rest, offset)
            if written == 0:
                raise OSError(errno.EIO, "a write made no progress")
            offset += written
            left -= written
            if left:
                rest = _after(rest, written)
    return offset - start


def write_units(fd: int, buffers: Sequence[Bytes], offset: int, *, buffer: memoryview) -> bytes:
    """Write all whole units there are in the buffers, as direct writes must be; return the odd bytes after them.

    Args:
        fd: the file.
        buffers: what to write, one after the other.
        offset: where: the beginning of a unit.
        buffer: what the disk takes the bytes from; it begins where a page does and is whole units long.
    """
    filled = 0
    for data in buffers:
        view, at = memoryview(data), 0
        while at < len(view):
            count = min(len(view) - at, len(buffer) - filled)
            buffer[filled : filled + count] = view[at : at + count]
            filled += count
            at += count
            if filled == len(buffer):
                offset += write_fully(fd, [buffer], offset)
                filled = 0
    whole = filled - filled % DIRECT_UNIT_BYTES
    if whole:
        write_fully(fd, [buffer[:whole]], offset)
    return bytes(buffer[whole:filled])


def _after(buffers: Sequence[bytes | memoryview], written: int) -> list[memoryview]:
    rest: list[memoryview] = []
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
        else:
            rest.append(memoryview(buffer)[written:])
            written = 0
    return rest


def set_direct(fd: int, *, on: bool) -> None:
    """Have what is written from now on go past the page cache, or through it again."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)


def takes_direct_writes(path: Path, unit: memoryview) -> bool:
    """Return whether files can be written past the page cache; tmpfs and some network disks refuse.

    Found out by writing `unit`, the least that will ever be written so, to a file that is removed at once. What
    cannot be tried, because the disk is full, is not relied on.
    """
    try:
        fd = create_claimed(path)
        try:
            set_direct(fd, on=True)
            return os.pwritev(fd, [unit], 0) == len(unit)
        finally:
            path.unlink()
            os.close(fd)
    except OSError:
        return False


def create_claimed(path: Path) -> int:
    """Create a file that must not exist, flock it, and return its descriptor.

    The lock says to other processes: its writer lives. It goes with the descriptor, also by kill -9.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_claimed(path: Path) -> bool:
    """Return whether a living writer holds the lock of a file or directory.

    Raises:
        FileNotFoundError: it is gone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prepare_root(root: Path) -> None:
    """Create the root and its three directories where missing, durably."""
    missing = [part for part in (root, *root.parents) if not part.exists()]
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)
        sync_directory(part.parent)
    for name in (INCOMING, FILES, SEGMENTS):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    sync_directory(root)


ZEROS = memoryview(bytes(MIB))
