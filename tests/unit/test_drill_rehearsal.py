"""What a rehearsal of a fault decides: which load, which settings, and what is said of how it went."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from seawall.database import Endpoint
from seawall.drills import rehearsal
from seawall.drills.chart import fault_timeline
from seawall.drills.faults import FAULTS, Fault, Need, fault_named
from seawall.drills.hypothesis import Second
from seawall.drills.instance import InstanceFailed
from seawall.drills.load import Crowd, Kind, Load, Phase, Sort
from seawall.drills.outcomes import Finished, Outcome, Summary, Tally, summarize
from seawall.drills.rehearsal import (
    BEFORE_S,
    PATIENCE_S,
    CannotRehearse,
    NotRehearsed,
    Rehearsal,
    Result,
    is_well,
    load_of,
    needs_own_database,
    rehearsal_of,
    rehearse_each,
    settings_of,
    url_of,
    watched_s,
)
from seawall.drills.scoreboard import fault_row, faults_json, faults_text

BEGAN_S = 1000.0
"""When the load began, on the machine's clock."""

BROKEN_S, MENDED_S, END_S = 5.5, 15.5, 30
MIX = (Sort(kind=Kind.GET), Sort(kind=Kind.PUT), Sort(kind=Kind.GET, background=True), Sort(kind=Kind.LIST))

every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


def named(name: str) -> Fault:
    fault = fault_named(name)
    assert fault is not None
    return fault


def summary_of(*requests: Finished) -> Summary:
    load = Load(crowds=(Crowd(name="people", phases=(Phase(rate_per_s=1, seconds=END_S),), mix=MIX),))
    tally = Tally()
    for row in requests:
        series = tally.of(row.crowd, row.sort)
        series.count(series.due, row.due_s)
    return summarize(load, requests, tally, began_s=BEGAN_S, dropped=0, busy_share=0.1, connections_most=9)


def a_read(due_s: float, *, took_s: float = 0.01, outcome: Outcome = Outcome.SERVED, sort: int = 0) -> Finished:
    return Finished(0, sort, 1, due_s, due_s, due_s, due_s + took_s, 1, outcome)


def rehearsed(fault: Fault, *requests: Finished, lost: int = 0) -> Rehearsal:
    return rehearsal_of(
        fault,
        summary_of(*requests),
        broken_s=BEGAN_S + BROKEN_S,
        mended_s=BEGAN_S + MENDED_S,
        acknowledged=20,
        lost=lost,
        unreadable=0,
    )


def steady(*, but: range = range(0)) -> list[Finished]:
    """Return one read in each second, which is not answered in some of them."""
    gone = {"took_s": PATIENCE_S, "outcome": Outcome.TIMED_OUT}
    return [a_read(second + 0.5, **(gone if second in but else {})) for second in range(END_S)]  # type: ignore[arg-type]


# Before.


@every_fault
def test_a_load_lasts_until_everything_has_been_looked_at(fault: Fault) -> None:
    load = load_of(fault, seconds=10)

    assert load.end_s > BEFORE_S + 10 + watched_s(fault) + 120
    assert load.crowds[0].deadline_s > (
        0 if math.isinf(fault.hypothesis.answered_within_s) else fault.hypothesis.answered_within_s
    )


@every_fault
def test_a_service_is_told_only_what_its_fault_needs(fault: Fault) -> None:
    url = "postgresql://there" if needs_own_database(fault) else ""

    settings = settings_of(fault, database_url=url, disk=Path("/disk.json"))

    assert ("SEAWALL_DRILL_DISK" in settings) == (Need.DISK in fault.needs)
    assert ("SEAWALL_DRILL_HOLD_S" in settings) == (Need.FLOOD in fault.needs)
    assert ("SEAWALL_DATABASE_URL" in settings) == bool(
        fault.needs & {Need.DATABASE_PATH, Need.REPLICA, Need.SMALL_DISK}
    )


