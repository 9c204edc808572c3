"""The detector: what it says of simple series, and what is true of it whatever the series."""

import math
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.monitoring.daily_course import DailyCourse
from seawall.monitoring.detector import (
    EPISODE_ROWS_MIN,
    LEARNING_ROWS,
    NOTHING,
    Detector,
    Verdict,
)
from seawall.monitoring.surprise import LEAST, SURPRISE_MAX, History

BEGIN = datetime(2026, 11, 2, 8, 0)  # noqa: DTZ001 - files often have no zone
MINUTES_5 = timedelta(minutes=5)


def judged(values: Sequence[float], *, step: timedelta = MINUTES_5) -> list[Verdict]:
    detector = Detector()
    return [detector.observe(BEGIN + row * step, value) for row, value in enumerate(values)]


def alerts(values: Sequence[float]) -> list[int]:
    return [row for row, verdict in enumerate(judged(values)) if verdict.is_alert]


def noise(rows: int, *, seed: int = 1, level: float = 50.0, deviation: float = 2.0) -> list[float]:
    chance = Random(seed)
    return [chance.gauss(level, deviation) for _ in range(rows)]


def test_noise_that_stays_what_it_is_hardly_ever_alarms() -> None:
    assert sum(len(alerts(noise(2000, seed=seed))) for seed in range(5)) <= 4


@pytest.mark.parametrize("value", [0.0, 45.0, -3e9, 1e-12])
def test_a_signal_that_never_changes_has_nothing_to_say(value: float) -> None:
    assert all(verdict.score == 0 for verdict in judged([value] * 1000))


def test_one_wild_value_is_said_at_once_and_once() -> None:
    values = noise(1000)
    values[700] += 60

    assert alerts(values) == [700]
    assert judged(values)[700].score > 0.9


def test_a_first_sign_of_life_after_a_standstill_is_said() -> None:
    assert alerts([*([7.0] * 600), 7.5, *([7.0] * 50)]) == [600]


def test_a_step_is_said_soon_and_the_new_level_becomes_usual() -> None:
    values = noise(1000) + noise(1000, seed=2, level=70)

    found = alerts(values)

    assert next(row for row in found if row >= 1000) < 1012
    assert len(found) <= 4


def test_a_signal_that_stands_still_is_said() -> None:
    values = noise(1500)
    values[1000:] = [values[999]] * 500

    assert any(1000 <= row < 1040 for row in alerts(values))


def test_a_signal_that_trembles_more_is_said() -> None:
    values = noise(1000) + noise(200, seed=2, deviation=9)

    assert any(1000 <= row < 1024 for row in alerts(values))


def test_a_day_that_does_not_come_is_said_though_its_values_are_none_but_usual_ones() -> None:
    chance = Random(4)
    by_day = [(80 if 9 <= (BEGIN + row * MINUTES_5).hour < 18 else 20) + chance.gauss(0, 2) for row in range(9 * 288)]
    missing = [row for row in range(7 * 288, 8 * 288) if 9 <= (BEGIN + row * MINUTES_5).hour < 18]
    for row in missing:
        by_day[row] = 20 + chance.gauss(0, 2)

    found = alerts(by_day)

    assert any(row in missing for row in found)
    assert not [row for row in found if row < missing[0]]


def test_an_episode_is_said_once_however_long_it_jumps() -> None:
    values = noise(1000)
    for row in range(700, 700 + EPISODE_ROWS_MIN - 5, 5):
        values[row] += 60

    assert [row for row in alerts(values) if row < 700 + EPISODE_ROWS_MIN] == [700]


def test_the_score_says_by_itself_what_is_an_alert() -> None:
    chance = Random(3)
    values = [chance.paretovariate(1.1) for _ in range(3000)]

    verdicts = judged(values)

    assert any(verdict.is_alert for verdict in verdicts)
    assert all(verdict.is_alert == (verdict.score >= 0.5) for verdict in verdicts)


def test_nothing_is_said_before_something_is_learnt() -> None:
    values = noise(LEARNING_ROWS)
    values[100] = 1e9

    assert all(verdict == NOTHING for verdict in judged(values))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_says_nothing_and_changes_nothing(odd: float) -> None:
    plain, with_odd = Detector(), Detector()

    for row, value in enumerate(noise(600)):
        moment = BEGIN + row * MINUTES_5
        assert with_odd.observe(moment, odd) == NOTHING
        assert with_odd.observe(moment, value) == plain.observe(moment, value)


def test_the_largest_numbers_there_are_do_no_harm() -> None:
    chance = Random(5)
    values = [chance.choice((sys.float_info.max, -sys.float_info.max, sys.float_info.min, 0.0)) for _ in range(800)]

    assert all(0 <= verdict.score <= 1 for verdict in judged(values))


