"""How it went for those who came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.drills.load import Crowd, Kind, Load, Phase, Sort
from seawall.drills.outcomes import (
    ANSWERS_MAX,
    LATE_MAX_MS,
    Effort,
    Finished,
    Outcome,
    Records,
    Series,
    Summary,
    Tally,
    is_worth_another,
    outcome_of,
    percentile,
    recovered_s,
    summarize,
)

CALM_S, SURGE_S, END_S = 10.0, 10.0, 30.0
DEADLINE_S = 1.0
MIX = (Sort(kind=Kind.GET), Sort(kind=Kind.PUT), Sort(kind=Kind.GET, background=True))
LOAD = Load.with_surge(
    Crowd(name="few", phases=(Phase(rate_per_s=10, seconds=END_S),), mix=MIX, deadline_s=DEADLINE_S),
    Crowd(name="many", phases=(Phase(rate_per_s=100, seconds=END_S),), mix=MIX[:1], deadline_s=DEADLINE_S),
    before_s=CALM_S,
    surge_s=SURGE_S,
)


@st.composite
def rows(draw: st.DrawFn) -> Finished:
    crowd = draw(st.integers(0, 1))
    due_s = draw(st.floats(0, END_S, exclude_max=True))
    begun_s = due_s + draw(st.floats(0, 1))
    asked_s = begun_s + draw(st.floats(0, 5))
    return Finished(
        crowd=crowd,
        sort=draw(st.integers(0, len(LOAD.crowds[crowd].mix) - 1)),
        user=draw(st.integers(0, 50)),
        due_s=due_s,
        begun_s=begun_s,
        asked_s=asked_s,
        ended_s=asked_s + draw(st.floats(0, 2)),
        attempts=draw(st.integers(1, 9)),
        outcome=draw(st.sampled_from(Outcome)),
    )


def a_request(
    *,
    due_s: float,
    took_s: float = 0.1,
    late_s: float = 0.0,
    paused_s: float = 0.0,
    outcome: Outcome = Outcome.SERVED,
    user: int = 1,
    crowd: int = 0,
    sort: int = 0,
) -> Finished:
    asked_s = due_s + paused_s
    return Finished(crowd, sort, user, due_s, due_s + late_s, asked_s, due_s + took_s, 1, outcome)


def summary_of(*requests: Finished, dropped: int = 0) -> Summary:
    return summarize(LOAD, requests, Tally(), dropped=dropped, busy_share=0.5, connections_most=3)


@given(some=st.lists(rows()))
def test_what_is_remembered_is_what_was_noted(some: list[Finished]) -> None:
    records = Records()
    for row in some:
        records.add(row)

    assert [*records] == some
    assert len(records) == len(some)


@given(some=st.lists(rows()))
def test_every_request_is_counted_once_in_all_once_by_class_and_once_by_group(some: list[Finished]) -> None:
    summary = summary_of(*some)

    for slices in ([summary.everybody], summary.by_class.values(), summary.by_group.values()):
        assert sum(each.whole.due for each in slices) == len(some)
        windows = [figures for each in slices for figures in (each.before, each.during, each.after)]
        assert sum(figures.due for figures in windows) == len(some)
    whole = summary.everybody.whole
    assert whole.served + whole.refused + whole.failed + whole.timed_out == whole.due
    assert whole.served_in_time <= whole.served
    assert whole.users_affected <= whole.users == len({row.user for row in some})
    assert whole.attempts == sum(row.attempts for row in some)


@given(some=st.lists(rows(), min_size=1))
def test_percentiles_rise_and_an_attempt_takes_no_longer_than_its_request(some: list[Finished]) -> None:
    whole = summary_of(*some).everybody.whole

    if whole.served:
        assert whole.p50_ms is not None
        assert whole.p95_ms is not None
        assert whole.p99_ms is not None
        assert whole.attempt_p99_ms is not None
        assert whole.p50_ms <= whole.p95_ms <= whole.p99_ms
        assert whole.attempt_p99_ms <= whole.p99_ms
    else:
        assert (whole.p50_ms, whole.attempt_p99_ms, whole.goodput_per_s) == (None, None, 0.0)


def test_a_user_is_affected_who_was_not_served_or_waited_longer_than_they_wanted() -> None:
    summary = summary_of(
        a_request(due_s=1.0, user=1),
        a_request(due_s=2.0, user=2, outcome=Outcome.REFUSED),
        a_request(due_s=3.0, user=3, outcome=Outcome.SERVED, took_s=DEADLINE_S + 0.1),
        a_request(due_s=4.0, user=3),
        a_request(due_s=15.0, user=1, outcome=Outcome.TIMED_OUT),
    )

    assert (summary.everybody.before.users, summary.everybody.before.users_affected) == (3, 2)
    assert (summary.everybody.whole.users, summary.everybody.whole.users_affected) == (3, 3)
    assert summary.everybody.before.affected_share == pytest.approx(2 / 3)
    assert summary.everybody.after.affected_share is None


def test_time_is_counted_from_when_a_request_was_due_and_an_attempts_from_when_it_was_meant_to_begin() -> None:
    summary = summary_of(a_request(due_s=1.0, late_s=0.3, took_s=2.5, paused_s=2.0))

    assert summary.everybody.whole.p50_ms == pytest.approx(2500)
    assert summary.everybody.whole.attempt_p50_ms == pytest.approx(500)


def test_goodput_is_what_was_answered_in_a_stretch_whenever_it_was_due() -> None:
    summary = summary_of(
        *(a_request(due_s=9.5, took_s=0.6) for _ in range(30)),
        *(a_request(due_s=12.0, took_s=3.0) for _ in range(20)),
        *(a_request(due_s=13.0, outcome=Outcome.FAILED) for _ in range(5)),
    )

    during = summary.everybody.during
    assert during.goodput_per_s == pytest.approx(5.0)
    assert during.in_time_per_s == pytest.approx(3.0)
    assert (during.due, during.served, during.served_in_time) == (25, 20, 0)
    assert during.served_share == 0.8


def test_slices_tell_classes_and_tenant_groups_apart() -> None:
    summary = summary_of(
        a_request(due_s=1.0, crowd=0, sort=1),
        a_request(due_s=1.0, crowd=0, sort=2, outcome=Outcome.REFUSED),
        a_request(due_s=1.0, crowd=1, sort=0),
    )

    assert {name: each.whole.served_share for name, each in summary.by_class.items()} == {
        "interactive": 1.0,
        "normal": 1.0,
        "background": 0.0,
    }
    assert {name: each.whole.due for name, each in summary.by_group.items()} == {"few": 2, "many": 1}


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_that_share_of_them_does_not_exceed_it(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)

    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.99) is None


@given(bad=st.integers(0, 60), good=st.integers(10, 100))
def test_recovered_is_when_every_second_from_then_on_is_served(bad: int, good: int) -> None:
    found = recovered_s([10] * (bad + good), [0] * bad + [10] * good)

    assert found is not None
    # A second that begins a tenth earlier would be served to nine tenths, which is not enough.
    assert found == pytest.approx(bad / 10)


@given(due=st.lists(st.integers(0, 20), min_size=10, max_size=60))
def test_from_recovery_on_no_whole_second_is_worse_than_the_share(due: list[int]) -> None:
    served = [count if index % 3 else max(0, count - 1) for index, count in enumerate(due)]

    found = recovered_s(due, served)

    if found is not None:
        for at in range(round(found * 10), len(due) - 9, 10):
            assert sum(served[at : at + 10]) >= 0.95 * sum(due[at : at + 10])


def test_who_is_never_served_again_does_not_recover_and_neither_does_who_nobody_asks() -> None:
    assert recovered_s([10] * 50, [10] * 40 + [0] * 10) is None
    assert recovered_s([0] * 50, [0] * 50) is None
    assert recovered_s([], []) is None


def test_recovery_is_counted_from_the_end_of_the_surge() -> None:
    arrivals = [a_request(due_s=second / 10 + 0.05) for second in range(300)]
    went = [
        row._replace(outcome=Outcome.REFUSED) if CALM_S <= row.due_s < CALM_S + SURGE_S + 2.0 else row
        for row in arrivals
    ]

    assert summary_of(*went).everybody.recovered_s == pytest.approx(2.0)
    assert summary_of(*arrivals).everybody.recovered_s == 0.0


def test_a_late_generator_says_that_the_figures_are_its_own() -> None:
    on_time = summary_of(*(a_request(due_s=1.0, late_s=0.001) for _ in range(100)))
    late = summary_of(*(a_request(due_s=1.0, late_s=0.2) for _ in range(2)), *(a_request(due_s=2.0) for _ in range(98)))
    late_in_surge = summary_of(
        *(a_request(due_s=1.0) for _ in range(10_000)), *(a_request(due_s=12.0, late_s=0.2) for _ in range(20))
    )

    assert on_time.effort.bottleneck is None
    assert "200 ms late" in str(late.effort.bottleneck)
    assert late_in_surge.effort.late_p99_ms < LATE_MAX_MS
    assert "200 ms late" in str(late_in_surge.effort.bottleneck)
    assert "dropped 7" in str(summary_of(a_request(due_s=1.0), dropped=7).effort.bottleneck)


def test_effort_at_the_limit_is_tolerated() -> None:
    effort = Effort(
        late_p99_ms=LATE_MAX_MS,
        surge_late_p99_ms=LATE_MAX_MS,
        late_max_ms=900,
        dropped=0,
        busy_share=0.9,
        connections_most=1,
    )

    assert effort.bottleneck is None


@pytest.mark.parametrize(
    ("status", "outcome", "again"),
    [
        (200, Outcome.SERVED, False),
        (206, Outcome.SERVED, False),
        (503, Outcome.REFUSED, True),
        (429, Outcome.REFUSED, True),
        (500, Outcome.FAILED, True),
        (0, Outcome.FAILED, True),
        (403, Outcome.FAILED, False),
        (404, Outcome.FAILED, False),
    ],
)
def test_what_a_status_means_and_whether_to_ask_again(status: int, outcome: Outcome, *, again: bool) -> None:
    assert outcome_of(status) is outcome
    if outcome is not Outcome.SERVED:
        assert is_worth_another(status) is again


def test_attempts_are_counted_in_their_second_and_summed_over_sorts() -> None:
    tally = Tally()
    first, second = tally.of(0, 0), tally.of(1, 0)
    first.count(first.due, 0.2)
    first.count(first.served, 2.9)
    second.count(second.ended(Outcome.REFUSED), 2.0)

    both = Series()
    both.add(first)
    both.add(second)

    assert (both.due, both.served, both.refused) == ([1, 0, 0], [0, 0, 1], [0, 0, 1])
    assert tally.second(2) == {"due": 0, "attempts": 0, "served": 1, "refused": 1, "failed": 0, "timed_out": 0}
    assert tally.second(7) == dict.fromkeys(tally.second(2), 0)


def test_there_is_an_end_to_how_many_answers_are_told_apart() -> None:
    tally = Tally()
    for number in range(3 * ANSWERS_MAX):
        tally.note(f"answer {number}")
    tally.note("answer 1")

    assert len(tally.answers) == ANSWERS_MAX + 1
    assert tally.answers["answer 1"] == 2
    assert tally.answers["other"] == 2 * ANSWERS_MAX
