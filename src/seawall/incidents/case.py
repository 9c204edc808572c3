"""One incident being kept: what is known, and what of it is not on the disk yet.

It is written in pieces that may each fail and be tried again: points that are to be fetched from before, rows, who was
there, the record. When the incident is over it is counted once more, from the begin to the recovery.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from seawall.incidents.record import Impact, Incident, grown, is_bad
from seawall.incidents.series import binned
from seawall.incidents.similar import shape_of
from seawall.incidents.store import ROWS_MAX, IncidentFiles, People, Row, merge
from seawall.incidents.timeline import BEFORE_S
from seawall.telemetry.points import Point
from seawall.telemetry.users import Users

log = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""How often what only grows is written whole: the record's numbers, and who was there."""
FETCH_TRIES: Final = 5
LOOKED_BACK_S: Final = 6 * 3600.0
"""Points from before the detection are fetched from so long ago at the most: the longest rule that pages."""
USERS_REMEMBERED_S: Final = 23 * 3600.0
"""Users are given for the last day only; what was known before is kept for longer incidents."""

USERS_AGAIN_S: Final = 180.0
"""While it goes on only the users of so long ago are asked for, again and again; at its end, those of all of it."""
OF_NOBODY_MAX: Final = 100_000
"""Keys that belong to nobody which are remembered: strangers can make up any number. Beyond, they are not counted."""

Series = Callable[[float, float], Awaitable[Sequence[tuple[float, Point]]]]
"""Gives the points between two times, each with its begin; its column `seconds` says of how many it tells."""
UsersBetween = Callable[[float, float], Awaitable[Users]]
"""Gives who was there in the minutes that two times lie in and between."""


