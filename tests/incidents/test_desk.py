import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.incidents import kit
from tests.incidents.kit import BEGAN_S, DETECTED_S, RECOVERED_S, RESOLVED_S, Past, alert, alert_event, second

from seawall.errors import DatabaseDown, Invalid, Missing, NotRunning
from seawall.incidents import case as cases
from seawall.incidents import desk as desks
from seawall.incidents.desk import IncidentDesk
from seawall.incidents.record import Incident
from seawall.monitoring.alerts import Turn
from seawall.monitoring.notices import Notice, Status
from seawall.monitoring.things import Layer
from seawall.telemetry.journal import Event
from seawall.telemetry.points import total
from seawall.telemetry.users import Bitmap, Users


class Told:
    """What the journal was told. State: the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, kind: str, **fields: Any) -> Event:
        event = Event(DETECTED_S, kind, fields, len(self.events) + 1)
        self.events.append(event)
        return event

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class Answers:
    """Stands for a database: fails until it is up, then says whose keys are, and takes copies."""

    def __init__(self, owners: Mapping[str, int]) -> None:
        self.is_up = False
        self.copied: dict[str, Incident] = {}
        self._owners = owners

    async def keep(self, incident: Incident) -> None:
        if not self.is_up:
            raise DatabaseDown
        self.copied[incident.id] = incident

    async def owners(self, keys: Sequence[str]) -> Mapping[str, int]:
        if not self.is_up:
            raise DatabaseDown
        return {key: self._owners[key] for key in keys if key in self._owners}


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def past() -> Past:
    return Past(kit.rows(BEGAN_S - 60, RESOLVED_S))


@pytest.fixture
async def desk(tmp_path: Path, told: Told, past: Past, monkeypatch: pytest.MonkeyPatch) -> IncidentDesk:
    for module in (desks, cases):
        monkeypatch.setattr(module, "wall_s", lambda: RESOLVED_S, raising=False)
    return await a_desk(tmp_path, told, past)


async def a_desk(path: Path, told: Told, past: Past, events: Sequence[Event] = ()) -> IncidentDesk:
    desk = IncidentDesk(
        path / "incidents",
        tell=told,
        series=past.series,
        users_between=past.users_between,
        url="http://127.0.0.1:9002/incidents/{id}",
    )
    await desk.start(lambda since_s: [event for event in events if event.at_s >= since_s])
    return desk


def go_through(desk: IncidentDesk, *, first_s: float = DETECTED_S, until_s: float = RESOLVED_S + 1) -> list[Notice]:
    """Have the desk see the incident's seconds; return what people were told."""
    told: list[Notice] = []
    journal = kit.journal()
    for at_s in kit.seconds(first_s, until_s):
        more: dict[str, Any] = {"events": [event for event in journal if at_s - 1 < event.at_s <= at_s]}
        if at_s == DETECTED_S:
            more["alerts"] = [alert_event()]
            more["events"] = [event for event in journal if event.at_s <= at_s]
        if at_s == kit.DIAGNOSED_S:
            more["diagnosis"] = kit.diagnosis()
        if at_s == kit.MITIGATED_S:
            more["actions"] = [kit.action()]
        if at_s == RESOLVED_S:
            more["alerts"] = [alert_event(Turn.OVER, at_s=at_s, ended_s=RECOVERED_S)]
        told += desk.look(second(at_s, **more))
    return told


async def test_an_episode_is_one_incident_that_opens_fills_and_closes_itself(desk: IncidentDesk, told: Told) -> None:
    notices = go_through(desk)
    await desk.stop()

    incident = await desk.find("latest")
    assert [notice.status for notice in notices] == [Status.OPENED, Status.UPDATED, Status.UPDATED, Status.RESOLVED]
    assert {notice.incident_id for notice in notices} == {"2026-11-24-1"}
    assert notices[0].url == "http://127.0.0.1:9002/incidents/2026-11-24-1"
    assert "31.2 % of requests failed" in notices[0].summary
    assert any("connections, which explains 87 %" in line for line in notices[1].diagnosis)
    assert notices[-1].resolved_s == RESOLVED_S
    assert told.kinds == ["incident.opened", "incident.resolved"]
    assert not incident.is_open
    assert (incident.began_s, incident.detected_s, incident.diagnosed_s) == (BEGAN_S, DETECTED_S, kit.DIAGNOSED_S)
    assert (incident.mitigated_s, incident.recovered_s) == (kit.MITIGATED_S, RECOVERED_S)
    assert [one.kind for one in incident.happenings] == [
        "drill.begun", "notification.sent", "node.silent", "node.back",
    ]  # fmt: skip


