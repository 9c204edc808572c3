"""The journal: what happened, in order, in a local file that outlives the process and needs no database.

An event is a line of JSON. Whoever writes one does not wait for the disk: a thread writes them in order, each synced
before the next, so that a disk that hangs stops neither the keeper nor what it has to say about it. Space is set aside
while there is some: when the disk is full, it is given back piece by piece and events still fit. When even that is
used up they wait in memory, and what does not fit there is counted. Nothing of this is the caller's concern.
"""

import errno
import json
import logging
import math
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Final, Protocol, Self

from seawall.clock import monotonic_s, wall_s

log = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
FILE_MAX_BYTES: Final = 4 * MIB
FILES_MAX: Final = 8
"""Together 32 MiB: about a hundred thousand events. Beyond, the oldest file goes."""

LINE_MAX_BYTES: Final = 256 * 1024
"""What is longer is said to have been, and left out."""

PENDING_MAX: Final = 2000
PENDING_MAX_BYTES: Final = 4 * MIB
"""What may wait in memory for a disk that is full or hangs. Beyond, new events are dropped and counted: how a trouble
began is worth more than its ten thousandth event."""

TAIL: Final = 500
"""How many of the newest events are kept in memory, so that asking for them costs no reading."""

RESERVE_BYTES: Final = MIB
RESERVE_PIECE_BYTES: Final = 64 * 1024
"""The reserve is given back in pieces: others write to the same disk and may be faster to take what is free."""

RETRY_S: Final = 1.0
RESERVE_CHECK_S: Final = 5.0
CLOSE_WITHIN_S: Final = 5.0
DEPTH_MAX: Final = 20

