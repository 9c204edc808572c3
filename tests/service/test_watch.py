"""The keeper looks at every second, tells of what fired, and no part of it stands in another's way."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.incidents.kit import Past

from seawall.clock import monotonic_s, wall_s
from seawall.incidents.desk import IncidentDesk
from seawall.monitoring import alert_memory
from seawall.monitoring.alerts import AlertBook, AlertEvent
from seawall.monitoring.disk_probe import DiskProbe
from seawall.monitoring.fleet import Fleet
from seawall.monitoring.mitigation import Mitigation, MitigationSettings
from seawall.monitoring.notices import Notice
from seawall.monitoring.objectives import Objective
from seawall.monitoring.outbox import Outbox
from seawall.monitoring.signals import SignalWatch
from seawall.service import watch as module
from seawall.service.watch import Watch
from seawall.telemetry.journal import Journal
from seawall.telemetry.link import Link
from seawall.telemetry.points import Point

ONE_NODE = {"nodes.expected": 1.0, "nodes.up": 1.0, "nodes.ready": 1.0, "seconds": 1.0}
NO_NODE = {"nodes.expected": 1.0, "nodes.up": 0.0, "nodes.ready": 0.0, "seconds": 1.0}


class Seconds:
    """Stands for the fleet. State: the seconds so far."""

    def __init__(self) -> None:
        self.completed = 0
        self.past: list[tuple[float, Point]] = []
        self._another = asyncio.Event()

    def add(self, *points: tuple[float, Point]) -> None:
        self.past += points
        self.completed += len(points)
        self._another.set()

    def recent(self, seconds: int) -> list[tuple[float, Point]]:
        return self.past[-seconds:]

    async def another_second(self) -> None:
        self._another.clear()
        await self._another.wait()

    async def series(self, *_: Any, **__: Any) -> list[tuple[float, dict[str, float]]]:
        return []

    def note_keeper(self, point: Point) -> None:
        """What the keeper measures is not of interest here."""

    def top_tenants(self) -> list[Any]:
        return []


class Told:
    """Stands for who is told. State: the notices."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def put(self, notice: Notice) -> None:
        self.notices.append(notice)


class Nobody:
    """Stands for nodes: none is connected."""

    def summaries(self) -> dict[str, Any]:
        return {}


async def cannot(_session: object) -> bool:
    raise AssertionError("there is no database here")


class Kept:
    """A watch over seconds that a test makes up."""

    def __init__(self, path: Path, journal: Journal, objectives: list[Objective] | None = None) -> None:
        self.path = path
        self.seconds = Seconds()
        self.told = Told()
        self.journal = journal
        past = Past()
        self.desk = IncidentDesk(
            path / "incidents", tell=journal.write, series=past.series, users_between=past.users_between
        )
        self.book = AlertBook(objectives or [])
        self.watch = Watch(
            fleet=cast(Fleet, self.seconds),
            book=self.book,
            signals=SignalWatch(),
            database=None,
            disk=DiskProbe(path / "probe"),
            mitigation=Mitigation(MitigationSettings(), cancel=cannot, terminate=cannot, tell=lambda *_: False),
            desk=self.desk,
            outbox=cast(Outbox, self.told),
            journal=journal,
            link=cast(Link, Nobody()),
            state=path / "alerts.json",
        )


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    with Journal(tmp_path / "journal") as journal:
        found = Kept(tmp_path, journal)
        await found.watch.start()
        yield found


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("a mistake of ours")


async def until_it_fires(kept: Kept) -> None:
    now_s = wall_s() - 10
    for number in range(10):
        await kept.watch.look(now_s + number, NO_NODE if number else ONE_NODE)


async def test_an_alert_is_told_of_though_diagnosis_and_signals_are_broken(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "diagnose", broken)
    monkeypatch.setattr(SignalWatch, "observe", broken)

    await until_it_fires(kept)

    assert [notice.alert for notice in kept.told.notices] == ["nodes"]
    assert kept.desk.open is not None


