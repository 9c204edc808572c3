"""Where the metrics of a process stand, for `/metrics` and for `seawall status`."""

import math
import resource
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from seawall.admission import Gate
from seawall.clock import monotonic_s
from seawall.database import Balancer, Database
from seawall.database.holds import ACCOUNTS_MAX
from seawall.database.pool import HELD_TOO_LONG_S
from seawall.database.servers import Server
from seawall.telemetry.host import open_descriptors, started_s
from seawall.telemetry.metrics import number
from seawall.telemetry.purpose import Urgency

if TYPE_CHECKING:
    from seawall.service.node import Node

# Lines of the table of who holds connections: with ten, nobody who matters is missing.
BLAMED_MAX = 10
STARTED_S: Final = started_s()


def node_snapshot(node: "Node") -> dict[str, Any]:
    """Return where every metric of a node stands."""
    node.second.count()
    server = node.server
    usage = resource.getrusage(resource.RUSAGE_SELF)
    virtual_pages, resident_pages = map(int, Path("/proc/self/statm").read_text().split()[:2])
    return {
        **node.metrics.snapshot(),
        **gate_snapshot(node.gate),
        **database_snapshot(node.database),
        "seawall_requests_total": node.second.counts.outcome_samples(),
        "seawall_request_segment_seconds_total": node.second.counts.segment_samples(),
        "seawall_event_loop_lag_seconds": [number(node.second.lag_s)],
        "seawall_traces_total": traces_samples(node),
        "http_server_active_requests": [number(server.active)],
        "http_server_connections": [number(server.connections)],
        "http_server_connections_refused_total": [number(server.counts.refused_connections)],
        "http_server_bad_requests_total": [number(server.counts.bad_heads)],
        "http_server_timeouts_total": [number(server.counts.expired)],
        "http_server_body_memory_bytes": [number(server.body_memory.held_bytes)],
        "process_cpu_seconds_total": [number(usage.ru_utime + usage.ru_stime)],
        "process_resident_memory_bytes": [number(resident_pages * resource.getpagesize())],
        "process_virtual_memory_bytes": [number(virtual_pages * resource.getpagesize())],
        "process_start_time_seconds": [number(STARTED_S)],
        "process_open_fds": [number(open_descriptors())],
        "process_max_fds": [number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])],
        "seawall_node_up": [number(1)],
    }


def traces_samples(node: "Node") -> list[Any]:
    """Return how many requests a tracing system was told of; nothing where there is none."""
    traces = node.traces
    return [] if traces is None else [number(traces.sent, "sent"), number(traces.lost, "lost")]


def gate_snapshot(gate: Gate) -> dict[str, Any]:
    """Return where the metrics of admission stand."""
    counts = gate.counts
    return {
        "seawall_gate_requests_total": [
            number(by_class[urgency], urgency.name.lower(), outcome)
            for outcome, by_class in (("admitted", counts.admitted), ("refused", counts.refused))
            for urgency in Urgency
        ],
        "seawall_gate_closed_total": [number(counts.closed)],
        "seawall_gate_waiting_refusals": [number(gate.waiting)],
        "seawall_gate_in_flight": [number(gate.in_flight)],
        "seawall_gate_pace_per_second": [number(gate.pace_per_s)],
        "seawall_gate_level": [number(level, name) for name, level in gate.levels.items()],
    }


