"""What do 50 nodes cost the keeper, in memory and processor time?

`python -m benchmarks.keeper_memory`: another process sends what 50 nodes would, over the keeper's real socket: whole
summaries with metrics, points, users (100,000 accounts) and tenants (10,000). Time runs 8 times as fast, so that a
quarter of an hour, which is what is remembered, takes two minutes; processor time is by the nodes' seconds. With `--seconds 0`: the files alone.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from seawall.monitoring import fleet as fleet_module
from seawall.monitoring.fleet import Fleet
from seawall.monitoring.fleet_files import FLEET_RINGS, FleetFiles, Page
from seawall.telemetry.journal import Journal
from seawall.telemetry.link import Link, Message
from seawall.telemetry.metrics import DEFINITIONS, FleetCollector, registry_of
from seawall.telemetry.points import NAMES
from seawall.telemetry.rings import Ring

MIB = 1024 * 1024
ACCOUNTS = 100_000
TENANTS = 10_000
USERS_PER_S = 300
"""Whom one node serves in a second, on average."""

LABELS = {
    "operation": 15, "status": 4, "resource": 3, "class": 4, "outcome": 3, "server": 3, "state": 2, "query": 25,
    "route": 2, "event": 5, "queue": 26, "reason": 3, "group": 3, "segment": 8,
}  # fmt: skip
"""How many values each label has: a busy node with two replicas."""


def some_metrics(chance: random.Random) -> dict[str, Any]:
    """Return a snapshot as large as a busy node's."""
    return {
        definition.name: [
            {
                "labels": [f"{label} {index}" for label, index in zip(definition.labels, indices, strict=True)],
                "value": round(chance.random() * 1e6, 3),
                "counts": [chance.randrange(100_000) for _ in range(len(definition.buckets) + 1)]
                if definition.kind == "histogram"
                else [],
            }
            for indices in product(*(range(LABELS[label]) for label in definition.labels))
        ]
        for definition in DEFINITIONS
    }


class SimulatedNode:
    """What one node tells. State: whom it saw in this minute."""

    def __init__(self, number: int) -> None:
        self._chance = random.Random(number)
        self.name = f"node-{number}"
        self._fixed = {
            "node": self.name,
            "pid": 1000 + number,
            "ready": True,
            "reason": "",
            "connections": {"size": 7, "lent": 3, "blame": [{"query": "objects.current", "share": 0.1}] * 10},
        }
        self._metrics = json.dumps({"metrics": some_metrics(self._chance)}).encode() + b"\n"
        self._minute = 0
        self._seen: set[int] = set()

    def summary(self, second: int) -> bytes:
        """Return the line of one second."""
        chance = self._chance
        minute = second // 60
        if minute != self._minute:
            self._minute, self._seen = minute, set()
        served = {int(chance.random() ** 2 * ACCOUNTS) for _ in range(USERS_PER_S)}
        new = served - self._seen
        self._seen |= new
        # A third of the columns are nought in most seconds.
        point = {name: 0.0 if chance.random() < 0.33 else round(chance.random() * 1000, 6) for name in NAMES}
        users = {"minute": minute, "seen": [*new], "failed": [*new][:5], "claimed": []}
        tenants = [
            [chance.randrange(TENANTS), chance.randrange(100), chance.random(), chance.randrange(5)] for _ in range(20)
        ]
        return (
            json.dumps({**self._fixed, "point": point, "users": users, "tenants": tenants}).encode()
            + b"\n"
            + self._metrics
        )


async def send(path: Path, nodes: int, seconds: int, speed: float) -> None:
    """Be so many nodes for so many of their seconds."""
    started_s = time.monotonic()

    async def be(number: int) -> None:
        node = SimulatedNode(number)
        _, writer = await asyncio.open_unix_connection(path)
        for second in range(seconds):
            due_s = started_s + (second + number / nodes) / speed
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            writer.write(node.summary(int(time.time() + second)))
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(be(number) for number in range(nodes)))


