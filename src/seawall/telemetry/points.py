"""What one second was like, as numbers with names: what nodes tell the keeper, and what all conclusions are drawn from.

A point is a flat mapping of names to numbers. It is the same for one node and for the fleet, and for a second, ten, or
a minute: each column says how it is merged over nodes and over time. What was not measured is not there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from seawall.telemetry.metrics import DURATION_BUCKETS_S
from seawall.telemetry.segments import SEGMENTS

Point = Mapping[str, float]

GROUPS: Final = ("reads", "writes", "others")
"""Kinds of requests that are looked at apart: GET and HEAD of objects, what writes them, and all else."""


class Merge(StrEnum):
    """How two numbers of a column become one."""

    SUM = "sum"
    MOST = "most"
    LEAST = "least"
    LAST = "last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One number: its name and what it means, and how it is merged over nodes (of one second) and over time."""

    name: str
    meaning: str
    nodes: Merge = Merge.SUM
    time: Merge = Merge.SUM


def _group(group: str) -> Iterator[Column]:
    yield Column(name=f"{group}.requests", meaning="Requests that ended, but for those whose client went away.")
    yield Column(name=f"{group}.failed", meaning="Of these, answered 5xx for another reason than too much being asked.")
    yield Column(name=f"{group}.refused", meaning="Of these, told to come back later: `SlowDown`.")
    yield Column(name=f"{group}.slow", meaning="Of those served, not within the objective's threshold.")
    yield Column(name=f"{group}.seconds", meaning="Their durations, summed up, in seconds; of those admitted.")
    for bound in (*DURATION_BUCKETS_S, math.inf):
        yield Column(name=f"{group}.le.{bound:g}", meaning=f"Served in {bound:g} s, and not in the bucket before.")
    for segment in SEGMENTS:
        yield Column(
            name=f"{group}.segment.{segment.name.lower()}", meaning="Seconds in this segment, of those admitted."
        )


def _gauge(name: str, meaning: str, *, nodes: Merge = Merge.MOST, time: Merge = Merge.MOST) -> Column:
    return Column(name=name, meaning=meaning, nodes=nodes, time=time)


_TOTAL: Final = {"nodes": Merge.SUM, "time": Merge.MOST}
_LEAST: Final = {"nodes": Merge.LEAST, "time": Merge.LEAST}

