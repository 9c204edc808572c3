"""The directories that a process puts its finished files into.

Concurrent writers share a directory, so that one fsync makes all their names durable. Each belongs to
one process, which holds its lock, and is rolled before it grows slow.
"""

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from seawall.blobs.disk import FILES, Descriptor, sync_directory, write_failure
from seawall.blobs.groups import GroupCommit, GroupLimits
from seawall.blobs.locations import container_name, file_location, parse_of_kind
from seawall.blobs.threads import DiskThreads

# Who waits here has finished a file already: the queue is as long as there are files being finished.
_SYNC_LIMITS = GroupLimits(queue_max=100_000, queue_max_bytes=1, group_max=100_000, group_max_bytes=1)


class Directory:
    """One directory, open for its fsync. State: who waits for that, and how many files are on their way into it."""

    def __init__(self, path: Path, descriptor: Descriptor, threads: DiskThreads) -> None:
        self.path = path
        self.name = path.name
        self._descriptor = descriptor
        self._syncs = GroupCommit[None, None](self._sync, executor=threads.pool, limits=_SYNC_LIMITS)

    async def synced(self) -> None:
        """Return once the names now in the directory survive a power cut.

        Raises:
            OSError: they may not.
        """
        await self._syncs.join(None)

    def _sync(self, waiters: Sequence[None]) -> Sequence[None]:
        os.fsync(self._descriptor.fd)
        return waiters

    def hold(self) -> None:
        """Keep the directory open and locked until the matching `release`."""
        self._descriptor.hold()

    def release(self) -> None:
        """Let go of the directory."""
        self._descriptor.release()

    def __repr__(self) -> str:
        return f"Directory({self.name}, {self._descriptor!r}, {self._syncs!r})"


class Directories:
    """Says where the next file goes. State: the directory in use and how many files it was given."""

    def __init__(self, root: Path, threads: DiskThreads, *, incarnation: str, files_max: int) -> None:
        self._files = root / FILES
        self._threads = threads
        self._incarnation = incarnation
        self._files_max = files_max
        self._current: Directory | None = None
        self._given = 0
        self._opened = 0
        self._lock = threading.Lock()

    async def publish(
        self, name: str, put: Callable[[Path], None], *, otherwise: Callable[[], None] | None = None
    ) -> str:
        """Return the location of the file that `put` leaves at the path it is given, once its name is durable.

        A cancelled caller does not stop it: the file is removed as soon as it is there. Both callables
        run in a thread, `otherwise` if `put` failed or never got a path.

        Raises:
            StorageFull: the disk is full.
            DiskFailed: the disk failed.
        """
        work = self._threads.keep(self._publish(name, put, otherwise))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._withdraw)
            raise

    async def _publish(self, name: str, put: Callable[[Path], None], otherwise: Callable[[], None] | None) -> str:
        directory = await self._threads.run(self._put, name, put, otherwise)
        try:
            await directory.synced()
        except OSError as error:
            self._abandon(directory)
            await self._threads.run(_remove, directory.path / name)
            raise write_failure(error) from error
        finally:
            directory.release()
        return file_location(directory.name, name)

    def _put(self, name: str, put: Callable[[Path], None], otherwise: Callable[[], None] | None) -> Directory:
        try:
            directory = self._held()
            try:
                put(directory.path / name)
            except BaseException:
                if not directory.path.is_dir():
                    self._abandon(directory)
                directory.release()
                raise
        except BaseException as error:
            if otherwise is not None:
                otherwise()
            if isinstance(error, OSError):
                raise write_failure(error) from error
            raise
        return directory

    def _withdraw(self, work: asyncio.Task[str]) -> None:
        """Remove what was made for a caller who is gone."""
        if not work.cancelled() and work.exception() is None:
            place = parse_of_kind(work.result(), "file")
            self._threads.submit(_remove, self._files / place.container / place.entry)

    def _held(self) -> Directory:
        """Return the directory for one more file, held; its own name is durable."""
        # Critical section: the others need the new directory too, so they wait for it.
        with self._lock:
            if self._current is None or self._given >= self._files_max:
                self._current, self._given = self._opened_next(), 0
            self._given += 1
            self._current.hold()
            return self._current

    def _abandon(self, directory: Directory) -> None:
        """Give no more files to a directory whose fsync failed."""
        with self._lock:
            if self._current is directory:
                self._let_go()

    def close(self) -> None:
        """Let go of the directory in use; an empty one is removed."""
        with self._lock:
            current = self._current
            self._let_go()
        if current is not None:
            with suppress(OSError):  # it holds files
                current.path.rmdir()

    def _opened_next(self) -> Directory:
        path = self._files / container_name(self._incarnation, self._opened)
        self._opened += 1
        path.mkdir(mode=0o700)
        descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            fcntl.flock(descriptor.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_directory(self._files)
        except OSError:
            descriptor.release()
            with suppress(OSError):
                path.rmdir()
            raise
        self._let_go()
        return Directory(path, descriptor, self._threads)

    def _let_go(self) -> None:
        if self._current is not None:
            self._current.release()
            self._current = None

    def __repr__(self) -> str:
        return f"Directories(current={self._current!r}, given={self._given}, files_max={self._files_max})"


def _remove(path: Path) -> None:
    with suppress(OSError):  # the catalogue does not name it, so the sweeper finds it
        path.unlink()
