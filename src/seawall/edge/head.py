"""The head of a request: what httptools accepts, less what it should not.

httptools refuses Content-Length beside Transfer-Encoding, two lengths, bare line feeds and folded
headers. It lets pass HTTP/0.9, 2.0, RTSP and ICE, spaces around the target, Transfer-Encoding under
1.0, codings other than chunked, and a missing or absurd Host: those are refused here. A proxy in
front that reads such a request differently from us would let one request hide in another.
"""

import re
from dataclasses import dataclass

import httptools

HEADERS_MAX = 100
REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) (HTTP/1\.[01])\r\n")
ABSOLUTE = re.compile(r"https?://([^/?]+)(.*)", re.IGNORECASE)
# Names, addresses and a port (RFC 3986, 3.2.2): neither a comma, which would join two, nor a path or a user.
HOST = re.compile(r"[\w.~%!$&'()*+;=:\[\]-]*", re.ASCII)
# What may stand more than once, joined by a comma, is everything but these.
SINGLE = frozenset({"host", "content-length", "transfer-encoding", "authorization", "content-type", "x-amz-date"})


class BadHead(Exception):
    """The request cannot be understood, or not in one way only. Carries the status to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class Head:
    """A request up to the empty line.

    Text is bytes as they came over the wire, decoded as Latin-1: what was signed is what was sent.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    keep_alive: bool
    # None: as many as `chunked` brings.
    content_length: int | None
    expects_continue: bool


class HeadParser:
    """Reads one head after the other. State: the parser, and what it told so far of this head."""

    __slots__ = ("_complete", "_headers", "_message_over", "_parser")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._complete = False
        self._message_over = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header: called by httptools."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note that the head ended: called by httptools."""
        self._complete = True

    def on_message_complete(self) -> None:
        """Note that there is no body: called by httptools."""
        self._message_over = True

    def parse(self, data: bytes) -> Head:
        """Read a whole head, its empty line included.

        Raises:
            BadHead: it is malformed or ambiguous; the connection cannot be used any more.
        """
        line = REQUEST_LINE.match(data)
        if line is None:
            raise _bad_request_line(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades are ignored, as a server may (RFC 9110, 7.8); CONNECT is refused below.
            self._message_over = False
        except httptools.HttpParserError as error:
            raise BadHead(400, str(error) or "malformed request") from None
        if not self._complete:
            raise BadHead(400, "malformed request")
        try:
            method, target, version = line.groups()
            return _read(method.decode("ascii"), target.decode("ascii"), version == b"HTTP/1.1", self._headers)
        finally:
            # A parser that waits for a body is not told of it, because bodies are framed here.
            if not self._message_over:
                self._parser = httptools.HttpRequestParser(self)
            self._reset()


def _bad_request_line(data: bytes) -> BadHead:
    _, _, version = data.partition(b"\r\n")[0].rpartition(b" ")
    if version.startswith(b"HTTP/") and version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        return BadHead(505, "only HTTP/1.1 is spoken here")
    return BadHead(400, "the request line is not a method, a target in plain ASCII, and HTTP/1.1")


def _read(method: str, target: str, is_http_1_1: bool, received: list[tuple[bytes, bytes]]) -> Head:  # noqa: FBT001
    if method == "CONNECT":
        raise BadHead(405, "CONNECT is not possible here")
    if len(received) > HEADERS_MAX:
        raise BadHead(431, f"more than {HEADERS_MAX} headers")
    headers: dict[str, str] = {}
    for raw_name, raw_value in received:
        name = raw_name.decode("ascii").lower()
        value = raw_value.decode("latin-1").rstrip(" \t")
        if name in headers:
            if name in SINGLE:
                raise BadHead(400, f"two {name} headers")
            value = f"{headers[name]},{value}"
        headers[name] = value
    if "host" in headers:
        if not HOST.fullmatch(headers["host"]):
            raise BadHead(400, "Host is not a host")
    elif is_http_1_1:
        raise BadHead(400, "no Host header")
    path, query = _split_target(target, headers)
    return Head(
        method=method,
        path=path,
        query=query,
        headers=headers,
        # Old clients would have to be told that they may stay: they may not.
        keep_alive=is_http_1_1 and not ("connection" in headers and _says_close(headers["connection"])),
        content_length=_content_length(headers, is_http_1_1=is_http_1_1),
        expects_continue="expect" in headers and _expects_continue(headers["expect"]) and is_http_1_1,
    )


def _split_target(target: str, headers: dict[str, str]) -> tuple[str, str]:
    if not target.startswith("/"):
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None or not HOST.fullmatch(absolute[1]):
            raise BadHead(400, "the target is not a path")
        # Absolute form: its authority replaces the Host header (RFC 9112, 3.2.2).
        headers["host"] = absolute[1]
        target = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    if "#" in target:
        raise BadHead(400, "a target has no fragment")
    path, _, query = target.partition("?")
    return path, query


def _says_close(connection: str) -> bool:
    return "close" in {option.strip() for option in connection.lower().split(",")}


def _content_length(headers: dict[str, str], *, is_http_1_1: bool) -> int | None:
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is None:
        if length is None:
            return 0
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise BadHead(400, "Content-Length is not a number")
        return int(length)
    if length is not None:
        raise BadHead(400, "Content-Length beside Transfer-Encoding")
    if not is_http_1_1 or coding.lower() != "chunked":
        raise BadHead(501, "the only transfer coding is chunked, under HTTP/1.1")
    return None


def _expects_continue(expectation: str) -> bool:
    if expectation.lower() != "100-continue":
        raise BadHead(417, "the only expectation is 100-continue")
    return True
