"""What tests of drills need: a throwaway instance with users and objects; and a PostgreSQL that may be hurt.

The latter has few connections, and is kept running as a keeper would.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conftest import THROWAWAY
from tests.database.cluster import BROKEN
from tests.drills.kit import Flood, answering

from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate
from seawall.drills.faults import Place
from seawall.drills.instance import Stage, running_instance, set_stage
from seawall.drills.tcp_proxy import tcp_proxy
from seawall.errors import SeawallError

USERS = 400
CONNECTIONS_MAX = 300
MIB = 1024 * 1024
DATABASE_CONNECTIONS = 24


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    """A service of our own that takes 300 connections, its users, and some objects."""
    async with running_instance({"SEAWALL_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}) as instance:
        yield await set_stage(instance, users=USERS, objects=20)


@pytest.fixture(scope="session")
def hurt_directory(open_directory: Callable[[], Path]) -> Path:
    """Where the server that may be hurt keeps its data."""
    return open_directory() / "data"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hurt_server(hurt_directory: Path) -> AsyncIterator[LocalServer]:
    """A small server of these tests' own: it is filled, locked and killed."""
    extra = {
        **THROWAWAY,
        # It is killed: what was committed is not to be lost with it.
        "synchronous_commit": "on",
        "max_connections": str(DATABASE_CONNECTIONS),
        "reserved_connections": "2",
    }
    settings = LocalServerSettings(data_dir=hurt_directory, memory_bytes=256 * MIB, extra=extra)
    async with LocalServer(settings) as server:
        await migrate(server.service)
        yield server


@pytest_asyncio.fixture
async def place(hurt_server: LocalServer, hurt_directory: Path) -> AsyncIterator[Place]:
    """The least there is to break: a database, which is started again when it dies."""

    is_up = asyncio.Event()
    is_up.set()

    async def keep() -> None:
        while True:
            await hurt_server.wait_for_exit()
            is_up.clear()
            try:
                await hurt_server.restart()
            except (SeawallError, *BROKEN):
                # It was killed again on its way; as a keeper does, try again.
                await asyncio.sleep(0.1)
            else:
                is_up.set()

    keeping = asyncio.create_task(keep())
    yield Place(superuser=hurt_server.superuser, service=hurt_server.service, data_dir=hurt_directory)
    # A restart answers before it is done; to cancel it then would stop the server.
    waiting = asyncio.create_task(is_up.wait())
    await asyncio.wait([keeping, waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in (keeping, waiting):
        task.cancel()
    await asyncio.wait([keeping, waiting])
    assert keeping.cancelled()


@pytest.fixture
def node() -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core, to be starved."""
    core = min(os.sched_getaffinity(0))
    code = f"import os, time; os.sched_setaffinity(0, [{core}]); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest_asyncio.fixture
async def furnished_place(
    place: Place, node: subprocess.Popen[bytes], open_directory: Callable[[], Path]
) -> AsyncIterator[Place]:
    """A place that has all that can be had without a replica and without being root."""
    sockets = open_directory()
    name = f".s.PGSQL.{place.superuser.port}"
    async with AsyncExitStack() as stack:
        echo = await stack.enter_async_context(answering())
        client_path = await stack.enter_async_context(tcp_proxy(echo.address))
        database_path = await stack.enter_async_context(
            tcp_proxy(Path(place.service.host) / name, listen=sockets / name)
        )
        yield replace(
            place,
            node_pids=(node.pid,),
            client_path=client_path,
            database_path=database_path,
            disk=open_directory() / "disk.json",
            flood=Flood(),
        )
