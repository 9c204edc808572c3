"""What alerts must not forget when the keeper is started anew: a small file, and the points that were kept."""

import asyncio
import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, Protocol

from seawall.clock import monotonic_s, wall_s
from seawall.monitoring.alerts import AlertBook
from seawall.monitoring.objectives import DAY, HOUR
from seawall.telemetry.points import GROUPS, Point

log = logging.getLogger(__name__)

NEEDED: Final = (
    *(f"{group}.{what}" for group in GROUPS for what in ("requests", "failed", "refused", "slow")),
    "users.seen",
)
"""The columns alerts look back at."""

BEGINNINGS: Final = {10: 6 * HOUR, 60: 3 * DAY}
"""How far they look back, at which step; beside the last minute, by seconds."""


class Past(Protocol):
    """The points that were kept: those of the fleet, or a test's."""

    def recent(self, seconds: int) -> list[tuple[float, Point]]:
        """Return the points of the last so many seconds, and when they began on the wall clock, oldest first."""
        ...

    async def series(
        self, since_s: float, until_s: float, points_max: int, *, names: Collection[str] | None = None
    ) -> list[tuple[float, dict[str, float]]]:
        """Return points of a stretch of time: by 10 s where it began within a day, else by minutes."""
        ...


async def resume(book: AlertBook, path: Path, past: Past) -> None:
    """Let a new book go on where the last one stopped. What cannot be read is done without, and logged."""
    state = await asyncio.to_thread(_read, path)
    at_s = wall_s()
    history: list[tuple[float, float, Point]] = [(began_s, 1, point) for began_s, point in past.recent(60)]
    for step_s, back_s in BEGINNINGS.items():
        try:
            found = await past.series(at_s - back_s, at_s, back_s // step_s + 2, names=NEEDED)
        except (OSError, TimeoutError) as error:
            log.warning("alerts.history_missing", extra={"step_s": step_s, "error": str(error)})
        else:
            history += [(began_s, step_s, point) for began_s, point in found]
    try:
        book.resume(state, history, at_s=at_s, now_s=monotonic_s())
    except (KeyError, TypeError, ValueError) as error:
        log.warning("alerts.state_unreadable", extra={"path": str(path), "error": repr(error)})
        book.resume(None, history, at_s=at_s, now_s=monotonic_s())


async def keep(book: AlertBook, path: Path) -> None:
    """Write what a book must not forget, after each event and at the end. Waits for the disk.

    Raises:
        OSError: it could not be written. What was written before is still there.
    """
    await asyncio.to_thread(_write, path, json.dumps(book.as_json()))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("alerts.state_unreadable", extra={"path": str(path), "error": repr(error)})
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
