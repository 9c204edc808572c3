"""The composition roots: what a node and a keeper are made of, read top to bottom like packing lists.

Tests and drills start the service through them, exactly as operators do. Every background loop in
the house is named here.
"""

import asyncio
import fcntl
import gc
import logging
import math
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from seawall.access import AccountBook, Credentials, NewAccount
from seawall.access.accounts import KeyPair, new_access_key, new_secret_key
from seawall.admission import WINDOW_S, Gate
from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.clock import monotonic_s
from seawall.console import HealthDoor, Readiness
from seawall.database import Balancer, Database, Endpoint, Pool, find_primary, load_queries
from seawall.database.holds import ACCOUNTS_MAX
from seawall.database.leases import Lease, LeaseSettings, Need, check_server
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate
from seawall.database.pool import HELD_TOO_LONG_S
from seawall.edge import Exchange, HttpServer
from seawall.edge.malloc import keep_large_blocks
from seawall.errors import Misconfigured, NotRunning
from seawall.objects import ObjectStore
from seawall.objects.sweeper import Sweeper
from seawall.s3 import Doorkeeper, S3Door
from seawall.scaling import LocalNodes, stop_strays
from seawall.settings import Settings
from seawall.telemetry.link import Link, Message, report
from seawall.telemetry.loop_lag import LoopLag
from seawall.telemetry.metrics import FleetCollector, RequestMetrics, Snapshot, number, registry_of
from seawall.telemetry.purpose import PURPOSE, Purpose, Urgency
from seawall.telemetry.request_log import RequestLog, quoted

log = logging.getLogger(__name__)

Loop = Callable[[], Awaitable[None]]

# Objects made before the collector looks at the young ones, and how often until at the older ones (gc.set_threshold).
COLLECT_EVERY = (20_000, 20, 20)
# How long a node that starts waits for a share of the database's connections.
LEASE_PATIENCE_S = 30.0
# How long whoever starts waits for a server that takes writes.
DATABASE_PATIENCE_S = 30.0
# How long it waits for one of a replica's: it can do without.
REPLICA_LEASE_PATIENCE_S = 1.0
# A node that has not heard from the database for so long should not get requests.
HEARD_MAX_S = 3.0
# Lines of the table of who holds connections: with ten, nobody who matters is missing.
BLAMED_MAX = 10
# Of the memory for bodies, so much may be in use before no more are let in.
BODY_MEMORY_TOLERATED = 0.9
LOOP_PAUSE_S = 1.0
LOOP_PAUSE_MAX_S = 30.0
ROOT = "root"
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
        lag = LoopLag()
        scarce: dict[str, Callable[[], float]] = {
            "database": lambda: database_level(database, tolerated_s=settings.queue_s),
            "event loop": lambda: lag.take_least_s() / settings.queue_s,
        }
        gate = Gate(settings.gate(), scarce, now_s=monotonic_s())
        doorkeeper = Doorkeeper(gate, has_room=lambda: server.body_memory.used_part < BODY_MEMORY_TOLERATED)
        door = S3Door(
            store,
            credentials,
            settings.s3(),
            token_secret=await credentials.service_secret(),
            doorkeeper=doorkeeper,
            rehearsal=partial(hold, database, settings.drill_hold_s) if settings.drill_hold_s else None,
        )
        metrics = RequestMetrics()
        lines = None
        if settings.request_log:
            lines = await stack.enter_async_context(RequestLog(settings.data_dir / "log" / f"requests-{name}.jsonl"))
        server = HttpServer(
            door,
            settings.http(),
            observe=observer(metrics, lines, doorkeeper),
            admit=None if settings.drill_unprotected else doorkeeper.admit,
            request_id_header="x-amz-request-id",
        )
        node = Node(store=store, server=server, database=database, leases=leases, metrics=metrics, gate=gate)
        sweeper = Sweeper(database, blobs, grace_s=settings.garbage_grace_s, interval_s=settings.sweep_interval_s)

        def summary() -> Message:
            readiness = node.readiness(credentials)
            return {
                "pid": os.getpid(),
                "ready": readiness.ready,
                "reason": readiness.reason,
                "metrics": node_snapshot(node),
                "connections": connections_of(database),
            }

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
            "report to keeper": (Urgency.NORMAL, lambda: report(settings.socket_path(), name, summary)),
        }
        for loop_name, (urgency, loop) in loops.items():
            keep_running(stack, loop_name, loop, urgency=urgency)

        lag.start()
        stack.callback(lag.stop)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A running keeper."""

    link: Link
    nodes: LocalNodes
    s3_address: tuple[str, int]
    console_address: tuple[str, int]
    new_root: KeyPair | None
    """The root's keys, when they were made just now."""

    def readiness(self) -> Readiness:
        """Say whether the fleet can serve."""
        summaries = self.link.summaries()
        if not summaries:
            return Readiness(ready=False, reason="no node has reported yet")
        reasons = {str(summary["reason"]) for summary in summaries.values()}
        if any(summary["ready"] for summary in summaries.values()):
            return Readiness(ready=True)
        return Readiness(ready=False, reason="; ".join(sorted(reasons)))


