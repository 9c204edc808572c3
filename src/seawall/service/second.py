"""What a second was like for one node: what is counted of its requests, and what it measured beside.

It is told to the keeper each second (`telemetry.points`). Decided is nothing here, but what is looked at.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from seawall.clock import monotonic_s, wall_s
from seawall.database import Balancer, Database
from seawall.database.pool import Pool
from seawall.database.waiting import WaitingRoom
from seawall.edge import Exchange, HttpServer
from seawall.s3 import Doorkeeper
from seawall.s3.operations import group_of
from seawall.telemetry.host import Host
from seawall.telemetry.loop_lag import LoopLag
from seawall.telemetry.metrics import RequestMetrics
from seawall.telemetry.minute_users import MinuteUsers
from seawall.telemetry.seconds import Outcome, SecondCounts
from seawall.telemetry.segments import Segment
from seawall.telemetry.top import TopTenants

if TYPE_CHECKING:
    from seawall.service.node import Node

MIB: Final = 1024 * 1024

DRAINED_FROM_BYTES: Final = 64 * 1024
"""Answers from here on tell how fast clients take them: smaller ones are gone before anybody looks."""

DRAINS_MAX: Final = 1_000
"""So many of them are looked at in a second."""

COUNTED_AT_ONCE: Final = 16
"""So many requests are counted together: one after the other it takes half as long as each between other things."""

_NETWORK, _ADMISSION, _WAIT = int(Segment.NETWORK), int(Segment.ADMISSION), int(Segment.DATABASE_WAIT)


class Second:
    """State: what was counted, and how all counters of the node's parts stood when a second was taken last."""

    def __init__(
        self, doorkeeper: Doorkeeper, lag: LoopLag, metrics: RequestMetrics, slow_s: Mapping[str, float]
    ) -> None:
        self.counts = SecondCounts(slow_s)
        self._metrics = metrics
        self.users = MinuteUsers(wall_s())
        self.lag_s = 0.0
        """The greatest lag of the event loop in the second that was taken last."""
        # Requests that have ended and are not counted yet.
        self._ended: list[tuple[Exchange, float]] = []
        self.tenants = TopTenants()
        self._doorkeeper = doorkeeper
        self._lag = lag
        self._host = Host()
        self._drains_s: list[float] = []
        self._busy = Busy()
        self._grown = Grown()

    def __repr__(self) -> str:
        return f"<Second {self.counts!r} {self.users!r}>"

    def observe(self, exchange: Exchange, duration_s: float) -> None:
        """Count one request that has ended, soon."""
        self._ended.append((exchange, duration_s))
        if len(self._ended) >= COUNTED_AT_ONCE:
            self.count()

    def count(self) -> None:
        """Count those that have ended until now."""
        ended, self._ended = self._ended, []
        observe, note = self.counts.observe, self._metrics.observe
        work: dict[int, list[Any]] = {}
        for exchange, duration_s in ended:
            sums_s, outcome, account = exchange.stopwatch.sums_s, exchange.outcome, exchange.account
            operation, sent_bytes, received_bytes = exchange.operation, exchange.sent_bytes, exchange.body.received
            refused = 0
            note(operation or "unknown", exchange.status, duration_s, sent_bytes, received_bytes)
            group = group_of(operation, exchange.method)
            if observe(group, outcome, duration_s, sums_s, sent_bytes + received_bytes):
                account, refused = self._note_failure(exchange), int(outcome is Outcome.REFUSED)
            if account is not None:
                own = work.get(account)
                if own is None:
                    own = work[account] = [0, 0.0, 0]
                own[0] += 1
                # What it took of what is everybody's: to wait takes nothing.
                own[1] += duration_s - sums_s[_NETWORK] - sums_s[_ADMISSION] - sums_s[_WAIT]
                if refused:
                    own[2] += 1
            if sent_bytes > DRAINED_FROM_BYTES and exchange.streamed and len(self._drains_s) < DRAINS_MAX:
                self._drains_s.append(sums_s[_NETWORK] * MIB / sent_bytes)
        for account, (requests, work_s, refusals) in work.items():
            self.users.seen.add(account)
            self.tenants.add(account, requests, work_s, refusals)

    def _note_failure(self, exchange: Exchange) -> int | None:
        who, answers_for_it = self._doorkeeper.whose(exchange)
        if who is not None:
            self.users.fail(who)
        return answers_for_it

    def take(self, node: "Node") -> dict[str, Any]:
        """Return the second that has passed since this was asked last: its point, its users, its largest tenants."""
        self.count()
        now_s = monotonic_s()
        tenants, share = self.tenants.take()
        users = self.users.take(wall_s())
        self.lag_s = self._lag.take_greatest_s()
        point = {
            **self.counts.take(),
            **self._host.take(node.server.sockets),
            **gate_columns(node),
            **database_columns(node.database, now_s),
            **clients_columns(node.server),
            "loop.lag_s": self.lag_s,
            "loop.lag_least_s": self._lag.take_least_s(),
            "disk.free_bytes": float(max(0, node.store.blobs.free_bytes)),
            "users.seen": float(self.users.seen.count),
            "users.failed": float(self.users.failed.count),
            "tenant.share": share,
            "pool.without_lease": float(not node.leases[node.database.pool].held),
            **self._grown.take(counters_of(node, self.counts)),
        }
        busy = self._busy.take((server.pool for server in node.database.servers), now_s=now_s)
        if busy is not None:
            point["pool.busy"] = busy
        if self._drains_s:
            point["clients.drain_s"] = median(self._drains_s)
            self._drains_s = []
        return {"point": point, "users": users, "tenants": tenants}


