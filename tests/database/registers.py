"""Clients of several nodes that write and read registers, and write down what they saw.

A node is a `Database` as the service has it, over all servers of a cluster. A register is a row of a table; every
value is written once. What comes out is a history for `linearizability` to judge.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic_ns
from typing import Final

from tests.database.cluster import Cluster, ask
from tests.database.linearizability import Kind, Operation

from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings
from seawall.database.queries import parse_queries
from seawall.errors import Overloaded, SeawallError

QUERIES: Final = parse_queries(
    """
-- name: get
-- What a register holds, and which transaction wrote it.
select asked.ordinal, found.value, found.xmin
from unnest($1::text[]) with ordinality as asked (key, ordinal)
cross join lateral (
    select registers.value, registers.xmin from registers where registers.key = asked.key offset 0
) as found;

-- name: put
-- Each value is written once, so it says whom it answers.
insert into registers (key, value)
select asked.key, asked.value from unnest($1::text[], $2::text[]) as asked (key, value) order by asked.key
on conflict (key) do update set value = excluded.value
returning value as answers;

-- name: delete
-- Missing is an answer, too.
delete from registers
using unnest($1::text[]) with ordinality as asked (key, ordinal)
where registers.key = asked.key
returning asked.ordinal;
""",
    prefix="tests",
)
GET, PUT, DELETE = QUERIES["get"], QUERIES["put"], QUERIES["delete"]
KEYS: Final = ("a", "b", "c")
PAUSE_S: Final = 0.002


@asynccontextmanager
async def nodes_of(cluster: Cluster, count: int, *, stale_reads_s: float = 0.0) -> AsyncIterator[list[Database]]:
    """Open so many nodes on an empty table; when this returns, each has seen every server."""
    await ask(cluster.primary, "drop table if exists registers")
    await ask(cluster.primary, "create table registers (key text primary key, value text not null)")
    await cluster.wait_caught_up()
    settings = DatabaseSettings(patience_s=5.0, stale_reads_s=stale_reads_s)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                Database(cluster.endpoints, settings, application_name=f"tests node-{number}")
            )
            for number in range(count)
        ]
        for node in nodes:
            await until(partial(_sees_both_replicas, node))
        yield nodes


def _sees_both_replicas(node: Database) -> bool:
    return len(readers(node)) == 2


def readers(node: Database) -> Sequence[object]:
    """Return the replicas a node would ask."""
    assert node.balancer is not None
    return node.balancer.readers


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Clients:
    """Those who read and write on all nodes until told to stop. State: the history so far."""

    nodes: Sequence[Database]
    history: list[Operation] = field(default_factory=list)
    failures: list[SeawallError] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    """When each write was acknowledged."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    stopping: bool = False

    @asynccontextmanager
    async def at_work(self, *, writers: int, readers: int) -> AsyncIterator[None]:
        """Have so many clients work on each node for the length of the block."""
        self.stopping = False
        async with asyncio.TaskGroup() as group:
            for place, node in enumerate(self.nodes):
                for number in range(writers):
                    group.create_task(self._write(node, f"writer {place}.{number}"))
                for number in range(readers):
                    group.create_task(self._read(node, f"reader {place}.{number}"))
            try:
                yield
            finally:
                self.stopping = True

    async def read(self, node: Database, key: str, client: str) -> object:
        """Read once and write it down; None, and nothing written, if it failed."""
        invoked_ns = monotonic_ns()
        try:
            row = await node.read(GET, key)
        except SeawallError as error:
            self.failures.append(error)
            return None
        value = None if row is None else row["value"]
        self._note("get", key, value, invoked_ns, client)
        return value

    async def write(self, node: Database, key: str, value: str | None, client: str) -> None:
        """Put a value, or delete it where there is none, and write it down."""
        kind: Kind = "delete" if value is None else "put"
        invoked_ns = monotonic_ns()
        try:
            if value is None:
                await node.write(DELETE, key, identity_width=1)
            else:
                await node.write(PUT, key, value, identity_width=1, echo=1)
        except Overloaded as error:
            self.failures.append(error)  # It was not begun.
        except SeawallError as error:
            self.failures.append(error)
            self._note(kind, key, value, invoked_ns, client, lost=True)
        else:
            self._note(kind, key, value, invoked_ns, client)
            self.acknowledged.append(monotonic_s())

    async def _read(self, node: Database, client: str) -> None:
        while not self.stopping:
            await self.read(node, random.choice(KEYS), client)
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def _write(self, node: Database, client: str) -> None:
        while not self.stopping:
            key, number = random.choice(KEYS), str(next(self.numbers))
            await self.write(node, key, number if random.random() < 0.9 else None, client)
            await asyncio.sleep(random.uniform(0, 4 * PAUSE_S))

    def _note(self, kind: Kind, key: str, value: Hashable, invoked_ns: int, client: str, *, lost: bool = False) -> None:
        answered_ns = None if lost else monotonic_ns()
        self.history.append(
            Operation(kind=kind, key=key, value=value, invoked_ns=invoked_ns, answered_ns=answered_ns, client=client)
        )
