"""Large blobs, each in a file of its own: written once, never changed, verified frame by frame when read."""

import errno
import os
from functools import partial
from pathlib import Path

from seawall.blobs.directories import Directories
from seawall.blobs.disk import (
    FILES,
    INCOMING,
    CachedReads,
    Descriptor,
    DiskReserve,
    create_claimed,
    read_failure,
    write_failure,
)
from seawall.blobs.file_reader import FileReader, Layout
from seawall.blobs.file_writer import FileWriter
from seawall.blobs.frames import FrameSums, trailer_bytes
from seawall.blobs.locations import new_file_name, parse_of_kind
from seawall.blobs.settings import MIB
from seawall.blobs.threads import DiskThreads
from seawall.errors import BlobCorrupt, BlobMissing

COPIED_AT_ONCE_BYTES = 8 * MIB

_NOT_LINKABLE = frozenset({errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})


class Files:
    """Makes, opens, links and deletes files. State: `direct`, whether the disk takes direct writes."""

    def __init__(
        self, root: Path, *, threads: DiskThreads, directories: Directories, reserve: DiskReserve, cached: CachedReads
    ) -> None:
        self._root = root
        self._files = str(root / FILES)
        self._threads = threads
        self._directories = directories
        self._reserve = reserve
        self._cached = cached
        self.direct = False

    def new(self) -> FileWriter:
        """Return a writer; nothing is on the disk yet."""
        return FileWriter(self._root, self._threads, self._directories, self._reserve, direct=self.direct)

    def open(self, location: str, size: int) -> FileReader:
        """Return a reader of the `size` bytes at a location."""
        try:
            descriptor = Descriptor(os.open(self._text_path(location), os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise read_failure(error, location) from error
        expected, stored = size + trailer_bytes(size), os.fstat(descriptor.fd).st_size
        if stored != expected:
            descriptor.release()
            raise BlobCorrupt(f"{location} takes {stored} bytes instead of {expected}")
        layout = Layout(
            data_offset=0,
            sums_offset=size,
            sums_bytes=trailer_bytes(size),
            parse=partial(FrameSums, size=size, location=location),
        )
        return FileReader(location, size, descriptor, layout, threads=self._threads, cached=self._cached)

    async def link(self, location: str) -> str:
        """Return a second location for the same bytes."""
        source = self._path(location)
        name = new_file_name()

        def put(path: Path) -> None:
            try:
                self._link(source, path)
            except FileNotFoundError as error:
                if source.exists():
                    raise
                raise BlobMissing(f"no bytes are stored under {location}") from error

        return await self._directories.publish(name, put)

    async def delete(self, location: str) -> None:
        """Remove a file; one that is gone already is fine."""
        try:
            await self._threads.run(self._path(location).unlink, missing_ok=True)
        except OSError as error:
            raise write_failure(error) from error

    def _link(self, source: Path, path: Path) -> None:
        try:
            path.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NOT_LINKABLE:
                raise
            self._copy(source, path)

    def _copy(self, source: Path, path: Path) -> None:
        """Copy a file as it is, checksums and all, so that damage done before can still be told."""
        incoming = self._root / INCOMING / path.name
        read_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fd = create_claimed(incoming)
            try:
                while self._copy_some(read_fd, fd):
                    pass
                os.fdatasync(fd)
                incoming.rename(path)
            except BaseException:
                incoming.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
        finally:
            os.close(read_fd)

    def _copy_some(self, read_fd: int, fd: int) -> int:
        self._reserve.promise(COPIED_AT_ONCE_BYTES)
        try:
            return os.copy_file_range(read_fd, fd, COPIED_AT_ONCE_BYTES)
        finally:
            self._reserve.settle(COPIED_AT_ONCE_BYTES)

    def _path(self, location: str) -> Path:
        return Path(self._text_path(location))

    def _text_path(self, location: str) -> str:
        place = parse_of_kind(location, "file")
        return f"{self._files}/{place.container}/{place.entry}"  # pathlib would take longer than open does
