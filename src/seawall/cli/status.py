"""`seawall status`: how the running service is."""

import asyncio
import json

import click

from seawall.cli.options import data_dir_option, json_option
from seawall.settings import read_settings
from seawall.telemetry.link import ask


@click.command()
@data_dir_option
@json_option
def status(data_dir: str | None, *, as_json: bool) -> None:
    """Say how the service is: exit code 0 when it is ready, 1 when not, 2 when none runs."""
    answer = asyncio.run(ask(read_settings({"data_dir": data_dir}).socket_path(), "status"))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(f"{'ready' if answer['ready'] else 'not ready: ' + answer['reason']}")
        click.echo(f"S3       {answer['s3']}")
        click.echo(f"health   {answer['console']}")
        for name, node in answer["nodes"].items():
            click.echo(f"{name:<8} process {node['pid']}, {'ready' if node['ready'] else node['reason']}")
    raise SystemExit(0 if answer["ready"] else 1)
