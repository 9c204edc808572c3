"""Say when a signal stops being what it was: for signals of which nobody has said what they should be.

Each row is looked at in ten ways: how far the signal jumped, how much it trembles, whether it took a step, what level
it is at, and how far it is from what is usual at this time of day, over shorter and longer stretches. Each way has a
memory of its own, which says how unusual its number is. The surprise of all is added up: one wild number is enough, and
so are several that are a little odd together. Who was alarmed lately is harder to alarm, so that a restless signal is
not a nuisance and a quiet one is heard. One configuration serves all signals; docs/detector.md says how it was chosen.

A row is judged by what came before it and by nothing else. Memory is bounded: less than a megabyte for each signal.

Sources: Fisher, "Statistical Methods for Research Workers", 1932 (adding up logarithms of probabilities); Ahmad et al.,
"Unsupervised real-time anomaly detection for streaming data", Neurocomputing 262, 2017 (the recent mean of a residual
against its long history); Page, "Continuous Inspection Schemes", Biometrika 41, 1954 (sums of small deviations).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from seawall.monitoring.daily_course import DailyCourse
from seawall.monitoring.surprise import REMEMBERED, History

ALERT_SURPRISE: Final = 6.5
"""This many decades, of all ways of looking together, are worth an alert; their score is one half."""

LEARNING_ROWS: Final = 200
"""Before this many rows nothing is known well enough to be called unusual."""

EPISODE_SHARE: Final = 0.04
EPISODE_ROWS_MIN: Final = 60
"""What follows an alert belongs to its episode: for this share of what is remembered, and at least for so many rows."""

WEARIER: Final = 0.2
WEARY_ROWS: Final = 1000.0
"""Each alert raises what the next one takes by this part, and that wears off over so many rows (by the factor e)."""

NO_NEWS: Final = 0.2
"""What is no more surprising than what was just said counts this much."""

JUMP_ROWS: Final = 12
SPREAD_ROWS: Final = (12, 48)
STEP_ROWS: Final = ((6, 24), (24, 96))
"""The mean of the latest rows against that of the rows before them."""

LEVEL_ROWS: Final = 48
RESIDUAL_ROWS: Final = (12, 48)
OFFNESS_ROWS: Final = 12

LOOKED_AT: Final = 120
"""Rows that the longest look needs."""

LARGEST: Final = 1e100
"""Values further out count as this, so that no sum is infinite."""

SMALLEST: Final = 1e-300
RATIO_RESOLUTION: Final = 0.02
"""What is looked at by its logarithm may change by this without meaning anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is thought of one row: a score of 0 to 1, with four digits; from 0.5 on it is an alert, once an episode."""

    score: float
    is_alert: bool


NOTHING: Final = Verdict(score=0.0, is_alert=False)


class Detector:
    """Judges the rows of one signal, one after the other. State: its latest rows, what they looked like, what was said.

    Args:
        remembered: rows of its past that it compares with.
        resolution: differences below this are of no interest to anybody, however rare they are.
    """

    def __init__(self, *, remembered: int = REMEMBERED, resolution: float = SMALLEST) -> None:
        self._rows = 0
        self._remembered = remembered
        self._levels = History(remembered)
        self._resolution = self._resolution_least = max(SMALLEST, resolution)
        self._course = DailyCourse()
        self._knows_the_day = False
        self._latest: list[float] = []
        self._jumps: list[float] = []
        self._residuals: list[float] = []
        self._offness: list[float] = []
        self._plain = [History(remembered) for _ in range(2 + len(STEP_ROWS))]
        self._logs = [History(remembered) for _ in range(1 + len(SPREAD_ROWS))]
        self._by_day = [History(remembered) for _ in RESIDUAL_ROWS]
        self._off = History(remembered)
        self._said = _Said()

    def __repr__(self) -> str:
        return f"<Detector after {self._rows} rows, {self._said!r}>"

    @property
    def usual(self) -> float:
        """The median of what is remembered; 0 before the first row."""
        return self._levels.quantile(0.5) if len(self._levels) else 0.0

    def observe(self, moment: datetime, value: float) -> Verdict:
        """Return what is thought of a row, and learn from it.

        What is not a number says nothing and changes nothing. Of the moment only the day and the time of day matter:
        rows may be missing, come twice, or come in another order.
        """
        if not math.isfinite(value):
            return NOTHING
        surprise = sum(self.look(moment, min(max(value, -LARGEST), LARGEST)))
        self._rows += 1
        if self._rows <= LEARNING_ROWS:
            return NOTHING
        lasts = max(EPISODE_ROWS_MIN, int(EPISODE_SHARE * min(self._rows, self._remembered)))
        return self._said.judge(self._rows, surprise / ALERT_SURPRISE, lasts=lasts)

    def look(self, moment: datetime, value: float) -> list[float]:
        """Return how surprising a finite value is, in decades, by each way of looking; and remember it."""
        if self._levels.add(value):
            self._resolution = max(self._resolution_least, _resolution_of(self._levels))
        usual = self._course.usual(moment)
        self._course.add(moment, value)
        if usual is not None and not self._knows_the_day:
            self._begin_to_know_the_day()
        residual = value - (self._levels.quantile(0.5) if usual is None else usual)
        resolution = self._resolution
        _append(self._jumps, abs(value - self._latest[-1]) if self._latest else 0.0)
        _append(self._latest, value)
        _append(self._residuals, residual)
        _append(self._offness, math.log(abs(residual) + resolution))

        latest = self._latest
        found = []
        for history, number in zip(self._plain, self._plain_numbers(), strict=True):
            found.append(history.surprise(number, resolution=resolution))
            history.add(number)
        logs = [_mean(self._jumps[-JUMP_ROWS:]), *[_deviation(latest[-rows:]) for rows in SPREAD_ROWS]]
        for history, number in zip(self._logs, logs, strict=True):
            logarithm = math.log(number + resolution)
            found.append(history.surprise(logarithm, resolution=RATIO_RESOLUTION))
            history.add(logarithm)
        for history, rows in zip(self._by_day, RESIDUAL_ROWS, strict=True):
            number = _mean(self._residuals[-rows:])
            found.append(history.surprise(number, resolution=resolution))
            history.add(number)
        number = _mean(self._offness[-OFFNESS_ROWS:])
        found.append(self._off.surprise(number, resolution=RATIO_RESOLUTION))
        self._off.add(number)
        return found

    def _plain_numbers(self) -> list[float]:
        """Return the jump, the steps and the level."""
        latest = self._latest
        numbers = [self._jumps[-1]]
        for rows, before in STEP_ROWS:
            earlier = latest[-rows - before : -rows]
            numbers.append(_mean(latest[-rows:]) - _mean(earlier) if earlier else 0.0)
        numbers.append(_mean(latest[-LEVEL_ROWS:]))
        return numbers

    def _begin_to_know_the_day(self) -> None:
        """Forget how far the signal was from its median: from now on it is compared with what is usual at this time."""
        self._knows_the_day = True
        self._residuals.clear()
        self._offness.clear()
        self._by_day = [History(self._remembered) for _ in self._by_day]
        self._off = History(self._remembered)


class _Said:
    """What was said lately. State: the episode that was alarmed, the highest since, and how weary one is of alerts."""

    def __init__(self) -> None:
        self._muted_until = 0
        self._weariness = 0.0
        self._alerted_at = 0
        self._highest = 0.0
        self._highest_at = 0

    def __repr__(self) -> str:
        return f"silent until row {self._muted_until}, weariness {self._weariness:.2f} since row {self._alerted_at}"

    def judge(self, row: int, strength: float, *, lasts: int) -> Verdict:
        """Return what is said of a row whose surprise is so strong, in parts of what an alert takes.

        The score is of news: a row that does not surpass those just before it, or an alert just before it, has little.
        """
        weariness = self._weariness * math.exp((self._alerted_at - row) / WEARY_ROWS)
        strength /= 1 + WEARIER * weariness
        if row - self._highest_at > lasts:
            self._highest = 0.0
        if row < self._muted_until or strength <= self._highest:
            return Verdict(score=_score_of(NO_NEWS * min(1.0, strength)), is_alert=False)
        self._highest, self._highest_at = strength, row
        score = _score_of(strength)
        is_alert = score >= 0.5
        if is_alert:
            self._muted_until = row + lasts
            self._weariness, self._alerted_at = weariness + 1, row
        return Verdict(score=score, is_alert=is_alert)


def _score_of(strength: float) -> float:
    return round(1 - 2**-strength, 4)


def _resolution_of(levels: History) -> float:
    """Return the difference below which nothing matters: a small share of how much a signal usually varies.

    And no less than what is left of its digits when its values are compared.
    """
    least, low, high, most = (levels.quantile(share) for share in (0.01, 0.25, 0.75, 0.99))
    return max(1e-9 * max(abs(least), abs(most)), 0.02 * (high - low), 0.005 * (most - least))


def _append(values: list[float], value: float) -> None:
    """Add a value, and forget now and then what nobody looks at any more."""
    values.append(value)
    if len(values) >= 4 * LOOKED_AT:
        del values[:-LOOKED_AT]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    return math.dist(values, [_mean(values)] * len(values)) / math.sqrt(len(values))
