"""The surge: far more users than can be served, and how the service takes it.

What can be served is known, because each request for an object holds one of few connections for a known time
(`SEAWALL_DRILL_HOLD_S`), and it is measured before. The generator proves first that it can offer half as much again as
the surge brings. Decisions are plain functions: which load is asked for, and what is said of how it went.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from seawall.clock import wall_s
from seawall.drills.client import Caller, Signer
from seawall.drills.generator import VERIFY_PATIENCE_S, Progress, Verdict, generate, verify_ledger
from seawall.drills.instance import PROOF_USERS, Instance, measure_capacity, prove_generator, set_stage
from seawall.drills.load import (
    POLITE,
    Crowd,
    Kind,
    Load,
    Manner,
    Phase,
    Retry,
    Sort,
    instant,
    surge_phases,
)
from seawall.drills.outcomes import Slice, Summary
from seawall.drills.response import Response, read_response

HOLD_S: Final = 0.05
GENTLE: Final = 0.3
"""What those bring who have nothing to do with the surge."""

DEADLINE_S: Final = 1.0
RETRIES: Final = 3
FLOOD_CONNECTIONS: Final = 2500
"""As many as one account that floods needs, so that nothing waits for its own kind outside of the service."""
PROOF: Final = 1.5
PROOF_LEAST: Final = 15.0
"""The generator proves that it can offer half as much again as the surge, and 15 times the capacity at the least."""

CAPACITY_S: Final = 4.0
LITTLE_KEY, LITTLE = "somebody-still-asks", b"a little"
OVER_WITHIN_S: Final = 45.0
"""How long it may take until an incident is said to be over: it has to be clean for half a minute."""

SERVING_SHARE: Final = 0.95
SERVING_OVER_S: Final = 3
"""Serving again is who answers, in any three seconds, as many requests as newly come, but for one in twenty."""

WRITES: Final = (Sort(kind=Kind.GET, share=85), Sort(kind=Kind.PUT, share=15))
READS: Final = (Sort(kind=Kind.GET),)
MIB: Final = 1024 * 1024
RSS_MAX_BYTES: Final = 300 * MIB


class Shape(StrEnum):
    """Who makes the surge."""

    CROWD = "crowd"
    """Everybody: ten times as many users as before."""
    BACKGROUND = "background"
    """Work that calls itself background, while people go on as before."""
    TENANT = "tenant"
    """One account, while the others go on as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surge:
    """What is asked for. `users` is how many make the surge; `multiple` is of the capacity, and so is `calm`,
    which is what comes before and after.
    """

    shape: Shape = Shape.CROWD
    multiple: float = 10.0
    users: int = 4000
    before_s: float = 5.0
    surge_s: float = 15.0
    after_s: float = 20.0
    retry: Retry = POLITE
    hold_s: float = HOLD_S
    calm: float = 0.7
    seed: int = 1

    @property
    def settings(self) -> dict[str, str]:
        """What the instance is told."""
        return {"SEAWALL_DRILL_HOLD_S": str(self.hold_s)}


def retry_of(manner: Manner) -> Retry:
    """Return how users of a manner try again."""
    match manner:
        case Manner.POLITE:
            return POLITE
        case Manner.INSTANT:
            return instant(RETRIES)
        case Manner.NONE:
            return Retry(manner=Manner.NONE, retries=0)


