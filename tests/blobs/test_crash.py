import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seawall.blobs import DiskBlobStore, Location

ROUNDS = {"short": 3, "": 6, "long": 60}.get(os.environ.get("SEAWALL_TEST_BUDGET", ""), 6)
WRITER = """
import asyncio, random, sys
from pathlib import Path
from seawall.blobs import BlobSettings, DiskBlobStore

async def write_for_ever(store, seed):
    sizes = random.Random(seed)
    while True:
        size = sizes.choice([0, 100, 5_000, 60_000, 300_000])
        data = random.Random(size).randbytes(size)
        if sizes.random() < 0.7:
            location = await store.append(data)
        else:
            async with store.new_file() as writer:
                await store.in_thread(writer.write, data)
                location = await writer.commit()
            if sizes.random() < 0.3:
                location = await store.link(location)
        print(location, size, flush=True)

async def main():
    settings = BlobSettings(root=Path(sys.argv[1]), segment_size_bytes=1 << 20, files_per_directory=20, reserve_bytes=0)
    async with DiskBlobStore(settings) as store:
        await asyncio.gather(*(write_for_ever(store, seed) for seed in range(8)))

asyncio.run(main())
"""


def acknowledged_before_a_kill(root: Path, lives_s: float) -> Iterator[tuple[str, int]]:
    """Yield what a writing process was told, up to the moment it was killed."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(lives_s)
        process.send_signal(signal.SIGKILL)
        for line in [first, *process.stdout]:
            if line.endswith("\n"):
                location, size = line.split()
                yield location, int(size)


@pytest.mark.long
async def test_whatever_was_acknowledged_before_a_kill_reads_back(store: DiskBlobStore) -> None:
    ledger: list[tuple[str, int]] = []
    for _ in range(ROUNDS):
        ledger += acknowledged_before_a_kill(store.settings.root, random.random() * 0.4)

    assert len(ledger) > ROUNDS
    for location, size in ledger:
        data = random.Random(size).randbytes(size)
        with store.open(location, size) as reader:
            assert b"".join([bytes(chunk) async for chunk in reader.chunks(0, size)]) == data

    segments = {segment.name async for batch in store.sealed_segments() for segment in batch}
    assert {
        place.container for location, _ in ledger if (place := Location.parse(location)).kind == "segment"
    } <= segments

    await store.remove_leftovers(older_than_s=0)
    assert list((store.settings.root / "incoming").iterdir()) == []
