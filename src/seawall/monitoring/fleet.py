"""What the fleet is like, second by second: nodes' reports become one point, and what is older gets coarser.

The last quarter of an hour is in memory, the rest on the disk. Everything here works while the database does not. A
second's number comes from the monotonic clock, and what people read from the wall clock: when that is set, what is in
memory moves along, so that whoever looks back always sees an unbroken stretch that ends now.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from seawall.clock import monotonic_s, wall_s
from seawall.monitoring.fleet_files import FLEET_RINGS, Desk, FleetFiles, Page
from seawall.monitoring.seconds import FORGOTTEN_S, SILENT_S, Second, Seconds, silent
from seawall.telemetry.journal import Tell, clock_jump_s
from seawall.telemetry.link import Message
from seawall.telemetry.points import NAMES, Point, merged, rolled, total
from seawall.telemetry.users import Users

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1
REMEMBERED_S: Final = 900
TENANTS_S: Final = 10
TENANTS_MAX: Final = 20
KEEPER_STALE_S: Final = 5.0
"""What the keeper measured itself holds for so long."""

MINUTES_OPEN: Final = 2
"""Users may be reported for the minute before; what is further from ours than this is taken for our own minute's."""

LOAD_WITHIN_S: Final = 10.0
POINTS_MAX: Final = 1000
_ZERO: Final = 0.0
_NO_WORK: Final = ("segment.admission", "segment.database_wait", "segment.network")
"""To wait takes nothing of what is everybody's; nodes leave it out of what a tenant took, too."""

