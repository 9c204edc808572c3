import errno
import json
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.incidents import kit

from seawall.errors import Missing
from seawall.incidents import store
from seawall.incidents.record import Incident, next_id
from seawall.incidents.store import ROWS_MAX, IncidentFiles, People, Row, halve
from seawall.telemetry.points import total
from seawall.telemetry.users import Bitmap, Users

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path) -> IncidentFiles:
    return IncidentFiles(tmp_path / "incidents")


@pytest.fixture
def no_room() -> Iterator[None]:
    """Have every file end at a few KiB, as on a disk that is full in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_what_is_saved_is_read_again(files: IncidentFiles) -> None:
    incident, rows = kit.whole()
    people = People(
        users=Users(seen=Bitmap([1, 2, 900_000]), failed=Bitmap([2]), claimed={"KEY"}),
        found=Bitmap([7]),
        keys_found={"SEVEN"},
        of_nobody={"GUESSED"},
    )

    files.save(incident)
    files.add_points(incident.id, rows[:50])
    files.add_points(incident.id, rows[50:])
    files.save_people(incident.id, people)

    assert files.find(incident.id) == incident
    assert [(row.at_s, row.seconds) for row in files.points(incident.id)] == [(row.at_s, 1.0) for row in rows]
    assert files.points(incident.id)[70].point == pytest.approx(rows[70].point)
    assert files.people(incident.id) == people


def test_only_their_owner_can_read_them(files: IncidentFiles) -> None:
    incident, rows = kit.whole()
    files.save(incident)
    files.add_points(incident.id, rows)

    for path in [files.directory, *files.directory.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_latest_is_found_by_that_name_and_the_tenth_of_a_day_comes_after_the_ninth(files: IncidentFiles) -> None:
    for number in (9, 10, 2):
        files.save(kit.whole(f"2026-11-24-{number}")[0])

    assert files.find("latest").id == "2026-11-24-10"
    assert files.ids() == ["2026-11-24-10", "2026-11-24-9", "2026-11-24-2"]
    assert next_id(files.ids(), kit.DETECTED_S) == "2026-11-24-11"


@pytest.mark.parametrize("name", ["latest", "2026-11-24-7", "../root-credentials", "", "2026-11-24-1/../.."])
def test_what_is_not_there_is_said_not_to_be(files: IncidentFiles, name: str) -> None:
    with pytest.raises(Missing):
        files.find(name)


def test_one_that_cannot_be_read_does_not_hide_the_others(files: IncidentFiles) -> None:
    incident, _ = kit.whole("2026-11-24-1")
    files.save(incident)
    files.save(kit.whole("2026-11-24-2")[0])
    (files.directory / "2026-11-24-2" / "incident.json").write_text('{"id": "2026-11-24-2"')
    (files.directory / "2026-11-24-3").mkdir()

    assert [*files.all()] == [incident]
    # Its name is not given to another.
    assert next_id(files.ids(), kit.DETECTED_S) == "2026-11-24-4"


def test_half_a_line_is_neither_read_nor_written_behind(files: IncidentFiles) -> None:
    incident, rows = kit.whole()
    files.add_points(incident.id, rows[:10])
    path = files.directory / incident.id / "points.csv"
    with path.open("ab") as file:
        file.write(b"1795554192,1,4")

    read_then = IncidentFiles(files.directory).points(incident.id)
    IncidentFiles(files.directory).add_points(incident.id, rows[10:12])

    assert len(read_then) == 10
    assert [row.at_s for row in files.points(incident.id)] == [row.at_s for row in rows[:12]]


def test_a_file_with_other_columns_goes_on_with_those_it_has(files: IncidentFiles) -> None:
    incident, rows = kit.whole()
    path = files.directory / incident.id / "points.csv"
    path.parent.mkdir(parents=True)
    path.write_text("at_s,seconds,reads.requests,gone.column\n1,1,5,6\n")

    files.add_points(incident.id, rows[:1])

    assert files.points(incident.id)[0].point == {"reads.requests": 5.0, "gone.column": 6.0}
    assert files.points(incident.id)[1].point == {"reads.requests": rows[0].point["reads.requests"]}


def test_a_long_incident_has_longer_seconds_and_the_same_sums(files: IncidentFiles) -> None:
    rows = [
        Row(at_s=float(at_s), seconds=1.0, point={"reads.requests": 2.0, "pool.lent": at_s % 7}) for at_s in range(2500)
    ]

    for first in range(0, 2500, 100):
        files.add_points("2026-11-24-1", rows[first : first + 100])

    kept = files.points("2026-11-24-1")
    assert len(kept) < 2 * ROWS_MAX
    assert sum(row.seconds for row in kept) == 2500
    assert sum(total(row.point, "requests") for row in kept) == 5000
    assert max(row.point["pool.lent"] for row in kept) == 6
    assert [row.at_s for row in kept] == sorted(row.at_s for row in kept)


def test_halving_leaves_an_odd_row_alone() -> None:
    rows = kit.rows(0, 5)

    assert [row.seconds for row in halve(rows)] == [2, 2, 1]


def test_when_there_is_no_room_what_was_there_before_stays(files: IncidentFiles, no_room: None) -> None:
    incident, rows = kit.whole()
    small = replace(incident, happenings=(), diagnoses=incident.diagnoses[:1])
    files.save(small)
    files.add_points(incident.id, rows[:5])
    large = replace(small, notes=tuple(kit.note(f"note {number} {'x' * 900}") for number in range(30)))

    with pytest.raises(OSError, match="large") as refusal:
        files.save(large)
    with pytest.raises(OSError, match="large"):
        files.add_points(incident.id, rows[5:])

    assert refusal.value.errno == errno.EFBIG
    assert files.find(incident.id) == small
    assert len(files.points(incident.id)) == 5
    assert not [*files.directory.rglob("*.new")]


def test_points_of_old_incidents_are_let_go_and_their_records_stay(
    files: IncidentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "POINTS_KEPT_MAX", 2)
    for number in range(1, 5):
        incident, rows = kit.whole(f"2026-11-24-{number}")
        files.save(incident)
        files.add_points(incident.id, rows[:3])
        files.save_people(incident.id, People())

    assert files.forget_points() == ["2026-11-24-1", "2026-11-24-2"]
    assert files.forget_points() == []

    assert len([*files.all()]) == 4
    assert [len(files.points(name)) for name in files.ids()] == [3, 3, 0, 0]
    assert [path.name for path in (files.directory / "2026-11-24-1").iterdir()] == ["incident.json"]


WRITE_UNTIL_KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.incidents import kit
from seawall.incidents.store import IncidentFiles, People
from seawall.telemetry.users import Bitmap, Users

files = IncidentFiles(Path(sys.argv[1]))
incident, rows = kit.whole()
number = 0
while True:
    row = replace(rows[number % len(rows)], at_s=float(number))
    files.add_points(incident.id, [row])
    files.save(replace(incident, impact=replace(incident.impact, until_s=row.at_s + 1)))
    files.save_people(incident.id, People(users=Users(seen=Bitmap(range(number)))))
    number += 1
    if number == 30:
        print("under way", flush=True)
"""