@asynccontextmanager
async def running_keeper(settings: Settings) -> AsyncIterator[Keeper]:
    """Start PostgreSQL, the nodes and what watches them; stop them in reverse when the block ends.

    Raises:
        Misconfigured: another service runs on this data directory, or the settings cannot work.
    """
    async with AsyncExitStack() as stack:
        prepare_data_dir(settings.data_dir)
        stack.enter_context(sole_keeper(settings.data_dir))
        roster = settings.data_dir / "run" / "nodes.json"
        await stop_strays(roster, drain_s=settings.drain_s)
        environment = {**os.environ, **settings.as_environment()}
        s3_listener = listening_socket(settings.host, settings.s3_port)
        stack.callback(s3_listener.close)
        nodes = LocalNodes(
            settings.nodes_min(),
            environment=environment,
            descriptors=[s3_listener.fileno()],
            roster=roster,
            drain_s=settings.drain_s,
        )

        external = settings.external_database()
        local: LocalServer | None = None
        if not external:
            most = settings.drill_connections_max
            local_settings = LocalServerSettings(
                data_dir=settings.data_dir,
                binaries=settings.postgres_binaries,
                extra={"max_connections": str(most)} if most else {},
            )
            local = await stack.enter_async_context(LocalServer(local_settings))
        endpoints = external or ((local.service,) if local is not None else ())
        deadline_s = monotonic_s() + DATABASE_PATIENCE_S
        direct = settings.direct_database() or endpoints
        primary = await find_primary(direct, application_name="seawall keeper", deadline_s=deadline_s)
        # Before anything is written there: a role that must not serve would own what it made.
        await check_server(primary, settings.lease(), beside=beside_pool(endpoints))
        for migration in await migrate(primary):
            log.info("database.migrated", extra={"migration": migration})

        # Its own few connections: commands work when the nodes' are all in use.
        database = await stack.enter_async_context(
            Database(
                endpoints, settings.database(), application_name="seawall keeper", direct=settings.direct_database()
            )
        )
        accounts = AccountBook(database)
        new_root = await ensure_root(accounts, settings)
        answers = Answers(accounts, settings.data_dir)
        link = await stack.enter_async_context(Link(settings.socket_path(), answers))

        stack.push_async_callback(nodes.stop)
        for number_ in range(1, settings.nodes_min() + 1):
            keep_running(stack, f"keep node-{number_}", partial(nodes.keep, f"node-{number_}"))
        if local is not None:
            keep_running(stack, "watch PostgreSQL", partial(watch_local_server, local))

        console = listening_socket(settings.console_host, settings.console_port)
        keeper = Keeper(
            link=link,
            nodes=nodes,
            s3_address=s3_listener.getsockname()[:2],
            console_address=console.getsockname()[:2],
            new_root=new_root,
        )
        answers.keeper = keeper
        registry = registry_of(FleetCollector(lambda: fleet_snapshots(link)))
        await serve(stack, HealthDoor(keeper.readiness, registry), settings, console)
        yield keeper


@asynccontextmanager
async def open_sweeper(settings: Settings, endpoints: Sequence[Endpoint]) -> AsyncIterator[Sweeper]:
    """Open what sweeping and scrubbing need, for a command beside the running service."""
    async with (
        Database(
            endpoints, settings.database(), application_name="seawall command", direct=settings.direct_database()
        ) as database,
        DiskBlobStore(settings.blobs()) as blobs,
    ):
        yield Sweeper(database, blobs, grace_s=settings.garbage_grace_s, interval_s=settings.sweep_interval_s)


