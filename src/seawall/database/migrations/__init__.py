"""Plain-SQL migrations, applied in the order of their numbers under an advisory lock.

A file is named `NNNN_expand_…` when the previous release can work with its outcome, and
`NNNN_contract_…` when it takes away what only older releases needed. Each runs in one transaction
together with its line in `schema_migrations`, so that it happened wholly or not at all.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources

import asyncpg

from seawall.database.endpoint import Endpoint
from seawall.database.pool import CONNECTION_LOST
from seawall.errors import DatabaseDown, Misconfigured

FILE_NAME = re.compile(r"^(?P<number>\d{4})_(?P<kind>expand|contract)_[a-z0-9_]+\.sql$")
# Any number will do, as long as every release uses the same one.
LOCK_KEY = 0x5EA3A11
LOCK_TIMEOUT_S = 120
OLDEST_SERVER = 150000


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str

    @property
    def fingerprint(self) -> str:
        """A hash of the text: a migration that was applied must never be edited."""
        return sha256(self.sql.encode()).hexdigest()


def all_migrations() -> list[Migration]:
    """Return every migration this release knows, oldest first.

    Raises:
        ValueError: a file is misnamed, or the numbers have a gap.
    """
    found = []
    for file in resources.files(__name__).iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = FILE_NAME.match(file.name)
        if match is None:
            raise ValueError(f"{file.name} is not named like a migration")
        found.append(Migration(number=int(match["number"]), name=file.name, sql=file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 … without gaps")
    return found


async def migrate(endpoint: Endpoint) -> list[str]:
    """Bring the database to this release's schema; return the names of what was applied.

    Several may call this at once: one does the work, the others wait for it.

    Raises:
        Misconfigured: the server is too old, was migrated by a newer release, or holds a migration
            whose text has changed since.
        DatabaseDown: it cannot be reached, or somebody else's migration does not end.
    """
    try:
        return await _migrate(endpoint)
    except asyncpg.exceptions.InsufficientPrivilegeError as error:
        raise Misconfigured(
            f"The database role {endpoint.user} may not bring the schema to this release: {error}. Make it the owner "
            f"of the database {endpoint.database} and of what Seawall made there."
        ) from error
    except (*CONNECTION_LOST, asyncpg.exceptions.LockNotAvailableError) as error:
        raise DatabaseDown(f"The database could not be brought to this release's schema: {error}") from error


async def _migrate(endpoint: Endpoint) -> list[str]:
    # No statement is remembered: through PgBouncer the next one may go to another server process.
    connection = await asyncpg.connect(**endpoint.connect_arguments(), timeout=30.0, statement_cache_size=0)
    try:
        if connection.get_server_version().major * 10000 < OLDEST_SERVER:
            raise Misconfigured("Seawall needs PostgreSQL 15 or newer.")
        # Settings and lock are the transaction's, because PgBouncer in transaction mode has no sessions.
        applied: list[str] = []
        for migration in all_migrations():
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")
                await connection.execute("set local statement_timeout = 0")
                await connection.execute("select pg_advisory_xact_lock($1::bigint)", LOCK_KEY)
                if await _is_needed(connection, migration):
                    await connection.execute(migration.sql)
                    await connection.execute(
                        "insert into schema_migrations (number, name, fingerprint) values ($1, $2, $3)",
                        migration.number,
                        migration.name,
                        migration.fingerprint,
                    )
                    applied.append(migration.name)
        return applied
    finally:
        await connection.close(timeout=10)


async def _is_needed(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> bool:
    await connection.execute(
        """
        create table if not exists schema_migrations (
            number integer primary key,
            name text not null,
            fingerprint text not null,
            applied_at timestamptz not null default now()
        )
        """
    )
    newest = await connection.fetchval("select max(number) from schema_migrations")
    if newest is not None and newest > len(all_migrations()):
        raise Misconfigured(
            f"The database was migrated to step {newest} by a newer Seawall; this one knows {len(all_migrations())}."
        )
    fingerprint = await connection.fetchval(
        "select fingerprint from schema_migrations where number = $1", migration.number
    )
    if fingerprint is not None and fingerprint != migration.fingerprint:
        raise Misconfigured(f"Migration {migration.name} was applied with another text than this release has.")
    return fingerprint is None
