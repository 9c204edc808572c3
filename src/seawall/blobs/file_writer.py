"""A large blob on its way in.

Its bytes go to the disk without a stay in the page cache, where the disk allows it: they must be
durable before the answer anyway, the copy saved is a third of what a large upload costs, and a
large upload does not push out what a crowd is reading (open(2), O_DIRECT).
"""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from seawall.blobs.directories import Directories
from seawall.blobs.disk import (
    INCOMING,
    Bytes,
    Descriptor,
    DiskReserve,
    create_claimed,
    set_direct,
    write_failure,
    write_fully,
    write_units,
)
from seawall.blobs.frames import RunningSums
from seawall.blobs.locations import new_file_name
from seawall.blobs.threads import DiskThreads
from seawall.errors import StorageFull
from seawall.telemetry.segments import Segment, timed


class FileWriter:
    """One file on its way in. State: what was written so far, the odd bytes after it, whether it may become a blob.

    Leaving its `async with` block without `commit` removes every trace. The file is created by the
    first `write`, claimed by its lock until the end. Any failure is final.
    """

    def __init__(
        self, root: Path, threads: DiskThreads, directories: Directories, reserve: DiskReserve, *, direct: bool
    ) -> None:
        self._root = root
        self._threads = threads
        self._directories = directories
        self._reserve = reserve
        self._name = new_file_name()
        self._incoming = root / INCOMING / self._name
        self._sums = RunningSums()
        self._direct = direct
        self._odd = b""
        self._descriptor: Descriptor | None = None
        self._state: Literal["open", "published", "discarded"] = "open"
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._sums.size

    @property
    def crc64nvme(self) -> int:
        """The CRC64NVME of all that was written so far."""
        return self._sums.crc64nvme

    def write(self, *buffers: Bytes) -> None:
        """Append the buffers. Blocks: for worker threads, one at a time.

        Raises:
            StorageFull: the disk is full; the file is discarded.
            DiskFailed: a write failed; the file is discarded.
        """
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        size = sum(map(len, views))
        try:
            self._reserve.promise(size)
        except StorageFull:
            self.discard()
            raise
        try:
            self._write(views)
        finally:
            self._reserve.settle(size)
        for view in views:
            self._sums.add(view)

    def _write(self, views: list[memoryview]) -> None:
        try:
            descriptor = self._held()
            try:
                start = self.size - len(self._odd)
                parts = [memoryview(self._odd), *views]
                self._odd = write_units(descriptor.fd, parts, start, buffer=self._threads.buffer())
            finally:
                descriptor.release()
        except OSError as error:
            self.discard()
            raise write_failure(error) from error

    def _held(self) -> Descriptor:
        """Return the file's descriptor, held; create the file if this is its first use."""
        # Critical section: a discard from elsewhere finds either no file, or one it can remove.
        with self._lock:
            self._check_open()
            if self._descriptor is None:
                self._descriptor = Descriptor(create_claimed(self._incoming))
                if self._direct:
                    set_direct(self._descriptor.fd, on=True)
            self._descriptor.hold()
            return self._descriptor

    async def commit(self) -> str:
        """Return the location of what was written, once it survives a power cut.

        A cancelled caller leaves nothing behind: the file is removed as soon as the disk is done.

        Raises:
            StorageFull: the disk is full; the file is discarded.
            DiskFailed: the disk failed; the file is discarded.
        """
        with timed(Segment.DISK):
            return await self._directories.publish(self._name, self._finish, otherwise=self.discard)

    def _finish(self, path: Path) -> None:
        """Make the data durable, then give the file its final name."""
        descriptor = self._held()
        try:
            if self._direct:
                set_direct(descriptor.fd, on=False)
            write_fully(descriptor.fd, [self._odd, self._sums.trailer()], self.size - len(self._odd))
            os.fdatasync(descriptor.fd)
        finally:
            descriptor.release()
        # Critical section: either a discard removes the incoming file, or it comes too late.
        with self._lock:
            self._check_open()
            self._incoming.rename(path)
            self._state = "published"
        self._close()

    def discard(self) -> None:
        """Remove the incoming file, unless it was committed. For worker threads; safe beside a `write`."""
        with self._lock:
            if self._state != "open":
                return
            self._state = "discarded"
            if self._descriptor is not None:
                self._incoming.unlink(missing_ok=True)
        self._close()

    async def abort(self) -> None:
        """Do as `discard`, in a thread: removing much takes the disk a while."""
        if self._state == "open":
            with timed(Segment.DISK):
                await self._threads.run(self.discard)

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError(f"the file was {self._state} already")

    def _close(self) -> None:
        if self._descriptor is not None:
            self._descriptor.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.abort()

    def __repr__(self) -> str:
        return f"FileWriter({self._name}, {self._state}, size={self.size})"
