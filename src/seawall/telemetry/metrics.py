"""What is counted, what it means, and why it would rise.

On the hot path a metric is a plain number in a slot. Once a second a node tells the keeper where
they stand, and the keeper renders the whole fleet for Prometheus when it is asked. Names follow
OpenTelemetry's semantic conventions in Prometheus' spelling.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

Kind = Literal["counter", "gauge", "histogram"]

WIDTH_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)

DURATION_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric: its name, its labels, what it means, and why it would rise."""

    name: str
    kind: Kind
    meaning: str
    rises_when: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Sample(TypedDict):
    """One value of a metric, or, for a histogram, its counts a bucket and the sum of what it saw."""

    labels: list[str]
    value: float
    counts: list[int]


Snapshot = Mapping[str, Sequence[Sample]]
"""Where every metric of a process stands, by name."""

SnapshotSource = Callable[[], Iterable[tuple[str, Snapshot]]]

DEFINITIONS: Final[tuple[Definition, ...]] = (
    Definition(
        name="http_server_request_duration_seconds",
        kind="histogram",
        labels=("operation", "status"),
        meaning="Time from a request's head to the end of its response.",
        rises_when="the database, the disk or the client is slow, or more is asked than can be done",
        buckets=DURATION_BUCKETS_S,
    ),
    Definition(
        name="seawall_requests_total",
        kind="counter",
        labels=("group", "outcome"),
        meaning="Requests as the objectives count them: served in time (`in_time`) or not (`slow`; what the client "
        "took to send or to read does not count), `refused`, or `failed`. Those whose client went away are left out.",
        rises_when="more is asked; slow, refused and failed: what was promised is not kept",
    ),
    Definition(
        name="http_server_response_body_bytes_total",
        kind="counter",
        labels=("operation",),
        meaning="Bytes of response bodies sent.",
        rises_when="clients read",
    ),
    Definition(
        name="http_server_request_body_bytes_total",
        kind="counter",
        labels=("operation",),
        meaning="Bytes of request bodies received.",
        rises_when="clients write",
    ),
    Definition(
        name="http_server_active_requests",
        kind="gauge",
        meaning="Requests that were received and have not ended, those included that wait to be refused.",
        rises_when="more is asked, or something is slow",
    ),
    Definition(
        name="seawall_request_segment_seconds_total",
        kind="counter",
        labels=("group", "segment"),
        meaning="Where requests spent their time: stretches that do not overlap, and are all of it; `admission` is "
        "that of requests that were refused.",
        rises_when="there are more requests, or this is where they wait",
    ),
    Definition(
        name="seawall_traces_total",
        kind="counter",
        labels=("result",),
        meaning="Traced requests the receiver of traces was told of (sent), and those it was not (lost).",
        rises_when="there are more requests; lost: the receiver is down, slow, or refuses them",
    ),
    Definition(
        name="http_server_connections",
        kind="gauge",
        meaning="Client connections that are open.",
        rises_when="clients come, or stay without asking for anything",
    ),
    Definition(
        name="http_server_connections_refused_total",
        kind="counter",
        meaning="Client connections turned away because too many were open.",
        rises_when="more clients connect than connections_max allows",
    ),
    Definition(
        name="http_server_bad_requests_total",
        kind="counter",
        meaning="Requests refused before they were understood: malformed, ambiguous or too large heads.",
        rises_when="a client is broken, or somebody probes",
    ),
    Definition(
        name="http_server_timeouts_total",
        kind="counter",
        meaning="Connections closed because the client was too slow, or idle for too long.",
        rises_when="clients leave without a word, or are starved of bandwidth",
    ),
    Definition(
        name="http_server_body_memory_bytes",
        kind="gauge",
        meaning="Bytes of request bodies that wait to be written.",
        rises_when="the disk is slower than the clients",
    ),
    Definition(
        name="seawall_gate_requests_total",
        kind="counter",
        labels=("class", "outcome"),
        meaning="Requests by class, and whether they were let in (admitted) or told to come back later (refused).",
        rises_when="refused: more is asked than can be done, or a tenant asks for more than its share",
    ),
    Definition(
        name="seawall_gate_closed_total",
        kind="counter",
        meaning="Requests whose connection was closed unanswered, since too many waited to be told no already.",
        rises_when="clients come again at once, whatever they are told",
    ),
    Definition(
        name="seawall_gate_waiting_refusals",
        kind="gauge",
        meaning="Requests that were turned away and wait to be told so.",
        rises_when="clients come again at once",
    ),
    Definition(
        name="seawall_gate_in_flight",
        kind="gauge",
        meaning="Requests that were let in and are not answered yet.",
        rises_when="more is asked, or something is slow",
    ),
    Definition(
        name="seawall_gate_pace_per_second",
        kind="gauge",
        meaning="Requests a second that are let in; +Inf where nobody is turned away.",
        rises_when="what was scarce is so no longer",
    ),
    Definition(
        name="seawall_gate_level",
        kind="gauge",
        labels=("resource",),
        meaning="How long the queue of something scarce is, in parts of what is tolerated.",
        rises_when="that resource is what limits the service; above 1, less is let in",
    ),
    Definition(
        # OpenTelemetry says `…connection.count`, but Prometheus keeps names that end in `_count` for histograms.
        name="db_client_connections",
        kind="gauge",
        labels=("server", "state"),
        meaning="Connections to PostgreSQL: lent (used) and idle.",
        rises_when="statements take longer, or more wait than fit into a batch",
    ),
    Definition(
        name="db_client_connection_max",
        kind="gauge",
        labels=("server",),
        meaning="Connections to PostgreSQL a process opens at the most, as its lease allows.",
        rises_when="it needs more, and the fleet has them to give",
    ),
    Definition(
        name="db_client_connection_pending_requests",
        kind="gauge",
        labels=("server",),
        meaning="Tasks that wait for a connection.",
        rises_when="the database is slow, or something holds connections for too long",
    ),
    Definition(
        name="db_client_connection_wait_time_seconds",
        kind="histogram",
        labels=("server",),
        meaning="Time a task waited for a connection.",
        rises_when="all connections are in use: see who uses them",
        buckets=DURATION_BUCKETS_S,
    ),
    Definition(
        name="db_client_connection_use_time_seconds",
        kind="histogram",
        labels=("server", "query", "route"),
        meaning="Time a connection was lent, by what it was lent for; a batch counts for the route of its first row.",
        rises_when="that query is slow, or waits for a lock",
        buckets=DURATION_BUCKETS_S,
    ),
    Definition(
        name="db_client_operation_duration_seconds",
        kind="histogram",
        labels=("server", "query"),
        meaning="Time from sending a statement to its last row; a batch is one statement.",
        rises_when="that query is slow, waits for a lock, or the server is far away",
        buckets=DURATION_BUCKETS_S,
    ),
    Definition(
        name="db_client_connection_create_time_seconds",
        kind="histogram",
        labels=("server",),
        meaning="Time it took to open a connection.",
        rises_when="the server is busy, or far away",
        buckets=DURATION_BUCKETS_S,
    ),
    Definition(
        name="db_client_connection_timeouts_total",
        kind="counter",
        labels=("server",),
        meaning="Tasks that got no connection by their deadline.",
        rises_when="connections are held for longer than clients have patience",
    ),
    Definition(
        name="db_client_connection_events_total",
        kind="counter",
        labels=("server", "event"),
        meaning="Connections opened, retired for their age, failed to open, refused by a full server; cancels sent.",
        rises_when="the server restarts or is full (failed, refused), or clients give up (cancels)",
    ),
    Definition(
        name="db_client_turned_away_total",
        kind="counter",
        labels=("queue", "server", "reason"),
        meaning="Who waited for the database in vain: refused at the door, shed from a queue that stood, or expired.",
        rises_when="more is asked than the database can do",
    ),
    Definition(
        name="db_client_batch_wait_seconds_total",
        kind="counter",
        labels=("query", "server"),
        meaning="Time rows waited for their statement to be sent, summed up.",
        rises_when="more is asked than the database answers",
    ),
    Definition(
        name="db_client_batch_pending_rows",
        kind="gauge",
        labels=("query", "server"),
        meaning="Rows that wait for the next batched statement.",
        rises_when="more is asked than the database answers",
    ),
    Definition(
        name="db_client_batch_width",
        kind="histogram",
        labels=("query", "server"),
        meaning="Rows in a batched statement.",
        rises_when="more is asked: what waits together goes together",
        buckets=WIDTH_BUCKETS,
    ),
    Definition(
        name="db_client_batch_saved_statements_total",
        kind="counter",
        labels=("query", "server"),
        meaning="Statements that were not sent because another took their row along.",
        rises_when="more is asked: what waits together goes together",
    ),
    Definition(
        name="db_client_retries_total",
        kind="counter",
        labels=("outcome",),
        meaning="Rows sent again because their connection was lost (made), or not, since too many were (refused).",
        rises_when="connections to the database are lost",
    ),
    Definition(
        name="db_client_server_up",
        kind="gauge",
        labels=("server",),
        meaning="Whether a database server answered its last check (only where several are named).",
        rises_when="a server is back; 0: it cannot be reached, or does not answer within a second",
    ),
    Definition(
        name="db_client_server_primary",
        kind="gauge",
        labels=("server",),
        meaning="Whether a database server is the one that takes writes.",
        rises_when="it was promoted",
    ),
    Definition(
        name="db_client_server_ejections_total",
        kind="counter",
        labels=("server",),
        meaning="How often a database server was left out because it did not answer.",
        rises_when="it dies, hangs, or the way to it is cut",
    ),
    Definition(
        name="db_client_failovers_total",
        kind="counter",
        meaning="How often another database server took over the writes.",
        rises_when="a replica is promoted",
    ),
    Definition(
        name="db_client_replica_age_seconds",
        kind="gauge",
        labels=("server",),
        meaning="How long ago the primary was where a replica is; checks are a second apart, so 2 is as good as 0.",
        rises_when="the replica cannot replay as fast as the primary writes, or is away",
    ),
    Definition(
        name="db_client_replica_reads_total",
        kind="counter",
        labels=("server", "outcome"),
        meaning="Rows asked of a replica: answered there, or read again on the primary because they were missing or "
        "newer than what it showed (judged), the replica had not replayed enough (late), or did not answer (failed).",
        rises_when="reads are spread; late and failed: the replica lags or is ill",
    ),
    Definition(
        name="process_cpu_seconds_total",
        kind="counter",
        meaning="User and system time spent.",
        rises_when="there is work",
    ),
    Definition(
        name="process_start_time_seconds",
        kind="gauge",
        meaning="When the process was started, in seconds since 1970.",
        rises_when="it was started anew",
    ),
    Definition(
        name="process_virtual_memory_bytes",
        kind="gauge",
        meaning="Virtual memory: what is reserved, used or not.",
        rises_when="more is reserved",
    ),
    Definition(
        name="process_resident_memory_bytes",
        kind="gauge",
        meaning="Resident memory.",
        rises_when="many requests are under way, or something leaks",
    ),
    Definition(
        name="process_open_fds",
        kind="gauge",
        meaning="Open file descriptors.",
        rises_when="there are more connections and open files, or something leaks",
    ),
    Definition(
        name="seawall_nodes_expected",
        kind="gauge",
        meaning="Nodes there should be, as the keeper sees it.",
        rises_when="more of them are wanted",
    ),
    Definition(
        name="process_max_fds",
        kind="gauge",
        meaning="File descriptors it may have open.",
        rises_when="the limit was raised",
    ),
    Definition(
        name="seawall_event_loop_lag_seconds",
        kind="gauge",
        meaning="How late the event loop was at the most, in the last second.",
        rises_when="the node has more to do than one core can, or does not get its core",
    ),
    Definition(
        name="seawall_node_up",
        kind="gauge",
        meaning="1 for each node the keeper hears from.",
        rises_when="nodes are added",
    ),
)


