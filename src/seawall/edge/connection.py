"""One client connection: bytes in, exchanges in order, bytes out.

The head goes through httptools, bodies are framed here, small responses go through the transport
and large ones straight to the socket, so that a file is never copied through this process. Requests
of one connection are answered one after the other; those that come early wait, up to a bound.
"""

import asyncio
import errno
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from seawall.clock import monotonic_s
from seawall.edge.body import Body
from seawall.edge.exchange import STATUS_LINES, ClientGone, Exchange, PutOff
from seawall.edge.head import BadHead, Head, HeadParser
from seawall.errors import IncompleteBody
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import STOPWATCH, Segment

if TYPE_CHECKING:
    from seawall.edge.server import HttpServer

HEAD_MAX_BYTES = 16 * 1024
# Pipelined requests that wait for their turn; beyond, the client has to wait as well.
AHEAD_MAX_BYTES = 32 * 1024
# A body nobody wants is read to its end up to this size, so that the connection lives on.
DISCARD_MAX_BYTES = 64 * 1024
# After the last response the client's unread bytes are taken for a while: closing at once would
# reset the connection and take the response with it (RFC 9112, 9.6).
LINGER_S = 2.0
# A client as fast as we are would keep the loop for as long as its file is.
TURN_BYTES = 1024 * 1024
# What the kernel may hold for one slow reader beyond what is on its way. Without it that grows to megabytes, and
# a thousand of them exhaust what the kernel has for all connections: 2.1 GiB against 0.2 (tcp(7), tcp_mem).
UNSENT_MAX_BYTES = 256 * 1024
NEVER = float("inf")
# Looked up once.
ENDED = Segment.OTHER
# What these ask for changes nothing, so that it need not be done for somebody who has gone.
READING_METHODS = frozenset({"GET", "HEAD"})
# Closing with this resets the connection and frees what the kernel still holds for the client (socket(7), SO_LINGER).
RESET = struct.pack("ii", 1, 0)
THE_DISKS_FAULT = frozenset({errno.EIO, errno.EBADF, errno.EINVAL, errno.ENOMEM})