class Grown:
    """State: how counters stood when they were looked at last."""

    def __init__(self) -> None:
        self._before: Mapping[str, float] = {}

    def __repr__(self) -> str:
        return f"<Grown {len(self._before)} counters>"

    def take(self, now: Mapping[str, float]) -> dict[str, float]:
        """Return by how much each has grown: nothing at first, and where one began anew, what it has since."""
        before, self._before = self._before, now
        return {
            name: value - before[name] if value >= before[name] else value
            for name, value in now.items()
            if name in before
        }


class Busy:
    """How much of a pool's connection-time is used. State: how long connections were lent when it was asked last."""

    def __init__(self) -> None:
        self._held_s: dict[Pool, float] = {}
        self._asked_s = 0.0

    def __repr__(self) -> str:
        return f"<Busy {len(self._held_s)} pools>"

    def take(self, pools: Iterable[Pool], *, now_s: float) -> float | None:
        """Return the part of the busiest pool's connection-time since this was asked last; None where none is known."""
        held_s = {pool: pool.holds.held_s(now_s) for pool in pools}
        elapsed_s, before_s = now_s - self._asked_s, self._held_s
        self._held_s, self._asked_s = held_s, now_s
        parts = [
            min(1.0, (held_s[pool] - before_s[pool]) / (elapsed_s * pool.size))
            for pool in held_s
            if pool in before_s and pool.size > 0 and elapsed_s > 0
        ]
        return max(parts, default=None)


def counters_of(node: "Node", counts: SecondCounts) -> dict[str, float]:
    """Return, by the column that tells their growth, how what only grows stands now."""
    server, database = node.server, node.database
    pools = [server.pool for server in database.servers]
    found: dict[str, float] = {
        "gate.closed": node.gate.counts.closed,
        "pool.statements": sum(pool.holds.ended for pool in pools),
        "pool.held_s": sum(pool.holds.ended_s for pool in pools),
        "pool.opened": sum(pool.counts.opened for pool in pools),
        "pool.failed": sum(pool.counts.open_failures for pool in pools),
        "pool.refused": sum(pool.counts.refused_by_server for pool in pools),
        "pool.turned_away": sum(
            room.counts.refused + room.counts.shed + room.counts.expired for room in rooms_of(database)
        ),
        "disk.refused": counts.no_room,
        "disk.errors": counts.disk_failed,
        "clients.opened": server.counts.accepted,
        "clients.gone": counts.gone,
        "clients.reset": server.counts.reset + server.counts.expired,
    }
    if database.balancer is not None:
        found["replica.late"] = sum(one.counts.late for one in database.servers)
        found["replica.failed"] = sum(one.counts.failed for one in database.servers)
    return found


def gate_columns(node: "Node") -> dict[str, float]:
    """Return where admission stands."""
    gate = node.gate
    found = {
        "gate.level": max(gate.levels.values(), default=0.0),
        "gate.in_flight": float(gate.in_flight),
        "gate.waiting": float(gate.waiting),
    }
    if math.isfinite(gate.pace_per_s):
        found["gate.pace_per_s"] = gate.pace_per_s
    return found


def database_columns(database: Database, now_s: float) -> dict[str, float]:
    """Return where the connections to the database, and its replicas, stand."""
    pools = [server.pool for server in database.servers]
    found = {
        "pool.size": float(sum(pool.size for pool in pools)),
        "pool.lent": float(sum(pool.lent for pool in pools)),
        "pool.waiting": float(sum(pool.waiting for pool in pools)),
        "pool.rows_waiting": float(sum(batcher.waiting for _, _, batcher in database.batches())),
        "pool.longest_hold_s": max((now_s - hold.since_s for pool in pools for hold in pool.holds.lent), default=0.0),
    }
    if database.balancer is not None:
        found.update(replica_columns(database.balancer, now_s))
    return found


def replica_columns(balancer: Balancer, now_s: float) -> dict[str, float]:
    """Return how old what replicas show is, and how many are left out."""
    replicas = [server for server in balancer.servers if server is not balancer.primary]
    ages_s = [now_s - server.fresh_s for server in replicas if math.isfinite(server.fresh_s)]
    found = {"replica.out": float(sum(one.is_ill or one.is_late or one.is_put_out for one in replicas))}
    if ages_s:
        found["replica.age_s"] = max(ages_s)
    return found


def clients_columns(server: HttpServer) -> dict[str, float]:
    """Return how many clients there are, and how long new ones took to say something; that begins anew then."""
    found = {
        "clients.connections": float(server.connections),
        "memory.bodies": server.body_memory.used_part,
    }
    if server.first_bytes_s:
        found["clients.first_byte_s"] = median(server.first_bytes_s)
        server.first_bytes_s.clear()
    return found


def rooms_of(database: Database) -> Iterable[WaitingRoom]:
    """Yield every queue for the database."""
    for server in database.servers:
        yield server.pool.room
    for _, _, batcher in database.batches():
        yield batcher.room
