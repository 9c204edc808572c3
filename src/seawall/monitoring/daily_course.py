"""What is usual at this time of day, learnt from the days before.

Nobody says whether a signal follows the day: the course of one that does not is flat, and does no harm.
"""

from collections import deque
from datetime import datetime
from statistics import median
from typing import Final

SLOT_MINUTES: Final = 30
DAYS: Final = 14


class DailyCourse:
    """The mean of each half hour on each of the latest days. State: at most 48 × 14 of them."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}

    def __repr__(self) -> str:
        return f"<DailyCourse with {len(self._slots)} half hours>"

    def usual(self, moment: datetime) -> float | None:
        """Return what was usual at this time on the days before, or None if there was none."""
        slot = self._slots.get(_slot_of(moment))
        return slot.usual if slot is not None else None

    def add(self, moment: datetime, value: float) -> None:
        """Remember what was seen."""
        slot = self._slots.get(number := _slot_of(moment))
        if slot is None:
            slot = self._slots[number] = _Slot()
        slot.add(moment.toordinal(), value)


class _Slot:
    """One half hour of the day. State: its means on days that are over, and its sum today."""

    def __init__(self) -> None:
        self.usual: float | None = None
        self._means: deque[float] = deque(maxlen=DAYS)
        self._day = 0
        self._sum = 0.0
        self._count = 0

    def add(self, day: int, value: float) -> None:
        if day != self._day and self._count:
            self._means.append(self._sum / self._count)
            self.usual = median(self._means)
            self._sum, self._count = 0.0, 0
        self._day = day
        self._sum += value
        self._count += 1


def _slot_of(moment: datetime) -> int:
    return (moment.hour * 60 + moment.minute) // SLOT_MINUTES
