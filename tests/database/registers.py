"""Clients of several nodes that write and read registers, and write down what they saw.

A node is a `Database` as the service has it, over all servers of a cluster. A register is a row of a table; every
value is written once. What comes out is a history for `linearizability` to judge.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Final

from tests.database.cluster import Cluster, ask
from tests.database.linearizability import Operation

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
            await until(lambda node=node: len(readers(node)) == 2)
        yield nodes


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
    acknowledged: dict[str, float] = field(default_factory=dict)
    """When each value was acknowledged."""
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

    async def _read(self, node: Database, client: str) -> None:
        while not self.stopping:
            await self.read(node, random.choice(KEYS), client)
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def _write(self, node: Database, client: str) -> None:
        while not self.stopping:
            key, value = random.choice(KEYS), str(next(self.numbers))
            deletes = random.random() < 0.1
            invoked_ns = monotonic_ns()
            try:
                if deletes:
                    await node.write(DELETE, key, identity_width=1)
                else:
                    await node.write(PUT, key, value, identity_width=1, echo=1)
            except Overloaded as error:
                self.failures.append(error)  # It was not begun.
            except SeawallError as error:
                self.failures.append(error)
                self._note(
                    "delete" if deletes else "put", key, None if deletes else value, invoked_ns, client, lost=True
                )
            else:
                self._note("delete" if deletes else "put", key, None if deletes else value, invoked_ns, client)
                self.acknowledged[value] = monotonic_s()
            await asyncio.sleep(random.uniform(0, 4 * PAUSE_S))

    def _note(self, kind: str, key: str, value: object, invoked_ns: int, client: str, *, lost: bool = False) -> None:
        self.history.append(
            Operation(
                kind=kind,  # type: ignore[arg-type]
                key=key,
                value=value,  # type: ignore[arg-type]
                invoked_ns=invoked_ns,
                answered_ns=None if lost else monotonic_ns(),
                client=client,
            )
        )