async def test_a_diagnosis_of_what_is_left_of_it_is_not_taken(desk: IncidentDesk) -> None:
    go_through(desk, until_s=RECOVERED_S + 10)
    await desk._save_all()

    desk.look(second(RECOVERED_S + 10, diagnosis=kit.diagnosis(Layer.PROCESSOR, at_s=RECOVERED_S + 10, share=1.0)))

    assert desk.open is not None
    assert [one.suspect for one in desk.open.diagnoses] == [Layer.CONNECTIONS]


async def test_what_is_counted_are_the_seconds_from_begin_to_recovery(desk: IncidentDesk) -> None:
    go_through(desk)
    await desk.stop()

    impact = (await desk.find("latest")).impact
    hit = [row.point for row in kit.rows(BEGAN_S, RECOVERED_S)]
    assert impact.counts.requests == sum(total(point, "requests") for point in hit)
    assert impact.counts.failed == sum(total(point, "failed") for point in hit)
    assert impact.counts.refused == sum(total(point, "refused") for point in hit)
    assert (impact.watched_s, impact.bad_s) == (31, 31)
    # On the disk is what is said, and a minute before it besides.
    rows = desk.files.points("2026-11-24-1")
    assert rows[0].at_s == BEGAN_S - 60
    assert [row.at_s for row in rows] == [BEGAN_S - 60 + number for number in range(len(rows))]
    assert desk.files.find("latest") == await desk.find("latest")


async def test_users_are_counted_exactly(desk: IncidentDesk, past: Past) -> None:
    past.users = Users(seen=Bitmap(range(1, 401)), failed=Bitmap([5, 6, 7]))

    go_through(desk)
    await desk.stop()

    impact = (await desk.find("latest")).impact
    assert (impact.users_failed, impact.users_seen) == (3, 400)
    assert [*desk.files.people("2026-11-24-1").users.failed] == [5, 6, 7]


async def test_whose_keys_were_claimed_is_looked_up_once_the_database_is_back(desk: IncidentDesk, past: Past) -> None:
    past.users = Users(seen=Bitmap([1, 2]), failed=Bitmap([1]), claimed={"KEY-TWO", "KEY-NINE", "GUESSED"})
    database: Any = Answers({"KEY-TWO": 2, "KEY-NINE": 9})
    go_through(desk)
    await desk.stop()
    before = (await desk.find("latest")).impact
    with pytest.raises(DatabaseDown):
        await desk.copy_now(database)

    database.is_up = True
    await desk.copy_now(database)
    await desk.stop()
    await desk.copy_now(database)

    impact = (await desk.find("latest")).impact
    assert (before.users_failed, before.users_seen, before.keys_claimed) == (1, 2, 3)
    assert (impact.users_failed, impact.users_seen, impact.keys_claimed, impact.keys_of_nobody) == (3, 3, 0, 1)
    assert desk.files.find("latest").impact == impact
    assert database.copied["2026-11-24-1"].impact == impact