CLOCK_JUMP_S: Final = 2.0
"""A clock that is set right is moved by so much or less, slowly; more between two looks is a jump."""

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NAME: Final = re.compile(r"journal-(\d{6,})\.jsonl")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `at_s` is on the wall clock; `sequence` only grows, whatever the clock does."""

    at_s: float
    kind: str
    fields: Mapping[str, Any]
    sequence: int = 0


def clock_jump_s(*, offset_before_s: float, offset_s: float) -> float:
    """Return by how much the wall clock was set between two looks, or 0 where it was not.

    Args:
        offset_before_s: wall minus monotonic time at the look before.
        offset_s: the same, now.

    >>> clock_jump_s(offset_before_s=100.0, offset_s=100.4)
    0.0
    >>> clock_jump_s(offset_before_s=100.0, offset_s=40.0)
    -60.0
    """
    moved_s = offset_s - offset_before_s
    return moved_s if abs(moved_s) > CLOCK_JUMP_S else 0.0


class Tell(Protocol):
    """Where it is said what happened: `Journal.write`."""

    def __call__(self, kind: str, **fields: Any) -> object:
        """Note an event."""
        ...


def tell_nobody(kind: str, **fields: Any) -> None:
    """For who has no journal: what happened is in the log."""
    log.debug(kind, extra=fields)


class Journal:
    """Keeps events. State: the next number, the newest events, those not on the disk yet, and the thread that writes.

    Args:
        path: of its directory, which is made.
        reserve_bytes: what is set aside for the day the disk is full.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self.dropped = 0
        """Events that were lost, for they could be kept neither on the disk nor in memory."""
        self._changed = Condition()
        self._pending: deque[tuple[Event, bytes]] = deque()
        self._pending_bytes = 0
        self._untold = 0
        self._closing_by_s: float | None = None
        self._tail: deque[Event] = deque()
        self._before_tail_s = -math.inf
        self._sequence = 0
        for event in read_events(path):
            self._sequence = max(self._sequence, event.sequence)
            self._remember(event)
        self._files = _Files(path, reserve_bytes=reserve_bytes)
        self._thread = Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Journal {self._sequence} events, {len(self._pending)} waiting, {self.dropped} dropped>"

    @property
    def sequence(self) -> int:
        """Return the number of the newest event."""
        return self._sequence

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, kind: str, **fields: Any) -> Event:
        """Note that something happened now. Never raises and never waits for the disk; see `settle`."""
        with self._changed:
            self._tell_of_dropped()
            return self._add(kind, fields)

    def settle(self, within_s: float = CLOSE_WITHIN_S) -> bool:
        """Wait until all that was written is on the disk; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, within_s)

    def events(self, since_s: float = 0, until_s: float = math.inf) -> list[Event]:
        """Return the events of `since_s` up to, but not including, `until_s`, in the order they were written."""
        with self._changed:
            tail, pending = [*self._tail], [event for event, _ in self._pending]
            in_memory = since_s > self._before_tail_s
        found = tail if in_memory else _in_order([*read_events(self.path), *pending])
        return [event for event in found if since_s <= event.at_s < until_s]

    def since(self, sequence: int) -> list[Event]:
        """Return the events after the one of this number, of the newest `TAIL`: from memory, whatever the clock did."""
        with self._changed:
            return [event for event in self._tail if event.sequence > sequence]

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Write what waits, for so long at the most, and stop."""
        with self._changed:
            self._tell_of_dropped()
            self._closing_by_s = monotonic_s() + within_s
            self._changed.notify_all()
        self._thread.join(within_s)
        if self._pending:
            log.error("journal.lost", extra={"events": len(self._pending)})

    def _add(self, kind: str, fields: Mapping[str, Any]) -> Event:
        sequence, at_s = self._sequence + 1, wall_s()
        line = _line(sequence, at_s, kind, fields)
        # As it will be read: whoever gets it today and whoever reads it tomorrow see the same.
        event = _event(line)
        assert event is not None
        if len(self._pending) >= PENDING_MAX or self._pending_bytes + len(line) > PENDING_MAX_BYTES:
            if not self.dropped:
                log.error("journal.dropped", extra={"kind": kind})
            self.dropped += 1
            self._untold += 1
            return event
        self._sequence = sequence
        self._pending.append((event, line))
        self._pending_bytes += len(line)
        self._remember(event)
        self._changed.notify_all()
        return event

    def _tell_of_dropped(self) -> None:
        """Say how many are missing, once there is room to say it: a gap that nobody knows of would be a lie."""
        if self._untold and len(self._pending) < PENDING_MAX // 2 and self._pending_bytes < PENDING_MAX_BYTES // 2:
            self._add("journal.dropped", {"events": self._untold})
            self._untold = 0

    def _remember(self, event: Event) -> None:
        self._tail.append(event)
        if len(self._tail) > TAIL:
            self._before_tail_s = max(self._before_tail_s, self._tail.popleft().at_s)

    def _run(self) -> None:
        self._files.keep_reserve()
        while True:
            with self._changed:
                wait_s = None if self._files.has_reserve else RESERVE_CHECK_S
                self._changed.wait_for(lambda: self._pending or self._closing_by_s is not None, wait_s)
                if not self._pending and self._closing_by_s is not None:
                    break
                line = self._pending[0][1] if self._pending else b""
            is_written = not line or self._files.append(line)
            with self._changed:
                if is_written and line:
                    self._pending.popleft()
                    self._pending_bytes -= len(line)
                    self._changed.notify_all()
                elif not is_written:
                    if self._closing_by_s is not None and monotonic_s() >= self._closing_by_s:
                        break
                    self._pause()
            self._files.keep_reserve()
        self._files.close()

    def _pause(self) -> None:
        """Wait before the disk is tried again; new events do not hasten it, the end does."""
        left_s = RETRY_S
        if self._closing_by_s is not None:
            left_s = min(left_s, max(self._closing_by_s - monotonic_s(), 0.0))
        self._changed.wait_for(lambda: False, min(left_s, RETRY_S))