class Answers:
    """Answers the questions of commands. State: the keeper, once it runs."""

    def __init__(self, accounts: AccountBook, data_dir: Path) -> None:
        self.keeper: Keeper | None = None
        self._data_dir = data_dir
        self._accounts = accounts

    async def __call__(self, message: Message) -> Any:
        """Answer one question.

        Raises:
            SeawallError: it was declined, with the reason.
        """
        match message["ask"]:
            case "status":
                return self._status()
            case "user.add":
                pair = await self._accounts.add(NewAccount(**message["account"]))
                return {"access_key": pair.access_key, "secret_key": pair.secret_key}
            case "user.list":
                return [
                    {
                        "name": account.name,
                        "id": account.canonical_id,
                        "display_name": account.display_name,
                        "email": account.email,
                        "admin": account.is_admin,
                        "background": account.is_background,
                        "created_at": account.created_at.isoformat(),
                        "access_keys": list(account.access_keys),
                    }
                    for account in await self._accounts.list()
                ]
            case "user.remove":
                await self._accounts.remove(message["name"])
                return {"removed": message["name"]}
            case "user.key":
                pair = await self._accounts.give_new_key(message["name"])
                if message["name"] == ROOT:
                    keep_root_keys(self._data_dir, pair)
                return {"access_key": pair.access_key, "secret_key": pair.secret_key}
            case question:
                raise NotRunning(f"This service does not know the question {question!r}: it is another release.")

    def _status(self) -> Message:
        if self.keeper is None:
            raise NotRunning("The service is still starting.")
        readiness = self.keeper.readiness()
        summaries = self.keeper.link.summaries()
        return {
            "ready": readiness.ready,
            "reason": readiness.reason,
            "s3": "http://{}:{}".format(*self.keeper.s3_address),
            "console": "http://{}:{}".format(*self.keeper.console_address),
            "nodes": {
                name: {
                    "pid": pid,
                    "ready": bool(summaries.get(name, {}).get("ready", False)),
                    "reason": summaries.get(name, {}).get("reason", "has not reported yet"),
                    "connections": summaries.get(name, {}).get("connections"),
                }
                for name, pid in self.keeper.nodes.pids.items()
            },
        }


# Parts that are started in more than one place, or are more than a line.


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


def keep_running(stack: AsyncExitStack, name: str, loop: Loop, *, urgency: Urgency = Urgency.NORMAL) -> None:
    """Run a loop beside the rest until the stack unwinds; when it fails, say so and start it again."""

    async def run() -> None:
        PURPOSE.set(Purpose(route=name, urgency=urgency))
        pause_s = LOOP_PAUSE_S
        while True:
            started_s = monotonic_s()
            try:
                await loop()
            except Exception as error:
                log.exception("loop.failed", extra={"loop": name, "error": repr(error)})
            if monotonic_s() - started_s > LOOP_PAUSE_MAX_S:
                pause_s = LOOP_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LOOP_PAUSE_MAX_S)

    task = asyncio.create_task(run(), name=name)

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


async def serve(stack: AsyncExitStack, door: HealthDoor, settings: Settings, listener: socket.socket) -> None:
    """Answer health questions on a socket until the stack unwinds."""
    server = await stack.enter_async_context(HttpServer(door, settings.http(), observe=lambda _exchange, _s: None))
    await server.listen(listener)


async def serve_health(stack: AsyncExitStack, door: HealthDoor, settings: Settings, port: int) -> None:
    """Answer health questions about one node."""
    await serve(stack, door, settings, listening_socket(settings.console_host, port))


async def watch_gate(gate: Gate) -> None:
    """Have the gate look at what is scarce, four times a second. Runs until cancelled."""
    while True:
        await asyncio.sleep(WINDOW_S)
        gate.look(monotonic_s())


def database_level(database: Database, *, tolerated_s: float) -> float:
    """Return how long the longest queue for the database is, in parts of what is tolerated.

    A queue that is as long as some turns take is no reason for concern, however long these are (`waiting.target_s`).
    """
    rooms = [database.pool.room, *(batch.room for _, _, batch in database.batches())]
    return max(room.standing_s / max(tolerated_s, 2 * room.target_s) for room in rooms)


async def hold(database: Database, hold_s: float) -> None:
    """Drills only: hold a connection for so long."""
    await database.fetch(QUERIES["hold"], hold_s)


async def watch_local_server(server: LocalServer) -> None:
    """Start PostgreSQL again when it died."""
    code = await server.wait_for_exit()
    log.error("postgresql.died", extra={"exit_code": code})
    await server.restart()
    log.info("postgresql.started_again", extra={"pid": server.pid})