def resident_bytes() -> int:
    """Return our resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def measure(directory: Path, nodes: int, seconds: int, speed: float) -> None:
    """Be the keeper's part of it, and print what it took."""
    began_s, began_wall_s = time.monotonic(), time.time()
    fleet_module.monotonic_s = lambda: began_s + (time.monotonic() - began_s) * speed  # type: ignore[attr-defined]
    fleet_module.wall_s = lambda: began_wall_s + (time.monotonic() - began_s) * speed  # type: ignore[attr-defined]
    fleet_module.LOOK_S /= speed  # type: ignore[misc]

    async def answer(message: Message) -> Message:
        return message

    with Journal(directory / "journal") as journal:
        async with (
            Fleet(directory / "fleet", tell=journal.write) as fleet,
            Link(directory / "run" / "keeper.sock", answer, hear=fleet.hear) as link,
        ):
            fleet.expect([f"node-{number}" for number in range(nodes)])
            running = asyncio.create_task(fleet.run())
            await asyncio.sleep(1.0)
            gc.collect()
            idle = peak = resident_bytes()
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.keeper_memory", "--send", str(link.path),
                "--nodes", str(nodes), "--seconds", str(seconds), "--speed", str(speed),
            )  # fmt: skip
            sending = asyncio.create_task(child.wait())
            while not link.summaries() and not sending.done():
                await asyncio.sleep(0.01)
            cpu_s, heard = time.process_time(), 0
            until_s = time.monotonic() + seconds / speed - 10.0
            while not sending.done() and time.monotonic() < until_s:
                await asyncio.sleep(0.2)
                peak = max(peak, resident_bytes())
                heard = max(heard, len(link.summaries()))
                fleet.recent(60)
            cpu_s = time.process_time() - cpu_s
            scraped = resident_bytes()
            rendered = len(generate_latest(registry_of(FleetCollector(link.metrics))))
            scraped = resident_bytes() - scraped
            await sending
            recent = fleet.recent(900)
            users = await fleet.users_between(recent[0][0], recent[-1][0])
            assert not running.done(), running
            running.cancel()
            summed = sum(point.get("reads.requests", 0.0) > 0 for _, point in recent)
            line = SimulatedNode(0).summary(0)
            print(f"{nodes} nodes ({heard} heard at a time), {seconds} s, a summary is {len(line) / 1024:.0f} KiB")
            print(f"memory: idle {idle / MIB:.1f} MiB, at the most {(peak - idle) / MIB:.1f} MiB above it")
            print(f"processor: {cpu_s / seconds:.3f} of a core")
            print(
                f"{len(recent)} seconds remembered ({summed} with requests, up to "
                f"{max(point['nodes.up'] for _, point in recent):.0f} nodes), {users.seen.count} users, "
                f"{fleet.desk.turned_away} turned away, {fleet.files.failed} failed"
            )
            print(f"/metrics: {rendered / MIB:.1f} MiB, for which another {scraped / MIB:.1f} MiB are taken")
    size = sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
    print(f"on the disk: {size / MIB:.0f} MiB")


def measure_files(directory: Path, nodes: int) -> None:
    """Print what writing a second, and reading a month, take of the processor."""
    point = {name: random.random() for name in NAMES}
    points = {f"node-{number}": point for number in range(nodes)}
    files, seconds = FleetFiles(directory), 200
    began_s = time.process_time()
    for second in range(seconds):
        files.write(Page(at_s=1e9 + second, fleet=point, nodes=points, users={}))
    print(f"files alone: a second of {nodes} nodes {(time.process_time() - began_s) / seconds * 1000:.2f} ms")
    files.close()
    minutes = FLEET_RINGS[60]
    with Ring(directory / "month.ring", step_s=60, slots=minutes) as ring:
        for minute in range(minutes):
            ring.append(6e8 + 60 * minute, point)
        for names in (None, NAMES[:5]):
            began_s = time.process_time()
            found = ring.read(6e8, 6e8 + 60 * minutes, points_max=1000, names=names)
            took_s = time.process_time() - began_s
            print(f"a month in {len(found)} points, {len(found[0][1])} columns: {took_s:.2f} s")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=960)
    parser.add_argument("--speed", type=float, default=8.0)
    parser.add_argument("--send", type=Path)
    options = parser.parse_args()
    if options.send:
        asyncio.run(send(options.send, options.nodes, options.seconds, options.speed))
        return
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as directory:
        if options.seconds:
            asyncio.run(measure(Path(directory), options.nodes, options.seconds, options.speed))
        else:  # Not in one process: what is measured second would be measured above what the first left.
            measure_files(Path(directory), options.nodes)


if __name__ == "__main__":
    main()