COLUMNS: Final[tuple[Column, ...]] = (
    *(column for group in GROUPS for column in _group(group)),
    # Admission.
    _gauge("gate.pace_per_s", "Requests a second that may come in; not there while there is no limit.", **_TOTAL),
    _gauge("gate.level", "The longest queue of what is scarce, in parts of what is tolerated."),
    _gauge("gate.in_flight", "Requests that have been let in and not ended.", **_TOTAL),
    _gauge("gate.waiting", "Refusals that wait to be told.", **_TOTAL),
    Column(name="gate.closed", meaning="Requests whose connection was closed unanswered."),
    # Connections to the database.
    _gauge("pool.size", "Connections the nodes may have, by their leases.", **_TOTAL),
    _gauge("pool.lent", "Connections in use when the second ended.", **_TOTAL),
    _gauge("pool.busy", "The greatest part of a node's connections that was in use, of the second's time."),
    _gauge("pool.waiting", "Tasks that wait for a connection.", **_TOTAL),
    _gauge("pool.rows_waiting", "Rows that wait for a batch.", **_TOTAL),
    _gauge("pool.longest_hold_s", "How long the connection that is held longest has been held."),
    Column(name="pool.statements", meaning="Holds of a connection that ended."),
    Column(name="pool.held_s", meaning="How long these held it, in seconds, summed up."),
    Column(name="pool.opened", meaning="Connections opened."),
    Column(name="pool.failed", meaning="Attempts to open one that failed."),
    Column(name="pool.refused", meaning="Of these, for the server accepts no more (53300)."),
    Column(name="pool.turned_away", meaning="Who waited for the database and was turned away, or too late."),
    _gauge("pool.without_lease", "Nodes without a share of the connections.", nodes=Merge.SUM),
    # Replicas.
    _gauge("replica.age_s", "How old what the oldest replica shows is."),
    _gauge("replica.out", "Replicas that are left out: ill, or late.", nodes=Merge.MOST),
    Column(name="replica.late", meaning="Reads that were done on the primary, for a replica was late."),
    Column(name="replica.failed", meaning="Reads that were done on the primary, for a replica did not answer."),
    # The node.
    _gauge("loop.lag_s", "The greatest lag of an event loop."),
    _gauge("loop.lag_least_s", "The least lag of an event loop in the second; above 0 it has too much to do."),
    _gauge("cpu.used", "Processor time a node used, in cores."),
    _gauge("cpu.waited", "Time a node was ready to run and was not let (run delay), in parts of a second."),
    _gauge("cpu.machine", "Part of the machine's processors that was in use."),
    _gauge("cpu.stolen", "Part of them that the hypervisor took."),
    _gauge("memory.resident_bytes", "The largest node."),
    _gauge("memory.available_bytes", "What the machine has left.", **_LEAST),
    _gauge("memory.bodies", "Part of the memory for bodies that is in use."),
    _gauge("descriptors.used", "Part of the open files a node may have."),
    # The disk.
    _gauge("disk.probe_s", "How long a small write with a sync takes in the data directory."),
    _gauge("disk.free_bytes", "Free space for blobs, above the reserve.", **_LEAST),
    Column(name="disk.refused", meaning="Writes refused for want of space."),
    Column(name="disk.errors", meaning="Reads and writes that the disk failed."),
    # The network.
    _gauge("clients.connections", "Client connections that are open.", **_TOTAL),
    Column(name="clients.opened", meaning="Client connections accepted."),
    Column(name="clients.gone", meaning="Requests whose client went away before the answer was sent."),
    Column(name="clients.reset", meaning="Client connections that ended with an error: reset, or timed out."),
    _gauge("clients.first_byte_s", "Median time from a new connection to its first byte; not there without any."),
    _gauge("clients.drain_s", "Median time an answer above 64 KiB takes for each MiB; not there without any."),
    Column(name="tcp.retransmits", meaning="Segments the machine sent again.", nodes=Merge.MOST),
    Column(name="tcp.overflows", meaning="Connections dropped for a full accept queue.", nodes=Merge.MOST),
    _gauge("tcp.accept_queue", "Connections that wait to be accepted."),
    # Users.
    _gauge("users.seen", "Distinct accounts that asked for something in this minute.", nodes=Merge.MOST),
    _gauge("users.failed", "Distinct accounts for which something failed or was refused in this minute."),
    _gauge("tenant.share", "The part of all work that the largest tenant took."),
    # What the keeper sees by itself.
    _gauge("nodes.up", "Nodes that reported.", nodes=Merge.LAST, time=Merge.LEAST),
    _gauge("nodes.expected", "Nodes there should be.", nodes=Merge.LAST, time=Merge.MOST),
    _gauge("nodes.ready", "Nodes that report, and say that they are ready.", nodes=Merge.LAST, time=Merge.LEAST),
    _gauge("database.up", "1 when the database answered the keeper's probe, else 0.", **_LEAST),
    _gauge("database.answer_s", "How long it took."),
    _gauge("database.connections", "Connections the server has."),
    _gauge("database.connections_max", "Connections the server accepts, without what is reserved for administrators."),
    _gauge("database.foreign", "Connections that are not ours."),
    _gauge("database.active", "Sessions, ours or not, that run a statement."),
    _gauge("database.active_foreign", "Of these, those that are not ours and not waiting."),
    _gauge("database.lock_waiters", "Sessions that wait for a lock."),
    _gauge("database.lock_wait_s", "How long the longest of them has waited."),
    _gauge("database.idle_in_transaction", "Sessions that are idle in a transaction."),
    _gauge("database.idle_in_transaction_s", "How long the longest of them has been."),
    _gauge("database.longest_statement_s", "How long the statement that has run longest has run."),
    _gauge("database.cpu", "Processor time PostgreSQL used, in cores, where it runs on this machine."),
    _gauge("database.opened", "Connections to it that anybody opened, a second."),
    _gauge("database.replica_lag_s", "How late what the latest replica shows is, as the primary sees it."),
    _gauge("database.disk_free_bytes", "Free space where PostgreSQL has its data, if on this machine.", **_LEAST),
    Column(name="seconds", meaning="How many seconds this tells of; sums divided by it are rates.", nodes=Merge.MOST),
)

NAMES: Final = tuple(column.name for column in COLUMNS)
BY_NAME: Final = {column.name: column for column in COLUMNS}


def merged(points: Iterable[Point]) -> dict[str, float]:
    """Return the point of a fleet from those of its nodes in the same second."""
    return _merge(points, {column.name: column.nodes for column in COLUMNS})


def rolled(points: Iterable[Point]) -> dict[str, float]:
    """Return the point of a longer time from those of its seconds, in order.

    >>> rolled([{"reads.requests": 2.0, "loop.lag_s": 0.1}, {"reads.requests": 3.0}])
    {'reads.requests': 5.0, 'loop.lag_s': 0.1}
    """
    return _merge(points, {column.name: column.time for column in COLUMNS})


def _merge(points: Iterable[Point], how: Mapping[str, Merge]) -> dict[str, float]:
    found: dict[str, float] = {}
    for point in points:
        for name, value in point.items():
            known = found.get(name)
            if known is None:
                found[name] = value
                continue
            match how.get(name, Merge.LAST):
                case Merge.SUM:
                    found[name] = known + value
                case Merge.MOST:
                    found[name] = max(known, value)
                case Merge.LEAST:
                    found[name] = min(known, value)
                case Merge.LAST:
                    found[name] = value
    return found


def total(point: Point, what: str) -> float:
    """Return the sum of a group's column over all groups: `requests`, `failed`, `refused`, `slow`, `seconds`.

    >>> total({"reads.requests": 2.0, "writes.requests": 1.0}, "requests")
    3.0
    """
    return sum(point.get(f"{group}.{what}", 0.0) for group in GROUPS)
