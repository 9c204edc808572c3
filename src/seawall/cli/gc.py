"""`seawall gc`: give space back now."""

import asyncio
import dataclasses
import json

import click

from seawall.cli.node import find_database
from seawall.cli.options import data_dir_option, json_option
from seawall.errors import Conflict
from seawall.objects.sweeper import COMPACT_ABOVE, Swept
from seawall.service import open_sweeper
from seawall.settings import Settings, read_settings


@click.command()
@click.option("--grace-s", type=float, default=None, help="Remove what lost its name this long ago.")
@click.option(
    "--compact-above", type=float, default=COMPACT_ABOVE, show_default=True,
    help="Rewrite shared files of which at least this share is garbage.",
)  # fmt: skip
@data_dir_option
@json_option
def gc(data_dir: str | None, *, as_json: bool, grace_s: float | None, compact_above: float) -> None:
    """Remove bytes that have no name any more. The service does it by itself every minute."""
    settings = read_settings({"data_dir": data_dir, "garbage_grace_s": grace_s})
    swept = asyncio.run(_sweep(settings, compact_above))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(swept), indent=2))
        return
    click.echo(
        f"removed {swept.files_removed + swept.unnamed_removed} files, {swept.segments_removed} segments and "
        f"{swept.leftovers_removed} leftovers; "
        f"compacted {swept.segments_compacted} segments ({swept.blobs_moved} blobs)"
    )


async def _sweep(settings: Settings, compact_above: float) -> Swept:
    async with open_sweeper(settings, find_database(settings)) as sweeper:
        swept = await sweeper.sweep(compact_above=compact_above)
    if swept.skipped:
        raise Conflict("The service is sweeping just now; try again.")
    return swept
