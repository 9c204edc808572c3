"""Why is it so? Which layer carries the added time and the failures, by which mechanism, and which ones do not.

Each layer is looked at by itself (`database_cases`, `other_cases`) and gets a case with a strength. What users notice
then decides how much a case explains: time that was added in a layer's segments, failures and refusals it may cause.
The strongest is the suspect, and every other layer is named with the number that clears it. Where nothing is strong
enough, nobody is suspected: a wrong name costs an hour; in the outage this service answers to it cost two.

It decides from what the keeper has at hand, and asks nobody: it works while the database does not.
"""

from collections.abc import Callable, Sequence
from typing import Final

from seawall.monitoring.cases import Case, Scene, Tenant
from seawall.monitoring.comparison import Comparison, Harm
from seawall.monitoring.database_cases import connections, database, locks, replica, statements
from seawall.monitoring.database_sight import DatabaseSight
from seawall.monitoring.other_cases import demand, disk, network, processor, tenant
from seawall.monitoring.things import Diagnosis, RuledOut
from seawall.monitoring.words import amount, counted, duration, part
from seawall.telemetry.points import Point

CASES: Final[tuple[Callable[[Scene], Case], ...]] = (
    connections,
    locks,
    statements,
    database,
    replica,
    disk,
    network,
    processor,
    tenant,
    demand,
)

WHOLE: Final = 1.0
UNFELT: Final = 0.7
"""What a case weighs that explains nothing users notice, or when they notice nothing."""

SUSPECTED_FROM: Final = 0.4
"""Below, nobody is suspected."""

ALSO_FROM: Final = 0.3
"""From here on a layer is not quite cleared: something is wrong there too, which explains less."""

FELT_SHARE: Final = 0.01
FELT_S: Final = 0.002


def diagnose(
    before: Sequence[Point],
    now: Sequence[Point],
    sight: DatabaseSight | None,
    *,
    at_s: float,
    tenants: Sequence[Tenant] = (),
    disk_trouble: str = "",
) -> Diagnosis:
    """Return who is to be suspected.

    Args:
        before: the fleet's points of a stretch that is taken for usual, some minutes before it began, one a second.
        now: those since it began, ten or so.
        sight: what the keeper saw of the database last; None: it does not look.
        at_s: now, on the wall clock.
        tenants: what the largest accounts asked for in the stretch of `now`.
        disk_trouble: what the disk probe's last write ended with; empty: it was well.
    """
    seen = Comparison(before, now)
    scene = Scene(seen=seen, sight=sight, tenants=tenants, disk_trouble=disk_trouble)
    cases = [look(scene) for look in CASES]
    weighed = sorted(((weight(case, seen.harm), case) for case in cases), key=lambda one: one[0], reverse=True)
    (score, suspect), *_ = weighed
    if score < SUSPECTED_FROM:
        return Diagnosis(
            at_s=at_s,
            suspect=None,
            share=None,
            mechanism=f"Nothing that was measured explains it. {_noticed(seen)}",
            evidence=tuple(line for case in cases for line in case.evidence),
            ruled_out=tuple(_ruled_out(case, score_) for score_, case in weighed),
            advice=(
                "Look at what is not measured: what was deployed or changed, the load balancer, DNS, certificates.",
                "`seawall status --json`, the request log in `log/`, and PostgreSQL's log say more.",
            ),
        )
    return Diagnosis(
        at_s=at_s,
        suspect=suspect.layer,
        share=explained(suspect, seen.harm),
        mechanism=suspect.mechanism,
        evidence=(_noticed(seen), *suspect.evidence),
        ruled_out=tuple(_ruled_out(case, score_) for score_, case in weighed[1:]),
        advice=suspect.advice,
        culprit=suspect.culprit,
    )


def as_text(found: Diagnosis) -> str:
    """Return a diagnosis as people read it: whom, why, what to do, and who it is not."""
    share = "" if found.share is None else f" ({part(found.share)} of what users notice)"
    return "\n".join(
        [
            f"Suspected: {'nobody' if found.suspect is None else found.suspect}{share}",
            found.mechanism,
            "",
            "What to do:",
            *(f"  - {line}" for line in found.advice),
            "",
            "Evidence:",
            *(f"  - {line}" for line in found.evidence),
            "",
            "Ruled out:",
            *(f"  - {one.layer}: {one.reason}" for one in found.ruled_out),
        ]
    )


def weight(case: Case, harm: Harm) -> float:
    """Return how much a case is worth: how sure it is, and how much of what users notice it explains."""
    share = explained(case, harm)
    return case.strength * (UNFELT + (WHOLE - UNFELT) * (share or 0.0))


def explained(case: Case, harm: Harm) -> float | None:
    """Return the part of what users notice that a case accounts for; None where they notice nothing."""
    parts: list[float] = []
    if harm.more_failed >= FELT_SHARE:
        parts.append(float(case.fails))
    if harm.more_refused >= FELT_SHARE:
        parts.append(float(case.refuses))
    if harm.added_per_request_s >= FELT_S:
        parts.append(harm.share(*case.segments))
    return sum(parts) / len(parts) if parts else None


def _ruled_out(case: Case, score: float) -> RuledOut:
    reason = case.cleared
    if score >= ALSO_FROM and case.mechanism:
        reason = f"not well either, but explains less: {case.mechanism}"
    return RuledOut(layer=case.layer, reason=reason)


def _noticed(seen: Comparison) -> str:
    """Return what users notice, in a sentence."""
    harm = seen.harm
    usual = "" if seen.has_baseline else " (what is usual is not known: there is too little to compare with)"
    added = "" if harm.added_per_request_s < FELT_S else f", and {duration(harm.added_per_request_s)} longer each"
    return (
        f"Users: {amount(harm.per_s)} requests a second (usually {amount(harm.usual_per_s)}), {part(harm.failed)} "
        f"fail, {part(harm.refused)} are refused{added}, in {counted(len(seen.now), 'second')}{usual}."
    )
