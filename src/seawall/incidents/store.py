"""Incidents as files: `<data_dir>/incidents/<id>/`, readable with nothing but an editor while everything else is down.

`incident.json` is replaced whole and synced: a reader sees the old one or the new one. `points.csv` gets a line each
second, so that charts survive the rings; its seconds become longer when there are many. `users.*` are who was there.
Everything here blocks: it is called in a thread, or by a command.
"""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from seawall.errors import Missing
from seawall.incidents.record import Incident, order
from seawall.telemetry.points import NAMES, Point, rolled
from seawall.telemetry.users import Bitmap, Users

log = logging.getLogger(__name__)

ID: Final = re.compile(r"\d{4}-\d{2}-\d{2}-\d{1,6}")
LATEST: Final = "latest"
ROWS_MAX: Final = 1200
"""Points of an incident: 20 minutes of seconds. When there are twice as many, each two become one."""
POINTS_KEPT_MAX: Final = 500
"""Incidents whose points and users are kept; of older ones the record stays. About 0.7 MiB each at the most."""


LARGE_FILES: Final = ("points.csv", "users.seen", "users.failed", "users.found", "users.keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What `seconds` seconds from `at_s` on were like."""

    at_s: float
    seconds: float
    point: Point


@dataclass(slots=True, kw_only=True)
class People:
    """Who was there. State: users as nodes told of them, and what became of the keys that nobody could look up.

    `found` are the accounts of such keys, looked up later, `keys_found` those keys; `of_nobody` belong to no account.
    """

    users: Users = field(default_factory=Users)
    found: Bitmap = field(default_factory=Bitmap)
    keys_found: set[str] = field(default_factory=set)
    of_nobody: set[str] = field(default_factory=set)


class IncidentFiles:
    """Reads and writes the files. State: how many rows of points each incident has that it has written to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rows: dict[str, int] = {}
        # One write at a time: what is cancelled goes on in its thread, and what follows writes the same files.
        self._writing = Lock()

    def __repr__(self) -> str:
        return f"<IncidentFiles {self.directory}>"

    # Reading.

    def ids(self) -> list[str]:
        """Return the names of all incidents, the latest first."""
        if not self.directory.is_dir():
            return []
        found = (path.name for path in self.directory.iterdir() if ID.fullmatch(path.name))
        return sorted(found, key=order, reverse=True)

    def find(self, incident_id: str) -> Incident:
        """Return an incident; `latest` is one of its names.

        Raises:
            Missing: there is none.
        """
        name = incident_id
        if incident_id == LATEST:
            name = next((incident.id for incident in self.all()), "")
        found = self._read(name) if ID.fullmatch(name) else None
        if found is None:
            raise Missing(
                "There was no incident yet." if incident_id == LATEST else f"There is no incident {incident_id}."
            )
        return found

    def all(self) -> Iterator[Incident]:
        """Yield all incidents, the latest first; what cannot be read is told and left out."""
        for incident_id in self.ids():
            incident = self._read(incident_id)
            if incident is not None:
                yield incident

    def points(self, incident_id: str) -> list[Row]:
        """Return what was measured, in order: none where it was not kept."""
        path = self.directory / incident_id / "points.csv"
        try:
            lines = path.read_text(encoding="ascii", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        # What stands behind the last line break was being written when somebody died.
        return [*_rows(lines[:-1])]

    def people(self, incident_id: str) -> People:
        """Return who was there, as far as it was kept."""
        try:
            keys = json.loads((self.directory / incident_id / "users.keys").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            keys = {"claimed": [], "found": [], "of_nobody": []}
        users = Users(
            seen=self._bitmap(incident_id, "seen"),
            failed=self._bitmap(incident_id, "failed"),
            claimed={*keys["claimed"]},
        )
        found = self._bitmap(incident_id, "found")
        return People(users=users, found=found, keys_found={*keys["found"]}, of_nobody={*keys["of_nobody"]})

    def _bitmap(self, incident_id: str, name: str) -> Bitmap:
        try:
            return Bitmap.from_bytes((self.directory / incident_id / f"users.{name}").read_bytes())
        except FileNotFoundError:
            return Bitmap()
        except ValueError as error:
            log.warning("incident.users_unreadable", extra={"incident": incident_id, "error": str(error)})
            return Bitmap()

    def _read(self, incident_id: str) -> Incident | None:
        path = self.directory / incident_id / "incident.json"
        try:
            return Incident.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            # Its directory was made, and then nothing more.
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("incident.unreadable", extra={"path": str(path), "error": repr(error)})
            return None

    # Writing.

    def save(self, incident: Incident) -> None:
        """Write the record so that it survives a power cut.

        Raises:
            OSError: it could not be written; what was there before is there still.
        """
        text = json.dumps(incident.as_json(), indent=1, ensure_ascii=False, default=str)
        with self._writing:
            _replace(self._make(incident.id) / "incident.json", text.encode())

    def save_people(self, incident_id: str, people: People) -> None:
        """Write who was there; errors as `save`."""
        users = people.users
        bitmaps = (("seen", users.seen), ("failed", users.failed), ("found", people.found))
        keys = {
            "claimed": sorted(users.claimed),
            "found": sorted(people.keys_found),
            "of_nobody": sorted(people.of_nobody),
        }
        with self._writing:
            directory = self._make(incident_id)
            for name, bitmap in bitmaps:
                _replace(directory / f"users.{name}", bitmap.to_bytes())
            _replace(directory / "users.keys", json.dumps(keys).encode())

    def add_points(self, incident_id: str, rows: Sequence[Row]) -> None:
        """Add rows at the end; they survive the process at once, and a power cut some seconds later.

        Raises:
            OSError: none of them was written.
        """
        with self._writing:
            path = self._make(incident_id) / "points.csv"
            if incident_id not in self._rows:
                self._rows[incident_id] = len(self.points(incident_id))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                end = _end_of_last_line(file)
                header = _header(file)
                text = _lines(rows, header or NAMES)
                try:
                    # Whatever half a line there may be is cut off first.
                    file.truncate(end)
                    file.seek(end)
                    _write_all(
                        file, (_line(["at_s", "seconds", *NAMES]) if not header else "").encode() + text.encode()
                    )
                except OSError:
                    file.truncate(end)
                    raise
            self._rows[incident_id] += len(rows)
            if self._rows[incident_id] >= 2 * ROWS_MAX:
                self._halve(incident_id)

    def forget_points(self) -> list[str]:
        """Remove the points and users of all but the latest incidents; return whose.

        Raises:
            OSError: they could not be removed.
        """
        forgotten = []
        for incident_id in self.ids()[POINTS_KEPT_MAX:]:
            for name in LARGE_FILES:
                path = self.directory / incident_id / name
                if path.exists():
                    path.unlink()
                    forgotten.append(incident_id)
        return sorted({*forgotten}, key=order)

    def _halve(self, incident_id: str) -> None:
        halved = halve(self.points(incident_id))
        text = _line(["at_s", "seconds", *NAMES]) + _lines(halved, NAMES)
        _replace(self.directory / incident_id / "points.csv", text.encode())
        self._rows[incident_id] = len(halved)

    def _make(self, incident_id: str) -> Path:
        path = self.directory / incident_id
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            _sync_directory(self.directory)
            _sync_directory(self.directory.parent)
        return path


def halve(rows: Sequence[Row]) -> list[Row]:
    """Return half as many rows, each of twice the time, with the sums as they were."""
    return [merge(rows[number : number + 2]) for number in range(0, len(rows), 2)]


def merge(rows: Sequence[Row]) -> Row:
    """Return one row for several that follow each other."""
    return Row(at_s=rows[0].at_s, seconds=sum(row.seconds for row in rows), point=rolled([row.point for row in rows]))


def _rows(lines: Sequence[str]) -> Iterator[Row]:
    table = csv.reader(lines)
    names = next(table, [])[2:]
    for cells in table:
        try:
            at_s, seconds, *values = (float(cell) if cell else None for cell in cells)
        except ValueError:
            continue
        if at_s is None or seconds is None or len(values) != len(names):
            continue
        point = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        yield Row(at_s=at_s, seconds=seconds, point=point)


def _lines(rows: Iterable[Row], names: Sequence[str]) -> str:
    return "".join(
        _line(
            [
                f"{row.at_s:.3f}".rstrip("0").rstrip("."),
                f"{row.seconds:g}",
                *(f"{row.point[name]:.9g}" if name in row.point else "" for name in names),
            ]
        )
        for row in rows
    )


def _line(cells: Sequence[str]) -> str:
    return ",".join(cells) + "\n"


def _header(file: io.FileIO) -> list[str]:
    """Return the names of the columns of a file that another release may have begun; none where it is new."""
    file.seek(0)
    line, broken, _ = file.read(64 * 1024).partition(b"\n")
    return line.decode("ascii", "replace").split(",")[2:] if broken else []


def _end_of_last_line(file: io.FileIO) -> int:
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 64 * 1024)
    file.seek(start)
    return start + file.read(size - start).rfind(b"\n") + 1


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_all(file, data)
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        # What it took of a full disk is given back.
        new.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