async def test_a_second_alert_joins_and_the_last_to_end_closes_it(desk: IncidentDesk) -> None:
    latency = alert("latency", fired_s=DETECTED_S + 4)

    desk.look(second(DETECTED_S, alerts=[alert_event()]))
    joined = desk.look(second(DETECTED_S + 4, alerts=[alert_event(Turn.JOINED, at_s=DETECTED_S + 4, alert=latency)]))
    desk.look(second(RECOVERED_S, alerts=[alert_event(Turn.RESOLVED, at_s=RECOVERED_S, ended_s=RECOVERED_S - 3)]))
    still_open = desk.open
    over = alert_event(Turn.OVER, at_s=RESOLVED_S, alert=latency, ended_s=RECOVERED_S)
    closed = desk.look(second(RESOLVED_S, alerts=[over]))

    assert joined == []
    assert still_open is not None
    assert [raised.ended_s for raised in still_open.alerts] == [RECOVERED_S - 3, None]
    assert [notice.status for notice in closed] == [Status.RESOLVED]
    assert desk.open is None


async def test_an_episode_that_goes_on_after_its_end_is_the_same_incident(desk: IncidentDesk) -> None:
    go_through(desk)

    again = alert(fired_s=RESOLVED_S + 20, began_s=RESOLVED_S + 15)
    reopened = desk.look(
        second(RESOLVED_S + 20, alerts=[alert_event(Turn.REOPENED, at_s=RESOLVED_S + 20, alert=again)])
    )
    another = desk.look(second(RESOLVED_S + 900, alerts=[alert_event(at_s=RESOLVED_S + 900, episode="another")]))

    assert [(notice.incident_id, notice.status) for notice in reopened] == [("2026-11-24-1", Status.OPENED)]
    # The first was never closed: whoever knew of it is gone.
    assert [(notice.incident_id, notice.status) for notice in another] == [
        ("2026-11-24-1", Status.RESOLVED),
        ("2026-11-24-2", Status.OPENED),
    ]


async def test_a_keeper_that_was_killed_goes_on_with_the_same_incident(
    desk: IncidentDesk, tmp_path: Path, told: Told, past: Past
) -> None:
    past.users = Users(seen=Bitmap(range(10)), failed=Bitmap([3]))
    go_through(desk, until_s=DETECTED_S + 10)
    await desk._save_all()
    # It dies now: nothing is said to anybody, and four seconds go unseen.
    died = Event(DETECTED_S + 12, "keeper.started", {"pid": 4242}, 9)

    another = await a_desk(tmp_path, told, past, events=[died])
    resumed = another.open
    notices = go_through(another, first_s=DETECTED_S + 14)
    await another.stop()

    assert resumed is not None
    assert resumed.id == "2026-11-24-1"
    assert {notice.incident_id for notice in notices} == {"2026-11-24-1"}
    assert notices[-1].status is Status.RESOLVED
    incident = await another.find("latest")
    assert [path.name for path in (tmp_path / "incidents").iterdir()] == ["2026-11-24-1"]
    # What the fleet remembers of the time between is counted, and each second once.
    assert incident.impact.counts.requests == sum(
        total(row.point, "requests") for row in kit.rows(BEGAN_S, RECOVERED_S)
    )
    assert "keeper.started" in [one.kind for one in incident.happenings]
    assert incident.impact.users_failed == 1