@pytest.mark.parametrize("more_lines_s", [0.0, 0.013, 0.04])
def test_killed_in_the_middle_of_writing_leaves_files_that_can_be_read(tmp_path: Path, more_lines_s: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path / "incidents")], cwd=ROOT, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"under way\n"
        # Somewhere else in its round each time.
        signal.sigtimedwait([], more_lines_s)
        writer.kill()

    files = IncidentFiles(tmp_path / "incidents")
    incident = files.find("latest")
    rows = files.points(incident.id)
    assert isinstance(incident, Incident)
    assert [row.at_s for row in rows] == [float(number) for number in range(len(rows))]
    # The row is written first, so at most one more of them than the record tells of.
    assert incident.impact.until_s <= len(rows) <= incident.impact.until_s + 1
    assert 28 <= files.people(incident.id).users.seen.count <= len(rows)
    files.add_points(incident.id, kit.rows(0, 1))
    assert len(files.points(incident.id)) == len(rows) + 1


def test_the_record_can_be_read_with_nothing_but_an_editor(files: IncidentFiles) -> None:
    incident, _ = kit.whole()
    files.save(incident)

    text = (files.directory / incident.id / "incident.json").read_text()

    assert json.loads(text)["title"] == "Files could not be read: the database's connections were used up"
    assert text.count("\n") > 50
