"""What does it cost a node to say where time goes?

    python -m benchmarks.telemetry_cost [--before COMMIT] [--rounds 5] [--seconds 4]

Two services at once, one of them of the commit before there were segments and seconds, take turns: GET 1 KiB, 32
connections. What counts is the CPU of the node alone, and the median of all rounds.

Answer, see docs/benchmarks.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.__main__ import throwaway_service
from benchmarks.load import Endpoint, body_of, run_wrk
from benchmarks.memory import node_of

ROOT = Path(__file__).parents[1]
BEFORE = "ef5b5fa"
KEYS = 1000


@contextmanager
def source_of(commit: str) -> Iterator[Path]:
    """Check a commit out beside, for the length of the block."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "source"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", str(place), commit], check=True)
        try:
            yield place / "src"
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def filled(endpoint: Endpoint) -> tuple[Endpoint, list[str]]:
    """Put the objects there; return the endpoint whose cost is that of its node, and what to ask for."""
    endpoint.request("PUT", "/bench")
    for number in range(KEYS):
        endpoint.request("PUT", f"/bench/{number}", body_of(str(number), 1024))
    targets = [endpoint.presign("GET", f"/bench/{number}") for number in range(KEYS)]
    return replace(endpoint, pids=(node_of(endpoint),)), targets


def main() -> None:
    """Print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        sources = {"without": stack.enter_context(source_of(chosen.before)), "with": ROOT / "src"}
        services = {
            name: filled(stack.enter_context(throwaway_service(name, PYTHONPATH=str(source))))
            for name, source in sources.items()
        }
        spent: dict[str, list[float]] = {name: [] for name in services}
        for turn in range(chosen.rounds + 1):
            for name, (endpoint, targets) in services.items():
                outcome = run_wrk(endpoint, "GET", targets, connections=32, seconds=chosen.seconds)
                if outcome.failed:
                    raise RuntimeError(f"{name}: {outcome.failed} requests failed")
                if turn:  # The first one warms up.
                    spent[name].append(outcome.cpu_us)
        medians = {name: statistics.median(values) for name, values in spent.items()}
        print(
            json.dumps(
                {
                    "node_cpu_us_per_get": {name: round(value, 2) for name, value in medians.items()},
                    "more_percent": round(100 * (medians["with"] / medians["without"] - 1), 1),
                    "rounds": {name: [round(value, 1) for value in values] for name, values in spent.items()},
                    "load": os.getloadavg()[0],
                }
            )
        )


if __name__ == "__main__":
    main()