class _Files:
    """The files of a journal. Used by one thread. State: the file that is written to, its good length, the reserve."""

    def __init__(self, directory: Path, *, reserve_bytes: int) -> None:
        self.has_reserve = False
        self._directory = directory
        self._reserve = directory / "reserve"
        self._reserve_bytes = reserve_bytes
        self._reserve_checked_s = -math.inf
        self._descriptor: int | None = None
        self._path = directory
        self._failed: Path | None = None
        self._size = 0
        self._is_failing = False

    def append(self, line: bytes) -> bool:
        """Write one line and sync it; return whether that succeeded. Gives up the reserve, piece by piece, for it."""
        while True:
            try:
                self._write(line)
            except OSError as error:
                self._undo(error)
                if error.errno in NO_ROOM and self._give_up_reserve():
                    continue
                if not self._is_failing:
                    log.error("journal.failed", extra={"error": str(error)})  # noqa: TRY400 - where is known
                self._is_failing = True
                return False
            if self._is_failing:
                log.warning("journal.recovered")
            self._is_failing = False
            return True

    def keep_reserve(self) -> None:
        """Set the reserve aside, again too, when there is room for it twice. Looks at it now and then."""
        if self.has_reserve or monotonic_s() - self._reserve_checked_s < RESERVE_CHECK_S:
            return
        self._reserve_checked_s = monotonic_s()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                missing = self._reserve_bytes - os.fstat(descriptor).st_blocks * 512
                room = os.fstatvfs(descriptor)
                if missing > 0 and room.f_bavail * room.f_frsize < missing + self._reserve_bytes:
                    return
                if missing > 0:
                    os.posix_fallocate(descriptor, 0, self._reserve_bytes)
                self.has_reserve = True
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("journal.no_reserve", extra={"error": str(error)})

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, line: bytes) -> None:
        if self._descriptor is not None and self._size + len(line) > FILE_MAX_BYTES:
            self.close()
            descriptor = self._begin(_next(self._directory))
        elif self._descriptor is None:
            descriptor = self._continue()
        else:
            descriptor = self._descriptor
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fdatasync(descriptor)
        if self._size == 0:
            self._settle_new_file()
        self._size += len(line)

    def _continue(self) -> int:
        """Open the newest file to go on with it, without the line a crash may have left unfinished."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = _paths(self._directory)
        # One that failed is left alone, as any file is: what follows a lost write is not to be believed.
        if not known or known[-1] == self._failed:
            return self._begin(_next(self._directory))
        self._path = known[-1]
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        content = self._path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        if self._size < len(content):
            log.warning("journal.torn", extra={"bytes": len(content) - self._size})
            os.ftruncate(self._descriptor, self._size)
        if self._size >= FILE_MAX_BYTES:
            self.close()
            return self._begin(_next(self._directory))
        return self._descriptor

    def _begin(self, path: Path) -> int:
        self._path = path
        self._size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        return self._descriptor

    def _settle_new_file(self) -> None:
        """Make a new file's name durable, and let the oldest go: only now, so that failures do not eat history."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        for path in _paths(self._directory)[:-FILES_MAX]:
            path.unlink(missing_ok=True)

    def _undo(self, error: OSError) -> None:
        """Take back a line that was not written whole; a file that failed otherwise is not written to again."""
        if self._descriptor is None:
            return
        is_sound = error.errno in NO_ROOM
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError as undoing:
            log.warning("journal.not_undone", extra={"file": self._path.name, "error": str(undoing)})
            is_sound = False
        if self._size == 0:
            self.close()
            with suppress(OSError):
                self._path.unlink()
        elif not is_sound:
            self.close()
            self._failed = self._path

    def _give_up_reserve(self) -> bool:
        """Give back a piece of the reserve; return whether there was one."""
        try:
            size = self._reserve.stat().st_size
            if not size:
                return False
            os.truncate(self._reserve, max(size - RESERVE_PIECE_BYTES, 0))
        except OSError:
            return False
        self.has_reserve = False
        # Not taken again at once: what was given back is for events.
        self._reserve_checked_s = monotonic_s()
        return True


def read_events(directory: Path) -> Iterator[Event]:
    """Yield the events of a journal in the order of its files. For when no keeper runs, too: it changes nothing.

    A line that cannot be read is passed over: it was torn by a crash, or the disk lost it.
    """
    for path in _paths(directory):
        try:
            with path.open("rb") as file:
                for line in file:
                    event = _event(line) if line.endswith(b"\n") else None
                    if event is not None:
                        yield event
        except FileNotFoundError:
            continue  # The oldest file was let go just now.
        except OSError as error:
            log.warning("journal.unreadable", extra={"file": path.name, "error": str(error)})


def _paths(directory: Path) -> list[Path]:
    try:
        found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, key=_number)


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _next(directory: Path) -> Path:
    known = _paths(directory)
    return directory / f"journal-{_number(known[-1]) + 1 if known else 1:06d}.jsonl"


def _in_order(events: list[Event]) -> list[Event]:
    """Return events in order of their numbers, each once: one whose sync failed stands in two files, perhaps."""
    return sorted({(event.sequence, event.at_s): event for event in events}.values(), key=lambda one: one.sequence)


def _line(sequence: int, at_s: float, kind: str, fields: Mapping[str, Any]) -> bytes:
    whole: dict[str, Any] = {"sequence": sequence, "at_s": at_s, "kind": kind}
    line = json.dumps({**whole, "fields": _plain(fields)}).encode() + b"\n"
    if len(line) > LINE_MAX_BYTES:
        line = json.dumps({**whole, "fields": {"left_out_bytes": len(line)}}).encode() + b"\n"
    return line


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
        return Event(float(found["at_s"]), str(found["kind"]), found["fields"], int(found["sequence"]))
    except (ValueError, TypeError, KeyError):
        return None


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it, whatever it is: an event is never refused for what it holds."""
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= DEPTH_MAX:
        return repr(value)[:200]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value), depth + 1)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_plain(one, depth + 1) for one in value]
    return str(value)
