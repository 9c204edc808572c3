"""The composition root of a node, read top to bottom like a packing list.

Tests and drills start a node through it, exactly as operators do. Every background loop of a node is named here.
"""

import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seawall.access import Credentials
from seawall.admission import Gate
from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.clock import monotonic_s
from seawall.console import HealthDoor, Readiness
from seawall.database import Database, Endpoint, Pool, load_queries
from seawall.database.leases import Lease, LeaseSettings, Need
from seawall.edge import Exchange, HttpServer
from seawall.edge.malloc import keep_large_blocks
from seawall.monitoring.objectives import slow_s_of
from seawall.objects import ObjectStore
from seawall.objects.sweeper import Sweeper
from seawall.s3 import Doorkeeper, S3Door
from seawall.service.knobs import Knobs
from seawall.service.loops import Loop, keep_running, serve_health, watch_gate
from seawall.service.machine import raise_descriptor_limit
from seawall.service.second import Second
from seawall.service.snapshots import connections_of, node_snapshot
from seawall.settings import Settings
from seawall.telemetry.link import Message, report
from seawall.telemetry.loop_lag import LoopLag
from seawall.telemetry.metrics import FleetCollector, RequestMetrics, registry_of
from seawall.telemetry.purpose import Urgency
from seawall.telemetry.request_log import RequestLog, quoted
from seawall.telemetry.traces import EndedRequest, load_export, parent_of

if TYPE_CHECKING:
    from seawall.telemetry.trace_export import TraceExport

# Objects made before the collector looks at the young ones, and how often until at the older ones (gc.set_threshold).
COLLECT_EVERY = (20_000, 20, 20)
# How long a node that starts waits for a share of the database's connections.
LEASE_PATIENCE_S = 30.0
# How long it waits for one of a replica's: it can do without.
REPLICA_LEASE_PATIENCE_S = 1.0
# A node that has not heard from the database for so long should not get requests.
HEARD_MAX_S = 3.0
# Of the memory for bodies, so much may be in use before no more are let in.
BODY_MEMORY_TOLERATED = 0.9
QUERIES = load_queries(__package__, "service.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running node."""

    store: ObjectStore
    server: HttpServer
    database: Database
    leases: Mapping[Pool, Lease]
    metrics: RequestMetrics
    gate: Gate
    second: Second
    traces: "TraceExport | None"

    def readiness(self, credentials: Credentials) -> Readiness:
        """Say whether requests should be sent here."""
        if self.server.draining:
            return Readiness(ready=False, reason="draining")
        if credentials.silence_s > HEARD_MAX_S:
            return Readiness(ready=False, reason="the database does not answer")
        if not self.leases[self.database.pool].held:
            return Readiness(ready=False, reason="it has no share of the database's connections")
        return Readiness(ready=True)


@asynccontextmanager
async def running_node(
    settings: Settings,
    *,
    name: str,
    endpoints: Sequence[Endpoint],
    listeners: Iterable[socket.socket],
    open_blobs: Callable[[BlobSettings], DiskBlobStore] = DiskBlobStore,
) -> AsyncIterator[Node]:
    """Start every part of a node, lowest floor first; stop them in reverse when the block ends.

    `open_blobs` makes the blob store: a drill has one on a disk that can be troubled.

    Raises:
        SeawallError: a part cannot start; those that did are stopped.
    """
    listeners = list(listeners)
    raise_descriptor_limit()
    keep_large_blocks()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            Database(
                endpoints,
                settings.database(),
                application_name=f"seawall {name}",
                connections=0,
                direct=settings.direct_database(),
            )
        )
        leases = await hold_leases(stack, database, settings.lease(), name=name)
        blobs = await stack.enter_async_context(open_blobs(settings.blobs()))
        credentials = Credentials(database)
        store = ObjectStore(database, blobs, settings.objects())
        # The gate takes what it is told of away, and so does whoever tells the keeper.
        lag, told_lag = LoopLag(), LoopLag()
        scarce: dict[str, Callable[[], float]] = {
            "database": lambda: database_level(database, tolerated_s=settings.queue_s),
            "event loop": lambda: lag.take_least_s() / settings.queue_s,
        }
        gate = Gate(settings.gate(), scarce, now_s=monotonic_s())
        doorkeeper = Doorkeeper(
            gate,
            has_room=lambda: server.body_memory.used_part < BODY_MEMORY_TOLERATED,
            remembered=credentials.caller_of,
        )
        door = S3Door(
            store,
            credentials,
            settings.s3(),
            token_secret=await credentials.service_secret(),
            doorkeeper=doorkeeper,
            rehearsal=partial(hold, database, settings.drill_hold_s) if settings.drill_hold_s else None,
        )
        metrics = RequestMetrics()
        second = Second(doorkeeper, told_lag, metrics, slow_s_of(settings.objectives()))
        lines = None
        if settings.request_log:
            lines = await stack.enter_async_context(RequestLog(settings.data_dir / "log" / f"requests-{name}.jsonl"))
        traces = None
        if settings.traces().wanted:
            port = next((one.getsockname()[1] for one in listeners), settings.s3_port)
            traces = load_export(settings.traces(), node=name, address=settings.host, port=port)
            await stack.enter_async_context(traces)
        server = HttpServer(
            door,
            settings.http(),
            observe=observer(second, lines, doorkeeper, traces),
            admit=None if settings.drill_unprotected else doorkeeper.admit,
            request_id_header="x-amz-request-id",
        )
        node = Node(
            store=store,
            server=server,
            database=database,
            leases=leases,
            metrics=metrics,
            gate=gate,
            second=second,
            traces=traces,
        )
        knobs = Knobs(gate, database, drain=server.drain)
        stack.push_async_callback(knobs.close)
        sweeper = Sweeper(database, blobs, grace_s=settings.garbage_grace_s, interval_s=settings.sweep_interval_s)

        def summary() -> Message:
            readiness = node.readiness(credentials)
            return {
                "pid": os.getpid(),
                "ready": readiness.ready,
                "reason": readiness.reason,
                **second.take(node),
                "metrics": node_snapshot(node),
                "connections": connections_of(database),
            }

        async def tell_keeper() -> None:
            path, begin = settings.socket_path(), second.users.tell_again
            await report(path, name, summary, obey=knobs.turn, begin=begin)

        if settings.health_port:
            registry = registry_of(FleetCollector(lambda: [(name, node_snapshot(node))]))
            health = HealthDoor(lambda: node.readiness(credentials), registry)
            await serve_health(stack, health, settings, settings.health_port)

        loops: dict[str, tuple[Urgency, Loop]] = {
            **{
                f"keep lease on {server.endpoint.name}": (Urgency.CRITICAL, leases[server.pool].run)
                for server in database.servers
            },
            "follow access epoch": (Urgency.CRITICAL, credentials.follow_epoch),
            "watch the gate": (Urgency.CRITICAL, partial(watch_gate, gate)),
            "sweep blobs": (Urgency.BACKGROUND, sweeper.run),
            "report to keeper": (Urgency.NORMAL, tell_keeper),
        }
        for loop_name, (urgency, loop) in loops.items():
            keep_running(stack, loop_name, loop, urgency=urgency)

        for one in (lag, told_lag):
            one.start()
            stack.callback(one.stop)
        await stack.enter_async_context(server)
        for listener in listeners:
            await server.listen(listener)
        # What exists now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # What a request leaves behind is freed without the collector; to look for more at every 700 objects was a
        # tenth of what a small GET cost.
        gc.set_threshold(*COLLECT_EVERY)
        yield node


