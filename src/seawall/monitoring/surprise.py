"""How unusual is a number, given those that came before it?

The answer is in decades: 1 is what one in ten is like, 3 what one in a thousand is like. It can say more than the number
of values it remembers, because it extends the tail: what lies beyond the outermost twentieth is measured against how far
the others out there lie, by the law that all tails approach. So heavy tails, as those of traffic, are given their due.

Sources: Hosking and Wallis, "Parameter and Quantile Estimation for the Generalized Pareto Distribution", Technometrics
29(3), 1987 (the moments); Siffer et al., "Anomaly Detection in Streams with Extreme Value Theory", KDD 2017 (its use).
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

REMEMBERED: Final = 4096
"""Values, the latest: two weeks of one each five minutes. 16 bytes each, twice."""

TAIL_SHARE: Final = 0.05
SHAPE_MAX: Final = 0.5
"""Heavier tails than this have no variance that moments could be taken from."""

LEAST: Final = 50
"""With fewer values than this, nothing is unusual."""


class History:
    """The latest values of one number. State: them, as they came and in order."""

    def __init__(self) -> None:
        self._came: deque[float] = deque()
        self._sorted = array("d")

    def __len__(self) -> int:
        return len(self._sorted)

    def __repr__(self) -> str:
        return f"<History of {len(self)} values>"

    def add(self, value: float) -> None:
        """Remember a value, and forget the oldest when there are too many."""
        self._came.append(value)
        insort(self._sorted, value)
        if len(self._came) > REMEMBERED:
            del self._sorted[bisect_left(self._sorted, self._came.popleft())]

    def quantile(self, share: float) -> float:
        """Return the value that this share of the remembered ones is below; there must be one."""
        return self._sorted[min(len(self) - 1, int(share * len(self)))]

    def decades(self, value: float, *, resolution: float) -> float:
        """Return how unusual it is that a value is as high, or as low, as this one.

        Args:
            resolution: smaller differences than this mean nothing, whatever the history says.
        """
        values, count = self._sorted, len(self._sorted)
        if count < LEAST:
            return 0.0
        middle = values[count // 2]
        if value == middle:
            return 0.0
        outer = int(count * TAIL_SHARE)
        if value > middle:
            edge = values[count - outer]
            beyond, as_far = value - edge, count - bisect_left(values, value)
            excesses = [other - edge for other in values[count - outer :]] if beyond > 0 else []
        else:
            edge = values[outer - 1]
            beyond, as_far = edge - value, bisect_right(values, value)
            excesses = [edge - other for other in values[:outer]] if beyond > 0 else []
        if not excesses:
            return math.log10(count / max(1, as_far))
        return math.log10(count / outer) + decades_beyond(beyond, excesses, resolution=resolution)


def decades_beyond(beyond: float, excesses: list[float], *, resolution: float) -> float:
    """Return how rare an excess is among those of a tail, by a generalised Pareto law with their mean and variance.

    >>> round(decades_beyond(10.0, [1.0, 1.0, 1.0], resolution=0.1), 2)  # all alike: an exponential tail
    4.34
    """
    count = len(excesses)
    mean = sum(excesses) / count
    variance = sum(excess * excess for excess in excesses) / count - mean * mean
    mean = max(mean, resolution)
    shape = 0.5 * (1 - mean * mean / variance) if variance > 0 else 0.0
    shape = min(max(shape, 0.0), SHAPE_MAX)
    ratio = beyond / (mean * (1 - shape))
    return ratio / math.log(10) if shape < 1e-3 else math.log10(1 + shape * ratio) / shape
