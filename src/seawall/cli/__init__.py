"""The `seawall` command: one module for each subcommand, each a thin coat over a public function."""

import sys

import click

from seawall.cli.backtest import backtest
from seawall.cli.diagnose import diagnose
from seawall.cli.drill import drill
from seawall.cli.gc import gc
from seawall.cli.incidents import incidents
from seawall.cli.migrate import migrate
from seawall.cli.monitoring import export
from seawall.cli.node import node
from seawall.cli.notify import notify
from seawall.cli.scrub import scrub
from seawall.cli.status import status
from seawall.cli.up import up
from seawall.cli.user import user
from seawall.errors import NotRunning, SeawallError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="seawall")
def seawall() -> None:
    """Cloud file storage that stays up when the crowd arrives."""


for command in (
    up,
    node,
    migrate,
    status,
    user,
    diagnose,
    incidents,
    notify,
    export,
    backtest,
    drill,
    gc,
    scrub,
):
    seawall.add_command(command)


def main() -> None:
    """Run the command; what the house declines becomes one line and an exit code: 2 when nothing runs."""
    try:
        seawall()
    except SeawallError as error:
        click.echo(f"seawall: {error}", err=True)
        sys.exit(2 if isinstance(error, NotRunning) else 1)
