"""`seawall migrate`: bring the database to this release's schema."""

import asyncio

import click

from seawall.cli.node import find_database
from seawall.cli.options import data_dir_option
from seawall.clock import monotonic_s
from seawall.database import find_primary
from seawall.database.migrations import migrate as run_migrations
from seawall.service import DATABASE_PATIENCE_S
from seawall.settings import Settings, read_settings


@click.command()
@data_dir_option
def migrate(data_dir: str | None) -> None:
    """Apply the migrations this release has and the database has not. `up` does it by itself."""
    applied = asyncio.run(_migrate(read_settings({"data_dir": data_dir})))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do")


async def _migrate(settings: Settings) -> list[str]:
    endpoints = settings.direct_database() or find_database(settings)
    deadline_s = monotonic_s() + DATABASE_PATIENCE_S
    primary = await find_primary(endpoints, application_name="seawall command", deadline_s=deadline_s)
    return await run_migrations(primary)