def beside_pool(servers: Sequence[object]) -> int:
    """Return how many connections a node has on each server beside its pool's: the lease's, and one for checks."""
    return 1 if len(servers) == 1 else 2


async def hold_leases(
    stack: AsyncExitStack, database: Database, settings: LeaseSettings, *, name: str
) -> Mapping[Pool, Lease]:
    """Take a share of each server's connections, and give it back when the stack unwinds; of the primary at first.

    Without a replica a node can serve, and takes its share there when it can.

    Raises:
        Misconfigured, DatabaseDown: see `Lease`; the primary has no share for this node.
    """
    deadline_s = monotonic_s() + LEASE_PATIENCE_S
    balancer = database.balancer
    primary = database.servers[0] if balancer is None else await balancer.wait_for_primary(deadline_s)
    leases: dict[Pool, Lease] = {}
    for server in sorted(database.servers, key=lambda one: one is not primary):
        leases[server.pool] = lease = Lease(
            server.direct,
            name=name,
            demand=Need(server.pool, most=database.settings.connections),
            resize=server.pool.resize,
            deadline_s=deadline_s if server is primary else monotonic_s() + REPLICA_LEASE_PATIENCE_S,
            settings=settings,
            table=lambda: leases[database.pool],
            beside=beside_pool(database.servers),
            optional=server is not primary,
        )
        await stack.enter_async_context(lease)
    return leases


def database_level(database: Database, *, tolerated_s: float) -> float:
    """Return how long the longest queue for the database is, in parts of what is tolerated.

    A queue that is as long as some turns take is no reason for concern, however long these are (`waiting.target_s`).
    """
    rooms = [database.pool.room, *(batch.room for _, _, batch in database.batches())]
    return max(room.standing_s / max(tolerated_s, 2 * room.target_s) for room in rooms)


async def hold(database: Database, hold_s: float) -> None:
    """Drills only: hold a connection for so long."""
    await database.fetch(QUERIES["hold"], hold_s)


def observer(
    second: Second, lines: RequestLog | None, doorkeeper: Doorkeeper, traces: "TraceExport | None"
) -> Callable[[Exchange, float], None]:
    """Return what takes a request's ticket back, counts it, and writes its line and its trace when it is over."""

    def observe(exchange: Exchange, duration_s: float) -> None:
        doorkeeper.leave(exchange)
        second.observe(exchange, duration_s)
        if traces is not None and traces.sampler.takes(exchange.headers.get("traceparent")):
            traces.tell(ended(exchange, duration_s))
        if lines is not None:
            operation, received = exchange.operation or "unknown", exchange.body.received
            account = f',"account":{exchange.account}' if exchange.account is not None else ""
            error = f',"error":"{exchange.error}"' if exchange.error else ""
            lines.add(
                f'{{"at":"{lines.now()}","id":"{exchange.request_id}",'
                f'"operation":"{operation}","method":"{exchange.method}","path":{quoted(exchange.path)},'
                f'"status":{exchange.status},"ms":{duration_s * 1000:.3f},"received":{received},'
                f'"sent":{exchange.sent_bytes},"peer":"{exchange.peer}"{account}{error}}}'
            )

    return observe


def ended(exchange: Exchange, duration_s: float) -> EndedRequest:
    """Return what its trace may tell of a request that is over."""
    return EndedRequest(
        operation=exchange.operation or "unknown",
        method=exchange.method,
        status=exchange.status,
        outcome=exchange.outcome,
        error=exchange.error,
        request_id=exchange.request_id,
        account=exchange.account,
        received_bytes=exchange.body.received,
        sent_bytes=exchange.sent_bytes,
        duration_s=duration_s,
        sums_s=exchange.stopwatch.sums_s,
        parent=parent_of(exchange.headers.get("traceparent")),
    )
