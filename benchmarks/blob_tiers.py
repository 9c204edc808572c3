"""Up to which size is a blob cheaper appended to a segment than put in a file of its own?

For each size, 32 concurrent writers append, then 32 write files; then all of it is read back, once the
way the S3 door would. CPU is that of the whole process, threads included, and is what two cores run out
of first. The catalogue's row costs the same for both tiers and is left out.

Answer (2026-11-24, two cores, ext4): up to 1 MiB, the largest a record may be, appending costs a ninth or less of a
file's processor time (64 KiB: 71 µs against 1,306; 1 MiB: 189 against 1,773); reading, without a socket, is cheaper
from a segment and nearly the same at 1 MiB. Making the file is 400 to 500 µs of it.

    python benchmarks/blob_tiers.py [--seconds 1.0] [--dir DIRECTORY]
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from seawall.blobs import BlobSettings, DiskBlobStore

SIZES_KIB = (2, 8, 32, 64, 128, 256, 512, 1024)
WRITERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one operation took: how many a second, and how much processor time each."""

    per_s: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.per_s:>9,.0f} {self.cpu_us:>7.0f}"


async def cost_of(operation: Callable[[], Awaitable[object]], *, seconds: float, callers: int) -> Cost:
    """Return what an operation costs when so many callers repeat it."""
    done = 0
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    stop_at_s = wall_s + seconds

    async def repeat() -> None:
        nonlocal done
        while time.perf_counter() < stop_at_s:
            await operation()
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(repeat())
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Cost(per_s=done / wall_s, cpu_us=cpu_s / done * 1e6)


async def costs(store: DiskBlobStore, size: int, *, seconds: float) -> list[Cost]:
    """Return the costs of append, write to a file, read from a segment, read from a file."""
    body = os.urandom(size)
    records: list[str] = []
    files: list[str] = []
    sink = os.open("/dev/null", os.O_WRONLY)

    async def append() -> None:
        records.append(await store.append(body))

    async def write() -> None:
        async with store.new_file() as writer:
            await asyncio.get_running_loop().run_in_executor(None, writer.write, body)
            files.append(await writer.commit())

    async def read_record() -> None:
        location = records[len(records) // 2]
        os.write(sink, store.try_read(location, size) or await store.read(location, size))

    async def read_file() -> None:
        with store.open(files[len(files) // 2], size) as reader:
            for frame in reader.frames(0, size):
                if not reader.try_verify(frame):
                    await reader.verify(frame)
            os.sendfile(sink, reader.fd, 0, size)

    try:
        return [
            await cost_of(append, seconds=seconds, callers=WRITERS),
            await cost_of(write, seconds=seconds, callers=WRITERS),
            await cost_of(read_record, seconds=seconds / 4, callers=1),
            await cost_of(read_file, seconds=seconds / 4, callers=1),
        ]
    finally:
        os.close(sink)


async def main(directory: Path, *, seconds: float) -> None:
    """Print the table."""
    print(f"{WRITERS} concurrent writers; reads one at a time, from the page cache, no socket; CPU µs per operation")
    print(
        f"{'':>8} {'append/s':>9} {'CPU':>7} {'file/s':>9} {'CPU':>7} {'read/s':>9} {'CPU':>7} {'open/s':>9} {'CPU':>7}"
    )
    for size_kib in SIZES_KIB:
        with tempfile.TemporaryDirectory(dir=directory) as root:
            async with DiskBlobStore(BlobSettings(root=Path(root), segment_blob_max_bytes=1 << 20)) as store:
                found = await costs(store, size_kib * 1024, seconds=seconds)
        print(f"{size_kib:>4} KiB", *found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to repeat each operation")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    chosen = parser.parse_args()
    uvloop.run(main(chosen.dir, seconds=chosen.seconds))
