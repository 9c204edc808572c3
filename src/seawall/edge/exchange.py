"""One request and its response, as a door's handler sees them."""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from seawall.edge.body import Body
from seawall.edge.head import Head
from seawall.errors import SeawallError
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import Stopwatch

if TYPE_CHECKING:
    from seawall.edge.connection import Connection

# Final answers only: after one of the others a client goes on waiting.
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus if status.value >= 200
}
SERVED = Outcome.SERVED
# These have no body by definition, and say nothing of its length (RFC 9110, 8.6).
BODILESS = frozenset({204, 304})


class ClientGone(SeawallError):
    """The client closed the connection, or took too long to read."""


class Exchange:
    """One request and its response. State: how far the response is.

    Headers are text that stands for bytes, as Latin-1 reads them, in both directions.

    `operation`, `account` and `error` are what the door found out, for metrics and the request's line; `outcome` is
    what became of it, where it was not served; `urgency` is the least urgent it is called by anybody, and `ticket`
    whatever the door's admission has to remember.
    """

    __slots__ = (
        "_connection",
        "_expected_bytes",
        "_sending",
        "account",
        "body",
        "close_after",
        "error",
        "head",
        "headers",
        "method",
        "operation",
        "outcome",
        "path",
        "peer",
        "query",
        "request_id",
        "sent_bytes",
        "started_s",
        "status",
        "stopwatch",
        "ticket",
        "urgency",
    )

    def __init__(
        self, connection: "Connection", head: Head, body: Body, *, peer: str, request_id: str, started_s: float
    ) -> None:
        self._connection = connection
        self.head = head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.body = body
        self.peer = peer
        self.request_id = request_id
        self.started_s = started_s
        self.operation = ""
        self.account: int | None = None
        self.error = ""
        self.outcome = SERVED
        self.stopwatch = Stopwatch(started_s)
        self.urgency = 0
        self.ticket = 0
        self.status = 0
        self.sent_bytes = 0
        self.close_after = not head.keep_alive
        self._expected_bytes = 0
        self._sending = False

    def __repr__(self) -> str:
        return f"<Exchange {self.request_id} {self.method} {self.path} {self.status or 'unanswered'}>"

    @property
    def answered(self) -> bool:
        """Whether the status line was sent: it is too late for another answer."""
        return self.status != 0

    def respond(self, status: int, headers: Iterable[tuple[str, str]], body: bytes | memoryview = b"") -> None:
        """Send a whole response at once. To HEAD, everything but the body."""
        head = self._head(status, headers, len(body))
        if self.method == "HEAD" or status in BODILESS:
            body = b""
        self.sent_bytes = len(body)
        self._connection.write(b"".join((head, body)))

    def respond_head(self, status: int, headers: Iterable[tuple[str, str]], *, content_length: int) -> None:
        """Answer HEAD: the length is that of the body which GET would send."""
        self._connection.write(self._head(status, headers, content_length))

    async def start(self, status: int, headers: Iterable[tuple[str, str]], *, content_length: int) -> None:
        """Send the head of a response whose body follows by `write` and `send_file`.

        Raises:
            ClientGone: nobody listens any more.
        """
        head = self._head(status, headers, content_length)
        self._expected_bytes = 0 if self.method == "HEAD" or status in BODILESS else content_length
        self._sending = True
        await self._connection.send(head, more=self._expected_bytes > 0)
        self._sending = False

    async def write(self, data: bytes | memoryview) -> None:
        """Send the next bytes of the body; errors as `start`."""
        sent_bytes = self._after(len(data))
        self._sending = True
        await self._connection.send(data, more=sent_bytes < self._expected_bytes)
        self._sending = False
        self.sent_bytes = sent_bytes

    async def send_file(self, descriptor: int, *, start: int, stop: int) -> None:
        """Send bytes `start` up to `stop` of an open file; errors as `start`."""
        sent_bytes = self._after(stop - start)
        self._sending = True
        await self._connection.send_file(descriptor, start=start, stop=stop)
        self._sending = False
        self.sent_bytes = sent_bytes

    @property
    def streamed(self) -> bool:
        """Whether its body went out piece by piece, as fast as the client took it."""
        return self._expected_bytes > 0

    @property
    def truncated(self) -> bool:
        """Whether less was sent than announced, or nobody knows how much: only a reset tells the client."""
        return self._sending or self.sent_bytes < self._expected_bytes

    def _after(self, count: int) -> int:
        sent_bytes = self.sent_bytes + count
        if sent_bytes > self._expected_bytes:
            raise RuntimeError("a response is not longer than announced")
        return sent_bytes

    def _head(self, status: int, headers: Iterable[tuple[str, str]], content_length: int) -> bytes:
        if self.status:
            raise RuntimeError("a request is answered once")
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        block = "".join(lines)
        if block.count("\n") != len(lines) or block.count("\r") != len(lines) or "\0" in block:
            raise ValueError("a header holds a line break or a NUL")
        length = "" if status in BODILESS else f"Content-Length: {content_length}\r\n"
        close = "Connection: close\r\n" if self._connection.will_close(self) else ""
        head = f"{STATUS_LINES[status]}{self._connection.common_headers()}{block}{length}{close}\r\n".encode("latin-1")
        self.status = status
        return head


class PutOff(NamedTuple):
    """A request that is not started: `answer` is called after `delay_s`; where it is None, the connection is closed."""

    delay_s: float
    answer: Callable[[Exchange], None] | None


Handler = Callable[[Exchange], Awaitable[None]]
Admit = Callable[[Exchange], PutOff | None]
"""Decides from the head alone whether a request may start; None: it may."""
Observer = Callable[[Exchange, float], None]
