"""A listening door: accepts connections, keeps their deadlines, drains at the end."""

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from types import TracebackType
from typing import Self

from seawall.clock import wall_s
from seawall.edge.body import BodyMemory
from seawall.edge.connection import Connection
from seawall.edge.exchange import Admit, Exchange, Handler, Observer
from seawall.edge.head import BadHead

log = logging.getLogger(__name__)

# Where only heads are expected, or memory is short, little is received at a time.
WIDE_BYTES = 256 * 1024
NARROW_BYTES = 32 * 1024
SWEEP_INTERVAL_S = 0.5
BACKLOG = 4096
# So many new connections are timed until somebody asks how long their first bytes took.
TIMED_MAX = 1_000
# Connections beyond the limit that are told so; those beyond even these are reset.
TURNED_AWAY_MAX = 2_000
# A handler that is cancelled gives back what it holds in this time.
CANCEL_S = 5.0
BUSY = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How patient a door is, and how much it holds.

    In each `stall_s` a body must bring (and a client must take) `rate_min_bytes_per_s` on average: who drips a
    byte a second holds nothing for long. `answer_s` is for our own handler: to ask for the body, go on with it,
    send, or answer. It is the last resort, far beyond every deadline of a door.
    """

    idle_s: float = 75.0
    head_s: float = 10.0
    stall_s: float = 30.0
    rate_min_bytes_per_s: float = 1024.0
    answer_s: float = 600.0
    connections_max: int = 16_000
    connections_per_client_max: int = 8_000
    body_memory_bytes: int = 96 * 1024 * 1024
    drain_s: float = 30.0


@dataclass(slots=True)
class ServerCounts:
    """What a door did so far."""

    accepted: int = 0
    refused_connections: int = 0
    bad_heads: int = 0
    expired: int = 0
    failed: int = 0
    reset: int = 0
    """Connections that the network, or the client, broke."""


class HttpServer:
    """Serves exchanges to a handler. State: the open connections, and the present Date header."""

    def __init__(
        self,
        handler: Handler,
        settings: HttpSettings,
        *,
        observe: Observer,
        admit: Admit | None = None,
        name: str = "Seawall",
        request_id_header: str = "",
    ) -> None:
        self.handler = handler
        self.settings = settings
        self.observe = observe
        self.admit = admit
        self.loop = asyncio.get_running_loop()
        self.body_memory = BodyMemory(limit_bytes=settings.body_memory_bytes)
        # One for all connections: what is received is taken out before anything else happens.
        self.wide_view = memoryview(bytearray(WIDE_BYTES))
        self.narrow_view = self.wide_view[:NARROW_BYTES]
        self.window_bytes = settings.rate_min_bytes_per_s * settings.stall_s
        self.draining = False
        self.active = 0
        """How many requests were received and have not ended."""
        self.counts = ServerCounts()
        self.sockets: list[socket.socket] = []
        """What it listens on."""
        self.first_bytes_s: list[float] = []
        """How long new connections took to send something, until that is taken away."""
        self.common_headers = ""
        self._name = name
        self._request_id_header = request_id_header
        self._connections: set[Connection] = set()
        # How many come from each address: one client must not lock out all others.
        self._per_client: Counter[str] = Counter()
        self._listeners: list[asyncio.Server] = []
        self._request_prefix = secrets.token_hex(4).upper()
        self._request_number = 0
        self._sweeper: asyncio.Task[None] | None = None
        self._all_closed: asyncio.Event = asyncio.Event()

    def __repr__(self) -> str:
        busy = sum(connection.busy for connection in self._connections)
        return f"<HttpServer {len(self._connections)} connections, {busy} busy{', draining' if self.draining else ''}>"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._set_date()
        self._sweeper = asyncio.create_task(self._sweep(), name="http deadlines")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sweeper is not None
        try:
            await self.drain()
        finally:
            for connection in [*self._connections]:
                connection.abort()
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections from a bound socket, from now on."""
        make: Callable[[], Connection] = lambda: Connection(self)  # noqa: E731 - a factory, typed
        self._listeners.append(await self.loop.create_server(make, sock=listener, backlog=BACKLOG))
        self.sockets.append(listener)

    async def drain(self) -> None:
        """Take no more connections, let requests under way end, then close what is left."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.sockets.clear()
        for connection in [*self._connections]:
            connection.stop_when_idle()
        if not await self._all_close_within(self.settings.drain_s):
            log.warning("http.drain_gave_up", extra={"connections": len(self._connections)})
            for connection in [*self._connections]:
                connection.abort()
            if not await self._all_close_within(CANCEL_S):
                log.error("http.handlers_hang", extra={"connections": len(self._connections)})

    # Called by connections.

    def opened(self, connection: Connection) -> None:
        """Count a new connection, or turn it away."""
        self.counts.accepted += 1
        self._connections.add(connection)
        self._per_client[connection.peer] += 1
        excess = max(
            len(self._connections) - self.settings.connections_max,
            self._per_client[connection.peer] - self.settings.connections_per_client_max,
        )
        if excess > 0 or self.draining:
            self.counts.refused_connections += 1
            if excess > TURNED_AWAY_MAX:
                connection.abort()
            else:
                connection.turn_away(f"{BUSY}{self.id_line(self.next_request_id())}\r\n".encode())

    def heard(self, after_s: float) -> None:
        """Note how long a new connection took to send its first byte."""
        if len(self.first_bytes_s) < TIMED_MAX:
            self.first_bytes_s.append(after_s)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._per_client[connection.peer] -= 1
            if not self._per_client[connection.peer]:
                del self._per_client[connection.peer]
        if not self._connections:
            self._all_closed.set()

    def refused(self, error: BadHead) -> None:
        """Count what was no request."""
        if error.status == 408:
            self.counts.expired += 1
        else:
            self.counts.bad_heads += 1

    def failed(self, exchange: Exchange, error: Exception) -> None:
        """Write down what a handler did not foresee."""
        self.counts.failed += 1
        extra = {"request_id": exchange.request_id, "path": exchange.path}
        log.error("http.handler_failed", extra=extra, exc_info=error)

    def hangs(self, exchange: Exchange) -> None:
        """Write down that a handler does nothing any more."""
        self.counts.failed += 1
        log.error("http.handler_hangs", extra={"request_id": exchange.request_id, "path": exchange.path})

    def next_request_id(self) -> str:
        """Return a name no other request has had: 16 letters, as S3's are."""
        self._request_number += 1
        return f"{self._request_prefix}{self._request_number:08X}"

    def id_line(self, request_id: str) -> str:
        """Return the header that names a request which its door never saw, or did not answer."""
        return f"{self._request_id_header}: {request_id}\r\n" if self._request_id_header else ""

    # Inside.

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self._set_date()
            now_s = self.loop.time()
            for connection in [*self._connections]:
                if connection.deadline_s < now_s or connection.output_deadline_s < now_s:
                    self._expire(connection, now_s)

    def _expire(self, connection: Connection, now_s: float) -> None:
        try:
            connection.expire(now_s)
        except Exception:
            # One connection in a state nobody foresaw must not take the deadlines of all others with it.
            log.exception("http.deadline_failed", extra={"connection": repr(connection)})
            connection.abort()

    async def _all_close_within(self, wait_s: float) -> bool:
        self._all_closed.clear()
        if self._connections:
            try:
                async with asyncio.timeout(wait_s):
                    await self._all_closed.wait()
            except TimeoutError:
                return False
        return True

    def _set_date(self) -> None:
        self.common_headers = f"Date: {formatdate(wall_s(), usegmt=True)}\r\nServer: {self._name}\r\n"