class Connection(asyncio.BufferedProtocol):
    """One client connection. State: unparsed bytes, the present exchange, what is waited for and until when.

    `deadline_s` is when the next bytes must have come, or when our own handler must have done something;
    `output_deadline_s` is when the client must have taken some of what was sent.
    """

    __slots__ = (
        "_ahead",
        "_exchange",
        "_half_closed",
        "_head_begun",
        "_lingering",
        "_loop",
        "_lost",
        "_opened_s",
        "_output",
        "_output_waiter",
        "_parser",
        "_put_off_timer",
        "_reading_paused",
        "_receiving",
        "_server",
        "_task",
        "_transport",
        "_turn_bytes",
        "_unsent_bytes",
        "_window_bytes",
        "_writing_paused",
        "deadline_s",
        "output_deadline_s",
        "peer",
    )

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._loop = server.loop
        self._parser = HeadParser()
        self._ahead = b""
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        # Set while the present exchange was not started, and waits to be told so.
        self._put_off_timer: asyncio.TimerHandle | None = None
        # The body whose end did not come yet: of the present exchange, or nobody's any more.
        self._receiving: Body | None = None
        self._head_begun = False
        self._half_closed = False
        self._lingering = False
        self._lost = False
        # When it was opened, until something was received.
        self._opened_s = 0.0
        self._output: socket.socket | None = None
        self._output_waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._window_bytes = 0
        self._unsent_bytes = 0
        self._turn_bytes = 0
        self.deadline_s = NEVER
        self.output_deadline_s = NEVER
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
        self._opened_s = self._loop.time()
        self.deadline_s = self._opened_s + self._server.settings.idle_s
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """End: called by the event loop."""
        self._lost = True
        self._server.counts.reset += error is not None
        self._writing_paused = False
        self.output_deadline_s = NEVER
        self._wake_output(ClientGone())
        exchange = self._exchange
        if exchange is None:
            self._forget()
        elif self._task is None:  # It was not started.
            if self._put_off_timer is not None:
                self._put_off_timer.cancel()
                self._put_off_timer = None
            self._end(exchange)
        else:
            if not exchange.answered:
                # Whatever it does now, nobody hears of it.
                exchange.outcome = exchange.outcome or Outcome.GAVE_UP
            exchange.body.fail(IncompleteBody())  # The rest is for its task to do.
            if not exchange.answered and exchange.method in READING_METHODS:
                self._stop(self._task, exchange)  # What nobody waits for is not read.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where received bytes go: called by the event loop."""
        server, body = self._server, self._receiving
        if body is None or server.body_memory.scarce:
            return server.narrow_view
        if body.length is None:
            return server.wide_view
        return server.wide_view[: body.length - body.received]  # What is behind its end can wait outside.

    def buffer_updated(self, count: int) -> None:
        """Take received bytes: called by the event loop."""
        if self._lingering:
            return
        if self._opened_s:
            self._server.heard(self._loop.time() - self._opened_s)
            self._opened_s = 0.0
        data = bytes(self._server.wide_view[:count])
        body = self._receiving
        if body is not None:
            data = self._feed(body, data)
        if data:
            self._ahead = self._ahead + data if self._ahead else data
        if self._exchange is None and self._receiving is None:
            if body is None:
                self._next()
            else:
                self._become_idle()
        if len(self._ahead) > AHEAD_MAX_BYTES:
            self._pause_reading()

    def eof_received(self) -> bool:
        """Note that the client sends no more: called by the event loop."""
        self._half_closed = True
        if self._lingering or (self._exchange is None and not self._writing_paused):
            return False
        if self._exchange is not None:
            self._exchange.body.fail(IncompleteBody())
            self._set_body_deadline(self._exchange.body)
        return True  # The responses to what came before are still wanted.

    def pause_writing(self) -> None:
        """Note that the client does not keep up: called by the transport."""
        self._writing_paused = True
        self._begin_output_window()

    def resume_writing(self) -> None:
        """Note that everything was sent: called by the transport."""
        self._writing_paused = False
        self.output_deadline_s = NEVER
        self._wake_output()
        if self._lingering:
            self.deadline_s = self._loop.time() + LINGER_S
        elif self._transport.is_closing() or self._exchange is not None:
            return
        elif self._receiving is None or self._half_closed:
            self._become_idle()

    # Called by the server.

    def expire(self, now_s: float) -> None:
        """Act on the deadlines that passed."""
        if self.output_deadline_s < now_s:
            self._end_output_window()
        if self.deadline_s < now_s:
            self._act_on_silence(now_s)

    def turn_away(self, answer: bytes) -> None:
        """Give every request the same answer: there are too many connections."""
        self.write(answer)
        self._finish()

    def stop_when_idle(self) -> None:
        """Close now, or after the request that is under way."""
        if self._exchange is not None:
            self._exchange.close_after = True
        elif self._receiving is not None or self._writing_paused:
            self._finish()
        elif not self._lingering:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, and stop whatever is under way."""
        if self._task is not None and self._exchange is not None:
            self._exchange.outcome = self._exchange.outcome or Outcome.FAILED
            self._stop(self._task, self._exchange)
        self._reset()

    # Called by the exchange.

    def common_headers(self) -> str:
        """Return the headers every response has, as text."""
        return self._server.common_headers

    def will_close(self, exchange: Exchange) -> bool:
        """Decide whether this is the last response on the connection, and remember it."""
        if self._receiving is not None or (exchange.head.expects_continue and exchange.body.withheld):
            self._decide_about_body(exchange)
        if self._server.draining:
            exchange.close_after = True
        return exchange.close_after

    def write(self, data: bytes) -> None:
        """Send a small response through the transport."""
        if not self._transport.is_closing():
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
                view = view[count:]
                self._turn_bytes += count
                if self._turn_bytes > TURN_BYTES:
                    await self._let_others_run()

    async def send_file(self, descriptor: int, *, start: int, stop: int) -> None:
        """Send bytes `start` up to `stop` of an open file; errors as `send`."""
        output = await self._ready_output()
        while start < stop:
            try:
                # A client that reads as fast as we send would otherwise take it all in one call.
                count = os.sendfile(output.fileno(), descriptor, start, min(stop - start, TURN_BYTES))
            except BlockingIOError:
                await self._output_writable(output)
                continue
            except OSError as error:
                if error.errno in THE_DISKS_FAULT:
                    raise
                raise ClientGone from error
            if not count:
                raise EOFError("the file is shorter than it was")
            start += count
            self._turn_bytes += count
            if self._turn_bytes > TURN_BYTES:
                await self._let_others_run()

    # Inside: reading.

    def _next(self) -> None:
        """Begin the next exchange if its head is here."""
        if self._writing_paused or self._transport.is_closing():
            return
        data = self._ahead
        while data[:2] == b"\r\n":
            self._ahead = data = data[2:]  # Some send an empty line too many (RFC 9112, 2.2).
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
        elif b"\n\n" in data or b"\n\r\n" in data:
            self._refuse(BadHead(400, "a line does not end in CRLF"))
        elif data and not self._head_begun:
            # The whole head has to come in this time, however slowly its bytes drip.
            self._head_begun = True
            self.deadline_s = self._loop.time() + self._server.settings.head_s

    def _begin(self, head: Head) -> None:
        server = self._server
        body = Body(
            head.content_length,
            memory=server.body_memory,
            say_continue=self._continue if head.expects_continue else None,
            stop_receiving=self._pause_body,
            go_on_receiving=self._resume_body,
        )
        exchange = Exchange(
            self, head, body, peer=self.peer, request_id=server.next_request_id(), started_s=monotonic_s()
        )
        self._exchange = exchange
        server.active += 1
        self._turn_bytes = 0
        if head.content_length == 0:
            self.deadline_s = self._loop.time() + server.settings.answer_s
        else:
            self._receiving = body
            self._set_body_deadline(body)
            if self._ahead:
                self._ahead = self._feed(body, self._ahead)
            if self._half_closed:
                body.fail(IncompleteBody())
        put_off = server.admit(exchange) if server.admit is not None else None
        if put_off is None:
            self._task = self._loop.create_task(self._serve(exchange))
        else:
            self._put_off(exchange, put_off)

    def _put_off(self, exchange: Exchange, put_off: PutOff) -> None:
        """Hold nothing but the socket, until it is time to say that the request was not started."""
        body = exchange.body
        body.release()
        exchange.stopwatch.switch(Segment.ADMISSION, monotonic_s())
        if self._receiving is not None and (body.length is None or body.length - body.received > DISCARD_MAX_BYTES):
            self._pause_reading()
        if put_off.answer is None:
            self._end(exchange)
        else:
            self._put_off_timer = self._loop.call_later(put_off.delay_s, self._answer_put_off, exchange, put_off.answer)

    def _answer_put_off(self, exchange: Exchange, answer: Callable[[Exchange], None]) -> None:
        self._put_off_timer = None
        try:
            answer(exchange)
        except Exception as error:  # noqa: BLE001 - as in `_serve`
            exchange.outcome = Outcome.FAILED
            self._server.failed(exchange, error)
        self._end(exchange)

    def _feed(self, body: Body, data: bytes) -> bytes:
        first = not body.received
        count = len(data)
        data = body.feed(data)
        self._window_bytes += count
        if body.is_complete():
            self._receiving = None
            self._set_body_deadline(body)
        elif first or self._window_bytes >= self._server.window_bytes:
            self._set_body_deadline(body)
        return data

    async def _serve(self, exchange: Exchange) -> None:
        # Requests of one connection may follow each other in one context.
        STOPWATCH.set(exchange.stopwatch)
        try:
            await self._server.handler(exchange)
            if not exchange.answered:
                raise RuntimeError("the handler did not answer")
        except ClientGone:
            exchange.outcome = exchange.outcome or (Outcome.GONE if exchange.answered else Outcome.GAVE_UP)
            self._reset()
        except Exception as error:  # noqa: BLE001 - the last resort: a door translates what it can foresee
            exchange.outcome = exchange.outcome or Outcome.FAILED
            self._server.failed(exchange, error)
            exchange.close_after = True
            if not exchange.answered:
                named = self._server.id_line(exchange.request_id).rstrip().partition(": ")
                headers = [("Content-Type", "text/plain"), *([(named[0], named[2])] if named[0] else [])]
                exchange.respond(500, headers, b"internal error\n")
        finally:
            self._end(exchange)

    def _stop(self, task: asyncio.Task[None], exchange: Exchange) -> None:
        """Cancel a task; one that has not begun yet does not even come to its end, so that is done here."""
        task.cancel()
        task.add_done_callback(lambda _: self._end(exchange) if self._exchange is exchange else None)

    def _end(self, exchange: Exchange) -> None:
        """Finish the exchange and decide what becomes of the connection."""
        now_s = monotonic_s()
        exchange.stopwatch.switch(ENDED, now_s)
        if not exchange.outcome and self._lost:
            exchange.outcome = Outcome.GONE if exchange.answered else Outcome.GAVE_UP
        self._exchange = None
        self._task = None
        self._server.active -= 1
        exchange.body.release()
        if self._lost:
            self._forget()
        elif not self._transport.is_closing():
            if exchange.truncated or not exchange.answered:
                self._reset()
            elif exchange.close_after or self._server.draining:
                self._finish()
            elif self._receiving is None or self._half_closed:
                self._become_idle()
            else:
                self._set_body_deadline(exchange.body)
                self._resume_reading()
        self._server.observe(exchange, now_s - exchange.started_s)

    def _become_idle(self) -> None:
        self._head_begun = False
        self.deadline_s = NEVER if self._writing_paused else self._loop.time() + self._server.settings.idle_s
        if self._ahead:
            self._next()
        if self._reading_paused:
            self._resume_reading()
        if self._half_closed and self._exchange is None and not self._writing_paused:
            self._transport.close()

    def _decide_about_body(self, exchange: Exchange) -> None:
        """Decide what becomes of a body that is not here as the answer goes out."""
        body = exchange.body
        left = None if body.length is None else body.length - body.received
        # A client that waits for leave may send its body all the same, and botocore reads the answer to its next
        # request wrong on a connection on which it was refused leave: such a connection ends.
        if body.withheld or self._half_closed or left is None or left > DISCARD_MAX_BYTES:
            exchange.close_after = True

    def _act_on_silence(self, now_s: float) -> None:
        """Nothing came, or our handler did nothing, for as long as that may be."""
        server = self._server
        exchange = self._exchange
        self.deadline_s = NEVER
        if exchange is not None:
            self.deadline_s = now_s + server.settings.answer_s
            if exchange.body.awaited:
                server.counts.expired += 1
                exchange.close_after = True
                exchange.body.fail(IncompleteBody("The body did not arrive in time."))
            elif not self._writing_paused and self._output_waiter is None:
                server.hangs(exchange)
                self.abort()
        elif self._transport.is_closing():
            return
        elif self._ahead:
            self._refuse(BadHead(408, "the request did not arrive in time"))
        else:
            if self._receiving is not None:
                server.counts.expired += 1
            self._transport.close()

    def _refuse(self, error: BadHead) -> None:
        """Answer what is no request, and close."""
        self._server.refused(error)
        text = f"{error.reason}\n".encode()
        head = f"{STATUS_LINES[error.status]}{self._server.common_headers}"
        head += self._server.id_line(self._server.next_request_id())
        head += f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        self.write(head.encode() + text)
        self._finish()

    def _finish(self) -> None:
        """Close once the client has what was sent, and read nothing more as a request."""
        if self._half_closed:
            self._ahead = b""
            self._transport.close()
        elif not self._transport.is_closing():
            self._linger()

    def _linger(self) -> None:
        self._lingering = True
        self._ahead = b""
        self._receiving = None
        self.deadline_s = NEVER if self._writing_paused else self._loop.time() + LINGER_S
        self._resume_reading()
        self._transport.write_eof()

    def _reset(self) -> None:
        """Close so that the client cannot take what it has for the whole."""
        if not self._lost:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()

    def _forget(self) -> None:
        self.deadline_s = self.output_deadline_s = NEVER
        if self._output is not None:
            self._output.close()
            self._output = None
        self._server.closed(self)

    def _continue(self) -> None:
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._receiving is not None:
            self._set_body_deadline(self._receiving)

    def _set_body_deadline(self, body: Body) -> None:
        """Give whoever's turn it is its time: the client to send enough, or our handler to do something."""
        settings = self._server.settings
        self._window_bytes = 0
        self.deadline_s = self._loop.time() + (settings.stall_s if body.awaited else settings.answer_s)

    def _pause_body(self) -> None:
        self._pause_reading()
        if self._exchange is not None:
            self._set_body_deadline(self._exchange.body)

    def _resume_body(self) -> None:
        if self._exchange is not None:
            self._set_body_deadline(self._exchange.body)
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading_paused or self._transport.is_closing():
            return
        if self._half_closed:
            return  # After its end, a transport must not read again.
        if self._put_off_timer is not None:
            return  # What paused it is still so: `_end` goes on.
        if len(self._ahead) > AHEAD_MAX_BYTES or (self._receiving is not None and self._receiving.paused):
            return
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
            if self._output.family != socket.AF_UNIX:
                self._output.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
        self._handler_acted()
        return self._output

    async def _output_writable(self, output: socket.socket) -> None:
        self._turn_bytes = 0
        self._begin_output_window()
        descriptor = output.fileno()
        self._loop.add_writer(descriptor, self._wake_output)
        try:
            await self._wait_output()
        finally:
            self._loop.remove_writer(descriptor)
            self.output_deadline_s = NEVER
        if self._transport.is_closing():
            raise ClientGone
        self._handler_acted()

    async def _let_others_run(self) -> None:
        self._turn_bytes = 0
        await asyncio.sleep(0)
        if self._transport.is_closing():
            raise ClientGone
        self._handler_acted()

    def _handler_acted(self) -> None:
        if self._receiving is None or not self._receiving.awaited:
            self.deadline_s = self._loop.time() + self._server.settings.answer_s

    def _begin_output_window(self) -> None:
        self._unsent_bytes = self._count_unsent()
        self.output_deadline_s = self._loop.time() + self._server.settings.stall_s

    def _end_output_window(self) -> None:
        """Go on with a client that took enough: the socket is writable only when much of its buffer is free."""
        taken_bytes = self._unsent_bytes - self._count_unsent()
        if taken_bytes >= self._server.window_bytes:
            self._begin_output_window()
            return
        self.output_deadline_s = NEVER
        self._server.counts.expired += 1
        self._reset()

    def _count_unsent(self) -> int:
        """Return how much the client did not acknowledge yet."""
        queued = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self._transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    async def _wait_output(self) -> None:
        waiter = self._output_waiter = self._loop.create_future()
        watch = STOPWATCH.get()
        before = None if watch is None else watch.switch(Segment.NETWORK, monotonic_s())
        try:
            await waiter
        finally:
            self._output_waiter = None
            if watch is not None and before is not None:
                watch.switch(before, monotonic_s())

    def _wake_output(self, error: Exception | None = None) -> None:
        waiter = self._output_waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