def test_a_primary_and_its_replicas_are_named_as_the_service_reads_them() -> None:
    ends = [Endpoint(host=host, port=5432, user="u", password="p/w", database="d") for host in ("/run/a", "/run/b")]

    assert Endpoint.parse(url_of(ends)) == tuple(ends)


# After.


def test_only_small_reads_that_people_wait_for_are_judged() -> None:
    others = [a_read(0.5, sort=sort) for sort in (1, 2, 3)]

    summary = summary_of(a_read(0.1), a_read(0.25, took_s=3.0), a_read(0.3, outcome=Outcome.REFUSED), *others)

    assert summary.reads == (Second(at_s=0, asked=3, in_time=1, slowest_s=3.0),)


def test_a_fault_is_placed_on_the_clock_of_its_load() -> None:
    result = rehearsed(named("blocking-lock"), *steady(but=range(5, 15)))

    assert (result.broken_s, result.mended_s) == (BROKEN_S, MENDED_S)
    verdict = result.verdict
    assert (verdict.before, verdict.during, verdict.after) == (1.0, 0.0, 1.0)
    assert verdict.recovered_s == 0.0


def test_who_was_never_answered_is_a_complaint_where_everybody_is_to_be_told() -> None:
    result = rehearsed(named("blocking-lock"), *steady(but=range(5, 15)))

    assert [*result.complaints] == ["somebody waited 10.0 s for an answer: at most 7"]
    assert fault_row(result)[4] == "no answer"


def test_a_hypothesis_holds_where_everything_was_served() -> None:
    result = rehearsed(named("slow-disk"), *steady())

    assert result.complaints == ()
    assert is_well(result)
    assert fault_row(result)[0::7] == ("slow-disk", "held")


def test_a_generator_that_was_late_is_a_complaint() -> None:
    result = replace(rehearsed(named("slow-disk"), *steady()), bottleneck="it was late")

    assert result.complaints == ("the figures are the generator's: it was late",)
    assert not is_well(result)


def test_who_skips_a_fault_has_not_failed_and_who_cannot_hold_it_has() -> None:
    fault = named("full-database-disk")
    skipped = NotRehearsed(fault=fault, why="only root can mount a tmpfs", is_skipped=True)
    broken = NotRehearsed(fault=fault, why="it did not start", is_skipped=False)

    assert is_well(skipped)
    assert not is_well(broken)
    assert faults_text([skipped, broken]).splitlines()[-2:] == [
        "- full-database-disk: only root can mount a tmpfs",
        "- full-database-disk: it did not start",
    ]


async def test_a_fault_that_cannot_be_rehearsed_does_not_keep_the_others_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = rehearsed(named("slow-disk"), *steady())
    planned: list[Rehearsal | Exception] = [
        CannotRehearse("it needs root"),
        InstanceFailed("no room"),
        TimeoutError(),
        good,
    ]
    outcomes = iter(planned)

    async def rehearse(*_: object, **__: object) -> Rehearsal:
        outcome = next(outcomes)
        if isinstance(outcome, Rehearsal):
            return outcome
        raise outcome

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)

    first, second, third, fourth = await rehearse_each(FAULTS[:4])

    assert [(one.why, one.is_skipped) for one in (first, second, third) if isinstance(one, NotRehearsed)] == [
        ("it needs root", True),
        ("no room", False),
        ("it took too long", False),
    ]
    assert fourth is good


def test_a_board_of_faults_is_json_for_every_program() -> None:
    results: list[Result] = [
        rehearsed(named("slow-disk"), *steady(), lost=1),
        NotRehearsed(fault=named("cpu-hog"), why="no nodes", is_skipped=True),
    ]

    found = json.loads(json.dumps(faults_json(results), allow_nan=False))

    assert found["held"] is False
    assert found["faults"]["slow-disk"]["complaints"] == ["1 acknowledged writes were lost"]
    assert found["faults"]["cpu-hog"]["outcome"] == "skipped"


def test_a_timeline_shades_what_was_broken() -> None:
    drawing = ElementTree.fromstring(fault_timeline(rehearsed(named("slow-disk"), *steady())))

    assert "broken" in [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
