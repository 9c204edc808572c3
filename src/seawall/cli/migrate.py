"""`seawall migrate`: bring the database to this release's schema."""

import asyncio

import click

from seawall.cli.node import find_database
from seawall.cli.options import data_dir_option
from seawall.database.migrations import migrate as run_migrations
from seawall.settings import read_settings


@click.command()
@data_dir_option
def migrate(data_dir: str | None) -> None:
    """Apply the migrations this release has and the database has not. `up` does it by itself."""
    applied = asyncio.run(run_migrations(find_database(read_settings({"data_dir": data_dir}))))
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do")
