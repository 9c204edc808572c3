"""`seawall diagnose`: what is different now from what is usual, incident or not."""

import asyncio
import json
from pathlib import Path

import click

from seawall.cli.options import data_dir_option, json_option
from seawall.monitoring.diagnosis import as_text
from seawall.monitoring.things import Diagnosis
from seawall.settings import read_settings
from seawall.telemetry.link import ask
from seawall.telemetry.log import printable


@click.command()
@data_dir_option
@json_option
def diagnose(data_dir: Path | None, *, as_json: bool) -> None:
    """Compare the last ten seconds with what was usual before, and say whom to suspect, and who is innocent.

    While an incident goes on, usual is what was before it. Exit code 0 if nobody is suspected, 1 if somebody is, 2 if
    no service runs.
    """
    answer = asyncio.run(ask(read_settings({"data_dir": data_dir}).socket_path(), "diagnose"))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(printable(as_text(Diagnosis.from_json(answer))))
    raise SystemExit(0 if answer["suspect"] is None else 1)
