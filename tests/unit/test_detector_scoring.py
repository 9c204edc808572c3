"""The benchmark's scoring, against cases worked out by hand."""

import math

import pytest
from benchmarks.detector_scoring import Outcome, Window, judge, learning_rows, sigmoid

ONE = [Window(first=500, last=599)]


def test_who_says_nothing_has_0_and_who_says_the_first_row_of_each_window_has_100() -> None:
    windows = [*ONE, Window(first=800, last=899)]

    assert judge([], windows, rows=1000).score == 0.0
    assert judge([500, 800], windows, rows=1000).score == 100.0


def test_the_earliest_detection_in_a_window_counts_and_the_others_are_free() -> None:
    middle = judge([550, 560, 599], ONE, rows=1000)

    # Row 550 is 50 of 100 rows before the end: 2/(1+e^-2.5)-1 = 0.84828, of 2/(1+e^-5)-1 = 0.98661.
    assert middle.earned == pytest.approx(0.84828 / 0.98661, abs=1e-4)
    assert (middle.found, middle.false_alarms) == (1, 0)
    assert middle.score == pytest.approx(100 * (0.85979 + 1) / 2, abs=1e-2)


def test_a_false_alarm_costs_eleven_hundredths_and_less_just_after_a_window() -> None:
    before = judge([300], ONE, rows=1000)
    just_after = judge([609], ONE, rows=1000)
    long_after = judge([999], ONE, rows=1000)

    assert before.earned == pytest.approx(-1 - 0.11)
    # Ten rows past a window of a hundred: 10/99 widths, 2/(1+e^0.50505)-1 = -0.24728.
    assert just_after.earned == pytest.approx(-1 - 0.11 * 0.24728, abs=1e-5)
    assert long_after.earned == pytest.approx(-1 - 0.11)
    assert before.false_alarms == just_after.false_alarms == long_after.false_alarms == 1


def test_nothing_counts_in_the_rows_for_learning() -> None:
    assert (learning_rows(1000), learning_rows(4032), learning_rows(100_000)) == (150, 604, 750)
    assert judge([0, 149], ONE, rows=1000) == Outcome(windows=1, earned=-1.0)
    assert judge([], [Window(first=100, last=160), *ONE], rows=1000).windows == 1


def test_a_detection_on_the_last_row_of_a_window_still_finds_it() -> None:
    last = judge([599], ONE, rows=1000)

    assert last.found == 1
    assert last.earned == pytest.approx((2 / (1 + math.exp(-0.05)) - 1) / 0.98661, abs=1e-4)


def test_series_without_windows_count_by_what_was_said_wrongly() -> None:
    quiet, loud = judge([], [], rows=1000), judge([400, 700], [], rows=1000)
    perfect = judge([500], ONE, rows=1000)

    assert (quiet + perfect).score == 100.0
    assert (loud + perfect).score == pytest.approx(100 * (2 - 0.22) / 2)
    assert math.isnan(loud.score)


def test_what_a_place_is_worth_falls_from_1_to_minus_1() -> None:
    assert sigmoid(-1) == pytest.approx(0.98661, abs=1e-5)
    assert sigmoid(0) == 0.0
    assert sigmoid(3.5) == -1.0


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="from row 5 to row 4"):
        Window(first=5, last=4)
    with pytest.raises(ValueError, match="overlap"):
        judge([], [Window(first=500, last=600), Window(first=600, last=700)], rows=1000)
