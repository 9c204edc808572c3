"""What lies on the disk, for those who compare it with the catalogue; it knows no catalogue itself.

Ages are told by the inode's change time: a hard link has the modification time of its original, but
linking and renaming count as a change. Everything here blocks, is meant for threads, and holds little
in memory however much there is.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seawall.blobs.disk import FILES, INCOMING, SEGMENTS, is_claimed
from seawall.blobs.locations import file_location, is_container
from seawall.clock import wall_s
from seawall.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSegment:
    """A segment that no living process appends to; `modified_s` is on the wall clock."""

    name: str
    size_bytes: int
    modified_s: float


def sealed_segments(root: Path) -> Iterator[SealedSegment]:
    """Yield the segments that nobody's lock protects, dead processes' included."""
    with os.scandir(root / SEGMENTS) as entries:
        for entry in entries:
            try:
                if is_container(entry.name) and not is_claimed(Path(entry.path)):
                    seen = entry.stat()
                    yield SealedSegment(name=entry.name, size_bytes=seen.st_size, modified_s=seen.st_mtime)
            except FileNotFoundError:
                continue


def file_locations(root: Path, *, older_than_s: float) -> Iterator[str]:
    """Yield the locations of the files that nobody made, renamed or linked for that long."""
    with os.scandir(root / FILES) as directories:
        for directory in directories:
            if not is_container(directory.name):
                continue
            try:
                with os.scandir(directory.path) as entries:
                    yield from (
                        file_location(directory.name, entry.name) for entry in entries if _is_older(entry, older_than_s)
                    )
            except FileNotFoundError:
                continue


def remove_leftovers(root: Path, *, older_than_s: float) -> int:
    """Remove what dead writers left behind, and directories that became empty; return how many things."""
    removed = 0
    with os.scandir(root / INCOMING) as entries:
        for entry in entries:
            try:
                if _is_older(entry, older_than_s) and not is_claimed(Path(entry.path)):
                    Path(entry.path).unlink()
                    removed += 1
            except FileNotFoundError:
                continue
    with os.scandir(root / FILES) as entries:
        for entry in entries:
            removed += is_container(entry.name) and _is_older(entry, older_than_s) and _removed_if_empty(entry)
    return removed


def remove_segment(root: Path, segment: str) -> None:
    """Remove a segment; one that is gone already is fine.

    Raises:
        Conflict: a living process appends to it.
    """
    path = root / SEGMENTS / segment
    try:
        if is_claimed(path):
            raise Conflict(f"segment {segment} has a living writer")
        path.unlink()
    except FileNotFoundError:
        return


def _is_older(entry: os.DirEntry[str], than_s: float) -> bool:
    try:
        return wall_s() - entry.stat(follow_symlinks=False).st_ctime >= than_s
    except FileNotFoundError:
        return False


def _removed_if_empty(entry: os.DirEntry[str]) -> bool:
    path = Path(entry.path)
    try:
        if is_claimed(path):
            return False
        path.rmdir()
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            return False
        raise
    return True