async def test_one_second_that_makes_no_sense_costs_none_of_those_after_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[float] = []

    async def look(at_s: float, _point: Point) -> None:
        looked_at.append(at_s)
        if at_s == 1.0:
            raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(kept.watch, "look", look)
    running = asyncio.create_task(kept.watch.run())
    await asyncio.sleep(0)

    # All at once, as after the keeper itself was stopped.
    kept.seconds.add(*((float(number), NO_NODE) for number in range(40)))
    async with asyncio.timeout(10):
        while len(looked_at) < 40:
            await asyncio.sleep(0)
    running.cancel()

    assert looked_at == [float(number) for number in range(40)]


async def test_events_reach_the_incident_though_the_clock_was_set_back(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until_it_fires(kept)
    set_back_s = wall_s() - 3600
    monkeypatch.setattr("seawall.telemetry.journal.wall_s", lambda: set_back_s)

    kept.journal.write("clock.jumped", by_s=-3600.0)
    kept.journal.write("node.died", node="node-1", exit_code=1)
    await kept.watch.look(wall_s(), NO_NODE)

    assert kept.desk.open is not None
    assert {"clock.jumped", "node.died"} <= {one.kind for one in kept.desk.open.happenings}


async def test_a_clock_that_is_set_while_a_second_is_looked_at_does_not_blind_the_alerts(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def observe(_at_s: float, _point: Point, now_s: float) -> list[AlertEvent]:
        given.append(now_s)
        return []

    monkeypatch.setattr(kept.book, "observe", observe)
    begun_s = monotonic_s()

    # An hour later, an hour earlier than the clock says: the second is of before it was set.
    for off_s in (-3600.0, 3600.0, 0.0):
        await kept.watch.look(wall_s() + off_s, NO_NODE)

    assert given == sorted(given)
    assert begun_s - 60 < given[0]
    assert given[-1] <= monotonic_s()


async def test_a_disk_that_hangs_takes_one_thread_of_those_who_save_alerts(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, writing = threading.Event(), []

    def write(_path: Path, text: str) -> None:
        writing.append(text)
        hangs.wait(30)

    monkeypatch.setattr(alert_memory, "_write", write)
    monkeypatch.setattr(module, "SAVED_WITHIN_S", 0.05)
    try:
        await until_it_fires(kept)
        assert len(writing) == 1
        assert kept.told.notices
    finally:
        hangs.set()
    async with asyncio.timeout(10):
        while len(writing) < 2:
            await kept.watch.look(wall_s(), NO_NODE)
            await asyncio.sleep(0.01)

    assert '"nodes"' in writing[1]


async def test_what_cannot_be_read_does_not_keep_the_keeper_from_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IncidentDesk, "start", broken)
    (tmp_path / "alerts.json").write_text('{"episode": null, "active": [], "told": [], "watches": []}')
    with Journal(tmp_path / "journal") as journal:
        kept = Kept(tmp_path, journal)

        await kept.watch.start()
        await until_it_fires(kept)

    assert kept.told.notices


async def test_an_incident_whose_end_was_not_written_is_closed_by_the_next_keeper(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        killed = Kept(tmp_path, journal)
        await killed.watch.start()
        await until_it_fires(killed)
        await killed.desk.stop()
        (tmp_path / "alerts.json").unlink()

        kept = Kept(tmp_path, journal)
        await kept.watch.start()
        await kept.watch.look(wall_s(), {"seconds": 1.0})

    assert kept.desk.open is None
    assert kept.told.notices[-1].status.value == "resolved"


async def test_who_was_not_told_before_the_keeper_was_killed_is_told_by_the_next(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        killed = Kept(tmp_path, journal)
        await killed.watch.start()
        await until_it_fires(killed)
        await killed.desk.stop()

        untold, told = Kept(tmp_path, journal), Kept(tmp_path, journal)
        await untold.watch.start()
        await untold.watch.look(wall_s(), NO_NODE)
        journal.write("notification.sent", incident=killed.told.notices[0].incident_id, target="slack")
        await told.watch.start()
        await told.watch.look(wall_s(), NO_NODE)

    assert [notice.status.value for notice in untold.told.notices] == ["opened"]
    assert told.told.notices == []
