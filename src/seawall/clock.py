"""The only reader of the time.

Durations and deadlines come from the monotonic clock, so that a clock set back or forward neither
hastens nor delays anything. The wall clock is for what people and other programs read.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

# The function itself: a request looks at the clock a dozen times, and another call around it takes longer than it does.
monotonic_s: Final[Callable[[], float]] = time.monotonic
"""Returns seconds on a clock that only goes forward, from an arbitrary start."""


wall_s: Final[Callable[[], float]] = time.time
"""Returns seconds since 1970-01-01 UTC, as this machine believes."""


def now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)
