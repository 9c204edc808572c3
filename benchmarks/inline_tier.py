"""Up to which size is a body better kept in its row than in a segment?

Two services, one that keeps every body of up to 7 KiB in its row and one that keeps none there, take the same
load in turn: PUT, GET, and listing what was put. CPU is µs per operation, of the node and of PostgreSQL: nodes
can be added, the database cannot.

    python -m benchmarks.inline_tier [--runs 3] [--seconds 3]
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.__main__ import KIB, Cell, prepare, throwaway_service
from benchmarks.load import Endpoint, Outcome, cpu_s, family

SIZES_KIB = (1, 2, 4, 7)
METHODS = {"PUT": 20_000, "GET": 1000, "LIST": 0}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run gave: operations a second, µs of processor time for each, and PostgreSQL's part of it."""

    per_s: float
    cpu_us: float
    database_us: float


def cost_of(endpoint: Endpoint, run: Callable[[int, int], Outcome], *, number: int, seconds: int) -> Cost:
    """Run once."""
    postmaster = next(
        pid for pid in sorted(family(endpoint.pids)) if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()[:200]
    )
    before_s = cpu_s([postmaster])
    outcome = run(number, seconds)
    count = outcome.per_s * outcome.duration_s
    return Cost(outcome.per_s, outcome.cpu_us, (cpu_s([postmaster]) - before_s) / count * 1e6)


def median(costs: list[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in Cost.__slots__))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    chosen = parser.parse_args()
    with (
        throwaway_service("row", SEAWALL_INLINE_MAX_BYTES="7168") as row,
        throwaway_service("segment", SEAWALL_INLINE_MAX_BYTES="0") as segment,
    ):
        print("| load | row, ops/s | CPU | of PostgreSQL | segment, ops/s | CPU | of PostgreSQL |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for size_kib in SIZES_KIB:
            for method, objects in METHODS.items():
                cell = Cell(f"{method} {size_kib} KiB", method, size_kib * KIB, objects=objects)
                ready = [(endpoint, prepare(endpoint, cell)) for endpoint in (row, segment)]
                costs: list[list[Cost]] = [[], []]
                for number in range(chosen.runs):
                    for found, (endpoint, run) in zip(costs, ready, strict=True):
                        found.append(cost_of(endpoint, run, number=number, seconds=chosen.seconds))
                cells = [f"{c.per_s:,.0f} | {c.cpu_us:,.0f} | {c.database_us:,.0f}" for c in map(median, costs)]
                print(f"| {cell.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
