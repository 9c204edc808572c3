"""`seawall scrub`: is every byte still what was written?"""

import asyncio
import dataclasses
import json

import click

from seawall.cli.node import find_database
from seawall.cli.options import data_dir_option, json_option
from seawall.objects.sweeper import Scrubbed
from seawall.service import open_sweeper
from seawall.settings import Settings, read_settings


@click.command()
@data_dir_option
@json_option
def scrub(data_dir: str | None, *, as_json: bool) -> None:
    """Read everything that is stored and compare it with its checksums: exit code 1 when something is wrong."""
    scrubbed = asyncio.run(_scrub(read_settings({"data_dir": data_dir})))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(scrubbed), indent=2))
    else:
        for name in scrubbed.missing:
            click.echo(f"missing: {name}")
        for name in scrubbed.corrupt:
            click.echo(f"corrupt: {name}")
        click.echo(
            f"{scrubbed.blobs} blobs, {scrubbed.size_bytes} bytes: "
            f"{len(scrubbed.missing)} missing, {len(scrubbed.corrupt)} corrupt"
        )
    raise SystemExit(1 if scrubbed.missing or scrubbed.corrupt else 0)


async def _scrub(settings: Settings) -> Scrubbed:
    async with open_sweeper(settings, find_database(settings)) as sweeper:
        return await sweeper.scrub()
