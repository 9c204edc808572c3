import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import asyncpg
import pytest

from seawall.database import Endpoint, migrations
from seawall.database.local_binaries import reachable_binaries, server_user
from seawall.database.local_server import LocalServer
from seawall.database.migrations import Migration, all_migrations, migrate
from seawall.errors import DatabaseDown, Misconfigured

SCHEMA = Path(str(resources.files("seawall.database"))) / "schema.sql"
WRITE_SCHEMA = "WRITE_SCHEMA=1 .venv/bin/python -m pytest tests/database/test_migrations.py -k schema"
HEADER = f"""\
-- What the migrations make, for reading. Nobody runs this file; it is written by
-- {WRITE_SCHEMA}

"""

A_TABLE = "create table marks (number integer primary key);"


def a_migration(number: int, sql: str) -> Migration:
    return Migration(number=number, name=f"{number:04}_expand_test.sql", sql=sql)


@pytest.fixture
async def empty(local_server: LocalServer) -> AsyncIterator[Endpoint]:
    """A database without anything in it."""
    administrator = await asyncpg.connect(**local_server.superuser.connect_arguments())
    await administrator.execute("drop database if exists empty with (force)")
    await administrator.execute(f"create database empty template template0 owner {local_server.service.user}")
    yield replace(local_server.service, database="empty")
    await administrator.execute("drop database empty with (force)")
    await administrator.close()


async def ask(endpoint: Endpoint, statement: str) -> object:
    connection = await asyncpg.connect(**endpoint.connect_arguments())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def execute(endpoint: Endpoint, statements: str) -> None:
    connection = await asyncpg.connect(**endpoint.connect_arguments())
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


def known(monkeypatch: pytest.MonkeyPatch, *steps: Migration) -> None:
    """Be a release that knows these migrations."""
    monkeypatch.setattr(migrations, "all_migrations", lambda: list(steps))


async def test_all_are_applied_once_and_in_order(empty: Endpoint) -> None:
    first = await migrate(empty)
    second = await migrate(empty)

    assert first == [migration.name for migration in all_migrations()]
    assert second == []


async def test_of_several_at_once_one_does_it_and_the_others_wait(empty: Endpoint) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))

    assert sorted(name for names in applied for name in names) == [migration.name for migration in all_migrations()]


async def test_a_step_that_fails_leaves_nothing_of_itself_and_all_of_those_before_it(
    empty: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, a_migration(1, A_TABLE), a_migration(2, "insert into marks values (1); select 1 / 0;"))

    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty)

    assert await ask(empty, "select count(*) from marks") == 0
    assert await ask(empty, "select max(number) from schema_migrations") == 1


async def test_a_text_that_was_edited_after_it_was_applied_is_refused(
    empty: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, a_migration(1, A_TABLE))
    await migrate(empty)

    known(monkeypatch, a_migration(1, A_TABLE + " -- improved"), a_migration(2, "select 1"))
    with pytest.raises(Misconfigured, match="another text"):
        await migrate(empty)

    assert await ask(empty, "select max(number) from schema_migrations") == 1


async def test_a_database_of_a_newer_release_is_refused_and_left_alone(
    empty: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [a_migration(1, A_TABLE), a_migration(2, "insert into marks values (2)")]
    known(monkeypatch, *newer)
    await migrate(empty)

    known(monkeypatch, newer[0])
    with pytest.raises(Misconfigured, match="newer"):
        await migrate(empty)

    assert await ask(empty, "select count(*) from marks") == 1


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["0001_expand_one.sql", "0003_expand_three.sql"], "gaps"),
        (["0002_expand_two.sql"], "gaps"),
        (["0001_expand_one.sql", "0001_contract_other.sql"], "gaps"),
        (["0001_initial.sql"], "not named"),
        (["1_expand_one.sql"], "not named"),
    ],
)
def test_numbers_with_gaps_and_other_names_are_refused(
    names: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        (tmp_path / name).write_text("select 1")
    monkeypatch.setattr(resources, "files", lambda _package: tmp_path)

    with pytest.raises(ValueError, match=reason):
        all_migrations()


async def test_an_old_server_is_refused(empty: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "OLDEST_SERVER", 9_000_000)

    with pytest.raises(Misconfigured, match="newer"):
        await migrate(empty)


async def test_a_database_that_is_away_is_reported_in_our_words(empty: Endpoint) -> None:
    with pytest.raises(DatabaseDown):
        await migrate(replace(empty, port=1))


async def test_somebody_else_who_never_ends_is_not_awaited_for_ever(
    empty: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_S", 0.2)
    holder = await asyncpg.connect(**empty.connect_arguments())
    await holder.execute(f"select pg_advisory_lock({migrations.LOCK_KEY})")

    with pytest.raises(DatabaseDown):
        await migrate(empty)

    await holder.close()


async def test_nothing_is_left_of_a_migration_that_was_cancelled(
    empty: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, a_migration(1, A_TABLE + " select pg_sleep(30)"))
    task = asyncio.create_task(migrate(empty))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    known(monkeypatch, a_migration(1, A_TABLE))
    assert await migrate(empty) == ["0001_expand_test.sql"]


# The schema as one file.


async def test_the_schema_file_says_what_the_migrations_make(empty: Endpoint) -> None:
    await migrate(empty)

    text = HEADER + schema_text(empty)
    if os.environ.get("WRITE_SCHEMA"):
        SCHEMA.write_text(text)

    assert SCHEMA.read_text() == text, f"the migrations make another schema than schema.sql says: {WRITE_SCHEMA}"


async def test_the_schema_file_builds_the_same_database(empty: Endpoint) -> None:
    await execute(empty, SCHEMA.read_text())

    assert HEADER + schema_text(empty) == SCHEMA.read_text()


def schema_text(endpoint: Endpoint) -> str:
    """Return what PostgreSQL says the schema is, without what depends on its release and on the day."""
    dumped = subprocess.run(
        [reachable_binaries(None, server_user()) / "pg_dump", "--schema-only", "--no-owner", "--no-privileges"],
        env={
            "PGHOST": endpoint.host,
            "PGPORT": str(endpoint.port),
            "PGUSER": endpoint.user,
            "PGPASSWORD": endpoint.password,
            "PGDATABASE": endpoint.database,
        },
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Settings of the session, comments of the program's own, and words that change each time.
    noise = re.compile(
        r"SET .*;|SELECT pg_catalog\.set_config.*;|\\(?:un)?restrict .*|--(?: .*(?:Type|Dumped|PostgreSQL).*)?"
    )
    lines = [line for line in dumped.splitlines() if not noise.fullmatch(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
