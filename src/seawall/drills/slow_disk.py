"""A disk that is slow, or full, when a drill says so.

The blob store of a node under drill is the real one, on threads that wait before they touch the disk and with a
reserve that can be declared used up. What is in the page cache is read as fast as ever, as it would be. Hashing of
large bodies goes through the same threads, and waits too.

A drill and its nodes are different processes: what the disk does stands in a small file that nodes look at.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.blobs.disk import DiskReserve
from seawall.blobs.frames import FRAME_BYTES
from seawall.blobs.threads import DiskThreads
from seawall.clock import monotonic_s
from seawall.errors import StorageFull

P = ParamSpec("P")
T = TypeVar("T")

LOOKED_AT_EVERY_S: Final = 0.1
WAIT_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTrouble:
    """What is the matter with a disk: how long it takes for anything, and whether it has no room."""

    wait_s: float = 0.0
    full: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s <= WAIT_MAX_S:
            raise ValueError(f"a disk waits from 0 to {WAIT_MAX_S:g} s, not {self.wait_s:g}")


WELL: Final = DiskTrouble()


class TroubleFile:
    """What a drill says about the disk. State: what it said lately, and when that was looked at.

    Read from several threads: the worst that can happen is that two look at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = WELL
        self._looked_s = float("-inf")

    def __repr__(self) -> str:
        return f"<TroubleFile {self._path}: {self._seen}>"

    @property
    def now(self) -> DiskTrouble:
        """What is the matter, as of at most `LOOKED_AT_EVERY_S` ago; nothing where there is no file."""
        now_s = monotonic_s()
        if now_s - self._looked_s > LOOKED_AT_EVERY_S:
            self._looked_s = now_s
            try:
                self._seen = DiskTrouble(**json.loads(self._path.read_text()))
            except FileNotFoundError:
                self._seen = WELL
        return self._seen


@contextmanager
def disk_trouble(path: Path, trouble: DiskTrouble) -> Iterator[None]:
    """Have nodes that look at `path` find this trouble, for the length of the block."""
    incoming = path.with_suffix(".incoming")
    try:
        incoming.write_text(json.dumps(asdict(trouble)))
        incoming.rename(path)
        yield
    finally:
        incoming.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def drill_blob_store(settings: BlobSettings, *, trouble_file: Path) -> DiskBlobStore:
    """Return a blob store on a disk that does what a drill says."""
    trouble = TroubleFile(trouble_file)
    return DiskBlobStore(
        settings,
        threads=SlowThreads(trouble, threads=settings.threads, buffer_bytes=FRAME_BYTES),
        reserve=FillableReserve(trouble, settings.root, reserve_bytes=settings.reserve_bytes),
    )


class SlowThreads(DiskThreads):
    """Threads that wait before they touch the disk. A group of small blobs waits once, as it syncs once."""

    def __init__(self, trouble: TroubleFile, *, threads: int, buffer_bytes: int) -> None:
        super().__init__(threads=threads, buffer_bytes=buffer_bytes)
        self.pool = SlowExecutor(trouble, threads, thread_name_prefix="slow blobs")
        self.appender = SlowExecutor(trouble, 1, thread_name_prefix="slow blobs-append")


class SlowExecutor(ThreadPoolExecutor):
    """Makes each call after the wait of the moment."""

    def __init__(self, trouble: TroubleFile, workers: int, *, thread_name_prefix: str) -> None:
        super().__init__(workers, thread_name_prefix=thread_name_prefix)
        self._trouble = trouble

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread wait, and make a call."""
        return super().submit(partial(self._slowly, fn), *args, **kwargs)

    def _slowly(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        time.sleep(self._trouble.now.wait_s)
        return call(*args, **kwargs)


class FillableReserve(DiskReserve):
    """A reserve that is used up when a drill says so."""

    def __init__(self, trouble: TroubleFile, root: Path, *, reserve_bytes: int) -> None:
        super().__init__(root, reserve_bytes=reserve_bytes)
        self._trouble = trouble

    def promise(self, size_bytes: int) -> None:
        """Set aside, unless there is no room; see `DiskReserve`."""
        self._refuse_if_full()
        super().promise(size_bytes)

    def check(self, size_bytes: int) -> None:
        """Raise StorageFull if there is no room; see `DiskReserve`."""
        self._refuse_if_full()
        super().check(size_bytes)

    def _refuse_if_full(self) -> None:
        if self._trouble.now.full:
            raise StorageFull
