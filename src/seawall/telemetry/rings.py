"""Points on the disk, the last so many of each kind: a file of records of one size, written over in turn.

A record belongs to a slot of time, and says which: a clock that jumps writes elsewhere, or over what is older, and
what stands in a record is never taken for another time's. A record that was not written whole does not match its
checksum, and counts as none. Files are read and written, not mapped: mapped pages would count as our memory. Nothing
is synced: what a power cut takes is seconds of charts; what is to be remembered stands in the journal.
"""

import json
import logging
import math
import os
import struct
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self
from zlib import crc32

from seawall.telemetry.points import BY_NAME, NAMES, Merge, Point

log = logging.getLogger(__name__)

VERSION: Final = 1
CHUNK_RECORDS: Final = 64
"""So many records are read at once: some 80 KiB."""

DESCRIPTION_MAX_BYTES: Final = 1024 * 1024

_MAGIC: Final = b"SEARING\n"
_HEAD: Final = struct.Struct("<8sII")
"""A file begins with what it is, the length of its description, and that one's checksum."""

_RECORD: Final = struct.Struct("=qII")
"""A record begins with the number of its slot, the checksum of that and of its numbers, and nothing."""

_SLOT: Final = struct.Struct("=q")
_ALIGNED: Final = 4096


@dataclass(frozen=True)
class Layout:
    """What a file is like. `exact`: its numbers have 64 bits, else 32, which is seven digits."""

    step_s: int
    slots: int
    is_exact: bool
    columns: tuple[str, ...]

    @property
    def kind(self) -> str:
        """How `array` calls its numbers."""
        return "d" if self.is_exact else "f"

    @cached_property
    def record_bytes(self) -> int:
        """The size of a record."""
        return _RECORD.size + len(self.columns) * (8 if self.is_exact else 4)

    @cached_property
    def header(self) -> bytes:
        """What a file of this layout begins with, filled up so that records begin on a page."""
        description = json.dumps(
            {
                "version": VERSION,
                "byteorder": sys.byteorder,
                "step_s": self.step_s,
                "slots": self.slots,
                "is_exact": self.is_exact,
                "columns": self.columns,
            }
        ).encode()
        whole = _HEAD.pack(_MAGIC, len(description), crc32(description)) + description
        return whole.ljust(-(-len(whole) // _ALIGNED) * _ALIGNED, b"\0")

    def position(self, slot: int) -> int:
        """Return where in the file the record of a slot stands."""
        return len(self.header) + slot % self.slots * self.record_bytes


class Ring:
    """The points of the last `slots` steps. State: the open file. Not for two threads at a time.

    The file is opened when it is first needed. One of other columns is taken over by their names, one that is
    something else is set aside.

    Args:
        path: of the file.
        step_s: how long one point is.
        slots: how many points are kept.
        is_exact: numbers have 64 bits.
        columns: which numbers of a point are kept.
    """

    def __init__(
        self, path: Path, *, step_s: int, slots: int, is_exact: bool = True, columns: tuple[str, ...] = NAMES
    ) -> None:
        self.path = path
        self.layout = Layout(step_s=step_s, slots=slots, is_exact=is_exact, columns=columns)
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<Ring {self.path.name} {self.layout.slots} × {self.layout.step_s} s>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether its file was needed already."""
        return self._descriptor is not None

    def append(self, at_s: float, point: Point) -> None:
        """Write the point of the step that `at_s` (wall) is in; what stood in its place is gone.

        Raises:
            OSError: the disk did not take it. What stood there may be gone as well.
        """
        slot = math.floor(at_s / self.layout.step_s)
        record = _record(self.layout, slot, [point.get(name, math.nan) for name in self.layout.columns])
        descriptor = self._open()
        if os.pwrite(descriptor, record, self.layout.position(slot)) < len(record):
            raise OSError(f"{self.path} took a part of a record only")

    def read(
        self, since_s: float, until_s: float, *, points_max: int | None = None, names: Collection[str] | None = None
    ) -> list[tuple[float, dict[str, float]]]:
        """Return the points of `since_s` up to, but not including, `until_s`, with the times they begin at.

        Where these were more than `points_max`, neighbours become one, as their columns say (the first and the last
        may be of fewer, and there may be one more). What is longer ago than the ring is long is not there. Both times
        are finite; `names` are the columns wanted, all by default.

        Raises:
            OSError: the disk did not give it.
        """
        stop = math.ceil(until_s / self.layout.step_s)
        first = max(math.ceil(since_s / self.layout.step_s), stop - self.layout.slots)
        if first >= stop or not self.path.exists():
            return []
        wanted = [(name, index) for index, name in enumerate(self.layout.columns) if names is None or name in names]
        together = 1 if points_max is None else -(-(stop - first) // max(points_max, 1))
        found = []
        # By the slots' own numbers, so that a chart does not flicker as time goes on.
        for group, records in groupby(self._records(first, stop), lambda record: record[0] // together):
            point = _rolled([values for _, values in records], wanted)
            found.append((float(max(group * together, first) * self.layout.step_s), point))
        return found

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _records(self, first: int, stop: int) -> Iterator[tuple[int, "array[float]"]]:
        descriptor = self._open()
        slot = first
        while slot < stop:
            place = slot % self.layout.slots
            count = min(CHUNK_RECORDS, stop - slot, self.layout.slots - place)
            chunk = os.pread(descriptor, count * self.layout.record_bytes, self.layout.position(slot))
            for index in range(len(chunk) // self.layout.record_bytes):
                found = _read_record(self.layout, chunk, index)
                if found is not None and found[0] == slot + index:
                    yield found
            slot += count

    def _open(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                known = _layout_of(descriptor)
                if known != self.layout:
                    os.close(descriptor)
                    descriptor = -1
                    descriptor = self._replace(known)
            except BaseException:
                if descriptor >= 0:
                    os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _replace(self, known: Layout | None) -> int:
        """Begin a new file; take over what there is of the same step, set aside what is something else."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, self.layout.header, 0)
            if known is not None and known.step_s == self.layout.step_s:
                taken = self._take_over(known, descriptor)
                log.info("ring.migrated", extra={"ring": self.path.name, "points": taken})
            elif self.path.stat().st_size:
                aside = self.path.with_name(f"{self.path.name}.aside")
                self.path.replace(aside)
                log.warning("ring.set_aside", extra={"ring": self.path.name, "file": aside.name})
            fresh.replace(self.path)
        except BaseException:
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            raise
        return descriptor

    def _take_over(self, known: Layout, descriptor: int) -> int:
        places = {name: index for index, name in enumerate(known.columns)}
        sources = [places.get(name) for name in self.layout.columns]
        taken = 0
        with self.path.open("rb") as file:
            # In order of time: where the new ring is shorter, the newest remains.
            for _, position in sorted(_slots(known, file.fileno())):
                found = _read_record(known, os.pread(file.fileno(), known.record_bytes, position), 0)
                if found is None:
                    continue
                slot, values = found
                numbers = [math.nan if source is None else values[source] for source in sources]
                os.pwrite(descriptor, _record(self.layout, slot, numbers), self.layout.position(slot))
                taken += 1
        return taken


def _record(layout: Layout, slot: int, numbers: Iterable[float]) -> bytes:
    body = array(layout.kind, numbers).tobytes()
    return _RECORD.pack(slot, crc32(body, crc32(_SLOT.pack(slot))), 0) + body


def _read_record(layout: Layout, chunk: bytes, index: int) -> "tuple[int, array[float]] | None":
    """Return the slot and the numbers of a record, or None where there is none, or it is torn."""
    start = index * layout.record_bytes
    if len(chunk) < start + layout.record_bytes:
        return None
    slot, checksum, _ = _RECORD.unpack_from(chunk, start)
    body = chunk[start + _RECORD.size : start + layout.record_bytes]
    if crc32(body, crc32(_SLOT.pack(slot))) != checksum:
        return None
    return slot, array(layout.kind, body)


def _slots(layout: Layout, descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield what the records of a file say which slots they are of, and where they stand."""
    for place in range(layout.slots):
        position = layout.position(place)
        head = os.pread(descriptor, _SLOT.size, position)
        if len(head) < _SLOT.size:
            return
        slot = _SLOT.unpack(head)[0]
        if slot and slot % layout.slots == place:
            yield slot, position


def _layout_of(descriptor: int) -> Layout | None:
    """Return what a file says it is; None where it says nothing that we understand."""
    head = os.pread(descriptor, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        return None
    magic, size, checksum = _HEAD.unpack(head)
    if magic != _MAGIC or size > DESCRIPTION_MAX_BYTES:
        return None
    description = os.pread(descriptor, size, _HEAD.size)
    if crc32(description) != checksum:
        return None
    found: dict[str, Any] = json.loads(description)
    if found["version"] != VERSION or found["byteorder"] != sys.byteorder:
        return None
    return Layout(
        step_s=found["step_s"], slots=found["slots"], is_exact=found["is_exact"], columns=tuple(found["columns"])
    )


def _rolled(records: "list[array[float]]", wanted: list[tuple[str, int]]) -> dict[str, float]:
    """Return the point of several records, as `points.rolled` would: by columns, since a month has many records."""
    if len(records) == 1:
        values = records[0]
        return {name: value for name, index in wanted if not math.isnan(value := values[index])}
    width = len(records[0])
    joined = records[0][:]
    for values in records[1:]:
        joined += values
    point = {}
    for name, index in wanted:
        column: Sequence[float] = joined[index::width]
        total = sum(column)
        if math.isnan(total):
            column = [value for value in column if not math.isnan(value)]
            if not column:
                continue
            total = sum(column)
        point[name] = _over_time(name, column, total)
    return point


def _over_time(name: str, column: Sequence[float], total: float) -> float:
    known = BY_NAME.get(name)
    match known.time if known is not None else Merge.LAST:
        case Merge.SUM:
            return total
        case Merge.MOST:
            return max(column)
        case Merge.LEAST:
            return min(column)
        case Merge.LAST:
            return column[-1]
