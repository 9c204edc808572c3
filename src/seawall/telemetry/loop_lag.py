"""How late the event loop is: what every request waits for before anything of it is done.

A timer that should fire every 25 ms is looked at for how late it fires. One pause (a garbage collection, a burst, a
machine that stood still) is late once; a loop with more to do than it can is late each time, so that the least lag of a
stretch tells which it is. A stretch begins with the lag before it: a pause as long as itself would be alone in it. In a
stretch so short that no timer was due, it counts how late the next one is by now: after a pause it is not late at all.
"""

import asyncio
from typing import Final

INTERVAL_S: Final = 0.025


class LoopLag:
    """State: the last lag, and the least and the greatest since each was asked for."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self._least_s = 0.0
        self._greatest_s = 0.0
        self._due_s = 0.0
        self._has_fired = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LoopLag at least {self._least_s * 1000:.0f} ms, at most {self._greatest_s * 1000:.0f} ms>"

    def start(self) -> None:
        """Begin to look, on the running loop."""
        self._look_at(asyncio.get_running_loop().time() + INTERVAL_S)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def take_least_s(self) -> float:
        """Return the least lag since this was asked last, and of the one before."""
        least_s, self._least_s = self._least_s, self._last_s
        has_fired, self._has_fired = self._has_fired, False
        if not has_fired and self._timer is not None:
            least_s = min(least_s, max(0.0, asyncio.get_running_loop().time() - self._due_s))
        return least_s

    def take_greatest_s(self) -> float:
        """Return the greatest lag since this was asked last."""
        greatest_s, self._greatest_s = self._greatest_s, 0.0
        return greatest_s

    def _look_at(self, due_s: float) -> None:
        self._due_s = due_s
        self._timer = asyncio.get_running_loop().call_at(due_s, self._fire, due_s)

    def _fire(self, due_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        lag_s = max(0.0, now_s - due_s)
        self._last_s = lag_s
        self._has_fired = True
        self._least_s = min(self._least_s, lag_s)
        self._greatest_s = max(self._greatest_s, lag_s)
        self._look_at(now_s + INTERVAL_S)