def database_snapshot(database: Database) -> dict[str, Any]:
    """Return where the metrics of one process's connections and batches stand."""
    batches = [*database.batches()]
    pools = {server.endpoint.name: server.pool for server in database.servers}
    rooms = [
        *(("pool", name, pool.room) for name, pool in pools.items()),
        *((name, server, batch.room) for name, server, batch in batches),
    ]
    return {
        "db_client_connections": [
            sample
            for name, pool in pools.items()
            for sample in (number(pool.lent, name, "used"), number(pool.idle, name, "idle"))
        ],
        "db_client_connection_max": [number(pool.size, name) for name, pool in pools.items()],
        "db_client_connection_pending_requests": [number(pool.waiting, name) for name, pool in pools.items()],
        "db_client_connection_wait_time_seconds": [pool.wait_durations.sample(name) for name, pool in pools.items()],
        "db_client_connection_use_time_seconds": [
            histogram.sample(name, *labels)
            for name, pool in pools.items()
            for labels, histogram in pool.holds.durations.items()
        ],
        "db_client_operation_duration_seconds": [
            histogram.sample(name, query) for name, pool in pools.items() for query, histogram in pool.durations.items()
        ],
        "db_client_connection_create_time_seconds": [
            pool.create_durations.sample(name) for name, pool in pools.items()
        ],
        "db_client_connection_timeouts_total": [number(pool.room.counts.expired, name) for name, pool in pools.items()],
        "db_client_connection_events_total": [
            number(count, name, event)
            for name, pool in pools.items()
            for event, count in (
                ("opened", pool.counts.opened),
                ("retired", pool.counts.retired),
                ("failed", pool.counts.open_failures),
                ("refused", pool.counts.refused_by_server),
                ("cancel", pool.counts.cancels),
            )
        ],
        "db_client_turned_away_total": [
            number(count, queue, server, reason)
            for queue, server, room in rooms
            for reason, count in (
                ("refused", room.counts.refused),
                ("shed", room.counts.shed),
                ("expired", room.counts.expired),
            )
        ],
        "db_client_retries_total": [
            number(database.retries.made, "made"),
            number(database.retries.refused, "refused"),
        ],
        "db_client_batch_wait_seconds_total": [
            number(batch.room.counts.waited_s, name, server) for name, server, batch in batches
        ],
        "db_client_batch_pending_rows": [number(batch.waiting, name, server) for name, server, batch in batches],
        "db_client_batch_width": [batch.widths.sample(name, server) for name, server, batch in batches],
        "db_client_batch_saved_statements_total": [
            number(batch.saved_statements, name, server) for name, server, batch in batches
        ],
        **(balancer_snapshot(database.balancer) if database.balancer is not None else {}),
    }


def balancer_snapshot(balancer: Balancer) -> dict[str, Any]:
    """Return what a process knows of the servers of its database, and what became of reads on replicas."""
    servers = {server.endpoint.name: server for server in balancer.servers}
    now_s = monotonic_s()
    return {
        "db_client_server_up": [number(not server.is_ill, name) for name, server in servers.items()],
        "db_client_server_primary": [number(server is balancer.primary, name) for name, server in servers.items()],
        "db_client_server_ejections_total": [number(server.counts.ejections, name) for name, server in servers.items()],
        "db_client_failovers_total": [number(balancer.failovers)],
        "db_client_replica_age_seconds": [
            number(now_s - server.fresh_s, name)
            for name, server in servers.items()
            if server is not balancer.primary and math.isfinite(server.fresh_s)
        ],
        "db_client_replica_reads_total": [
            number(count, name, outcome)
            for name, server in servers.items()
            for outcome, count in (
                ("answered", server.counts.answered),
                ("judged", server.counts.judged),
                ("late", server.counts.late),
                ("failed", server.counts.failed),
            )
        ],
    }


def age_s(server: Server, now_s: float) -> float | None:
    """Return how old what a replica shows is; None where nobody knows."""
    return now_s - server.fresh_s if math.isfinite(server.fresh_s) else None


def connections_of(database: Database) -> dict[str, Any]:
    """Return what a process does with its connections, to all servers together, and who held them lately."""
    pools = [server.pool for server in database.servers]
    now_s = monotonic_s()
    blames = [blame for pool in pools for blame in pool.holds.blame(now_s=now_s, lines_max=ACCOUNTS_MAX)]
    total_s = sum(blame.held_s for blame in blames) or 1.0
    rows_waiting = sum(batcher.waiting for _, _, batcher in database.batches())
    longest_s = max((now_s - hold.since_s for pool in pools for hold in pool.holds.lent), default=0.0)
    return {
        "size": sum(pool.size for pool in pools),
        "lent": sum(pool.lent for pool in pools),
        "idle": sum(pool.idle for pool in pools),
        "waiting": sum(pool.waiting for pool in pools),
        "rows_waiting": rows_waiting,
        "longest_s": round(longest_s, 3),
        # Nobody need wait for a connection where rows wait behind statements that do not end.
        "saturated": any(pool.saturated for pool in pools) or (rows_waiting > 0 and longest_s > HELD_TOO_LONG_S),
        "blame": [
            {**blame.account._asdict(), "held_s": round(blame.held_s, 3), "share": round(blame.held_s / total_s, 3)}
            for blame in sorted(blames, key=attrgetter("held_s"), reverse=True)[:BLAMED_MAX]
        ],
        "servers": [
            {
                "server": server.endpoint.name,
                "primary": server.pool is database.pool,
                "up": not server.is_ill,
                "age_s": age_s(server, now_s) if server.pool is not database.pool else None,
                "size": server.pool.size,
                "lent": server.pool.lent,
            }
            for server in database.servers
        ],
    }
