"""How many signed requests a second can the drills' load generator offer, and over how many connections?

A throwaway service gets ListBuckets at rising rates, from ever more users, until the generator is late: what is offered
on time counts, however the service takes it. Service and generator are on different cores where there are two.

    python -m benchmarks.generator [--rate 2000 --rate 4000 ...] [--users 3000] [--seconds 4]
"""

import argparse
import asyncio

from benchmarks.pool import machine
from seawall.drills.instance import prove_generator, running_instance, set_stage

RATES = (2000.0, 3000.0, 4000.0, 6000.0, 8000.0)


async def run(rates: list[float], *, users: int, seconds: float) -> None:
    """Offer, and print a line for each rate."""
    async with running_instance() as instance:
        stage = await set_stage(instance, users=users)
        cores = instance.cores
        print(f"{machine().partition(', load')[0]}; the generator on core {cores.generator}, the service on the others")
        for rate_per_s in rates:
            proof = await prove_generator(stage, rate_per_s=rate_per_s, seconds=seconds, users=users)
            effort, answers = proof.summary.effort, proof.summary.answers
            print(
                f"{rate_per_s:,.0f}/s: offered {proof.offered_per_s:,.0f}/s "
                f"{'on time' if proof.holds else 'LATE'}, {effort.late_p99_ms:.1f} ms late at p99, "
                f"busy {effort.busy_share:.0%}, at most {effort.connections_most:,} connections; answers: {answers}"
            )


def main() -> None:
    """Offer more and more."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, action="append", help="a second; may be repeated")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=4.0)
    chosen = parser.parse_args()
    asyncio.run(run(chosen.rate or [*RATES], users=chosen.users, seconds=chosen.seconds))


if __name__ == "__main__":
    main()
