"""How unusual is a number, given those that came before it?

The answer is in decades beyond one in ten: 0 is what one number in ten is like, or less unusual; 2 what one in a
thousand is. Two things are asked, and the lower answer holds. *How far out is it?* The highest quarter of what is
remembered, and the lowest, are taken for exponential tails. This can say more than the number of remembered values
could. *How many are as far out?* What comes once a day is not to be called one in a billion because the tail of all
other hours is thin.

Source of the tail: Balkema and de Haan, "Residual Life Time at Great Age", Annals of Probability 2(5), 1974, with a
shape of zero, so that one number a side is to be known. A shape fitted to the tail found less (docs/detector.md).
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from typing import Final

REMEMBERED: Final = 4096
"""Values, the latest: two weeks of one each five minutes. 16 bytes each."""

TAIL_SHARE: Final = 0.25
"""How much of the values is tail, on each side."""

LEAST: Final = 50
"""With fewer values than this, nothing is unusual."""

SURPRISE_MAX: Final = 100.0
"""Decades: nothing is told apart beyond."""

LEARNT_EVERY: Final = 32
"""The tails are measured again when so many values are new, or when a thirty-second of all are."""

SEEN_FACTOR: Final = 2.0
"""What is seen once in a hundred is at most so many times as surprising as that says: the tail is given more room."""

RANGE_DECADES: Final = 10.0
"""What surpasses all that is remembered may be more surprising by this, for each time their range that it does."""

UNUSUAL_FROM: Final = math.log10(TAIL_SHARE) + 1
"""Decades from where a tail begins to what one in ten is like."""


class History:
    """The latest values of one number. State: them, as they came and in order, and how far their tails reach."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._came = array("d")
        self._oldest = 0
        self._sorted = array("d")
        self._until_learnt = LEAST
        self._low_from = self._high_from = 0.0
        self._low_mean = self._high_mean = 0.0

    def __len__(self) -> int:
        return len(self._sorted)

    def __repr__(self) -> str:
        return f"<History of {len(self)} values>"

    def add(self, value: float) -> bool:
        """Remember a value, and forget the oldest when there are too many. Return whether the tails were measured."""
        if len(self._came) < self._remembered:
            self._came.append(value)
        else:
            del self._sorted[bisect_left(self._sorted, self._came[self._oldest])]
            self._came[self._oldest] = value
            self._oldest = (self._oldest + 1) % self._remembered
        insort(self._sorted, value)
        self._until_learnt -= 1
        if self._until_learnt > 0:
            return False
        self._learn()
        return True

    def quantile(self, share: float) -> float:
        """Return the value that this share of the remembered ones is below; there must be one."""
        return self._sorted[min(len(self) - 1, int(share * len(self)))]

    def surprise(self, value: float, *, resolution: float) -> float:
        """Return how unusual it is that a value is as high, or as low, as this one: in decades beyond one in ten.

        Args:
            resolution: smaller differences than this mean nothing, whatever the history says; above 0.
        """
        values, count = self._sorted, len(self._sorted)
        if count < LEAST:
            return 0.0
        if value > self._high_from:
            ratio = (value - self._high_from) / max(self._high_mean, resolution)
        elif value < self._low_from:
            ratio = (self._low_from - value) / max(self._low_mean, resolution)
        else:
            return 0.0
        by_distance = ratio / math.log(10) - UNUSUAL_FROM
        if by_distance <= 0:
            return 0.0
        middle = values[count // 2]
        if value > middle:
            as_far, past, reach = count - bisect_left(values, value), value - values[-1], values[-1] - middle
        else:
            as_far, past, reach = bisect_right(values, value), values[0] - value, middle - values[0]
        by_count = SEEN_FACTOR * max(0.0, math.log10(count / max(1, as_far)) - 1)
        if past > 0:
            by_count += RANGE_DECADES * past / max(reach, resolution)
        return min(SURPRISE_MAX, by_distance, by_count)

    def _learn(self) -> None:
        """Measure how far the tails reach beyond where they begin, on average."""
        values, count = self._sorted, len(self._sorted)
        outer = int(count * TAIL_SHARE)
        self._until_learnt = min(LEARNT_EVERY, 1 + count // LEARNT_EVERY)
        self._low_from, self._high_from = values[outer - 1], values[count - outer]
        self._low_mean = self._low_from - sum(values[:outer]) / outer
        self._high_mean = sum(values[count - outer :]) / outer - self._high_from
