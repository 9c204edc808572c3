"""Say when a signal stops being what it was: for signals of which nobody has said what they should be.

Each row is looked at in seven ways: how far the signal jumped, how much it trembles, whether it took a step, and how far
it is from what is usual at this time of day, over shorter and longer stretches. Each way has a memory of its own, which
says how unusual its number is, in decades. What is beyond the first decade is added up: one wild number is enough, and so
are several that are a little odd together. One configuration serves all signals; docs/detector.md says how it was chosen.

A row is judged by what came before it and by nothing else. Memory is bounded: less than a megabyte for each signal.

Sources: Fisher, "Statistical Methods for Research Workers", 1932 (adding up logarithms of probabilities); Ahmad et al.,
"Unsupervised real-time anomaly detection for streaming data", Neurocomputing 262, 2017 (the recent mean of a residual
against its long history).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from seawall.monitoring.daily_course import DailyCourse
from seawall.monitoring.surprise import REMEMBERED, History

ALERT_DECADES: Final = 6.0
"""This much surprise, beyond the first decade of each way of looking, is worth an alert; its score is one half."""

LEARNING_ROWS: Final = 200
"""Before this many rows nothing is known well enough to be called unusual."""

REFRACTORY_SHARE: Final = 0.04
REFRACTORY_ROWS_MIN: Final = 60
"""After an alert, rows belong to the same episode: for this share of what is remembered, and at least for so many rows."""

SPREADS: Final = (12, 48)
STEPS: Final = ((6, 24), (24, 96))
"""The mean of the latest rows against that of the rows before them."""

RESIDUALS: Final = (12, 48)
LOOKED_AT: Final = 120
"""Rows that the longest look needs."""

LARGEST: Final = 1e100
"""Values further out count as this, so that no sum of squares is infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is thought of one row: a score of 0 to 1, with four digits; an alert is said once an episode, from 0.5 on."""

    score: float
    is_alert: bool


NOTHING: Final = Verdict(score=0.0, is_alert=False)


class Detector:
    """Judges the rows of one signal, one after the other. State: its latest rows and what they looked like."""

    def __init__(self) -> None:
        self._rows = 0
        self._muted_until = 0
        self._levels = History()
        self._course = DailyCourse()
        self._latest: list[float] = []
        self._residuals: list[float] = []
        self._histories = [History() for _ in range(1 + len(SPREADS) + len(STEPS) + len(RESIDUALS))]
        self._knows_the_day = False

    def __repr__(self) -> str:
        muted = max(0, self._muted_until - self._rows)
        return f"<Detector after {self._rows} rows, silent for another {muted}>"

    def observe(self, moment: datetime, value: float) -> Verdict:
        """Return what is thought of a row, and learn from it.

        What is not a number says nothing and changes nothing. Of the moment only the day and the time of day matter:
        rows may be missing, come twice, or come in another order.
        """
        if not math.isfinite(value):
            return NOTHING
        surprise = self._look(moment, min(max(value, -LARGEST), LARGEST))
        self._rows += 1
        if self._rows <= LEARNING_ROWS:
            return NOTHING
        score = round(1 - 2 ** (-surprise / ALERT_DECADES), 4)
        if self._rows < self._muted_until:
            return Verdict(score=score / 2 if score < 1 else 0.4999, is_alert=False)
        if score < 0.5:
            return Verdict(score=score, is_alert=False)
        remembered = min(self._rows, REMEMBERED)
        self._muted_until = self._rows + max(REFRACTORY_ROWS_MIN, int(REFRACTORY_SHARE * remembered))
        return Verdict(score=score, is_alert=True)

    def _look(self, moment: datetime, value: float) -> float:
        """Return how surprising a value is, in decades, all ways of looking together; and remember it."""
        self._levels.add(value)
        resolution = self._resolution(value)
        usual = self._course.expected(moment)
        self._course.add(moment, value)
        _append(self._latest, value)
        if usual is not None and not self._knows_the_day:
            self._knows_the_day = True
            self._residuals.clear()
            self._histories[-len(RESIDUALS) :] = [History() for _ in RESIDUALS]
        _append(self._residuals, value - (self._levels.quantile(0.5) if usual is None else usual))

        total = 0.0
        for history, number in zip(self._histories, self._numbers(resolution), strict=True):
            total += max(0.0, history.decades(number, resolution=resolution) - 1)
            history.add(number)
        return total

    def _numbers(self, resolution: float) -> list[float]:
        """Return what the latest rows look like, in each way."""
        latest, residuals = self._latest, self._residuals
        numbers = [abs(latest[-1] - latest[-2]) if len(latest) > 1 else 0.0]
        numbers.extend(math.log(_deviation(latest[-rows:]) + resolution) for rows in SPREADS)
        for rows, before in STEPS:
            earlier = latest[-rows - before : -rows]
            numbers.append(_mean(latest[-rows:]) - _mean(earlier) if earlier else 0.0)
        numbers.extend(_mean(residuals[-rows:]) for rows in RESIDUALS)
        return numbers

    def _resolution(self, value: float) -> float:
        """Return the difference below which nothing matters: a small share of how much the signal usually varies."""
        level = self._levels.quantile
        middle_half, nearly_all = level(0.75) - level(0.25), level(0.99) - level(0.01)
        return max(1e-9 * max(1.0, abs(value)), 0.02 * middle_half, 0.005 * nearly_all)


def _append(values: list[float], value: float) -> None:
    """Add a value, and forget now and then what nobody looks at any more."""
    values.append(value)
    if len(values) >= 4 * LOOKED_AT:
        del values[:-LOOKED_AT]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(sum([(value - mean) ** 2 for value in values]) / len(values))
