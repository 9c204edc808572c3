"""What is known against a layer, and what it is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from seawall.monitoring.comparison import Comparison
from seawall.monitoring.database_sight import DatabaseSight, Trouble
from seawall.monitoring.things import Culprit, Layer
from seawall.telemetry.segments import Segment

MIB: Final = 1024 * 1024

NO_ROOM_BYTES: Final = 16.0 * MIB
"""One segment of PostgreSQL's log: with less it cannot go on writing."""

CORES_TAKEN: Final = 0.3
"""Cores that statements of others take before our own notice."""

CROWD: Final = 1.5
"""Times the usual, from where on it is the demand."""

IN_DATABASE: Final = frozenset({Segment.DATABASE, Segment.DATABASE_WAIT})

IN_NODE: Final = IN_DATABASE | {Segment.OTHER, Segment.AUTHENTICATION, Segment.HASHING}
"""What takes longer where a node does not get the processor: everything but the disk and the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One account's part of what was asked in the stretch that is looked at. `work_s` is the time its requests took."""

    number: int
    requests: float
    work_s: float
    refused: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All there is to judge by. `disk_trouble` is what the disk probe's last write ended with."""

    seen: Comparison
    sight: DatabaseSight | None
    tenants: Sequence[Tenant] = ()
    disk_trouble: str = ""

    @property
    def was_down(self) -> bool:
        """Whether the database did not answer the keeper, at some moment of now."""
        return self.seen.least("database.up") == 0.0

    @property
    def is_silent(self) -> bool:
        """Whether nothing comes back from the database now, and nobody refuses."""
        return self.sight is not None and not self.sight.up and self.sight.trouble is Trouble.SILENT

    @property
    def foreign_cores(self) -> float:
        """How many cores statements of others use, as far as they are known to run on this machine."""
        if (self.seen.high("database.active_foreign") or 0.0) < 1:
            return 0.0
        return max(0.0, (self.seen.high("database.cpu") or 0.0) - (self.seen.usual("database.cpu") or 0.0))

    @property
    def database_has_no_room(self) -> bool:
        """Whether the database's disk is full, as far as it is on this machine, or by its own words."""
        free = self.seen.least("database.disk_free_bytes")
        return (free is not None and free < NO_ROOM_BYTES) or (
            self.sight is not None and Trouble.NO_ROOM in {self.sight.trouble, self.sight.last_trouble}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known against a layer; with a strength of 0 it is innocent, and `cleared` says by which numbers.

    `segments` are where the added time goes if it is the cause, `fails` and `refuses` whether it makes requests fail or
    be refused. `strength` is how sure the mechanism is, from 0 to 1.
    """

    layer: Layer
    cleared: str
    evidence: tuple[str, ...] = ()
    segments: frozenset[Segment] = frozenset()
    fails: bool = True
    refuses: bool = True
    strength: float = 0.0
    mechanism: str = ""
    advice: tuple[str, ...] = ()
    culprit: Culprit | None = None

    def charged(self, strength: float, mechanism: str, *advice: str, culprit: Culprit | None = None) -> "Case":
        """Return the case with a mechanism."""
        return replace(self, strength=strength, mechanism=mechanism, advice=advice, culprit=culprit)
