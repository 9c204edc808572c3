"""How well does a detector find what people have labelled, and how early?

The scoring of the Numenta Anomaly Benchmark with its standard profile. Each labelled stretch is a window. The earliest
detection inside one earns up to 1, by its place: the earlier, the more. A window without any costs 1. Each detection
outside costs up to 0.11; little just after a window, all of it far from one. The first 15 % of a series, and at most
750 rows, are for learning: nothing counts there. The sum over all series is normalised, so that a detector that says
nothing has 0, and one that says the first row of every window, and nothing else, has 100.

Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms – the Numenta Anomaly Benchmark", 2015.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

FALSE_ALARM_COST: Final = 0.11
MISS_COST: Final = 1.0
LEARNING_SHARE: Final = 0.15
LEARNING_ROWS_MAX: Final = 750
FAR: Final = 3.0
"""This many widths past a window, a detection has nothing to do with it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Rows `first` to `last`, both of them inside."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"a window cannot run from row {self.first} to row {self.last}")

    @property
    def rows(self) -> int:
        """How many rows are inside."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What detections in one series, or in several, are worth."""

    windows: int = 0
    found: int = 0
    false_alarms: int = 0
    earned: float = 0.0
    """The sum: rewards less costs."""

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            windows=self.windows + other.windows,
            found=self.found + other.found,
            false_alarms=self.false_alarms + other.false_alarms,
            earned=self.earned + other.earned,
        )

    @property
    def score(self) -> float:
        """0 for who says nothing, 100 for who is perfect; less than 0 is possible. Without any window: not a number."""
        nothing = -MISS_COST * self.windows
        return 100 * (self.earned - nothing) / (self.windows - nothing) if self.windows else math.nan


def sigmoid(place: float) -> float:
    """Return what a detection is worth: `place` is in widths of the window, 0 its end, -1 its beginning.

    >>> [round(sigmoid(place), 2) for place in (-1, -0.5, 0, 1, 4)]
    [0.99, 0.85, 0.0, -0.99, -1.0]
    """
    return -1.0 if place > FAR else 2 / (1 + math.exp(5 * place)) - 1


def learning_rows(rows: int) -> int:
    """Return how many of the first rows do not count."""
    return min(int(rows * LEARNING_SHARE), LEARNING_ROWS_MAX)


def judge(detections: Iterable[int], windows: Sequence[Window], *, rows: int) -> Outcome:
    """Return what detections at these rows are worth in a series of so many.

    A window that begins while the detector still learns does not count.
    """
    learning = learning_rows(rows)
    windows = sorted((window for window in windows if window.first >= learning), key=lambda window: window.first)
    if any(earlier.last >= later.first for earlier, later in pairwise(windows)):
        raise ValueError("windows of one series cannot overlap")
    reward: dict[Window, float] = {}
    false_alarms, cost = 0, 0.0
    for row in sorted(set(detections)):
        if row < learning:
            continue
        before = [window for window in windows if window.first <= row]
        nearest = before[-1] if before else None
        if nearest is not None and row <= nearest.last:
            worth = sigmoid(-(nearest.last - row + 1) / nearest.rows) / sigmoid(-1.0)
            reward[nearest] = max(worth, reward.get(nearest, 0.0))
            continue
        false_alarms += 1
        past = FAR + 1 if nearest is None else (row - nearest.last) / max(1, nearest.rows - 1)
        cost += FALSE_ALARM_COST * -sigmoid(past)
    missed = len(windows) - len(reward)
    return Outcome(
        windows=len(windows),
        found=len(reward),
        false_alarms=false_alarms,
        earned=sum(reward.values()) - cost - MISS_COST * missed,
    )
