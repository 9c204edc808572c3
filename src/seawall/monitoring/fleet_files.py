"""What the fleet leaves on the disk: rings of points, and the users of a day. Everything here waits for the disk.

One thread does it all, in turn, and what waits for it is bounded: a disk that hangs costs charts, never the keeper.
A disk that fails is tried again later, and said so once.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from seawall.clock import monotonic_s, wall_s
from seawall.telemetry.points import Point
from seawall.telemetry.rings import Ring
from seawall.telemetry.users import UserMinutes, Users

log = logging.getLogger(__name__)
T = TypeVar("T")

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
MONTH_S: Final = 31 * DAY_S

FLEET_RINGS: Final = {1: HOUR_S, 10: DAY_S // 10, 60: MONTH_S // 60}
"""Steps of the fleet's points, and how many are kept of each: an hour, a day, a month. Together 70 MiB at the most."""

NODE_RINGS_MAX: Final = 200
"""An hour of a node takes 2.2 MiB. Beyond so many, the one that was heard of longest ago goes."""

NODE_NAME_MAX: Final = 100
PRUNE_S: Final = 600.0
AGAIN_S: Final = 5.0
"""A ring that failed is left alone for so long."""

WAITING_MAX: Final = 70
"""So many seconds wait for the disk, 0.3 MiB each with 50 nodes: as many as are told of at once after the keeper itself
was stopped, and some. Beyond, they are not in the rings, and counted."""

