"""One client connection: bytes in, exchanges in order, bytes out.

The head goes through httptools, bodies are framed here, small responses go through the transport
and large ones straight to the socket, so that a file is never copied through this process. Requests
of one connection are answered one after the other; those that come early wait, up to a bound.
"""

import asyncio
import os
import socket
from typing import TYPE_CHECKING, cast

from seawall.clock import monotonic_s
from seawall.edge.body import Body
from seawall.edge.exchange import ClientGone, Exchange
from seawall.edge.head import BadHead, Head, HeadParser
from seawall.errors import IncompleteBody

if TYPE_CHECKING:
    from seawall.edge.server import HttpServer

HEAD_MAX_BYTES = 16 * 1024
# Pipelined requests that wait for their turn; beyond, the client has to wait as well.
AHEAD_MAX_BYTES = 64 * 1024
# A body nobody wants is read to its end up to this size, so that the connection lives on.
DISCARD_MAX_BYTES = 64 * 1024
# After the last response the client's unread bytes are taken for a while: closing at once would
# reset the connection and take the response with it (RFC 9112, 9.6).
LINGER_S = 2.0
NEVER = float("inf")


class Connection(asyncio.BufferedProtocol):
    """One client connection. State: unparsed bytes, the present exchange, the present deadline."""

    __slots__ = (
        "_ahead",
        "_discarding",
        "_exchange",
        "_lingering",
        "_loop",
        "_output",
        "_output_waiter",
        "_parser",
        "_rate_bytes",
        "_rate_started_s",
        "_reading_paused",
        "_server",
        "_task",
        "_transport",
        "_writing_paused",
        "deadline_s",
        "peer",
    )

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._loop = server.loop
        self._parser = HeadParser()
        self._ahead = b""
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._discarding: Body | None = None
        self._lingering = False
        self._output: socket.socket | None = None
        self._output_waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._rate_started_s = 0.0
        self._rate_bytes = 0
        self.deadline_s = NEVER
        self.peer = ""

    def __repr__(self) -> str:
        return f"<Connection from {self.peer}: {self._exchange or 'idle'}>"

    @property
    def busy(self) -> bool:
        """Whether a request was received that is not answered yet."""
        return self._exchange is not None

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        # With no slack, a response is sent at once, and `pause_writing` means that some is left.
        self._transport.set_write_buffer_limits(high=0)
        peer = self._transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "local"
        self.deadline_s = self._loop.time() + self._server.settings.idle_s
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """End: called by the event loop."""
        self._server.closed(self)
        self.deadline_s = NEVER
        if self._exchange is not None:
            self._exchange.body.fail(IncompleteBody())
        self._wake_output(ClientGone())
        if self._output is not None and self._output_waiter is None:
            self._output.close()
            self._output = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where received bytes go: called by the event loop."""
        return self._server.receive_view

    def buffer_updated(self, count: int) -> None:
        """Take received bytes: called by the event loop."""
        if self._lingering:
            return
        data = bytes(self._server.receive_view[:count])
        body = self._discarding or (self._exchange.body if self._exchange is not None else None)
        if body is not None and not body.is_complete():
            data = body.feed(data)
            self._rate_bytes += count
            if body.is_complete():
                self.deadline_s = NEVER
            elif not body.paused:
                self.deadline_s = self._rate_deadline_s()
        if data:
            self._ahead = self._ahead + data if self._ahead else data
        if self._discarding is not None and self._discarding.is_complete():
            self._discarding = None
            self._become_idle()
        elif self._exchange is None and self._discarding is None:
            self._next()
        elif len(self._ahead) > AHEAD_MAX_BYTES:
            self._pause_reading()

    def eof_received(self) -> bool:
        """Note that the client sends no more: called by the event loop."""
        if self._exchange is None or self._lingering:
            return False
        self._exchange.close_after = True
        self._exchange.body.fail(IncompleteBody())
        return True  # The response to what came before is still wanted.

    def pause_writing(self) -> None:
        """Note that the client does not keep up: called by the transport."""
        self._writing_paused = True
        self.deadline_s = self._loop.time() + self._server.settings.stall_s

    def resume_writing(self) -> None:
        """Note that everything was sent: called by the transport."""
        self._writing_paused = False
        self._wake_output()
        if self._exchange is None and not self._transport.is_closing():
            self._become_idle()

    # Called by the server.

    def expire(self) -> None:
        """Act on a deadline that passed."""
        if self._lingering or self._writing_paused or self._output_waiter is not None:
            self._transport.abort()
        elif self._exchange is not None:
            self.deadline_s = NEVER
            self._exchange.close_after = True
            self._exchange.body.fail(IncompleteBody("The body did not arrive in time."))
        elif self._ahead or self._discarding is not None:
            self._refuse(BadHead(408, "the request did not arrive in time"))
        else:
            self._transport.close()

    def stop_when_idle(self) -> None:
        """Close now, or after the request that is under way."""
        if self._exchange is not None:
            self._exchange.close_after = True
        elif not self._lingering:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    # Called by the exchange.

    def common_headers(self) -> str:
        """Return the headers every response has, as text."""
        return self._server.common_headers

    def will_close(self, exchange: Exchange) -> bool:
        """Decide whether this is the last response on the connection, and remember it."""
        if self._server.draining or not self._body_can_be_skipped(exchange):
            exchange.close_after = True
        return exchange.close_after

    def write(self, data: bytes) -> None:
        """Send a small response through the transport."""
        self._transport.write(data)

    async def send(self, data: bytes | memoryview, *, more: bool) -> None:
        """Send bytes straight to the socket; `more` will follow at once.

        Raises:
            ClientGone: nobody listens any more, or too slowly.
        """
        output = await self._ready_output()
        view = memoryview(data)
        flags = socket.MSG_MORE if more else 0
        while view:
            try:
                count = output.send(view, flags)
            except BlockingIOError:
                await self._output_writable(output)
            except OSError as error:
                raise ClientGone from error
            else:
                self._rate_bytes += count
                view = view[count:]

    async def send_file(self, descriptor: int, *, start: int, stop: int) -> None:
        """Send bytes `start` up to `stop` of an open file; errors as `send`."""
        output = await self._ready_output()
        while start < stop:
            try:
                count = os.sendfile(output.fileno(), descriptor, start, stop - start)
            except BlockingIOError:
                await self._output_writable(output)
                continue
            except OSError as error:
                raise ClientGone from error
            if not count:
                raise EOFError("the file is shorter than it was")
            self._rate_bytes += count
            start += count

    # Inside: reading.

    def _next(self) -> None:
        """Begin the next exchange if its head is here."""
        if self._writing_paused or self._transport.is_closing():
            return
        data = self._ahead
        if data[:1] in {b"\r", b"\n"}:
            data = data.lstrip(b"\r\n")  # Some send an empty line too many (RFC 9112, 2.2).
            self._ahead = data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4 or end > HEAD_MAX_BYTES:
            self._head_incomplete(data)
            return
        try:
            head = self._parser.parse(data[:end])
        except BadHead as error:
            self._refuse(error)
            return
        self._ahead = data[end:]
        self._begin(head)

    def _head_incomplete(self, data: bytes) -> None:
        if len(data) > HEAD_MAX_BYTES:
            self._refuse(BadHead(431, f"the head is longer than {HEAD_MAX_BYTES} bytes"))
        elif b"\n\n" in data or b"\n\r\n" in data.replace(b"\r\n\r\n", b""):
            self._refuse(BadHead(400, "a line does not end in CRLF"))
        elif data and not self._rate_started_s:
            # The whole head has to come in this time, however slowly its bytes drip.
            self._rate_started_s = self._loop.time()
            self.deadline_s = self._rate_started_s + self._server.settings.head_s

    def _begin(self, head: Head) -> None:
        server = self._server
        body = Body(
            head.content_length,
            memory=server.body_memory,
            before_first_read=self._continue if head.expects_continue else _nothing,
            stop_receiving=self._pause_body,
            go_on_receiving=self._resume_body,
        )
        now_s = self._loop.time()
        exchange = Exchange(
            self, head, body, peer=self.peer, request_id=server.next_request_id(), started_s=monotonic_s()
        )
        self._exchange = exchange
        self._rate_started_s = now_s
        self._rate_bytes = 0
        if not body.is_complete():
            self.deadline_s = now_s + server.settings.stall_s
            if self._ahead:
                self._ahead = body.feed(self._ahead)
        if body.is_complete():
            self.deadline_s = NEVER
        self._task = self._loop.create_task(self._serve(exchange))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
        except ClientGone:
            self._transport.abort()
        except Exception as error:  # noqa: BLE001 - the last resort: a door translates what it can foresee
            self._server.failed(exchange, error)
            if exchange.answered:
                self._transport.abort()
            else:
                exchange.close_after = True
                exchange.respond(500, [("Content-Type", "text/plain")], b"internal error\n")
        finally:
            self._end(exchange)

    def _end(self, exchange: Exchange) -> None:
        """Finish the exchange and decide what becomes of the connection."""
        self._exchange = None
        self._task = None
        skippable = self._body_can_be_skipped(exchange)
        leave_body = exchange.body.untouched and exchange.head.expects_continue
        exchange.body.release()
        self._server.observe(exchange, monotonic_s() - exchange.started_s)
        if self._transport.is_closing():
            if self._output is not None:
                self._output.close()
                self._output = None
        elif exchange.truncated or not exchange.answered:
            self._transport.abort()
        elif exchange.close_after or self._server.draining:
            if exchange.body.is_complete():
                self._transport.close()
            else:
                self._linger()
        elif exchange.body.is_complete() or leave_body:
            self._become_idle()
        elif skippable:
            self._discarding = exchange.body
            self._rate_started_s = self._loop.time()
            self._rate_bytes = 0
            self.deadline_s = self._rate_deadline_s()
            self._resume_reading()
        else:
            self._linger()

    def _become_idle(self) -> None:
        self._rate_started_s = 0.0
        if not self._writing_paused:
            self.deadline_s = self._loop.time() + self._server.settings.idle_s
        if self._reading_paused:
            self._resume_reading()
        if self._ahead:
            self._next()

    def _body_can_be_skipped(self, exchange: Exchange) -> bool:
        """Whether the connection can live on although the body was not read to its end."""
        body = exchange.body
        if body.is_complete() or (body.untouched and exchange.head.expects_continue):
            return True
        return body.length is not None and body.length - body.received <= DISCARD_MAX_BYTES

    def _refuse(self, error: BadHead) -> None:
        """Answer what is no request, and close."""
        self._ahead = b""
        self._server.refused(error)
        text = f"{error.reason}\n".encode()
        head = f"HTTP/1.1 {error.status} {error.reason}\r\n{self._server.common_headers}"
        head += f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode("latin-1", "replace") + text)
        self._linger()

    def _linger(self) -> None:
        self._lingering = True
        self._ahead = b""
        self.deadline_s = self._loop.time() + LINGER_S
        self._resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _continue(self) -> None:
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _rate_deadline_s(self) -> float:
        """Return when the client must have sent, or taken, more than it did so far."""
        settings = self._server.settings
        by_rate_s = self._rate_started_s + settings.stall_s + self._rate_bytes / settings.rate_min_bytes_per_s
        return min(self._loop.time() + settings.stall_s, by_rate_s)

    def _pause_body(self) -> None:
        self._pause_reading()
        self.deadline_s = NEVER  # It is we who are slow.

    def _resume_body(self) -> None:
        self._rate_started_s = self._loop.time()
        self._rate_bytes = 0
        self.deadline_s = self._rate_deadline_s()
        self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    # Inside: writing.

    async def _ready_output(self) -> socket.socket:
        """Return our own handle of the socket, once the transport has nothing left to send."""
        while self._writing_paused:
            await self._wait_output()
        if self._transport.is_closing():
            raise ClientGone
        if self._output is None:
            # The transport owns its descriptor; a second one may be watched and written beside it.
            descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
            self._output = socket.socket(fileno=descriptor)
            self._output.settimeout(0.0)
        return self._output

    async def _output_writable(self, output: socket.socket) -> None:
        self.deadline_s = self._rate_deadline_s()
        descriptor = output.fileno()
        self._loop.add_writer(descriptor, self._wake_output)
        try:
            await self._wait_output()
        finally:
            self._loop.remove_writer(descriptor)
            self.deadline_s = NEVER
        if self._transport.is_closing():
            raise ClientGone

    async def _wait_output(self) -> None:
        waiter = self._output_waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._output_waiter = None

    def _wake_output(self, error: Exception | None = None) -> None:
        waiter = self._output_waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


def _nothing() -> None:
    return
