"""`seawall node`: one node, for those who run many."""

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import uvloop

from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.database import Endpoint
from seawall.database.local_server import LocalServer
from seawall.drills.slow_disk import drill_blob_store
from seawall.errors import NotRunning
from seawall.service import listening_socket, running_node
from seawall.settings import Settings, read_settings
from seawall.telemetry.log import set_up_logging


@click.command()
@click.option("--name", default=None, help="How the node is called in logs and metrics.  [default: the host's name]")
@click.option("--listener", type=int, multiple=True, hidden=True, help="An inherited listening socket.")
@click.option("--data-dir", type=click.Path(path_type=Path), default=None, help="Where blobs are kept.")
def node(name: str | None, listener: tuple[int, ...], data_dir: Path | None) -> None:
    """Run one node on the database of the settings. Its own health port is `SEAWALL_HEALTH_PORT`."""
    settings = read_settings({"data_dir": data_dir})
    called = name or socket.gethostname()
    set_up_logging(called)
    endpoints = find_database(settings)
    sockets = [socket.socket(fileno=descriptor) for descriptor in listener]
    uvloop.run(_run(settings, called, endpoints, sockets))


def find_database(settings: Settings) -> Sequence[Endpoint]:
    """Return the servers of the database that serves these settings.

    Raises:
        NotRunning: it is the embedded one, and that does not run.
    """
    external = settings.external_database()
    if external:
        return external
    endpoint = LocalServer.find(settings.data_dir)
    if endpoint is None:
        raise NotRunning(f"No service is running on {settings.data_dir}, and SEAWALL_DATABASE_URL is not set.")
    return (endpoint,)


async def _run(settings: Settings, name: str, endpoints: Sequence[Endpoint], sockets: list[socket.socket]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listeners = sockets or [listening_socket(settings.host, settings.s3_port)]
    open_blobs: Callable[[BlobSettings], DiskBlobStore] = DiskBlobStore
    if settings.drill_disk is not None:
        open_blobs = partial(drill_blob_store, trouble_file=settings.drill_disk)
    async with running_node(settings, name=name, endpoints=endpoints, listeners=listeners, open_blobs=open_blobs):
        await stop.wait()