CLOSE_WITHIN_S: Final = 5.0
READ_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a second of the fleet leaves behind. `longer` are points of longer steps: the step, the time, the point."""

    at_s: float
    fleet: Point | None = None
    nodes: Mapping[str, Point]
    longer: Collection[tuple[int, float, Point]] = ()
    users: Mapping[int, Users]
    over: Collection[int] = ()
    """Minutes nothing will be added to any more."""


class FleetFiles:
    """The files themselves. Used by one thread. State: the open rings, and which of them failed lately."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.failed = 0
        self.users = UserMinutes(directory / "users")
        self._fleet = {
            step_s: Ring(directory / f"fleet-{step_s}s.ring", step_s=step_s, slots=slots)
            for step_s, slots in FLEET_RINGS.items()
        }
        self._nodes: dict[str, Ring] = {}
        self._again_s: dict[Path, float] = {}
        self._pruned_s = -math.inf

    def __repr__(self) -> str:
        return f"<FleetFiles {len(self._nodes)} nodes, {self.failed} failures>"

    def prepare(self) -> None:
        """Make the directory, for us alone.

        Raises:
            OSError: that cannot be; it is tried again with whatever is written.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, page: Page) -> None:
        """Write what a second left behind; what the disk does not take is counted."""
        if page.fleet is not None:
            self._append(self._fleet[1], page.at_s, page.fleet)
        for step_s, at_s, point in page.longer:
            self._append(self._fleet[step_s], at_s, point)
        for node, point in page.nodes.items():
            ring = self._ring_of(node)
            if ring is not None and point:
                self._append(ring, page.at_s, point)
        for minute, users in page.users.items():
            self.users.add(minute, users)
        self._try(self.users.directory, self.users.flush)
        for minute in page.over:
            self._try(self.users.directory, partial(self.users.compact, minute))
        if monotonic_s() - self._pruned_s > PRUNE_S:
            self._pruned_s = monotonic_s()
            self._prune()

    def read(
        self, since_s: float, until_s: float, *, now_s: float, points_max: int, names: Collection[str] | None
    ) -> list[tuple[float, dict[str, float]]]:
        """Return points of the fleet, from the ring of the shortest step that reaches back so far.

        Raises:
            OSError: the disk did not give it.
        """
        until_s = min(until_s, now_s + 1)
        for step_s, slots in FLEET_RINGS.items():
            if since_s >= now_s - step_s * slots or step_s == max(FLEET_RINGS):
                return self._fleet[step_s].read(since_s, until_s, points_max=points_max, names=names)
        return []

    def read_node(
        self, node: str, since_s: float, until_s: float, *, points_max: int, names: Collection[str] | None
    ) -> list[tuple[float, dict[str, float]]]:
        """Return points of a node, of the last hour at the most.

        Raises:
            OSError: the disk did not give it.
        """
        ring = self._nodes.get(node)
        if ring is not None:
            return ring.read(since_s, until_s, points_max=points_max, names=names)
        with self._new_ring(node) as ring:  # One that is gone, or was never there.
            return ring.read(since_s, until_s, points_max=points_max, names=names)

    def close(self) -> None:
        """Let go of the files."""
        for ring in (*self._fleet.values(), *self._nodes.values()):
            ring.close()

    def _ring_of(self, node: str) -> Ring | None:
        ring = self._nodes.get(node)
        if ring is None and 0 < len(node) <= NODE_NAME_MAX:
            ring = self._nodes[node] = self._new_ring(node)
            if len(self._nodes) > NODE_RINGS_MAX:
                self._prune()
        return ring

    def _new_ring(self, node: str) -> Ring:
        path = self.directory / "nodes" / f"{quote(node[:NODE_NAME_MAX], safe='')}.ring"
        return Ring(path, step_s=1, slots=HOUR_S, is_exact=False)

    def _append(self, ring: Ring, at_s: float, point: Point) -> None:
        self._try(ring.path, partial(ring.append, at_s, point))

    def _try(self, path: Path, act: Callable[[], None]) -> None:
        again_s = self._again_s.get(path)
        if again_s is not None and monotonic_s() < again_s:
            self.failed += 1
            return
        try:
            act()
        except OSError as error:
            self.failed += 1
            self._again_s[path] = monotonic_s() + AGAIN_S
            if again_s is None:
                log.warning("fleet_files.failed", extra={"path": str(path), "error": str(error)})
            return
        if again_s is not None:
            del self._again_s[path]
            log.info("fleet_files.recovered", extra={"path": str(path)})

    def _prune(self) -> None:
        """Remove the rings of nodes that were not heard of for a day, and of those beyond the most there may be."""
        try:
            found = sorted(
                ((path.stat().st_mtime, path) for path in (self.directory / "nodes").iterdir()), reverse=True
            )
        except OSError:
            return
        oldest_s = wall_s() - DAY_S
        for index, (heard_s, path) in enumerate(found):
            if heard_s < oldest_s or index >= NODE_RINGS_MAX:
                for node in [node for node, ring in self._nodes.items() if ring.path == path]:
                    self._nodes.pop(node).close()
                self._try(path, partial(path.unlink, missing_ok=True))
        known = {path for _, path in found}
        # Those that were made just now are not in the list yet.
        for node in [node for node, ring in self._nodes.items() if ring.path not in known and ring.is_open]:
            self._nodes.pop(node).close()


class Desk:
    """Has one thread do all file work, in turn. State: how much waits for it, and how much was turned away."""

    def __init__(self, *, waiting_max: int = WAITING_MAX) -> None:
        self.waiting = 0
        self.turned_away = 0
        self._waiting_max = waiting_max
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fleet-files")

    def __repr__(self) -> str:
        return f"<Desk {self.waiting} waiting, {self.turned_away} turned away>"

    async def close(self) -> None:
        """Wait until all is written, for so long at the most."""
        deadline_s = monotonic_s() + CLOSE_WITHIN_S
        while self.waiting and monotonic_s() < deadline_s:
            await asyncio.sleep(0.02)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def put(self, act: Callable[[], None]) -> bool:
        """Have something done, in its turn; return False where too much waits, and it will not be."""
        if self.waiting >= self._waiting_max:
            if not self.turned_away:
                log.error("fleet_files.stuck", extra={"waiting": self.waiting})
            self.turned_away += 1
            return False
        self._submit(act)
        return True

    async def ask(self, act: Callable[[], T], within_s: float = READ_WITHIN_S) -> T:
        """Return what comes of something that is done in its turn.

        Raises:
            TimeoutError: the disk took too long.
        """
        if self.waiting >= self._waiting_max:
            raise TimeoutError("the disk is behind with what is to be written")
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(self._submit(act))

    def _submit(self, act: Callable[[], T]) -> "Future[T]":
        loop = asyncio.get_running_loop()
        self.waiting += 1
        future = self._thread.submit(act)

        def tell(done: "Future[T]") -> None:
            with suppress(RuntimeError):  # The loop is closed: what hung so long is nobody's concern any more.
                loop.call_soon_threadsafe(self._done, done)

        future.add_done_callback(tell)
        return future

    def _done(self, future: "Future[T]") -> None:
        self.waiting -= 1
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, OSError):
            log.error("fleet_files.broken", exc_info=error)
