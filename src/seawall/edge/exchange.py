"""One request and its response, as a door's handler sees them."""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from seawall.edge.body import Body
from seawall.edge.head import Head
from seawall.errors import SeawallError

if TYPE_CHECKING:
    from seawall.edge.connection import Connection

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
# These have no body by definition, and say nothing of its length (RFC 9110, 8.6).
BODILESS = frozenset({204, 304})


class ClientGone(SeawallError):
    """The client closed the connection, or took too long to read."""


class Exchange:
    """One request and its response. State: how far the response is.

    Headers are text that stands for bytes, as Latin-1 reads them, in both directions.

    `log` collects what the one line about this request shall say besides what every line says.
    """

    __slots__ = (
        "_connection",
        "_expected_bytes",
        "body",
        "close_after",
        "head",
        "headers",
        "log",
        "method",
        "path",
        "peer",
        "query",
        "request_id",
        "sent_bytes",
        "started_s",
        "status",
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
        self.log: dict[str, object] = {}
        self.status = 0
        self.sent_bytes = 0
        self.close_after = not head.keep_alive
        self._expected_bytes = 0

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
        self._expected_bytes = content_length
        await self._connection.send(self._head(status, headers, content_length), more=content_length > 0)

    async def write(self, data: bytes | memoryview) -> None:
        """Send the next bytes of the body; errors as `start`."""
        self.sent_bytes += len(data)
        await self._connection.send(data, more=self.sent_bytes < self._expected_bytes)

    async def send_file(self, descriptor: int, *, start: int, stop: int) -> None:
        """Send bytes `start` up to `stop` of an open file; errors as `start`."""
        await self._connection.send_file(descriptor, start=start, stop=stop)
        self.sent_bytes += stop - start

    @property
    def truncated(self) -> bool:
        """Whether fewer bytes were sent than announced, so that only closing tells the client."""
        return self.sent_bytes < self._expected_bytes

    def _head(self, status: int, headers: Iterable[tuple[str, str]], content_length: int) -> bytes:
        if self.status:
            raise RuntimeError("a request is answered once")
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        block = "".join(lines)
        if block.count("\n") != len(lines) or block.count("\r") != len(lines):
            raise ValueError("a header holds a line break")
        self.status = status
        length = "" if status in BODILESS else f"Content-Length: {content_length}\r\n"
        close = "Connection: close\r\n" if self._connection.will_close(self) else ""
        head = f"{STATUS_LINES[status]}{self._connection.common_headers()}{block}{length}{close}\r\n"
        return head.encode("latin-1")


Handler = Callable[[Exchange], Awaitable[None]]
Observer = Callable[[Exchange, float], None]
