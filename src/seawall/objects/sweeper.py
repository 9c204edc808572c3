"""Space is given back, and what is kept is looked at.

Bytes lose their names by overwriting, deleting and aborting (triggers note that), and by crashes
before they got one. They stay for a grace period, because somebody may be reading them. A file is
then removed; a segment is removed when nothing in it has a name, and rewritten when less than half
has. One sweeper works on a disk at a time: it holds a lock on a file there.

Bytes that never had a name may be on their way to one. How old they are is told by the disk's clock and
ours, which may jump; so they are removed only when they were old, and nameless, in two looks far apart.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from seawall.blobs import DiskBlobStore
from seawall.blobs.housekeeping import SealedSegment
from seawall.blobs.segments import HEADER_BYTES
from seawall.clock import monotonic_s, wall_s
from seawall.database import Database, load_queries
from seawall.errors import BlobCorrupt, BlobMissing, Conflict, StorageFull

log = logging.getLogger(__name__)

QUERIES = load_queries(__package__, "sweeper.sql")

# Bytes without a name that are younger may get one yet.
UNNAMED_AGE_S = 3600.0
# Between two looks for them: everything on the disk is compared with the catalogue.
LOOK_EVERY_S = 3600.0
# What is beyond waits for another look; it bounds memory.
SUSPECTS_MAX = 100_000
# Rewriting what is more than half full moves more than it frees.
COMPACT_ABOVE = 0.5
# One fdatasync for so many, and not more than 16 MiB in memory.
MOVED_AT_ONCE = 16
PATIENCE_S = 60.0


@dataclass(slots=True)
class Swept:
    """What one round did."""

    files_removed: int = 0
    segments_removed: int = 0
    segments_compacted: int = 0
    blobs_moved: int = 0
    leftovers_removed: int = 0
    unnamed_removed: int = 0
    skipped: bool = False


@dataclass(slots=True)
class Scrubbed:
    """What was looked at, and what is wrong."""

    blobs: int = 0
    size_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)


class Sweeper:
    """Sweeps one disk. State: what had no name at the last look; the lock is a file's."""

    def __init__(self, database: Database, blobs: DiskBlobStore, *, grace_s: float, interval_s: float) -> None:
        self._database = database
        self._blobs = blobs
        self._grace_s = grace_s
        self._interval_s = interval_s
        self._next_look_s = monotonic_s()
        # Locations of files and names of segments; the two never look alike.
        self._suspects: set[str] = set()
        self._unreadable: set[str] = set()

    def __repr__(self) -> str:
        return f"<Sweeper {len(self._suspects)} suspects>"

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            swept = await self.sweep()
            if swept.files_removed or swept.segments_removed or swept.segments_compacted or swept.unnamed_removed:
                log.info("sweep.done", extra={name: getattr(swept, name) for name in Swept.__slots__})

    async def sweep(self, *, compact_above: float = COMPACT_ABOVE) -> Swept:
        """Go round once; `skipped` when another sweeper is at work."""
        swept = Swept()
        with _sole_sweeper(self._blobs.settings.root) as alone:
            if not alone:
                swept.skipped = True
                return swept
            await self._sweep_files(swept)
            looks = monotonic_s() >= self._next_look_s
            if looks:
                self._next_look_s = monotonic_s() + LOOK_EVERY_S
                suspects, self._suspects = self._suspects, set()
                swept.leftovers_removed = await self._blobs.remove_leftovers(older_than_s=UNNAMED_AGE_S)
                await self._sweep_unnamed_files(suspects, swept)
                await self._sweep_segments(swept, compact_above, suspects)
            else:
                await self._sweep_segments(swept, compact_above, None)
        return swept

    async def scrub(self) -> Scrubbed:
        """Read every blob that has a name and compare it with its checksums.

        Bodies kept in rows are PostgreSQL's to check: its pages have checksums.
        """
        scrubbed = Scrubbed()
        async for location, size_bytes, name in self._named_blobs():
            try:
                await self._blobs.scrub(location, size_bytes)
            except BlobMissing:
                # It may have been deleted or moved since its row was read.
                if await self._named([location]):
                    scrubbed.missing.append(f"{name} at {location}")
            except BlobCorrupt as error:
                if await self._named([location]):
                    scrubbed.corrupt.append(f"{name}: {error}")
            scrubbed.blobs += 1
            scrubbed.size_bytes += size_bytes
        return scrubbed

    async def _sweep_files(self, swept: Swept) -> None:
        after = ""
        while True:
            rows = await self._database.fetch(QUERIES["garbage_files"], after, self._grace_s, patience_s=PATIENCE_S)
            if not rows:
                return
            locations = [row["location"] for row in rows]
            after = locations[-1]
            named = await self._named(locations)
            for location in locations:
                if location not in named:
                    await self._blobs.delete(location)
                    swept.files_removed += 1
            await self._database.fetch(QUERIES["forget_garbage"], locations, patience_s=PATIENCE_S)

    async def _sweep_unnamed_files(self, suspects: set[str], swept: Swept) -> None:
        async for locations in self._blobs.file_locations(older_than_s=UNNAMED_AGE_S):
            known = await self._named(locations, or_garbage=True)
            for location in locations:
                if location in known:
                    continue
                if location in suspects:
                    await self._blobs.delete(location)
                    swept.unnamed_removed += 1
                else:
                    self._suspect(location)

    async def _sweep_segments(self, swept: Swept, compact_above: float, suspects: set[str] | None) -> None:
        """Remove segments without names, and rewrite those with few.

        Args:
            swept: what was done, to be counted in.
            compact_above: the share of garbage from which on a segment is rewritten.
            suspects: those without names at the last look; None between looks.
        """
        rows = await self._database.fetch(QUERIES["garbage_by_segment"], patience_s=PATIENCE_S)
        garbage = {row["segment"]: row for row in rows}
        self._blobs.release_removed_segments()
        async for batch in self._blobs.sealed_segments():
            for segment in batch:
                dead = garbage.pop(segment.name, None)
                rested = wall_s() - segment.modified_s > UNNAMED_AGE_S
                if dead is None and (suspects is None or not rested):
                    continue
                if await self._page(segment.name, after=f"s/{segment.name}/", limit=1):
                    if dead is not None and dead["size_bytes"] >= compact_above * segment.size_bytes:
                        await self._compact(segment.name, swept)
                elif dead is not None and _is_all_garbage(segment, dead["blobs"], dead["size_bytes"]):
                    if dead["age_s"] >= self._grace_s:
                        await self._remove_segment(segment.name, swept)
                elif suspects is not None and rested and (dead is None or dead["age_s"] >= self._grace_s):
                    if segment.name in suspects:
                        await self._remove_segment(segment.name, swept)
                    else:
                        self._suspect(segment.name)
        for name in garbage:
            await self._forget_if_gone(name)

    def _suspect(self, name: str) -> None:
        if len(self._suspects) < SUSPECTS_MAX:
            self._suspects.add(name)

    async def _compact(self, segment: str, swept: Swept) -> None:
        """Give every named blob of a segment a new place. What it leaves behind becomes garbage."""
        after = f"s/{segment}/"
        moved_before = swept.blobs_moved
        while rows := await self._page(segment, after=after, limit=MOVED_AT_ONCE):
            after = rows[-1][0]
            try:
                places = await asyncio.gather(*(self._moved(location, size_bytes) for location, size_bytes in rows))
            except StorageFull as error:
                # Other segments can be removed as they are: that makes room.
                log.warning("sweep.no_room", extra={"segment": segment, "error": str(error)})
                return
            moved = {location: place for (location, _), place in zip(rows, places, strict=True) if place is not None}
            for step in ("move_objects", "move_parts"):
                await self._database.fetch(QUERIES[step], [*moved], [*moved.values()], patience_s=PATIENCE_S)
            swept.blobs_moved += len(moved)
        swept.segments_compacted += swept.blobs_moved > moved_before

    async def _moved(self, location: str, size_bytes: int) -> str | None:
        """Return where a copy of a small blob lies now; None when it cannot be read, which is said once."""
        try:
            return await self._blobs.append(await self._blobs.read(location, size_bytes))
        except (BlobCorrupt, BlobMissing) as error:
            if location not in self._unreadable:
                self._unreadable.add(location)
                log.error("sweep.unreadable", extra={"location": location, "error": str(error)})  # noqa: TRY400 - where it was met tells nothing
            return None

    async def _remove_segment(self, segment: str, swept: Swept) -> None:
        try:
            await self._blobs.remove_segment(segment)
        except Conflict:
            return
        await self._forget_segment(segment)
        swept.segments_removed += 1

    async def _forget_if_gone(self, segment: str) -> None:
        """Forget garbage whose segment was removed by somebody who could not say so."""
        path = self._blobs.settings.root / "segments" / segment
        if not path.exists():
            await self._forget_segment(segment)

    async def _forget_segment(self, segment: str) -> None:
        await self._database.fetch(QUERIES["forget_segment"], f"s/{segment}/", f"s/{segment}0", patience_s=PATIENCE_S)

    async def _page(self, segment: str, *, after: str, limit: int) -> list[tuple[str, int]]:
        rows = await self._database.fetch(
            QUERIES["blobs_in_segment"], after, f"s/{segment}0", limit, patience_s=PATIENCE_S
        )
        return [(row["location"], row["size_bytes"]) for row in rows]

    async def _named(self, locations: list[str], *, or_garbage: bool = False) -> set[str]:
        rows = await self._database.fetch(QUERIES["named_locations"], locations, or_garbage, patience_s=PATIENCE_S)
        return {row["location"] for row in rows}

    async def _named_blobs(self) -> AsyncIterator[tuple[str, int, str]]:
        after = ""
        while rows := await self._database.fetch(QUERIES["objects_to_scrub"], after, patience_s=PATIENCE_S):
            for row in rows:
                yield row["location"], row["size_bytes"], f"key {row['key']!r} of bucket {row['bucket_id']}"
            after = rows[-1]["location"]
        after = ""
        while rows := await self._database.fetch(QUERIES["parts_to_scrub"], after, patience_s=PATIENCE_S):
            for row in rows:
                yield row["location"], row["size_bytes"], f"part {row['part_number']} of upload {row['upload_id'].hex}"
            after = rows[-1]["location"]


def _is_all_garbage(segment: SealedSegment, blobs: int, size_bytes: int) -> bool:
    """Whether every record of a segment had a name and lost it. Of one that has none yet, no row tells."""
    return size_bytes + blobs * HEADER_BYTES >= segment.size_bytes


@contextmanager
def _sole_sweeper(root: Path) -> Iterator[bool]:
    """Hold the sweepers' lock; yield False when another has it."""
    descriptor = os.open(root / "sweeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