_STEPS: Final = tuple(step_s for step_s in FLEET_RINGS if step_s > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What an account took of the fleet in the last 10 s; `share` is its part of all work.

    A node names its 20 largest, so what is small everywhere may be more than it seems.
    """

    number: int
    requests: float
    seconds: float
    refused: float
    share: float


class Fleet:
    """The fleet's points and users. State: reports that wait, the last 15 minutes, this minute's users, the tenants.

    Args:
        directory: of its files, which is made.
        tell: is told when a node is silent and when it is back, and when the clock was set.
    """

    def __init__(self, directory: Path, *, tell: Tell) -> None:
        self.files = FleetFiles(directory)
        self.desk = Desk()
        self._tell = tell
        # A second begins where it began on the wall clock when we started; `_shift` is what was set since.
        self._offset_s = wall_s() - monotonic_s()
        self._looked_offset_s = self._offset_s
        self._shift = 0
        self._seconds = Seconds(self._clock_s())
        self._past: deque[tuple[int, Point]] = deque(maxlen=REMEMBERED_S)
        self._keeper: tuple[float, Point] = (0.0, {})
        self._expected: dict[str, float] | None = None
        self._silent: dict[str, float] = {}
        self._minutes: dict[int, Users] = {}
        self._new_users: dict[int, Users] = {}
        self._tenants: deque[tuple[int, dict[int, list[float]]]] = deque()
        self._another = asyncio.Event()
        self.strange_users = 0
        """How many accounts were told of whose number no account can have; they are in no count."""
        self.completed = 0
        """How many seconds were put together since it began."""

    def __repr__(self) -> str:
        return f"<Fleet {len(self._past)} seconds, {len(self._silent)} silent nodes>"

    async def __aenter__(self) -> Self:
        now_s = self._clock_s()
        try:
            past, minutes = await self.desk.ask(lambda: self._load(now_s), LOAD_WITHIN_S)
        except (OSError, TimeoutError) as error:
            log.warning("fleet.not_loaded", extra={"error": str(error)})
        else:
            self._past.extend(past)
            self._minutes.update(minutes)
        self._seconds = Seconds(self._clock_s())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(nodes={}, longer=self._unfinished())
        self.desk.put(self.files.close)
        await self.desk.close()

    # What comes in.

    def hear(self, node: str, message: Message) -> None:
        """Take a node's summary, now.

        Raises:
            ValueError: it is not one.
        """
        self.note(node, message, monotonic_s())

    def note(self, node: str, message: Message, now_s: float) -> None:
        """Take a node's summary. One without a point is a sign of life.

        Raises:
            ValueError: it is not one.
        """
        clock_s = now_s + self._offset_s
        try:
            point = canonical(message.get("point") or {})
            if point:
                point.setdefault("seconds", 1.0)
            self._seconds.note(node, point, clock_s)
            users = message.get("users")
            if users:
                self._note_users(users, int((clock_s + self._shift) // 60))
            self._note_tenants((message.get("tenants") or ())[:TENANTS_MAX], int(clock_s))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"the summary of {node} makes no sense: {error!r}") from error

    def note_keeper(self, point: Point) -> None:
        """Take what the keeper measured itself; it becomes part of the fleet's points until it is stale."""
        self._keeper = (monotonic_s(), canonical(point))

    def expect(self, nodes: Iterable[str]) -> None:
        """Say which nodes there should be. Where that is never said, it is those heard of lately."""
        known = self._expected or {}
        now_s = monotonic_s()
        self._expected = {node: known.get(node, now_s) for node in nodes}

    # What can be asked.

    def recent(self, seconds: int) -> list[tuple[float, Point]]:
        """Return the points of the last so many seconds, oldest first, with the times they began at; from memory.

        Nobody may change them. Seconds nothing is known of are not there.
        """
        first = self._seconds.next - seconds
        found = []
        for number, point in reversed(self._past):
            if number < first:
                break
            found.append((float(number + self._shift), point))
        found.reverse()
        return found

    async def series(
        self, since_s: float, until_s: float, points_max: int = POINTS_MAX, *, names: Collection[str] | None = None
    ) -> list[tuple[float, dict[str, float]]]:
        """Return points of a stretch of time, each of one or more seconds: `seconds` says how many.

        Reaches back an hour by seconds, a day by 10 s, a month by minutes. `names` are the columns wanted.

        Raises:
            OSError, TimeoutError: the disk did not give it in time.
        """
        now_s = wall_s()
        return await self.desk.ask(
            lambda: self.files.read(since_s, until_s, now_s=now_s, points_max=points_max, names=names)
        )

    async def node_series(
        self,
        node: str,
        since_s: float,
        until_s: float,
        points_max: int = POINTS_MAX,
        *,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, dict[str, float]]]:
        """Return points of one node, of the last hour at the most.

        Raises:
            OSError, TimeoutError: the disk did not give it in time.
        """
        until_s = min(until_s, wall_s() + 1)
        return await self.desk.ask(
            lambda: self.files.read_node(node, since_s, until_s, points_max=points_max, names=names)
        )

    async def users_between(self, since_s: float, until_s: float) -> Users:
        """Return who was there, and for whom something failed, in the minutes that these times lie in and between.

        Exact, for the last 24 hours.

        Raises:
            OSError, TimeoutError: the disk did not give it in time.
        """
        until_s = min(until_s, wall_s() + 60)
        users = Users()
        for minute, known in self._minutes.items():
            if since_s // 60 <= minute <= until_s // 60:
                users.update(known)
        users.update(await self.desk.ask(lambda: self.files.users.between(since_s, until_s)))
        return users

    def top_tenants(self) -> list[Tenant]:
        """Return who took most of the fleet in the last 10 s, by seconds of work."""
        first = int(self._clock_s()) - TENANTS_S
        sums: dict[int, list[float]] = {}
        for number, tenants in self._tenants:
            if number >= first:
                _add_up(sums, tenants)
        everything_s = sum(
            total(point, "seconds") - sum(total(point, segment) for segment in _NO_WORK)
            for _, point in self.recent(TENANTS_S)
        )
        largest = sorted(sums.items(), key=lambda item: item[1][1:], reverse=True)[:TENANTS_MAX]
        return [
            Tenant(
                number=account,
                requests=requests,
                seconds=seconds,
                refused=refused,
                share=min(seconds / everything_s, 1.0) if everything_s > 0 else 0.0,
            )
            for account, (requests, seconds, refused) in largest
        ]

    def silent(self) -> Mapping[str, float]:
        """Return the nodes that should report and do not, and for how long they have not."""
        return self._silent

    async def another_second(self) -> None:
        """Wait until the next second is complete, and `recent` tells of it."""
        await self._another.wait()

    # What goes on.

    async def run(self) -> None:
        """Put seconds together as they are complete. Runs until cancelled."""
        while True:
            self.look(monotonic_s(), wall_s())
            await asyncio.sleep(LOOK_S)

    def look(self, now_s: float, wall_s: float) -> None:
        """Do what is due now."""
        self._look_at_clock(wall_s - now_s)
        clock_s = now_s + self._offset_s
        for second in self._seconds.look(clock_s):
            self._put_together(second, now_s)
        if not self._seconds.is_catching_up(clock_s):
            self._look_for_silence(now_s, clock_s)

    def _clock_s(self) -> float:
        return monotonic_s() + self._offset_s

    def _load(self, now_s: float) -> tuple[list[tuple[int, Point]], dict[int, Users]]:
        """Read what was known before we started; a second that was not there stays so."""
        self.files.prepare()
        found = self.files.read(now_s - REMEMBERED_S, int(now_s), now_s=now_s, points_max=REMEMBERED_S + 1, names=None)
        minute = int(now_s // 60)
        return (
            [(int(at_s), canonical(point)) for at_s, point in found],
            {number: self.files.users.read(number) for number in range(minute - MINUTES_OPEN + 1, minute + 1)},
        )

    def _look_at_clock(self, offset_s: float) -> None:
        jump_s = clock_jump_s(offset_before_s=self._looked_offset_s, offset_s=offset_s)
        self._looked_offset_s = offset_s
        if jump_s:
            self._tell("clock.jumped", by_s=round(jump_s, 3))
        shift = round(offset_s - self._offset_s)
        if shift == self._shift or abs(offset_s - self._offset_s - self._shift) < 0.75:
            return
        # What was being added up goes by the clock as it was.
        self._write(nodes={}, longer=self._unfinished())
        self._shift = shift

    def _look_for_silence(self, now_s: float, clock_s: float) -> None:
        ages_s = self._seconds.ages_s(clock_s)
        before, self._silent = self._silent, silent(ages_s, self._expected, now_s)
        for node, age_s in self._silent.items():
            if node not in before:
                self._tell("node.silent", node=node, silent_s=round(age_s, 1))
        for node, age_s in before.items():
            if node not in self._silent and ages_s.get(node, SILENT_S) < SILENT_S:
                self._tell("node.back", node=node, silent_s=round(age_s, 1))
        self._seconds.forget(
            node
            for node, age_s in ages_s.items()
            if age_s > FORGOTTEN_S and (self._expected is None or node not in self._expected)
        )

    def _put_together(self, second: Second, now_s: float) -> None:
        at_s = float(second.number + self._shift)
        point = merged(second.nodes.values())
        point["seconds"] = 1.0
        self._add_nodes(point, now_s)
        users = self._minutes.get(int(at_s // 60))
        point["users.seen"] = float(users.seen.count if users else 0)
        point["users.failed"] = float(users.failed.count if users else 0)
        measured_s, measured = self._keeper
        if now_s - measured_s <= KEEPER_STALE_S:
            point.update(measured)

        cut_short = self._cut_short(at_s)
        self._past.append((second.number, point))
        self.completed += 1
        finished = [self._longer(step_s, at_s) for step_s in _STEPS if (at_s + 1) % step_s == 0]
        self._write(at_s=at_s, fleet=point, nodes=second.nodes, longer=[*cut_short, *finished])
        another, self._another = self._another, asyncio.Event()
        another.set()

    def _add_nodes(self, point: dict[str, float], now_s: float) -> None:
        ages_s = self._seconds.ages_s(now_s + self._offset_s)
        heard = {node for node, age_s in ages_s.items() if age_s <= SILENT_S}
        if self._expected is None:
            point["nodes.up"] = float(len(heard))
            point["nodes.expected"] = float(len(ages_s))
        else:
            point["nodes.up"] = float(len(heard & self._expected.keys()))
            point["nodes.expected"] = float(len(self._expected))

    def _cut_short(self, at_s: float) -> list[tuple[int, float, Point]]:
        """Return the longer points whose last seconds are missing, where the second at `at_s` is beyond them."""
        if not self._past:
            return []
        last_s = self._past[-1][0] + self._shift
        return [
            self._longer(step_s, last_s)
            for step_s in _STEPS
            if last_s // step_s != at_s // step_s and (last_s + 1) % step_s
        ]

    def _unfinished(self) -> list[tuple[int, float, Point]]:
        """Return the longer points as far as they are known. They are written again when they are complete."""
        return [self._longer(step_s, self._past[-1][0] + self._shift) for step_s in _STEPS] if self._past else []

    def _longer(self, step_s: int, within_s: float) -> tuple[int, float, Point]:
        """Return the point of the step that a second lies in, from the seconds in memory."""
        begin = int(within_s // step_s) * step_s
        points = []
        for number, point in reversed(self._past):
            if number + self._shift < begin:
                break
            if number + self._shift < begin + step_s:
                points.append(point)
        return step_s, float(begin), rolled(reversed(points))

    def _write(
        self,
        *,
        nodes: Mapping[str, Point],
        longer: Collection[tuple[int, float, Point]],
        at_s: float = 0.0,
        fleet: Point | None = None,
    ) -> None:
        minute = int((self._clock_s() + self._shift) // 60)
        over = [number for number in self._minutes if abs(number - minute) > MINUTES_OPEN]
        page = Page(at_s=at_s, fleet=fleet, nodes=nodes, longer=longer, users=self._new_users, over=over)
        if self.desk.put(lambda: self.files.write(page)):
            # Users that could not be handed over stay with us: rings may have gaps, users are counted exactly.
            self._new_users = {}
            for number in over:
                del self._minutes[number]

    def _note_users(self, users: Mapping[str, Any], minute: int) -> None:
        told = int(users["minute"])
        if abs(told - minute) > MINUTES_OPEN:
            told = minute
        for known in (self._minutes, self._new_users):
            found = known.get(told)
            if found is None:
                found = known[told] = Users()
            passed_over = found.seen.add(users.get("seen") or ())
            passed_over += found.failed.add(users.get("failed") or ())
            found.claim(users.get("claimed") or ())
        if passed_over and not self.strange_users:
            log.warning("fleet.strange_users", extra={"users": passed_over})
        self.strange_users += passed_over

    def _note_tenants(self, tenants: Iterable[Iterable[Any]], number: int) -> None:
        while self._tenants and self._tenants[0][0] < number - TENANTS_S:
            self._tenants.popleft()
        if not self._tenants or self._tenants[-1][0] != number:
            self._tenants.append((number, {}))
        _add_up(self._tenants[-1][1], {int(account): [*numbers] for account, *numbers in tenants})


def canonical(point: Mapping[str, Any]) -> dict[str, float]:
    """Return a point of known columns only: finite numbers, under the one copy of their names.

    Most numbers of most points are nought, so they share one.

    Raises:
        TypeError: something in it is no number.
    """
    return {
        name: float(value) if value else _ZERO
        for name in NAMES
        if (value := point.get(name)) is not None and isfinite(value)
    }


def _add_up(sums: dict[int, list[float]], tenants: Mapping[int, list[float]]) -> None:
    for account, (requests, seconds, refused) in tenants.items():
        found = sums.get(account)
        if found is None:
            sums[account] = [requests, seconds, refused]
        else:
            found[0] += requests
            found[1] += seconds
            found[2] += refused
