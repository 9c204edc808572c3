"""How many requests there were in the last while, and how many of them went wrong, at the same cost for any while."""

from array import array

from seawall.monitoring.objectives import Counts

NOTHING = Counts(0.0, 0.0)


class Windows:
    """Counts of a long window, and of a short one at its end. State: a ring of slots of some seconds, and their sums.

    Counts are whole numbers, so that sums from which they are taken again stay exact.
    """

    __slots__ = ("_bads", "_known", "_newest", "_seen", "_short_slots", "_totals", "long", "short", "step_s")

    def __init__(self, *, step_s: int, long_s: int, short_s: int) -> None:
        slots = long_s // step_s
        self.step_s = step_s
        self._short_slots = short_s // step_s
        self._totals = array("d", bytes(8 * slots))
        self._bads = array("d", bytes(8 * slots))
        self._seen = bytearray(slots)
        self._newest: int | None = None
        # How many slots of the long window, and of the short one, were looked at.
        self._known = [0, 0]
        self.long = NOTHING
        self.short = NOTHING

    def __repr__(self) -> str:
        return f"<Windows of {self.step_s} s: {self.long}, {self.short}>"

    @property
    def long_known(self) -> float:
        """Which part of the long window was looked at. What was not is taken to have been well, and as busy."""
        return self._known[0] / len(self._seen)

    @property
    def short_known(self) -> float:
        """Which part of the short window was looked at."""
        return self._known[1] / self._short_slots

    def advance(self, now_s: float) -> None:
        """Forget what has left the windows. Time that goes backwards stands still."""
        slot, size = int(now_s // self.step_s), len(self._seen)
        if self._newest is None or slot - self._newest >= size:
            self._totals = array("d", bytes(8 * size))
            self._bads = array("d", bytes(8 * size))
            self._seen = bytearray(size)
            self._known = [0, 0]
            self.long = self.short = NOTHING
            self._newest = slot
            return
        while self._newest < slot:
            self._newest += 1
            leaving = (self._newest - self._short_slots) % size
            self.short = Counts(self.short.total - self._totals[leaving], self.short.bad - self._bads[leaving])
            self._known[1] -= self._seen[leaving]
            leaving = self._newest % size
            self.long = Counts(self.long.total - self._totals[leaving], self.long.bad - self._bads[leaving])
            self._known[0] -= self._seen[leaving]
            self._totals[leaving] = self._bads[leaving] = self._seen[leaving] = 0

    def add(self, counts: Counts, at_s: float) -> None:
        """Count what happened at a time; what is not in the windows, or later than now, is left out."""
        if self._newest is None:
            return
        size = len(self._seen)
        age = self._newest - int(at_s // self.step_s)
        if not 0 <= age < size:
            return
        index = (self._newest - age) % size
        is_new = 1 - self._seen[index]
        self._seen[index] = 1
        self._totals[index] += counts.total
        self._bads[index] += counts.bad
        self._known[0] += is_new
        self.long = Counts(self.long.total + counts.total, self.long.bad + counts.bad)
        if age < self._short_slots:
            self._known[1] += is_new
            self.short = Counts(self.short.total + counts.total, self.short.bad + counts.bad)

    def began_age_s(self, share: float) -> int:
        """Return how long ago more began to go wrong than a share of all.

        It is where the sum of what is beyond the share, up to now, is greatest.

        Source: Page, "Continuous Inspection Schemes", Biometrika 41, 1954.
        """
        excess = most = 0.0
        found = 0
        for age, index in self._from_newest():
            excess += self._bads[index] - share * self._totals[index]
            if excess > most:
                most, found = excess, age
        return found * self.step_s

    def ended_age_s(self, share: float) -> int:
        """Return how long ago a share of all or more went wrong for the last time."""
        for age, index in self._from_newest():
            if self._bads[index] > 0 and self._bads[index] >= share * self._totals[index]:
                return age * self.step_s
        return len(self._seen) * self.step_s

    def _from_newest(self) -> list[tuple[int, int]]:
        newest, size = self._newest or 0, len(self._seen)
        return [(age, (newest - age) % size) for age in range(size)]
