"""The chunked transfer coding of HTTP/1.1 (RFC 9112, 7.1), strictly.

Lines end in CRLF, sizes are plain hexadecimal, extensions and trailers are refused: S3 clients
send neither on this layer, and every liberty taken here is a way to smuggle a request.
"""

import re

SIZE_LINE_MAX = 18
SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
CRLF = b"\r\n"


class BadChunk(Exception):
    """The coding is broken: where the body ends cannot be known."""


class ChunkedDecoder:
    """Takes the coding off. State: what of the present line or chunk is still to come."""

    __slots__ = ("_left", "_line", "_state", "over")

    def __init__(self) -> None:
        self.over = False
        self._state = "size"
        self._line = b""
        self._left = 0

    def feed(self, data: bytes) -> tuple[list[memoryview], bytes]:
        """Take the next bytes; return pieces of the body, and what came after its end.

        Raises:
            BadChunk: the coding is broken.
        """
        pieces: list[memoryview] = []
        view = memoryview(data)
        at = 0
        while at < len(data) and not self.over:
            if self._state == "data":
                piece = view[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = "data end"
                continue
            end = data.find(b"\n", at)
            self._line += data[at : end + 1 if end >= 0 else len(data)]
            at = end + 1 if end >= 0 else len(data)
            if len(self._line) > SIZE_LINE_MAX:
                raise BadChunk("a chunk's size line is too long")
            if end >= 0:
                self._end_line()
        return pieces, data[at:]

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        if not line.endswith(CRLF):
            raise BadChunk("a line of the chunked coding does not end in CRLF")
        line = line[:-2]
        if self._state == "size":
            if not SIZE.fullmatch(line):
                raise BadChunk("a chunk's size is not a hexadecimal number")
            self._left = int(line, 16)
            self._state = "data" if self._left else "end"
        elif line:
            raise BadChunk("a chunk is longer than its size, or trailers follow")
        elif self._state == "data end":
            self._state = "size"
        else:
            self.over = True