class Histogram:
    """Counts of what fell into each bucket. State: the counts, the last of them for the rest, and the sum."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value

    def sample(self, *labels: str) -> Sample:
        """Return where the counts stand."""
        return Sample(labels=[*labels], value=self.total, counts=[*self.counts])


class RequestMetrics:
    """What is counted of every request. State: the counts."""

    __slots__ = ("_by_outcome", "_received", "_sent")

    def __init__(self) -> None:
        self._by_outcome: dict[tuple[str, int], Histogram] = {}
        self._sent: dict[str, int] = {}
        self._received: dict[str, int] = {}

    def observe(self, operation: str, status: int, duration_s: float, sent_bytes: int, received_bytes: int) -> None:
        """Count one request."""
        histogram = self._by_outcome.get((operation, status))
        if histogram is None:
            histogram = self._by_outcome[operation, status] = Histogram(DURATION_BUCKETS_S)
        histogram.observe(duration_s)
        if sent_bytes:
            self._sent[operation] = self._sent.get(operation, 0) + sent_bytes
        if received_bytes:
            self._received[operation] = self._received.get(operation, 0) + received_bytes

    def snapshot(self) -> dict[str, list[Sample]]:
        """Return where the counts stand."""
        return {
            "http_server_request_duration_seconds": [
                histogram.sample(operation, str(status)) for (operation, status), histogram in self._by_outcome.items()
            ],
            "http_server_response_body_bytes_total": [
                number(sent, operation) for operation, sent in self._sent.items()
            ],
            "http_server_request_body_bytes_total": [
                number(received, operation) for operation, received in self._received.items()
            ],
        }


def number(value: float, *labels: str) -> Sample:
    """Return a sample that is just a number."""
    return Sample(labels=[*labels], value=value, counts=[])


class FleetCollector(Collector):
    """Renders the snapshots of all nodes. State: none; it asks for them."""

    def __init__(self, snapshots: SnapshotSource) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with a `node` label."""
        snapshots = dict(self._snapshots())
        for definition in DEFINITIONS:
            family = _family(definition)
            for node, snapshot in snapshots.items():
                for sample in snapshot.get(definition.name, ()):
                    _add(family, definition, [node, *sample["labels"]], sample)
            yield family


def registry_of(collector: Collector) -> CollectorRegistry:
    """Return a registry with this collector alone: not the library's global one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def _family(definition: Definition) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    labels = ["node", *definition.labels]
    meaning = f"{definition.meaning} Rises when {definition.rises_when}."
    if definition.kind == "counter":
        return CounterMetricFamily(definition.name.removesuffix("_total"), meaning, labels=labels)
    if definition.kind == "gauge":
        return GaugeMetricFamily(definition.name, meaning, labels=labels)
    return HistogramMetricFamily(definition.name, meaning, labels=labels)


def _add(
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily,
    definition: Definition,
    labels: list[str],
    sample: Sample,
) -> None:
    if isinstance(family, HistogramMetricFamily):
        running, buckets = 0, []
        for bound, count in zip([*map(str, definition.buckets), "+Inf"], sample["counts"], strict=True):
            running += count
            buckets.append((bound, running))
        family.add_metric(labels, buckets=buckets, sum_value=sample["value"])
    else:
        family.add_metric(labels, sample["value"])