class Case:
    """Keeps one incident. State: the incident, who was there, rows not written, and what is still to be done."""

    def __init__(self, incident: Incident, people: People | None = None) -> None:
        self.incident = incident
        self.people = people or People()
        self.rows: list[Row] = []
        self.is_changed = False
        """Whether the record says more than the file."""
        self.is_counted = not incident.is_open
        """Whether an incident that is over was counted from begin to recovery."""
        self._people_changed = False
        self._uncounted: list[Row] = []
        self._fetch: tuple[float, float] | None = None
        self._fetches = 0
        self._settled_s = 0.0
        self._people_until_s = -math.inf
        self._before: Row | None = None
        self._during: Row | None = None

    def __repr__(self) -> str:
        return f"<Case {self.incident.id} {self.incident.status.value}, {len(self.rows)} rows unwritten>"

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be written of it, or to be found out about it."""
        is_quiet = not (self.incident.is_open or self.is_changed or self.rows or self._people_changed)
        return is_quiet and self.is_counted and not self.people.users.claimed

    def change(self, incident: Incident) -> None:
        """Take what became of the incident."""
        if incident is not self.incident:
            self.is_counted = self.is_counted and incident.recovered_s == self.incident.recovered_s
            self.incident = incident
            self.is_changed = True

    def add(self, row: Row) -> None:
        """Take what a second was like."""
        if self._fetch is not None:
            self._uncounted.append(row)
        else:
            self._count(row)
        self._keep(row)

    def fetch(self, since_s: float, until_s: float) -> None:
        """Have the points of this time fetched before anything is counted."""
        self._fetch = (since_s, until_s)

    def recall(self, rows: Sequence[Row]) -> None:
        """Go on with an incident of which these rows were written."""
        self.incident = replace(self.incident, impact=_without_counts(self.incident.impact))
        for row in rows:
            self._count(row)

    def looked_up(self, owners: Mapping[str, int], asked: Sequence[str]) -> None:
        """Take whose the claimed keys are: those asked for that have no owner belong to nobody."""
        self.people.found.add(owners.values())
        self.people.keys_found |= set(owners)
        nobodys = [key for key in asked if key not in owners]
        self.people.of_nobody.update(nobodys[: max(0, OF_NOBODY_MAX - len(self.people.of_nobody))])
        self.people.users.claimed -= set(asked)
        self._people_changed = True
        self._count_people()
        self.is_changed = True

    async def save(
        self, files: IncidentFiles, series: Series, users_between: UsersBetween, *, now_s: float
    ) -> Incident | None:
        """Write what is not written; return the record where it was written.

        Raises:
            OSError: the disk did not take it; it is as if this was not called.
        """
        await self._fetch_points(series, now_s=now_s)
        is_due = self.incident.is_open and abs(now_s - self._settled_s) >= SETTLE_S
        may_count = not self.incident.is_open and not self.is_counted and self._fetch is None
        if self.is_changed or is_due or may_count:
            await self._settle(users_between, now_s=now_s)
        if may_count:
            await self._count_again(files)
        written = None
        if self.is_changed or is_due:
            written = await self._save_record(files)
            self._settled_s = now_s
        # The record first, for it is small and matters most.
        await self._save_people(files)
        await self._save_rows(files)
        return written

    async def _save_record(self, files: IncidentFiles) -> Incident:
        written, self.is_changed = self.incident, False
        try:
            await asyncio.to_thread(files.save, written)
        except BaseException:  # When this is cancelled nobody knows whether it was; to write it twice is harmless.
            self.is_changed = True
            raise
        return written

    async def _save_people(self, files: IncidentFiles) -> None:
        if not self._people_changed:
            return
        self._people_changed = False
        try:
            await asyncio.to_thread(files.save_people, self.incident.id, self.people)
        except BaseException:
            self._people_changed = True
            raise

    async def _save_rows(self, files: IncidentFiles) -> None:
        if not self.rows:
            return
        rows, self.rows = self.rows, []
        try:
            await asyncio.to_thread(files.add_points, self.incident.id, rows)
        except OSError:
            self.rows = binned([*rows, *self.rows], ROWS_MAX)
            raise

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        if len(self.rows) > ROWS_MAX:
            # The disk does not take them: several become one, as in the file.
            self.rows = binned(self.rows, ROWS_MAX // 2)

    def _count(self, row: Row) -> None:
        incident = self.incident
        if row.at_s < incident.began_s:
            if row.at_s >= incident.began_s - BEFORE_S:
                self._before = row if self._before is None else merge([self._before, row])
            return
        if incident.recovered_s is not None and row.at_s >= incident.recovered_s:
            return
        self._during = row if self._during is None else merge([self._during, row])
        impact = grown(incident.impact, row.at_s, row.seconds, row.point)
        before = [self._before.point] if self._before is not None else []
        self.incident = replace(incident, impact=impact, shape=shape_of(before, [self._during.point]))

    async def _fetch_points(self, series: Series, *, now_s: float) -> None:
        if self._fetch is None:
            return
        since_s, until_s = self._fetch
        fetched: list[Row] = []
        try:
            found = await series(max(since_s, now_s - LOOKED_BACK_S), until_s)
            fetched = [Row(at_s=at_s, seconds=point.get("seconds", 1.0), point=point) for at_s, point in found]
        except (OSError, TimeoutError) as error:
            self._fetches += 1
            log.warning("incident.points_not_read", extra={"incident": self.incident.id, "error": repr(error)})
            if self._fetches < FETCH_TRIES:
                return
        if self._fetch != (since_s, until_s):
            return
        first_s = self._uncounted[0].at_s if self._uncounted else until_s
        fetched = [row for row in fetched if row.at_s < first_s]
        self._fetch = None
        for row in [*fetched, *self._uncounted]:
            self._count(row)
        self._uncounted = []
        self.rows = binned([*fetched, *self.rows], ROWS_MAX)
        self.is_changed = True

    async def _settle(self, users_between: UsersBetween, *, now_s: float) -> None:
        """Look who was there until now, or until it was over."""
        incident = self.incident
        until_s = incident.recovered_s if incident.recovered_s is not None else now_s
        since_s = incident.began_s
        if incident.is_open:
            since_s = max(since_s, min(self._people_until_s, now_s) - USERS_AGAIN_S)
        try:
            users = await users_between(since_s, until_s)
        except (OSError, TimeoutError) as error:
            log.warning("incident.users_not_read", extra={"incident": incident.id, "error": repr(error)})
            return
        self._people_until_s = until_s
        if since_s > incident.began_s or now_s - incident.began_s > USERS_REMEMBERED_S:
            users.update(self.people.users)
        users.claimed -= self.people.keys_found
        users.claimed -= self.people.of_nobody
        if len(self.people.of_nobody) >= OF_NOBODY_MAX:
            users.claimed.clear()
        known = self.people.users
        if (users.seen, users.failed, users.claimed) != (known.seen, known.failed, known.claimed):
            self.people.users = users
            self._people_changed = True
        self._count_people()

    def _count_people(self) -> None:
        users, found = self.people.users, self.people.found
        impact = replace(
            self.incident.impact,
            users_failed=(users.failed | found).count,
            users_seen=(users.seen | users.failed | found).count,
            keys_claimed=len(users.claimed),
            keys_of_nobody=len(self.people.of_nobody),
        )
        if impact != self.incident.impact:
            self.incident = replace(self.incident, impact=impact)

    async def _count_again(self, files: IncidentFiles) -> None:
        """Count once more what is over: seconds after the recovery were counted, too, while nobody knew."""
        rows = [*await asyncio.to_thread(files.points, self.incident.id), *self.rows]
        if self.incident.is_open:
            return
        self._before = self._during = None
        if self.incident.recovered_s is not None:
            self.incident = replace(self.incident, recovered_s=end_of_bad(rows, self.incident.recovered_s))
        self.recall(rows)
        self.is_counted = self.is_changed = True


def end_of_bad(rows: Sequence[Row], ended_s: float) -> float:
    """Return when the trouble ended: where its alerts say, or behind the bad seconds that follow without a gap."""
    for row in rows:
        if row.at_s <= ended_s < row.at_s + row.seconds and is_bad(row.point):
            ended_s = row.at_s + row.seconds
    return ended_s


def _without_counts(impact: Impact) -> Impact:
    """Return an impact in which nothing of the points is counted yet."""
    return replace(Impact(), **{name: getattr(impact, name) for name in OF_PEOPLE})


OF_PEOPLE: Final = ("users_failed", "users_seen", "keys_claimed", "keys_of_nobody")
"""What of an impact does not come from points."""
