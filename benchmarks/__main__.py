"""How fast are objects served and stored, and how fast by others?

`make bench` starts a throwaway service, measures every cell of the table three times, and appends
the medians to docs/benchmarks.md. Others can be measured in the same run, turn by turn:

    make bench ARGS="--peer rclone=http://127.0.0.1:7501,KEY,SECRET,PID"
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.load import Endpoint, Outcome, body_of, run_sockets, run_wrk

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
KIB, MIB = 1024, 1024 * 1024
LISTED_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape of load."""

    name: str
    method: str
    size: int
    connections: int = 32
    objects: int = 500


CELLS = (
    Cell("GET 1 KiB", "GET", KIB, objects=1000),
    Cell("PUT 1 KiB", "PUT", KIB, objects=40_000),
    Cell("GET 64 KiB", "GET", 64 * KIB),
    Cell("PUT 64 KiB", "PUT", 64 * KIB, objects=20_000),
    Cell("GET 1 MiB", "GET", MIB, objects=100),
    Cell("PUT 1 MiB", "PUT", MIB, objects=3000),
    Cell("GET 64 MiB", "GET", 64 * MIB, connections=4, objects=4),
    Cell("PUT 64 MiB", "PUT", 64 * MIB, connections=4, objects=8),
    Cell("list 1,000 of 10,000", "LIST", 16, connections=4),
)