def load_of(surge: Surge, *, capacity_per_s: float) -> Load:
    """Return the load that a surge is, for a service of this capacity."""
    times = {"before_s": surge.before_s, "surge_s": surge.surge_s, "after_s": surge.after_s}
    whole_s = surge.before_s + surge.surge_s + surge.after_s
    most_per_s = surge.multiple * capacity_per_s
    if surge.shape is Shape.CROWD:
        crowds = [
            Crowd(
                name="everybody",
                phases=surge_phases(calm_per_s=surge.calm * capacity_per_s, surge_per_s=most_per_s, **times),
                mix=WRITES,
                think_s=surge.users / most_per_s,
                retry=surge.retry,
                deadline_s=DEADLINE_S,
            )
        ]
    else:
        people = Crowd(
            name="people",
            phases=(Phase(rate_per_s=GENTLE * capacity_per_s, seconds=whole_s),),
            mix=READS if surge.shape is Shape.BACKGROUND else WRITES,
            think_s=0.0 if surge.shape is Shape.TENANT else 3.0,
            retry=POLITE,
            deadline_s=DEADLINE_S,
            user_connections=FLOOD_CONNECTIONS,
        )
        is_one = surge.shape is Shape.TENANT
        flood = Crowd(
            name="flood",
            phases=surge_phases(calm_per_s=0.0, surge_per_s=most_per_s, **times),
            mix=READS if is_one else (Sort(kind=Kind.GET, background=True),),
            think_s=0.0 if is_one else surge.users / most_per_s,
            retry=surge.retry,
            deadline_s=DEADLINE_S,
            user_connections=FLOOD_CONNECTIONS if is_one else 6,
        )
        crowds = [people, flood]
    return Load.with_surge(*crowds, before_s=surge.before_s, surge_s=surge.surge_s, seed=surge.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """How a service took a surge.

    `offered_per_s` is what the generator proved that it can offer. `serving_after_s` counts from the surge's end; None
    is never. `impact_s` are the seconds in which not everybody who came was served in time. `rss_most_bytes` is the
    largest resident memory a node had.
    """

    capacity_per_s: float
    offered_per_s: float
    summary: Summary
    ledger: Verdict
    serving_after_s: float | None
    impact_s: int
    rss_most_bytes: int
    response: Response

    @property
    def goodput(self) -> float:
        """What was served in the surge, in parts of the capacity."""
        return self.summary.everybody.during.goodput_per_s / self.capacity_per_s


def act_of(
    summary: Summary,
    ledger: Verdict,
    *,
    capacity_per_s: float,
    offered_per_s: float,
    rss_most_bytes: int,
    response: Response | None = None,
) -> Act:
    """Sum up."""
    series = summary.everybody.series
    end = int(summary.end_s)
    return Act(
        capacity_per_s=capacity_per_s,
        offered_per_s=offered_per_s,
        summary=summary,
        ledger=ledger,
        serving_after_s=serving_after_s(series.due[:end], series.served[:end], surge_ends=int(summary.surge_until_s)),
        impact_s=impact_s(series.due[:end], series.served[:end]),
        rss_most_bytes=rss_most_bytes,
        response=response or Response(),
    )


def serving_after_s(due: Sequence[int], served: Sequence[int], *, surge_ends: int) -> float | None:
    """Return the seconds after the surge from which on as many are served as newly come; None: never.

    It is not asked whether those are served who come: after a surge others come again, and whoever is served, somebody
    else waits. What counts is that the service does what it can, and does not spend its time on what nobody waits for.

    Args:
        due: requests that were due, by second.
        served: answers given to users who were there, by second.
        surge_ends: the first second after the surge.

    >>> serving_after_s([9, 9, 9, 9, 9, 9, 9], [0, 0, 0, 9, 9, 9, 9], surge_ends=1)
    2.0
    """
    last = len(due) - SERVING_OVER_S
    answered = [*served, *[0] * (len(due) - len(served))]
    found: int | None = None
    for start in range(last, surge_ends - 1, -1):
        seconds = slice(start, start + SERVING_OVER_S)
        if not _is_served(sum(due[seconds]), sum(answered[seconds])):
            break
        found = start
    return None if found is None else float(found - surge_ends)


def impact_s(due: Sequence[int], served: Sequence[int]) -> int:
    """Count the seconds in which fewer were served than came, but for one in twenty and what chance explains.

    >>> impact_s([10, 10, 10], [10, 4, 10])
    1
    """
    answered = [*served, *[0] * (len(due) - len(served))]
    return sum(not _is_served(came, count) for came, count in zip(due, answered, strict=False))


def _is_served(due: int, served: int) -> bool:
    """Return whether as many are served as come, but for one in twenty and for what chance explains.

    An answer may be counted in the next stretch, and how many come in one varies by the square root (Poisson).
    """
    return served >= SERVING_SHARE * due - math.sqrt(due)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What an act is judged by. Those of the drill are the full ones; a test on a noisy machine asks for half."""

    goodput_min: float
    p99_max_ms: float = 500.0
    serving_after_max_s: float = 5.0
    group_min: float = 0.99
    rss_max_bytes: int = RSS_MAX_BYTES


def goals_of(surge: Surge) -> Goals:
    """Return what Seawall has to do in a surge: DESIGN's numbers."""
    if surge.retry.manner is Manner.INSTANT:
        return Goals(goodput_min=0.80)
    return Goals(goodput_min=0.95 if surge.multiple <= 2 else 0.90)


def complaints_of(act: Act, surge: Surge, goals: Goals) -> list[str]:
    """Return in which way the service did not do as it should; empty where it did."""
    found: list[str] = []
    effort = act.summary.effort
    if effort.bottleneck:
        found.append(f"the figures are the generator's: {effort.bottleneck}")
    if act.goodput < goals.goodput_min:
        found.append(f"goodput in the surge was {act.goodput:.2f} of the capacity: at least {goals.goodput_min:g}")
    reads = act.summary.by_class.get("interactive", act.summary.everybody).during.attempt_p99_ms
    if surge.shape is Shape.CROWD and reads is not None and reads > goals.p99_max_ms:
        found.append(f"admitted reads took {reads:,.0f} ms at the 99th percentile: at most {goals.p99_max_ms:g}")
    if act.serving_after_s is None:
        found.append("it did not recover")
    elif act.serving_after_s > goals.serving_after_max_s:
        found.append(f"it took {act.serving_after_s:g} s to serve again: at most {goals.serving_after_max_s:g}")
    if surge.shape is not Shape.CROWD:
        share = success_of(act.summary.by_group["people"])
        if share is None or share < goals.group_min:
            found.append(f"{share or 0:.1%} of what the others asked for was served: at least {goals.group_min:.0%}")
    if not act.ledger.held:
        lost = act.ledger.acknowledged - act.ledger.intact
        found.append(f"{lost} of {act.ledger.acknowledged} acknowledged writes are not as they were written")
    if act.rss_most_bytes > goals.rss_max_bytes:
        found.append(
            f"a node took {act.rss_most_bytes / MIB:,.0f} MiB of memory: at most {goals.rss_max_bytes / MIB:,.0f}"
        )
    return found


def success_of(group: Slice) -> float | None:
    """Return which share of a group's requests in the surge was served in the end."""
    return group.during.served_share


# On an instance.


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an instance can serve, and what the generator can offer it, in requests a second."""

    served_per_s: float
    offered_per_s: float


async def find_capacity(instance: Instance, surge: Surge) -> Capacity:
    """Measure what can be served, and let the generator prove that it can offer enough.

    Raises:
        TooFewOffered: it cannot.
    """
    # One more than asked for: how many users make a rate is rounded up.
    stage = await set_stage(instance, users=PROOF_USERS + 1)
    pace = await measure_capacity(stage, workers=12, seconds=CAPACITY_S)
    wanted_per_s = max(PROOF * surge.multiple, PROOF_LEAST) * pace.per_s
    proof = await prove_generator(stage, rate_per_s=wanted_per_s)
    if not proof.holds:
        raise TooFewOffered(
            f"the generator offered {proof.offered_per_s:,.0f} requests/s when told to offer {wanted_per_s:,.0f}: "
            f"{proof.summary.effort.bottleneck or 'it fell short'}"
        )
    return Capacity(served_per_s=pace.per_s, offered_per_s=proof.offered_per_s)


class TooFewOffered(RuntimeError):
    """The generator cannot make the surge that was asked for."""


async def perform(
    instance: Instance,
    load: Load,
    *,
    capacity: Capacity,
    ledger: Path,
    hear: Callable[[Progress], None] = lambda _: None,
    verify_s: float = VERIFY_PATIENCE_S,
    over_s: float = OVER_WITHIN_S,
) -> Act:
    """Put a load on an instance; look afterwards whether everything acknowledged is there, and how its keeper took it.

    `verify_s` and `over_s` are how long that is tried, and how long it is waited for the incident to be over.
    """
    stage = await set_stage(instance, users=load.users)
    noted = ledger / f"ledger-{secrets.token_hex(4)}"
    noted.touch()
    began_s: list[float] = []

    def listen(progress: Progress) -> None:
        if not began_s:
            began_s.append(wall_s() - progress.second - 1)
        hear(progress)

    summary = await generate(stage.order(load, ledger=noted), hear=listen)
    ended_s = wall_s()
    rss_bytes = max(map(_rss_most_bytes, instance.node_pids()), default=0)
    verdict = await verify_ledger(noted, stage.instance.target(stage.bucket), instance.root_keys, patience_s=verify_s)
    surge_began_s = (began_s[0] if began_s else wall_s()) + summary.surge_from_s
    target = stage.instance.target(stage.bucket)
    async with Caller(target, Signer(*instance.root_keys)) as caller:

        async def ask_a_little() -> None:
            for method, body in (("PUT", LITTLE), ("GET", b"")):
                await caller.ask(method, target.path(LITTLE_KEY), body=body, timeout_s=DEADLINE_S)

        response = await read_response(
            instance, began_s=surge_began_s, ended_s=ended_s, patience_s=over_s, meanwhile=ask_a_little
        )
    return act_of(
        summary,
        verdict,
        response=response,
        capacity_per_s=capacity.served_per_s,
        offered_per_s=capacity.offered_per_s,
        rss_most_bytes=rss_bytes,
    )


def _rss_most_bytes(pid: int) -> int:
    """Return the largest resident memory a process had. Source: proc_pid_status(5), VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
