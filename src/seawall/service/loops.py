"""What runs beside the rest until the stack unwinds: loops, and small doors for health."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from seawall.admission import WINDOW_S, Gate
from seawall.clock import monotonic_s
from seawall.console import HealthDoor
from seawall.database.local_server import LocalServer
from seawall.edge import HttpServer
from seawall.service.machine import listening_socket
from seawall.settings import Settings
from seawall.telemetry.journal import Tell, tell_nobody
from seawall.telemetry.purpose import PURPOSE, Purpose, Urgency

log = logging.getLogger(__name__)
Loop = Callable[[], Awaitable[None]]
LOOP_PAUSE_S = 1.0
LOOP_PAUSE_MAX_S = 30.0


def keep_running(stack: AsyncExitStack, name: str, loop: Loop, *, urgency: Urgency = Urgency.NORMAL) -> None:
    """Run a loop beside the rest until the stack unwinds; when it fails, say so and start it again."""

    async def run() -> None:
        PURPOSE.set(Purpose(route=name, urgency=urgency))
        pause_s = LOOP_PAUSE_S
        while True:
            started_s = monotonic_s()
            try:
                await loop()
            except Exception as error:
                log.exception("loop.failed", extra={"loop": name, "error": repr(error)})
            if monotonic_s() - started_s > LOOP_PAUSE_MAX_S:
                pause_s = LOOP_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LOOP_PAUSE_MAX_S)

    task = asyncio.create_task(run(), name=name)

    async def stop() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(stop)


async def serve(stack: AsyncExitStack, door: HealthDoor, settings: Settings, listener: socket.socket) -> None:
    """Answer health questions on a socket until the stack unwinds."""
    server = await stack.enter_async_context(HttpServer(door, settings.http(), observe=lambda _exchange, _s: None))
    await server.listen(listener)


async def serve_health(stack: AsyncExitStack, door: HealthDoor, settings: Settings, port: int) -> None:
    """Answer health questions about one node."""
    await serve(stack, door, settings, listening_socket(settings.console_host, port))


async def watch_gate(gate: Gate) -> None:
    """Have the gate look at what is scarce, four times a second. Runs until cancelled."""
    while True:
        await asyncio.sleep(WINDOW_S)
        gate.look(monotonic_s())


async def watch_local_server(server: LocalServer, *, tell: Tell = tell_nobody) -> None:
    """Start PostgreSQL again when it died."""
    code = await server.wait_for_exit()
    log.error("postgresql.died", extra={"exit_code": code})
    tell("postgresql.died", exit_code=code)
    await server.restart()
    log.info("postgresql.started_again", extra={"pid": server.pid})
    tell("postgresql.started_again", pid=server.pid)
