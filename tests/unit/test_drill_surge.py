"""What a surge is, and what is said of how it went: decisions, on runs that are made up."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.drills import scoreboard
from seawall.drills.chart import timelines
from seawall.drills.debacle import AS_IT_IS, AS_IT_WAS, DEBACLE, complaints_of_both
from seawall.drills.generator import Verdict
from seawall.drills.load import GIVE_UP, POLITE, Manner, instant
from seawall.drills.outcomes import Effort, Figures, Series, Slice, Summary
from seawall.drills.surge import (
    RSS_MAX_BYTES,
    Act,
    Goals,
    Shape,
    Surge,
    act_of,
    complaints_of,
    goals_of,
    impact_s,
    load_of,
    retry_of,
    serving_after_s,
)

CAPACITY_PER_S = 100.0
SURGE = Surge(before_s=2, surge_s=4, after_s=6)
EVERYTHING = Verdict(acknowledged=5, intact=5, lost=0, wrong=0, unreadable=0, remarks=())


def figures(*, seconds: float, due: int, served: int, users: int = 10, affected: int = 0) -> Figures:
    return Figures(
        seconds=seconds,
        due=due,
        begun_per_s=due / seconds,
        attempts=due,
        served=served,
        served_in_time=served,
        refused=due - served,
        failed=0,
        timed_out=0,
        goodput_per_s=served / seconds,
        in_time_per_s=served / seconds,
        p50_ms=10,
        p95_ms=20,
        p99_ms=30,
        attempt_p50_ms=10,
        attempt_p95_ms=20,
        attempt_p99_ms=100,
        users=users,
        users_affected=affected,
    )


def a_slice(served: list[int], due: list[int], *, affected: int = 0) -> Slice:
    count = len(due)
    series = Series(due, due, served, [0] * count, [0] * count, [0] * count)
    return Slice(
        whole=figures(seconds=count, due=sum(due), served=sum(served), affected=affected),
        before=figures(seconds=2, due=sum(due[:2]), served=sum(served[:2])),
        during=figures(seconds=4, due=sum(due[2:6]), served=sum(served[2:6])),
        after=figures(seconds=6, due=sum(due[6:]), served=sum(served[6:])),
        recovered_s=0.0,
        series=series,
    )


def an_act(
    served: list[int],
    due: list[int],
    *,
    affected: int = 0,
    ledger: Verdict = EVERYTHING,
    late_p99_ms: float = 1.0,
    people_served: int = 100,
) -> Act:
    everybody = a_slice(served, due, affected=affected)
    people = replace(everybody, during=figures(seconds=4, due=100, served=people_served))
    summary = Summary(
        began_s=0.0,
        reads=(),
        end_s=len(due),
        surge_from_s=2,
        surge_until_s=6,
        everybody=everybody,
        by_class={"interactive": everybody},
        by_group={"people": people, "flood": everybody},
        answers={"200": sum(served)},
        effort=Effort(
            late_p99_ms=late_p99_ms,
            surge_late_p99_ms=late_p99_ms,
            late_max_ms=late_p99_ms,
            dropped=0,
            busy_share=0.1,
            connections_most=10,
        ),
    )
    return act_of(summary, ledger, capacity_per_s=CAPACITY_PER_S, offered_per_s=1500.0, rss_most_bytes=90 << 20)


DUE = [50, 50, 1000, 1000, 1000, 1000, 50, 50, 50, 50, 50, 50]
SERVED = [50, 50, 98, 99, 97, 98, 60, 50, 50, 50, 50, 50]
WELL = an_act(SERVED, DUE, affected=7)
DOWN = an_act([50, 50, 9, 3, 0, 1, 0, 0, 2, 0, 0, 1], DUE, affected=10)


@given(
    st.sampled_from(Shape), st.floats(1.5, 12), st.integers(100, 5000), st.sampled_from([GIVE_UP, POLITE, instant(3)])
)
def test_a_surge_brings_what_is_asked_for_and_the_others_go_on_as_before(
    shape: Shape, multiple: float, users: int, retry: object
) -> None:
    surge = replace(SURGE, shape=shape, multiple=multiple, users=users, retry=retry)  # type: ignore[arg-type]

    load = load_of(surge, capacity_per_s=CAPACITY_PER_S)

    assert load.end_s == 12
    assert (load.surge_from_s, load.surge_until_s) == (2, 6)
    surging = load.crowds[-1]
    assert surging.phases[1].rate_per_s == pytest.approx(multiple * CAPACITY_PER_S)
    assert surging.retry == retry
    if shape is Shape.TENANT:
        assert surging.users == 1
    else:
        assert surging.users == pytest.approx(users, abs=2)
    if shape is not Shape.CROWD:
        (people, _) = load.crowds
        assert {phase.rate_per_s for phase in people.phases} == {0.3 * CAPACITY_PER_S}
        assert all(sort.background for sort in surging.mix) == (shape is Shape.BACKGROUND)


@given(st.lists(st.integers(0, 200), min_size=8, max_size=40), st.integers(0, 4), st.data())
def test_serving_again_is_from_when_everybody_who_comes_is_answered_to_the_end(
    due: list[int], surge_ends: int, data: st.DataObject
) -> None:
    served = [data.draw(st.integers(0, count)) for count in due]

    found = serving_after_s(due, served, surge_ends=surge_ends)

    assert serving_after_s(due, due, surge_ends=surge_ends) == 0
    if found is not None:
        assert 0 <= found <= len(due) - 3 - surge_ends
        later = [*due[: surge_ends + int(found)], *served[surge_ends + int(found) :]]
        assert serving_after_s(due, later, surge_ends=surge_ends) in {float(step) for step in range(int(found) + 1)}


def test_who_serves_what_nobody_waits_for_has_not_recovered() -> None:
    assert DOWN.serving_after_s is None
    assert WELL.serving_after_s == 0
    assert impact_s(DUE, [0] * 12) == 12
    assert WELL.impact_s == 4


def test_a_service_that_does_as_it_should_is_not_complained_of() -> None:
    assert complaints_of(WELL, SURGE, goals_of(SURGE)) == []
    assert WELL.goodput == pytest.approx(0.98)


def test_the_goals_are_those_of_the_design() -> None:
    assert goals_of(replace(SURGE, multiple=2)).goodput_min == 0.95
    assert goals_of(replace(SURGE, multiple=10)).goodput_min == 0.90
    assert goals_of(replace(SURGE, multiple=10, retry=retry_of(Manner.INSTANT))).goodput_min == 0.80
    assert (goals_of(SURGE).p99_max_ms, goals_of(SURGE).serving_after_max_s) == (500, 5)
    assert (goals_of(SURGE).group_min, goals_of(SURGE).rss_max_bytes) == (0.99, RSS_MAX_BYTES)


@pytest.mark.parametrize(
    ("act", "shape", "goals", "word"),
    [
        (DOWN, Shape.CROWD, Goals(goodput_min=0.9), "goodput"),
        (DOWN, Shape.CROWD, Goals(goodput_min=0.0), "did not recover"),
        (WELL, Shape.CROWD, Goals(goodput_min=0.9, p99_max_ms=99), "99th percentile"),
        (WELL, Shape.CROWD, Goals(goodput_min=0.9, rss_max_bytes=1 << 20), "memory"),
        (an_act(SERVED, DUE, people_served=98), Shape.TENANT, Goals(goodput_min=0.9), "others"),
        (an_act(SERVED, DUE, late_p99_ms=80), Shape.CROWD, Goals(goodput_min=0.9), "generator"),
        (
            an_act(SERVED, DUE, ledger=replace(EVERYTHING, intact=4, lost=1)),
            Shape.CROWD,
            Goals(goodput_min=0.9),
            "1 of 5 acknowledged writes",
        ),
    ],
)  # fmt: skip
def test_each_shortfall_is_said_in_a_sentence(act: Act, shape: Shape, goals: Goals, word: str) -> None:
    complaints = complaints_of(act, replace(SURGE, shape=shape), goals)

    assert any(word in complaint for complaint in complaints)


def test_the_debacle_holds_where_the_service_goes_down_as_it_was_and_only_then() -> None:
    assert complaints_of_both(DEBACLE, DOWN, WELL) == []
    assert [complaint.partition(":")[0] for complaint in complaints_of_both(DEBACLE, WELL, WELL)] == [AS_IT_WAS]
    assert {complaint.partition(":")[0] for complaint in complaints_of_both(DEBACLE, DOWN, DOWN)} == {AS_IT_IS}


def test_the_board_says_the_same_to_people_and_to_programs() -> None:
    acts = {AS_IT_WAS: DOWN, AS_IT_IS: WELL}

    text = scoreboard.text(acts, complaints=[])
    found = json.loads(json.dumps(scoreboard.as_json(acts, complaints=["why"])))
    page = scoreboard.page(acts, title="a < b", complaints=["why"])

    assert "The hypothesis held." in text
    assert any(line.split() == ["users", "affected", "100.0%", "70.0%"] for line in text.splitlines())
    assert any(line.startswith("serving again") and "never" in line and "0.0 s" in line for line in text.splitlines())
    assert found["held"] is False
    assert found["acts"][AS_IT_IS]["goodput"] == pytest.approx(0.98)
    assert "a &lt; b" in page
    assert "why" in page


def test_the_chart_is_well_formed_and_has_a_panel_for_each_act() -> None:
    drawing = ElementTree.fromstring(timelines({AS_IT_WAS: DOWN, AS_IT_IS: WELL}))

    words = ["".join(element.itertext()) for element in drawing.iter() if element.tag.endswith("text")]
    assert words.count("surge") == 2
    assert {AS_IT_WAS, AS_IT_IS} <= set(words)
