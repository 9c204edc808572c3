"""`seawall status`: how the running service is."""

import asyncio
import json
from typing import Any

import click

from seawall.cli.options import data_dir_option, json_option
from seawall.settings import read_settings
from seawall.telemetry.link import ask


@click.command()
@data_dir_option
@click.option("--connections", "with_connections", is_flag=True, help="Say who holds connections also when none lacks.")
@json_option
def status(data_dir: str | None, *, with_connections: bool, as_json: bool) -> None:
    """Say how the service is: exit code 0 when it is ready, 1 when not, 2 when none runs.

    When a node's connections to the database are all in use, it says who held them in the last 10 to 20 s.
    """
    answer = asyncio.run(ask(read_settings({"data_dir": data_dir}).socket_path(), "status"))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(f"{'ready' if answer['ready'] else 'not ready: ' + answer['reason']}")
        click.echo(f"S3       {answer['s3']}")
        click.echo(f"health   {answer['console']}")
        for name, node in answer["nodes"].items():
            click.echo(f"{name:<8} process {node['pid']}, {'ready' if node['ready'] else node['reason']}")
            connections = node["connections"]
            if connections is not None and (connections["saturated"] or with_connections):
                click.echo(_table(connections))
    raise SystemExit(0 if answer["ready"] else 1)


def _table(connections: dict[str, Any]) -> str:
    """Return who held a node's connections lately, the longest first."""
    lines = [
        f"  connections: {connections['lent']} of {connections['size']} lent, {connections['idle']} idle, "
        f"{connections['waiting']} waiting for one, {connections['rows_waiting']} rows for a batch",
        f"  {'held':>9} {'share':>6}  {'query':<34} {'route':<24} {'tenant':>8}  call site",
    ]
    lines += [
        f"  {line['held_s']:>7.2f} s {line['share']:>6.0%}  {line['query']:<34} {line['route']:<24} "
        f"{line['tenant']:>8}  {line['site']}"
        for line in connections["blame"]
    ]
    return "\n".join(lines)