@contextmanager
def throwaway_service(name: str = "seawall", **settings: str) -> Iterator[Endpoint]:
    """Run the service on a temporary directory, everything on, for the length of the block."""
    scratch = Path(tempfile.mkdtemp(prefix="seawall-bench-", dir=os.environ.get("BENCH_DIR")))
    scratch.chmod(0o711)
    keys = {"SEAWALL_ROOT_ACCESS_KEY": "benchaccesskey", "SEAWALL_ROOT_SECRET_KEY": "benchsecretkey"}
    command = [sys.executable, "-m", "seawall", "up", "--data-dir", str(scratch / "data")]
    command += ["--s3-port", "0", "--console-port", "0"]
    with (scratch / "log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **keys, **settings}, stdout=log, stderr=log)
    try:
        yield _when_ready(name, scratch, process, keys)
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run(["rm", "-rf", str(scratch)], check=True)


def _when_ready(name: str, scratch: Path, process: "subprocess.Popen[bytes]", keys: dict[str, str]) -> Endpoint:
    status_command = [sys.executable, "-m", "seawall", "status", "--json", "--data-dir", str(scratch / "data")]
    for _ in range(120):
        asked = subprocess.run(status_command, capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            status = json.loads(asked.stdout)
            return Endpoint(
                name=name,
                url=status["s3"],
                access_key=keys["SEAWALL_ROOT_ACCESS_KEY"],
                secret_key=keys["SEAWALL_ROOT_SECRET_KEY"],
                pids=(process.pid,),
            )
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"the service did not start: {(scratch / 'log').read_text()[-2000:]}")


def prepare(endpoint: Endpoint, cell: Cell) -> Callable[[int, int], Outcome]:
    """Store what the cell reads, and return what runs it: called with the run's number and its seconds."""
    # One bucket for all bodies: some services set aside gigabytes for each.
    bucket = "/bench-list" if cell.method == "LIST" else "/bench"
    with suppress(RuntimeError):  # it is there since the last cell
        endpoint.request("PUT", bucket)
    tag = random.randbytes(4).hex()
    run = run_sockets if cell.size > 4 * MIB else run_wrk
    if cell.method == "LIST":
        keys = [f"list{cell.size}/{number % 10}/{number:06d}" for number in range(LISTED_KEYS)]
        _store(endpoint, bucket, {key: body_of(key, cell.size) for key in keys})
        keys.sort()
        pages = [{"list-type": "2", "max-keys": "1000", "prefix": f"list{cell.size}/"}]
        pages += [{**pages[0], "start-after": keys[start - 1]} for start in range(1000, LISTED_KEYS, 1000)]
        targets = [endpoint.presign("GET", bucket, page) for page in pages]
        return lambda _number, seconds: run(endpoint, "GET", targets, connections=cell.connections, seconds=seconds)
    if cell.method == "GET":
        keys = [f"get/{tag}/{number % 16:02x}/{number:06d}" for number in range(cell.objects)]
        for key in keys:
            endpoint.request("PUT", f"{bucket}/{key}", body_of(key, cell.size))
        for key in keys[:: max(1, len(keys) // 10)]:
            if endpoint.request("GET", f"{bucket}/{key}") != body_of(key, cell.size):
                raise RuntimeError(f"{endpoint.name} gave other bytes back than it got")
        targets = [endpoint.presign("GET", f"{bucket}/{key}") for key in keys]
        return lambda _number, seconds: run(endpoint, "GET", targets, connections=cell.connections, seconds=seconds)

    body = body_of(cell.name, cell.size)

    def put(number: int, seconds: int) -> Outcome:
        keys = [f"put/{tag}/{number}/{at % 64:02x}/{at:06d}" for at in range(cell.objects)]
        targets = [endpoint.presign("PUT", f"{bucket}/{key}") for key in keys]
        outcome = run(endpoint, "PUT", targets, connections=cell.connections, seconds=seconds, body=body)
        # wrk draws a request or two only to look at them, so not the first.
        if endpoint.request("GET", f"{bucket}/{keys[8 % len(keys)]}") != body:
            raise RuntimeError(f"{endpoint.name} gave other bytes back than it got")
        return outcome

    return put


def _store(endpoint: Endpoint, bucket: str, bodies: dict[str, bytes]) -> None:
    for key, body in bodies.items():
        endpoint.request("PUT", f"{bucket}/{key}", body)


def measure(endpoints: list[Endpoint], cells: list[Cell], *, runs: int, seconds: int) -> dict[str, dict[str, Outcome]]:
    """Return the median outcome of each cell and endpoint; endpoints take turns, so that noise hits all."""
    table: dict[str, dict[str, Outcome]] = {}
    for cell in cells:
        ready = {endpoint.name: prepare(endpoint, cell) for endpoint in endpoints}
        outcomes: dict[str, list[Outcome]] = {name: [] for name in ready}
        for number in range(runs):
            for name, run in ready.items():
                outcomes[name].append(_tried(name, run, number, seconds))
        table[cell.name] = {name: _median(found) for name, found in outcomes.items()}
        for name, outcome in table[cell.name].items():
            spread = " ".join(f"{one.per_s:,.0f}" for one in outcomes[name])
            print(f"{cell.name:<22} {name:<12} {outcome.per_s:>10,.1f}/s  ({spread})", flush=True)
    return table


def _tried(name: str, run: Callable[[int, int], Outcome], number: int, seconds: int) -> Outcome:
    """Run once. Another's failure is a result; ours is a bug."""
    try:
        return run(number, seconds)
    except (RuntimeError, OSError) as error:
        if name == "seawall":
            raise
        print(f"failed: {error}", flush=True)
        return Outcome(per_s=0.0, p50_ms=0.0, p99_ms=0.0, failed=1, cpu_us=0.0, peak_mib=0.0)


def _median(outcomes: list[Outcome]) -> Outcome:
    fields = [asdict(outcome) for outcome in outcomes]
    return Outcome(
        **{
            **{
                name: statistics.median(field[name] for field in fields)
                for name in ("per_s", "p50_ms", "p99_ms", "cpu_us", "duration_s")
            },
            "failed": sum(field["failed"] for field in fields),
            "peak_mib": max(field["peak_mib"] for field in fields),
        }
    )


def page(table: dict[str, dict[str, Outcome]], *, command: str, runs: int, seconds: int) -> str:
    """Return the table as Markdown."""
    others = [name for name in next(iter(table.values())) if name != "seawall"]
    lines = [
        f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n",
        f"`{command}`, medians of {runs} runs of {seconds} s; {os.cpu_count()} cores ({_processor()}), "
        f"Linux {platform.release()}, Python {platform.python_version()}, load generator on the same cores.\n",
        "| load | seawall, ops/s | p50 ms | p99 ms | CPU µs/op (all processes) | peak RSS MiB | failed |"
        + "".join(f" {name}, ops/s |" for name in others)
        + (" against the best |" if others else ""),
        "|---|--:|--:|--:|--:|--:|--:|" + "--:|" * len(others) + ("--:|" if others else ""),
    ]
    for cell, outcomes in table.items():
        ours = outcomes["seawall"]
        row = f"| {cell} | {_number(ours.per_s)} | {ours.p50_ms:.2f} | {ours.p99_ms:.2f} | {ours.cpu_us:,.0f} "
        row += f"| {ours.peak_mib:.0f} | {ours.failed} |"
        for name in others:
            outcome = outcomes[name]
            row += f" {_number(outcome.per_s)}{f' ({outcome.failed} failed)' if outcome.failed else ''} |"
        if others:
            best = max(outcomes[name].per_s for name in others)
            row += f" {ours.per_s / best:.2f} × |" if best else " – |"
        lines.append(row)
    return "\n".join([*lines, ""])


def _number(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measure and append."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--cells", default="", help="only those whose name contains this")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL,KEY,SECRET[,PID...]")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    chosen = parser.parse_args()
    peers = []
    for text in chosen.peer:
        name, _, rest = text.partition("=")
        url, key, secret, *pids = rest.split(",")
        peers.append(Endpoint(name=name, url=url, access_key=key, secret_key=secret, pids=tuple(map(int, pids))))
    cells = [cell for cell in CELLS if chosen.cells in cell.name]
    with throwaway_service() as ours:
        table = measure([ours, *peers], cells, runs=chosen.runs, seconds=chosen.seconds)
    text = page(table, command="make bench", runs=chosen.runs, seconds=chosen.seconds)
    print(text)
    if not chosen.dry:
        with RESULTS.open("a") as results:
            results.write(text)


if __name__ == "__main__":
    main()
