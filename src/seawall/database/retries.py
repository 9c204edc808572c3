"""How often we may try again by ourselves: a part of what we do anyway, never as often as it fails.

When everything fails, retries make two of each request, and the service they were to help gets no rest. A budget lets
a lost connection pass unnoticed, and an outage not grow. Source: "Handling
Overload", Site Reliability Engineering (Beyer et al., 2016), chapter 21: retries are at most a tenth of what is sent.
"""

from typing import Final

EARNED: Final = 0.1
"""What each thing done for the first time earns."""

SAVED_MOST: Final = 256.0
"""What may be saved: two whole batches, for the moment when a connection with all its rows is lost."""


class RetryBudget:
    """State: how many retries are saved, how many were made and how many were too many."""

    def __init__(self) -> None:
        self.made = 0
        self.refused = 0
        self._saved = SAVED_MOST

    def __repr__(self) -> str:
        return f"<RetryBudget {self._saved:.0f} saved, {self.made} made, {self.refused} refused>"

    def earn(self, count: int) -> None:
        """Note that so many things were done for the first time."""
        self._saved = min(SAVED_MOST, self._saved + EARNED * count)

    def spend(self) -> bool:
        """Return whether one more may be tried again; it is paid for then."""
        if self._saved < 1:
            self.refused += 1
            return False
        self._saved -= 1
        self.made += 1
        return True