async def test_a_disk_that_takes_nothing_stops_nobody_and_loses_nothing(
    desk: IncidentDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(desk.files, "save", full)
        broken.setattr(desk.files, "add_points", full)
        go_through(desk)
        await desk._save_all()
        await desk._save_all()
        assert desk.files.ids() == []
        assert (await desk.listed())[0]["title"].startswith("Files could not be read")
        assert "21:03:08" in await desk.post_mortem("latest", "md")

    await desk._save_all()

    assert desk.files.find("latest") == await desk.find("latest")
    assert len(desk.files.points("2026-11-24-1")) == RESOLVED_S - BEGAN_S + 60


async def test_points_that_cannot_be_fetched_are_given_up_after_a_few_tries(desk: IncidentDesk, past: Past) -> None:
    past.fails = True
    go_through(desk)

    for _ in range(cases.FETCH_TRIES):
        await desk._save_all()

    incident = await desk.find("latest")
    assert incident.impact.watched_s == RECOVERED_S - DETECTED_S
    assert "For 6 s of it nothing was measured" in await desk.post_mortem("latest", "md")


async def test_what_people_say_is_kept_and_told(desk: IncidentDesk, told: Told) -> None:
    desk.look(second(DETECTED_S, alerts=[alert_event()]))

    await desk.note("latest", who="mara", text=" It is the nightly report.\n")
    await desk.acknowledge("latest", who="mara")
    await desk.acknowledge("latest", who="someone else")

    incident = desk.files.find("latest")
    assert [(note.who, note.text) for note in incident.notes] == [("mara", "It is the nightly report.")]
    assert incident.acknowledged is not None
    assert incident.acknowledged.who == "mara"
    assert told.kinds == ["incident.opened", "incident.note", "incident.acknowledged"]
    notices = desk.look(second(DETECTED_S + 1))
    assert [(notice.status, notice.by) for notice in notices] == [(Status.ACKNOWLEDGED, "mara")]


async def test_a_past_incident_takes_notes(desk: IncidentDesk) -> None:
    desk.files.save(kit.whole("2025-01-01-1")[0])
    go_through(desk)
    await desk.stop()

    await desk.note("2025-01-01-1", who="mara", text="Seen again today.")

    assert desk.files.find("2025-01-01-1").notes[0].text == "Seen again today."
    assert desk.files.find("latest").notes == ()


@pytest.mark.parametrize("text", ["", "  \n", "x" * 4001])
async def test_a_note_says_something_and_has_an_end(desk: IncidentDesk, text: str) -> None:
    go_through(desk)

    with pytest.raises(Invalid):
        await desk.note("latest", who="mara", text=text)


async def test_commands_are_answered(desk: IncidentDesk) -> None:
    go_through(desk)
    await desk.stop()

    listed = await desk.answer({"ask": "incidents.list"})
    shown = await desk.answer({"ask": "incidents.show", "id": "2026-11-24-1"})
    page = await desk.answer({"ask": "incidents.post-mortem", "id": "latest", "format": "html"})
    noted = await desk.answer({"ask": "incidents.note", "id": "latest", "who": "mara", "text": "so it was"})
    taken = await desk.answer({"ask": "incidents.acknowledge", "id": "latest", "who": "mara"})

    assert [one["id"] for one in listed] == ["2026-11-24-1"]
    assert Incident.from_json(shown).title == "Files could not be read: the database's connections were used up"
    assert page.startswith("<!doctype html>")
    assert noted["notes"][0]["text"] == "so it was"
    assert taken["acknowledged"]["who"] == "mara"
    with pytest.raises(Missing):
        await desk.answer({"ask": "incidents.show", "id": "2020-01-01-1"})
    with pytest.raises(Invalid):
        await desk.answer({"ask": "incidents.post-mortem", "id": "latest", "format": "pdf"})
    with pytest.raises(NotRunning):
        await desk.answer({"ask": "incidents.burn"})


async def test_a_past_incident_that_looked_alike_is_named(desk: IncidentDesk) -> None:
    go_through(desk)
    await desk.stop()

    later_s = RESOLVED_S + 86_400
    again = alert(began_s=later_s - 6, fired_s=later_s)
    desk.look(second(later_s, alerts=[alert_event(at_s=later_s, episode="next day", alert=again)]))
    at_once = await desk.find("latest")
    desk.look(second(later_s + 5, diagnosis=kit.diagnosis(at_s=later_s + 5)))
    diagnosed = await desk.find("latest")

    assert at_once.id == "2026-11-25-1"
    assert [similar.id for similar in at_once.similar] == ["2026-11-24-1"]
    assert "the same suspect (connections)" in diagnosed.similar[0].why
    assert "over after 31 s; the service ended session 4711" in diagnosed.similar[0].ended_by


async def test_keeping_is_cancelled_without_a_trace(desk: IncidentDesk) -> None:
    keeping = asyncio.create_task(desk.keep())
    go_through(desk)
    async with asyncio.timeout(20):
        while not desk.files.ids():
            await asyncio.sleep(0.01)

    keeping.cancel()
    await asyncio.wait([keeping], timeout=10)

    assert keeping.cancelled()
    await desk.stop()
    assert desk.files.find("latest") == await desk.find("latest")


async def test_who_reads_past_incidents_takes_no_place_of_the_one_that_goes_on(
    desk: IncidentDesk, tmp_path: Path
) -> None:
    past_ids = [f"2026-10-01-{number}" for number in range(1, 2 * desks.CASES_MAX)]
    for incident_id in past_ids:
        desk.files.save(replace(kit.whole()[0], id=incident_id))
    go_through(desk, until_s=DETECTED_S + 5)
    assert desk.open is not None

    for incident_id in past_ids:
        await desk.find(incident_id)
        await desk.note(incident_id, who="mara", text="seen before")
    await desk.stop()

    assert desk.files.find(desk.open.id) == desk.open
    assert [note.text for note in desk.files.find(past_ids[0]).notes] == ["seen before"]


async def test_a_note_that_is_no_text_is_kept_as_far_as_it_is_and_stops_no_writing(desk: IncidentDesk) -> None:
    go_through(desk, until_s=DETECTED_S + 5)

    incident = await desk.note("latest", who="m\udcffra", text="a torn \udcff byte")

    assert [(note.who, note.text) for note in incident.notes] == [("m?ra", "a torn ? byte")]
    assert desk.files.find("latest").notes == incident.notes


async def test_an_incident_that_cannot_be_written_keeps_no_other_from_it(
    desk: IncidentDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_through(desk)
    desk.files.save(replace(kit.whole()[0], id="2026-10-01-1"))
    save = desk.files.save

    def saved(incident: Incident) -> None:
        if incident.id == "2026-10-01-1":
            raise UnicodeError("a mistake of ours")
        save(incident)

    monkeypatch.setattr(desk.files, "save", saved)

    await desk.note("2026-10-01-1", who="mara", text="this one cannot be written")
    await desk.stop()

    assert not desk.files.find("2026-11-24-1").is_open


async def test_a_long_incident_does_not_ask_for_all_its_users_again_and_again(
    desk: IncidentDesk, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    now_s = DETECTED_S

    async def users_between(since_s: float, until_s: float) -> Users:
        asked.append(until_s - since_s)
        # Everybody came at its begin, and nobody since.
        return await past.users_between(since_s, until_s) if since_s <= BEGAN_S else Users()

    past.users = Users(seen=Bitmap(range(100)), failed=Bitmap(range(40)))
    monkeypatch.setattr(desk, "_users_between", users_between)
    monkeypatch.setattr(desks, "wall_s", lambda: now_s)
    go_through(desk, until_s=DETECTED_S + 5)
    for hour in range(5):
        now_s = DETECTED_S + 3600 * hour
        await desk.stop()
    going_on = await desk.find("latest")
    longest_s = max(asked)
    desk.look(second(now_s, alerts=[alert_event(Turn.OVER, at_s=now_s, ended_s=now_s - 30)]))
    await desk.stop()

    assert longest_s <= 3600 + cases.USERS_AGAIN_S
    assert (going_on.impact.users_seen, going_on.impact.users_failed) == (100, 40)
    # At its end, those of all of it.
    assert asked[-1] > 3 * 3600
    assert (await desk.find("latest")).impact.users_seen == 100


async def test_strangers_cannot_fill_the_memory_with_keys_they_make_up(
    desk: IncidentDesk, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = RESOLVED_S
    monkeypatch.setattr(cases, "OF_NOBODY_MAX", 100)
    monkeypatch.setattr(desks, "wall_s", lambda: now_s)
    answers = Answers({})
    answers.is_up = True
    go_through(desk, until_s=DETECTED_S + 5)
    for minute in range(5):
        past.users = Users()
        past.users.claim(f"AKIA{minute}{number}" for number in range(60))
        now_s = RESOLVED_S + 60 * minute
        await desk.stop()
        await desk.copy_now(cast(Any, answers))

    impact = (await desk.find("latest")).impact
    assert (impact.keys_of_nobody, impact.keys_claimed) == (100, 0)
