"""How often does a diagnosis name the layer that was broken, and is it misled by what only looks like it?

Each fault and trap of `seawall drill` is rehearsed several times on a throwaway service under load, and its keeper
asked 8 s into it whom it suspects. Prints the confusion table of docs/diagnosis.md.

    python -m benchmarks.diagnosis [--times 5] [--only NAME ...] [--json FILE]
"""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.pool import machine
from seawall.drills.accuracy import as_json, is_good, markdown, try_each
from seawall.drills.faults import FAULTS


def main() -> int:
    """Try, print, and exit with 0 if the goal is reached and no trap was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often each is rehearsed")
    parser.add_argument("--only", action="append", default=[], help="the name of a fault")
    parser.add_argument("--json", type=Path, help="a file for everything that was heard")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    trials = asyncio.run(try_each(faults, times=options.times, tell=lambda line: print(line, file=sys.stderr)))
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}\n\n{markdown(trials)}")
    if options.json:
        options.json.write_text(json.dumps(as_json(trials), indent=2))
    return 0 if is_good(trials) else 1


if __name__ == "__main__":
    raise SystemExit(main())
