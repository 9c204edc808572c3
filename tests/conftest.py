"""What tests of several kinds need: a place PostgreSQL may enter, and one PostgreSQL for all of them."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from tests.database.pgbouncer import PgBouncer, pgbouncer_program

from seawall.database.endpoint import Endpoint
from seawall.database.local_server import LocalServer, LocalServerSettings
from seawall.database.migrations import migrate

TEMPLATE = "template_seawall"
MIB = 1024 * 1024

THROWAWAY = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}
"""Nobody mourns a test's database. What a test wants durable, it asks for itself."""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Callable[[], Path]]:
    """Makes empty directories that another user may enter; those of `tmp_path` are closed when root tests."""
    made: list[Path] = []

    def make() -> Path:
        directory = Path(tempfile.mkdtemp(prefix="seawall-test-"))
        directory.chmod(0o711)
        made.append(directory)
        return directory

    yield make
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def local_server(open_directory: Callable[[], Path]) -> AsyncIterator[LocalServer]:
    """One small PostgreSQL for the whole run. Tests get databases of their own in it."""
    settings = LocalServerSettings(data_dir=open_directory() / "data", memory_bytes=512 * MIB, extra=THROWAWAY)
    async with LocalServer(settings) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(local_server: LocalServer) -> str:
    """A database with every migration applied, to be cloned."""
    administrator = local_server.superuser
    await _administer(administrator, f"create database {TEMPLATE} owner {local_server.service.user}")
    await _administer(replace(administrator, database=TEMPLATE), "create extension pg_stat_statements")
    await migrate(replace(local_server.service, database=TEMPLATE))
    return TEMPLATE


@pytest_asyncio.fixture
async def database_endpoint(local_server: LocalServer, template_database: str) -> AsyncIterator[Endpoint]:
    """A fresh, migrated database, as the service's own role; it is gone after the test."""
    async with _cloned_database(local_server, template_database) as endpoint:
        yield endpoint


@pytest_asyncio.fixture
async def connection(database_endpoint: Endpoint) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the service's role to the test's own database."""
    opened = await asyncpg.connect(**database_endpoint.connect_arguments())
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def _cloned_database(server: LocalServer, template: str) -> AsyncIterator[Endpoint]:
    name = f"test_{next(_numbers)}"
    await _administer(server.superuser, f"create database {name} template {template} owner {server.service.user}")
    try:
        yield replace(server.service, database=name)
    finally:
        await asyncio.shield(_administer(server.superuser, f"drop database {name} with (force)"))


async def _administer(endpoint: Endpoint, statement: str) -> None:
    connection = await asyncpg.connect(**endpoint.connect_arguments())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def pgbouncer(database_endpoint: Endpoint, open_directory: Callable[[], Path]) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode before the test's own database."""
    bouncer = PgBouncer(pgbouncer_program(), open_directory(), database_endpoint)
    bouncer.start()
    yield bouncer
    bouncer.stop()
