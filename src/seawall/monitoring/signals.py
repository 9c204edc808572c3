"""Watch the numbers for which nobody has promised anything, and say which of them became unusual.

It warns, and never wakes anybody: what is unusual need not be wrong. Objectives have alerts of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from seawall.monitoring.detector import Detector
from seawall.monitoring.things import Alert, Severity
from seawall.telemetry.points import Point

EVERY_S: Final = 10
"""A detector is shown the mean of so many seconds: one slow second in a day is noise."""

REMEMBERED: Final = 2048
"""Of these means: the latest 5.7 hours. 0.4 MB for each signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A column of points and how to speak of it. A difference below what `matters`, in its unit, concerns nobody."""

    column: str
    says: str
    unit: str
    matters: float


def _signal(column: str, says: str, unit: str, *, matters: float) -> Signal:
    return Signal(column=column, says=says, unit=unit, matters=matters)


SIGNALS: Final[Sequence[Signal]] = (
    _signal("disk.probe_s", "the disk's probe takes", "s", matters=0.01),
    _signal("disk.free_bytes", "the space that is free for blobs is", "bytes", matters=256 * 2**20),
    _signal("database.answer_s", "the database takes for an answer", "s", matters=0.01),
    _signal("database.connections", "the connections of the database are", "", matters=3),
    _signal("database.foreign", "the connections that others have to the database are", "", matters=2),
    _signal("database.active", "the sessions of the database that run a statement are", "", matters=2),
    _signal("database.lock_waiters", "the sessions that wait for a lock are", "", matters=1),
    _signal("database.longest_statement_s", "the longest statement has run for", "s", matters=1),
    _signal("database.cpu", "PostgreSQL uses, in cores,", "", matters=0.2),
    _signal("pool.busy", "the busiest node's connections are in use for", "parts", matters=0.1),
    _signal("pool.waiting", "the tasks that wait for a connection are", "", matters=5),
    _signal("loop.lag_s", "the greatest lag of an event loop is", "s", matters=0.02),
    _signal("cpu.machine", "the part of the processors in use is", "parts", matters=0.1),
    _signal("cpu.stolen", "the hypervisor takes of the processors", "parts", matters=0.05),
    _signal("memory.resident_bytes", "the largest node has in memory", "bytes", matters=32 * 2**20),
    _signal("descriptors.used", "the open files a node may have are used for", "parts", matters=0.05),
    _signal("replica.age_s", "the oldest replica is behind by", "s", matters=0.1),
    _signal("clients.opened", "the new client connections each second are", "", matters=10),
    _signal("clients.reset", "the client connections each second that end with an error are", "", matters=1),
    _signal("clients.first_byte_s", "a new connection's first byte takes", "s", matters=0.05),
    _signal("tcp.retransmits", "the segments sent again each second are", "", matters=10),
    _signal("tenant.share", "the largest tenant takes of all work", "parts", matters=0.2),
)


class SignalWatch:
    """Feeds a detector for each signal. State: the detectors, and the seconds of each that are not ten yet."""

    def __init__(self, signals: Sequence[Signal] = SIGNALS, *, every_s: int = EVERY_S) -> None:
        self._every_s = every_s
        # Each signal's ten seconds end at another second, so that no second has the work of all.
        self._watched = [_Watched(signal, shift_s=number % every_s) for number, signal in enumerate(signals)]

    def __repr__(self) -> str:
        return f"<SignalWatch of {len(self._watched)} signals, each {self._every_s} s>"

    def observe(self, at_s: float, point: Point) -> list[Alert]:
        """Look at a second of the fleet, and return what became unusual: an alert once an episode.

        Args:
            at_s: the second, on the wall clock. Seconds may be missing; after a jump of the clock it goes on.
            point: what was measured. A column that is not there is passed over.
        """
        alerts = []
        for watched in self._watched:
            alert = watched.observe(at_s, point.get(watched.signal.column), every_s=self._every_s)
            if alert is not None:
                alerts.append(alert)
        return alerts


class _Watched:
    """One signal. State: its detector, and the sum of the seconds since it was last shown something."""

    def __init__(self, signal: Signal, *, shift_s: int) -> None:
        self.signal = signal
        self._shift_s = shift_s
        self._detector = Detector(remembered=REMEMBERED, resolution=signal.matters)
        self._stretch: int | None = None
        self._began_s = 0.0
        self._sum = 0.0
        self._count = 0

    def observe(self, at_s: float, value: float | None, *, every_s: int) -> Alert | None:
        alert = None
        stretch = int(at_s + self._shift_s) // every_s
        if stretch != self._stretch:
            if self._count:
                alert = self._judge(self._sum / self._count, at_s=at_s)
            self._stretch, self._began_s, self._sum, self._count = stretch, at_s, 0.0, 0
        if value is not None:
            self._sum += value
            self._count += 1
        return alert

    def _judge(self, mean: float, *, at_s: float) -> Alert | None:
        usual = self._detector.usual
        is_alert = self._detector.observe(datetime.fromtimestamp(self._began_s, tz=UTC), mean).is_alert
        if not is_alert or abs(mean - usual) < self.signal.matters:
            return None
        return Alert(
            name=f"signal:{self.signal.column}",
            severity=Severity.WARNING,
            rule="unusual",
            began_s=self._began_s,
            fired_s=at_s,
            observed=mean,
            threshold=usual,
            reason=f"{self.signal.says} {_told(mean, self.signal.unit)}; {_told(usual, self.signal.unit)} is usual",
        )


UNITS: Final[Mapping[str, tuple[float, str]]] = MappingProxyType(
    {"": (1.0, ""), "s": (1.0, " s"), "parts": (100.0, " %"), "bytes": (2.0**-20, " MiB")}
)


def _told(value: float, unit: str) -> str:
    """Return a number as one says it: with two digits that mean something, or all before the point.

    >>> _told(0.2512, "s"), _told(0.97, "parts"), _told(3 * 2**30, "bytes")
    ('0.25 s', '97 %', '3,072 MiB')
    """
    factor, name = UNITS[unit]
    number = value * factor
    return f"{number:,.0f}{name}" if abs(number) >= 100 else f"{number:.2g}{name}"
