"""What do the nodes' leases do on a small server when nodes and another program come and go?

`python -m benchmarks.lease_fleet`: a throwaway PostgreSQL of 40 connections; 1 node, 12 nodes, 1 node, each
wanting 7 connections and opening every one it may, then another program that takes 20. Every 0.25 s the table of
leases and the server are looked at; a line is printed when something changed, and the most of everything at the end.
"""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import asyncpg

from seawall.clock import monotonic_s
from seawall.database.endpoint import Endpoint
from seawall.database.leases import Lease, LeaseSettings
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate

MAX_CONNECTIONS = 40
NODES = 12
DEMAND = 6
STRANGERS = 20
LOOK_EVERY_S = 0.25
SETTLE_S = 8.0
MIB = 1024 * 1024

LOOK = """
    select
        (select coalesce(string_agg(granted::text, ' ' order by joined_at, node), '') from connection_leases) as grants,
        (select coalesce(sum(granted), 0) from connection_leases) as granted,
        count(*) filter (where application_name like 'seawall _%') as ours,
        count(*) filter (where application_name = 'another program') as others
    from pg_stat_activity where backend_type = 'client backend'
"""


class Node:
    """A lease, and as many open connections as it allows. State: those connections."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        self._endpoint, self._name = endpoint, name
        self._open: list[asyncpg.Connection[asyncpg.Record]] = []
        self._lease = Lease(
            endpoint,
            name=name,
            demand=lambda: DEMAND,
            resize=self._resize,
            deadline_s=monotonic_s() + 20.0,
            settings=LeaseSettings(nodes_max=NODES, keeper_connections=4),
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Node":
        await self._lease.__aenter__()
        self._running = asyncio.create_task(self._lease.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await self._lease.__aexit__(None, None, None)

    async def _resize(self, size: int) -> None:
        while len(self._open) > size:
            await self._open.pop().close(timeout=2.0)
        while len(self._open) < size:
            self._open.append(await _connect(self._endpoint, f"seawall {self._name}"))


async def _connect(endpoint: Endpoint, name: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(**endpoint.connect_arguments(), server_settings={"application_name": name})


async def _look(endpoint: Endpoint, started_s: float) -> None:
    """Print what changed, until cancelled."""
    connection = await _connect(endpoint, "onlooker")
    last: tuple[object, ...] = ()
    most_ours = most_granted = 0
    try:
        while True:
            row = await connection.fetchrow(LOOK)
            if row is not None and tuple(row) != last:
                last = tuple(row)
                most_ours, most_granted = max(most_ours, row["ours"]), max(most_granted, row["granted"])
                print(
                    f"{monotonic_s() - started_s:6.2f} s  granted {row['granted']:>2}  open {row['ours']:>2}  "
                    f"others {row['others']:>2}  [{row['grants']}]",
                    flush=True,
                )
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        print(f"most granted {most_granted}, most open {most_ours}", flush=True)
        connection.terminate()


async def run(data_dir: Path) -> None:
    """Do it once."""
    chosen = LocalServerSettings(
        data_dir=data_dir, memory_bytes=512 * MIB, extra={"max_connections": str(MAX_CONNECTIONS)}
    )
    async with LocalServer(chosen) as server:
        await migrate(server.service)
        started_s = monotonic_s()
        watching = asyncio.create_task(_look(server.superuser, started_s))
        async with Node(server.service, "node-1"):
            await asyncio.sleep(SETTLE_S / 2)
            print("11 nodes come")
            async with AsyncExitStack() as stack:
                for number in range(2, NODES + 1):
                    await stack.enter_async_context(Node(server.service, f"node-{number}"))
                await asyncio.sleep(SETTLE_S)
                print("another program takes connections")
                stranger = replace(server.superuser, database="postgres")
                held = []
                try:
                    for _ in range(STRANGERS):
                        held.append(await _connect(stranger, "another program"))
                except asyncpg.TooManyConnectionsError as refusal:
                    print(f"another program got {len(held)}: {refusal}")
                await asyncio.sleep(SETTLE_S)
                print("it gives them back")
                for connection in held:
                    await connection.close()
                await asyncio.sleep(SETTLE_S)
                print("11 nodes leave")
            await asyncio.sleep(SETTLE_S / 2)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def main() -> None:
    """Make a place for the data, run, and remove it."""
    directory = Path(tempfile.mkdtemp(prefix="seawall-fleet-"))
    directory.chmod(0o711)
    try:
        asyncio.run(run(directory / "data"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