def test_ten_thousand_rows_take_no_more_memory_than_what_is_remembered() -> None:
    detector = Detector(remembered=500)
    for row, value in enumerate(noise(10_000)):
        detector.observe(BEGIN + row * timedelta(minutes=1), value)

    held = [detector._levels, *detector._plain, *detector._logs, *detector._by_day, detector._off]
    assert [len(history) for history in held] == [500] * 10 + [500]
    assert max(map(len, (detector._latest, detector._jumps, detector._residuals, detector._offness))) < 500
    assert repr(detector).startswith("<Detector after 10000 rows")


series = st.lists(
    st.one_of(
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(-1e3, 1e3),
        st.sampled_from([0.0, 1.0, 1.0, 1.0]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(tail=series, rest=series, times=st.lists(st.datetimes(), min_size=80, max_size=80))
def test_a_row_is_judged_by_what_came_before_it(tail: list[float], rest: list[float], times: list[datetime]) -> None:
    begin = noise(LEARNING_ROWS + 10)
    moments = [BEGIN + row * MINUTES_5 for row in range(len(begin))] + times

    def scores(values: list[float]) -> list[Verdict]:
        detector = Detector()
        return [detector.observe(moment, value) for moment, value in zip(moments, values, strict=False)]

    short, long = scores(begin + tail), scores(begin + tail + rest)

    assert long[: len(short)] == short
    assert all(0 <= verdict.score <= 1 for verdict in long)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_the_unit_does_not_matter(unit: float) -> None:
    values = noise(800) + noise(400, seed=2, level=60)

    scaled = judged([value * unit for value in values])

    for verdict, other in zip(judged(values), scaled, strict=True):
        assert other.score == pytest.approx(verdict.score, abs=2e-3)
        assert other.is_alert == verdict.is_alert


def test_where_zero_is_does_not_matter() -> None:
    values = noise(800) + noise(400, seed=2, level=60)

    moved = judged([value + 4096 for value in values])

    for verdict, other in zip(judged(values), moved, strict=True):
        assert other.score == pytest.approx(verdict.score, abs=2e-3)


def test_differences_that_concern_nobody_are_not_surprising() -> None:
    values = noise(600, level=0.002, deviation=0.0001)
    values[500] = 0.004
    strict, lenient = Detector(), Detector(resolution=0.01)

    found = [
        [detector.observe(BEGIN + row * MINUTES_5, value).is_alert for row, value in enumerate(values)]
        for detector in (strict, lenient)
    ]

    assert found[0][500]
    assert not any(found[1])


def test_what_is_usual_is_the_median() -> None:
    detector = Detector()
    assert detector.usual == 0.0

    for row, value in enumerate((1.0, 2.0, 90.0)):
        detector.observe(BEGIN + row * MINUTES_5, value)

    assert detector.usual == 2.0


def test_a_history_forgets_the_oldest() -> None:
    history = History(remembered=60)
    for value in range(200):
        history.add(float(value))

    assert len(history) == 60
    assert (history.quantile(0.0), history.quantile(0.5), history.quantile(1.0)) == (140.0, 170.0, 199.0)


def test_with_few_values_nothing_is_unusual() -> None:
    history = History()
    for value in range(LEAST - 1):
        history.add(float(value))

    assert history.surprise(1e9, resolution=1.0) == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=LEAST, max_size=200), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_further_out_is_not_less_surprising(values: list[float], near: float, more: float) -> None:
    history = History()
    for value in values:
        history.add(value)
    middle = history.quantile(0.5)

    for sign in (-1, 1):
        inner = history.surprise(middle + sign * near, resolution=1e-3)
        outer = history.surprise(middle + sign * (near + more), resolution=1e-3)
        assert 0.0 <= inner <= outer <= SURPRISE_MAX


def test_what_comes_again_and_again_is_less_surprising_than_its_distance_says() -> None:
    rare, frequent = History(), History()
    for value in noise(1000):
        rare.add(value)
        frequent.add(value)
    for _ in range(5):
        frequent.add(100.0)

    assert rare.surprise(100.0, resolution=0.1) > 4
    assert frequent.surprise(100.0, resolution=0.1) == pytest.approx(2 * (math.log10(1005 / 5) - 1))


def test_the_course_of_the_day_is_the_median_of_the_days_that_are_over() -> None:
    course = DailyCourse()
    noon = datetime(2026, 11, 2, 12, 10)  # noqa: DTZ001 - as files have it

    assert course.usual(noon) is None
    for day, value in enumerate((10.0, 20.0, 90.0)):
        course.add(noon + timedelta(days=day), value)
        course.add(noon + timedelta(days=day, minutes=5), value)

    assert course.usual(noon) == 15.0  # The last day is not over.
    assert course.usual(noon + timedelta(hours=3)) is None
    assert repr(course) == "<DailyCourse with 1 half hours>"