def observer(
    metrics: RequestMetrics, lines: RequestLog | None, doorkeeper: Doorkeeper
) -> Callable[[Exchange, float], None]:
    """Return what takes a request's ticket back, counts it and writes its line when it is over."""

    def observe(exchange: Exchange, duration_s: float) -> None:
        doorkeeper.leave(exchange)
        operation = exchange.operation or "unknown"
        received = exchange.body.received
        metrics.observe(operation, exchange.status, duration_s, sent_bytes=exchange.sent_bytes, received_bytes=received)
        if lines is not None:
            account = f',"account":{exchange.account}' if exchange.account is not None else ""
            error = f',"error":"{exchange.error}"' if exchange.error else ""
            lines.add(
                f'{{"at":"{lines.now()}","id":"{exchange.request_id}",'
                f'"operation":"{operation}","method":{quoted(exchange.method)},"path":{quoted(exchange.path)},'
                f'"status":{exchange.status},"ms":{duration_s * 1000:.3f},"received":{received},'
                f'"sent":{exchange.sent_bytes},"peer":"{exchange.peer}"{account}{error}}}'
            )

    return observe


def node_snapshot(node: Node) -> dict[str, Any]:
    """Return where every metric of a node stands."""
    server = node.server
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        **node.metrics.snapshot(),
        **gate_snapshot(node.gate),
        **database_snapshot(node.database),
        "http_server_connections": [number(server.connections)],
        "http_server_connections_refused_total": [number(server.counts.refused_connections)],
        "http_server_bad_requests_total": [number(server.counts.bad_heads)],
        "http_server_timeouts_total": [number(server.counts.expired)],
        "http_server_body_memory_bytes": [number(server.body_memory.held_bytes)],
        "process_cpu_seconds_total": [number(usage.ru_utime + usage.ru_stime)],
        "process_resident_memory_bytes": [number(resident_pages * resource.getpagesize())],
        "process_open_fds": [number(len(os.listdir("/proc/self/fd")))],  # noqa: PTH208 - only their number counts
        "seawall_node_up": [number(1)],
    }


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
        "db_client_connection_count": [
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
                "size": server.pool.size,
                "lent": server.pool.lent,
            }
            for server in database.servers
        ],
    }


def fleet_snapshots(link: Link) -> Iterable[tuple[str, Snapshot]]:
    """Return the last snapshot of every node."""
    return [(name, summary["metrics"]) for name, summary in link.summaries().items()]


# What a fresh machine needs.


def prepare_data_dir(data_dir: Path) -> None:
    """Make the data directory: others may pass through it (PostgreSQL must), and see nothing.

    Raises:
        Misconfigured: it cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name in ("run", "log"):
            (data_dir / name).mkdir(mode=0o711 if name == "log" else 0o700, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"The data directory {data_dir} cannot be used: {error.strerror}.") from error


class sole_keeper:  # noqa: N801 - used like a function
    """Holds the data directory for the length of the block.

    Raises:
        Misconfigured: another keeper holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "run" / "keeper.lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace") or "unknown"
            os.close(self._descriptor)
            raise Misconfigured(
                f"Seawall is running on {self._path.parent.parent} already (process {holder})."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


async def ensure_root(accounts: AccountBook, settings: Settings) -> KeyPair | None:
    """Make the root account at first start; return its keys when they were made up."""
    given = bool(settings.root_access_key and settings.root_secret_key.get_secret_value())
    if any(account.name == ROOT for account in await accounts.list()):
        return None
    pair = KeyPair(
        access_key=settings.root_access_key or new_access_key(),
        secret_key=settings.root_secret_key.get_secret_value() or new_secret_key(),
    )
    # The file first: an account whose keys nobody knows would be worse than keys of no account.
    keep_root_keys(settings.data_dir, pair)
    await accounts.add(NewAccount(name=ROOT, access_key=pair.access_key, secret_key=pair.secret_key, is_admin=True))
    return None if given else pair


def keep_root_keys(data_dir: Path, pair: KeyPair) -> None:
    """Write the root account's keys where only we can read them."""
    path = data_dir / "root-credentials"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"access_key = {pair.access_key}\nsecret_key = {pair.secret_key}\n")
        file.flush()
        os.fsync(file.fileno())


def listening_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; nodes inherit it, so that none is closed while another still serves.

    Raises:
        Misconfigured: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise Misconfigured(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    listener.settimeout(0.0)
    return listener


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
