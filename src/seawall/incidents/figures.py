"""The charts of an incident: what users had, what was scarce, where time went, with the moments marked on all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from seawall.incidents.record import Incident
from seawall.incidents.series import binned, quantile_s, rate, share
from seawall.incidents.similar import seconds_per_request
from seawall.incidents.store import Row
from seawall.monitoring.things import Layer
from seawall.telemetry.charts import Chart, Mark, Series

BINS_MAX: Final = 240
"""More moments than this are not seen, and make the page heavy."""

MILESTONES: Final = (
    ("began", "began_s"),
    ("detected", "detected_s"),
    ("diagnosed", "diagnosed_s"),
    ("mitigated", "mitigated_s"),
    ("recovered", "recovered_s"),
)
"""What is marked on the charts, by number, and where an incident has it."""

SEGMENT_COLOURS: Final = {
    "database_wait": ("waiting for the database", "bad"),
    "database": ("database", "blue"),
    "disk": ("disk", "brown"),
    "network": ("network, client", "teal"),
    "authentication": ("authentication", "violet"),
    "hashing": ("hashing", "warn"),
    "other": ("own code, event loop", "grey"),
}

Reading = Callable[[Row], float | None]


def _column(name: str) -> Reading:
    return lambda row: row.point.get(name)


def _percent_of(name: str) -> Reading:
    return lambda row: None if name not in row.point else row.point[name] * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What a chart shows: its series with what each is called and its colour, in the unit of the chart."""

    title: str
    unit: str
    readings: tuple[tuple[str, str, Reading], ...]
    is_stacked: bool = False
    is_logarithmic: bool = False


def _share(what: str) -> Reading:
    def read(row: Row) -> float | None:
        part = share(row, what)
        return None if part is None else part * 100

    return read


def _rate(what: str) -> Reading:
    return lambda row: rate(row, what)


def _quantile(part: float) -> Reading:
    return lambda row: quantile_s([row.point], part)


def _segment(name: str) -> Reading:
    return lambda row: seconds_per_request([row.point]).get(name)


PLOTS: Final = (
    Plot(
        title="Requests by outcome",
        unit="/s",
        is_stacked=True,
        readings=(
            ("served in time", "good", _rate("served")),
            ("slow", "warn", _rate("slow")),
            ("refused", "violet", _rate("refused")),
            ("failed", "bad", _rate("failed")),
        ),
    ),
    Plot(
        title="Failed, refused and slow, of all that was asked",
        unit="%",
        readings=(
            ("slow", "warn", _share("slow")),
            ("refused", "violet", _share("refused")),
            ("failed", "bad", _share("failed")),
        ),
    ),
    Plot(
        title="Latency of what was served",
        unit="s",
        is_logarithmic=True,
        readings=(
            ("99 of 100 within", "bad", _quantile(0.99)),
            ("half within", "blue", _quantile(0.5)),
        ),
    ),
    Plot(
        title="Where a request spent its time, on average",
        unit="s",
        is_stacked=True,
        readings=tuple((called, colour, _segment(name)) for name, (called, colour) in SEGMENT_COLOURS.items()),
    ),
    Plot(
        title="Who waits for the database",
        unit="",
        readings=(
            ("rows for a batch", "violet", _column("pool.rows_waiting")),
            ("tasks for a connection", "warn", _column("pool.waiting")),
        ),
    ),
    Plot(
        title="Connections to the database",
        unit="",
        readings=(
            ("allowed", "grey", _column("pool.size")),
            ("in use", "blue", _column("pool.lent")),
        ),
    ),
)

SUSPECTS: Final = {
    Layer.STATEMENTS: Plot(
        title="The database at work",
        unit="",
        readings=(
            ("statements running", "blue", _column("database.active")),
            ("longest of them, seconds", "bad", _column("database.longest_statement_s")),
        ),
    ),
    Layer.LOCKS: Plot(
        title="Waiting for locks in the database",
        unit="",
        readings=(
            ("sessions that wait", "blue", _column("database.lock_waiters")),
            ("the longest wait, seconds", "bad", _column("database.lock_wait_s")),
        ),
    ),
    Layer.DATABASE: Plot(
        title="The keeper's probe of the database (1: it answered)",
        unit="",
        readings=(("answered", "blue", _column("database.up")),),
    ),
    Layer.REPLICA: Plot(
        title="Replicas",
        unit="",
        readings=(
            ("age of what the oldest shows, seconds", "bad", _column("replica.age_s")),
            ("left out", "blue", _column("replica.out")),
        ),
    ),
    Layer.DISK: Plot(
        title="A small write with a sync in the data directory",
        unit="s",
        is_logarithmic=True,
        readings=(("took", "bad", _column("disk.probe_s")),),
    ),
    Layer.NETWORK: Plot(
        title="Clients and their network",
        unit="/s",
        readings=(
            ("segments sent again", "warn", lambda row: row.point.get("tcp.retransmits", 0.0) / row.seconds),
            ("clients gone before their answer", "bad", lambda row: row.point.get("clients.gone", 0.0) / row.seconds),
        ),
    ),
    Layer.PROCESSOR: Plot(
        title="Processor",
        unit="%",
        readings=(
            ("of the machine in use", "blue", _percent_of("cpu.machine")),
            ("of the time a node was kept waiting", "bad", _percent_of("cpu.waited")),
        ),
    ),
    Layer.TENANT: Plot(
        title="What the largest tenant took of all work",
        unit="%",
        readings=(("took", "bad", _percent_of("tenant.share")),),
    ),
    Layer.DEMAND: Plot(
        title="What was asked, and what may come in",
        unit="/s",
        readings=(("asked", "blue", _rate("requests")), ("the pace", "grey", _column("gate.pace_per_s"))),
    ),
}
"""What is shown besides, of the layer that is suspected."""


def charts_of(incident: Incident, rows: Sequence[Row]) -> list[Chart]:
    """Return the charts, in the order in which they are read."""
    suspect = incident.best.suspect if incident.best is not None else None
    plots = [*PLOTS, *([SUSPECTS[suspect]] if suspect in SUSPECTS else [])]
    bins = binned(rows, BINS_MAX)
    return [chart for plot in plots if (chart := _chart(plot, incident, bins)) is not None]


def marks_of(incident: Incident) -> list[tuple[Mark, str]]:
    """Return the moments to be marked, with their names."""
    found = []
    for number, (name, attribute) in enumerate(MILESTONES, 1):
        at_s = getattr(incident, attribute)
        if at_s is not None:
            found.append((Mark(at_s=at_s, number=number), name))
    return found


def _chart(plot: Plot, incident: Incident, bins: Sequence[Row]) -> Chart | None:
    """Return a chart of what was measured; None where nothing was. What is 0 all the time is not drawn in a stack."""
    series = []
    for called, colour, reading in plot.readings:
        values = [reading(row) for row in bins]
        known = [value for value in values if value is not None]
        if known and (any(known) or not plot.is_stacked):
            series.append(Series(name=called, colour=colour, values=values))
    if not series:
        return None
    end_s = bins[-1].at_s + bins[-1].seconds
    return Chart(
        title=plot.title,
        moments=[row.at_s + row.seconds / 2 for row in bins],
        series=series,
        unit=plot.unit,
        marks=[mark for mark, _ in marks_of(incident)],
        shaded=(incident.began_s, incident.recovered_s or end_s),
        is_stacked=plot.is_stacked,
        is_logarithmic=plot.is_logarithmic,
    )
