"""How long does the disk take for a small write? Asked every two seconds, by a thread of its own.

A disk that hangs does not answer, and whoever has asked it cannot be called back: so only one thread asks, nobody waits
for it, and how long it has waited is known while it does.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from seawall.clock import monotonic_s

log = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
WRITTEN_BYTES: Final = 4096
STOPPED_WITHIN_S: Final = 1.0


class DiskProbe:
    """Writes to a small file in a directory, again and again. State: what the last write took, and since when one runs.

    Args:
        file: what is written to; it is made, and stays, so that a full disk can still be measured.
        database_directory: returns where PostgreSQL has its data, if that is on this machine: its free space is asked
            for here too, for a disk that hangs may not answer that either.
    """

    def __init__(
        self,
        file: Path,
        *,
        database_directory: Callable[[], Path | None] = lambda: None,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._file = file
        self._database_directory = database_directory
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._took_s: float | None = None
        self._began_s: float | None = None
        self._database_free_bytes: int | None = None
        self.trouble = ""
        """What the last write ended with, in the system's words; empty: it was well."""

    def __repr__(self) -> str:
        return f"<DiskProbe of {self._file}, {self._took_s} s{', ' + self.trouble if self.trouble else ''}>"

    def __enter__(self) -> Self:
        # A daemon: the process may end while the disk hangs.
        self._thread = threading.Thread(target=self._run, name="disk probe", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._stopping.set()
        self._thread.join(STOPPED_WITHIN_S)
        if self._thread.is_alive():
            log.warning("disk_probe.hangs", extra={"file": str(self._file)})

    def point(self) -> dict[str, float]:
        """Return the columns of this moment; a write that still runs counts with what it has taken so far."""
        began_s, took_s = self._began_s, self._took_s
        found: dict[str, float] = {}
        if began_s is not None:
            found["disk.probe_s"] = max(took_s or 0.0, monotonic_s() - began_s)
        elif took_s is not None:
            found["disk.probe_s"] = took_s
        if self._database_free_bytes is not None:
            found["database.disk_free_bytes"] = float(self._database_free_bytes)
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._began_s = began_s = monotonic_s()
            try:
                _write(self._file)
                self.trouble = ""
            except OSError as error:
                self.trouble = error.strerror or str(error)
            self._took_s = monotonic_s() - began_s
            self._database_free_bytes = self._free_bytes()
            # Not before: a disk may take the write and hang at this.
            self._began_s = None
            self._stopping.wait(self._interval_s)

    def _free_bytes(self) -> int | None:
        directory = self._database_directory()
        if directory is None:
            return None
        try:
            seen = os.statvfs(directory)
        except OSError:
            return None
        return seen.f_bavail * seen.f_frsize


def _write(file: Path) -> None:
    """Write over the same few bytes, and have them on the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, os.urandom(WRITTEN_BYTES), 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
