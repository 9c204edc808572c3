"""The head of a request: what httptools accepts, less what it should not.

httptools refuses Content-Length beside Transfer-Encoding, two different lengths, bare line feeds
and folded headers. It lets pass HTTP/0.9 and 2.0, Transfer-Encoding under 1.0, two of those
headers, codings other than chunked, and a missing Host: those are refused here. A proxy in front
that reads such a request differently from us would let one request hide in another.
"""

from dataclasses import dataclass

import httptools

HEADERS_MAX = 100
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

    __slots__ = ("_complete", "_headers", "_message_over", "_parser", "_target")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._complete = False
        self._message_over = False

    def on_url(self, url: bytes) -> None:
        """Take (a piece of) the target: called by httptools."""
        self._target += url

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
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades are ignored, as a server may (RFC 9110, 7.8); CONNECT is refused below.
            self._message_over = False
        except httptools.HttpParserError as error:
            raise BadHead(400, str(error) or "malformed request") from None
        if not self._complete:
            raise BadHead(400, "malformed request")
        parser = self._parser
        try:
            return self._read(parser)
        finally:
            # A parser that waits for a body is not told of it, because bodies are framed here.
            if not self._message_over:
                self._parser = httptools.HttpRequestParser(self)
            self._reset()

    def _read(self, parser: "httptools.HttpRequestParser") -> Head:
        version = parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise BadHead(505, "only HTTP/1.1 is spoken here")
        method = parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise BadHead(405, "CONNECT is not possible here")
        if len(self._headers) > HEADERS_MAX:
            raise BadHead(431, f"more than {HEADERS_MAX} headers")
        headers: dict[str, str] = {}
        for raw_name, raw_value in self._headers:
            name = raw_name.decode("ascii").lower()
            value = raw_value.decode("latin-1")
            if name in headers:
                if name in SINGLE:
                    raise BadHead(400, f"two {name} headers")
                value = f"{headers[name]},{value}"
            headers[name] = value
        path, query = _split_target(self._target, headers)
        if version == "1.1" and "host" not in headers:
            raise BadHead(400, "no Host header")
        return Head(
            method=method,
            path=path,
            query=query,
            headers=headers,
            keep_alive=_keeps_alive(version, headers),
            content_length=_content_length(version, headers),
            expects_continue=_expects_continue(version, headers),
        )


def _split_target(target: bytes, headers: dict[str, str]) -> tuple[str, str]:
    try:
        text = target.decode("ascii")
    except UnicodeDecodeError:
        raise BadHead(400, "the target is not ASCII: percent-encode it") from None
    if not text.startswith("/"):
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() not in {"http", "https"}:
            raise BadHead(400, "the target is not a path")
        # Absolute form: its authority replaces the Host header (RFC 9112, 3.2.2).
        authority, slash, rest = rest.partition("/")
        headers["host"] = authority
        text = slash + rest or "/"
    if "#" in text:
        raise BadHead(400, "a target has no fragment")
    path, _, query = text.partition("?")
    return path, query


def _keeps_alive(version: str, headers: dict[str, str]) -> bool:
    connection = headers.get("connection")
    if connection is None:
        return version == "1.1"
    options = {option.strip() for option in connection.lower().split(",")}
    return "close" not in options if version == "1.1" else "keep-alive" in options


def _content_length(version: str, headers: dict[str, str]) -> int | None:
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
    if version != "1.1" or coding.lower() != "chunked":
        raise BadHead(501, "the only transfer coding is chunked, under HTTP/1.1")
    return None


def _expects_continue(version: str, headers: dict[str, str]) -> bool:
    expectation = headers.get("expect")
    if expectation is None:
        return False
    if expectation.lower() != "100-continue":
        raise BadHead(417, "the only expectation is 100-continue")
    return version == "1.1"
