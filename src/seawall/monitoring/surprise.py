"""How unusual is a number, given those that came before it?

The answer is in decades beyond one in ten: 0 is what one number in ten is like, or less unusual; 2 what one in a thousand
is. It says more than the number of values it remembers could, because it extends the tails: how far the highest quarter
reaches on average, and the lowest, is the scale of an exponential law. That law takes heavy tails, as those of traffic,
for more surprising than they are. Tried against one whose shape follows the tail it found more, and sooner.

Source of the tail: Balkema and de Haan, "Residual Life Time at Great Age", Annals of Probability 2(5), 1974; its shape is
taken to be zero, so that one number a side is to be known.
"""

import math
from array import array
from bisect import bisect_left, insort
from typing import Final

REMEMBERED: Final = 4096
"""Values, the latest: two weeks of one each five minutes. 16 bytes each."""

TAIL_SHARE: Final = 0.25
"""How much of the values is tail, on each side."""

LEAST: Final = 50
"""With fewer values than this, nothing is unusual."""

SURPRISE_MAX: Final = 100.0
"""Decades; nothing is told apart beyond."""

LEARNT_EVERY: Final = 32
"""The tails are measured again when so many values are new, or when a thirty-second of all are."""

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
        if len(self._sorted) < LEAST:
            return 0.0
        if value > self._high_from:
            ratio = (value - self._high_from) / max(self._high_mean, resolution)
        elif value < self._low_from:
            ratio = (self._low_from - value) / max(self._low_mean, resolution)
        else:
            return 0.0
        return min(SURPRISE_MAX, max(0.0, ratio / math.log(10) - UNUSUAL_FROM))

    def _learn(self) -> None:
        """Measure how far the tails reach beyond where they begin, on average."""
        values, count = self._sorted, len(self._sorted)
        outer = int(count * TAIL_SHARE)
        self._until_learnt = min(LEARNT_EVERY, 1 + count // LEARNT_EVERY)
        self._low_from, self._high_from = values[outer - 1], values[count - outer]
        self._low_mean = self._low_from - sum(values[:outer]) / outer
        self._high_mean = sum(values[count - outer :]) / outer - self._high_from
