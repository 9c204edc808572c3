"""`seawall up`: the whole service on this machine."""

import asyncio
import logging
import signal
from typing import Any

import click
import uvloop

from seawall.cli.options import setting_options
from seawall.service import Keeper, running_keeper
from seawall.settings import Settings, read_settings, unknown_variables
from seawall.telemetry.log import set_up_logging

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.05


@click.command()
@setting_options
def up(**overrides: Any) -> None:
    """Run the whole service: PostgreSQL, the nodes, and what watches them. Ctrl-C stops it."""
    settings = read_settings(overrides)
    set_up_logging("keeper")
    for name in unknown_variables():
        log.warning("settings.unknown_variable", extra={"variable": name})
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    starting = asyncio.create_task(_serve(settings, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await starting
    stopping.cancel()


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    async with running_keeper(settings) as keeper:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not keeper.readiness().ready and not stop.is_set():
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            click.echo(f"Not ready yet: {keeper.readiness().reason}", err=True)
        else:
            if not stop.is_set():
                click.echo(banner(keeper, settings))
        await stop.wait()
        click.echo("Stopping: requests under way may end ...", err=True)


def banner(keeper: Keeper, settings: Settings) -> str:
    """Return what a newcomer needs to know."""
    s3 = "http://{}:{}".format(*keeper.s3_address)
    console = "http://{}:{}".format(*keeper.console_address)
    lines = [
        "",
        "  Seawall is ready.",
        "",
        f"  S3          {s3}",
        f"  Health      {console}/readyz   {console}/metrics",
        f"  Data        {settings.data_dir}",
    ]
    if keeper.new_root is not None:
        lines += [
            f"  Access key  {keeper.new_root.access_key}",
            f"  Secret key  {keeper.new_root.secret_key}",
            "              (shown this once; kept in root-credentials in the data directory)",
        ]
    else:
        lines.append("  Root keys   in root-credentials in the data directory")
    return "\n".join([*lines, ""])
