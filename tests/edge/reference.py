"""A second reading of HTTP/1.1's framing, from its grammar (RFC 9112, 9110 5.5) and our restrictions, sharing no code.

It is slow and plain. Where it and the server disagree, one of them is wrong; tests and the fuzzer look for that.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from seawall.edge.body import Body, BodyMemory
from seawall.edge.chunked import BadChunk, ChunkedDecoder
from seawall.edge.head import BadHead, Head, HeadParser

# What httptools knows. It must refuse no other for its name alone, and no lower case.
METHODS = b"GET HEAD PUT POST DELETE OPTIONS PATCH TRACE COPY LOCK UNLOCK MOVE PROPFIND".split()
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEADER = re.compile(TOKEN + rb":[ \t]*([\t\x20-\x7e\x80-\xff]*)")
SINGLE = {b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type", b"x-amz-date"}


@dataclass(frozen=True)
class Framing:
    """What decides where a request ends, and what it asks."""

    method: str
    path: str
    query: str
    host: str | None
    length: int | None


def read_head(data: bytes) -> Framing | None:
    """Return the framing of one whole head, or None if it has to be refused."""
    if not data.endswith(b"\r\n\r\n"):
        return None
    first, *lines = data[:-4].split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in {b"HTTP/1.1", b"HTTP/1.0"} or parts[0] not in METHODS:
        return None
    target = parts[1]
    if not target or any(not 0x21 <= byte <= 0x7E for byte in target) or b"#" in target or len(lines) > 100:
        return None
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        header = HEADER.fullmatch(line)
        if header is None:
            return None
        name = line.partition(b":")[0].lower()
        # httptools knows no tab behind a coding, which is as well: "chunked\t" is smuggler's stock.
        blanks = b" " if name == b"transfer-encoding" else b" \t"
        headers.setdefault(name, []).append(header[1].rstrip(blanks))
    if any(len(headers.get(name, [])) > 1 for name in SINGLE):
        return None
    modern = parts[2] == b"HTTP/1.1"
    host = headers.get(b"host", [None])[0]
    if (modern and host is None) or (host is not None and not _is_host(host)):
        return None
    length = _length(headers, modern=modern)
    if length == "refused" or [value.lower() for value in headers.get(b"expect", [])] not in ([], [b"100-continue"]):
        return None
    assert not isinstance(length, str)
    if not target.startswith(b"/"):
        scheme, _, rest = target.partition(b"://")
        cut = min((rest + b"/?").index(b"/"), (rest + b"/?").index(b"?"))
        host, target = rest[:cut], rest[cut:]
        if scheme.lower() not in {b"http", b"https"} or not host or not _is_host(host):
            return None
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    told = host.decode() if host is not None else None
    return Framing(parts[0].decode(), path.decode(), query.decode(), told, length)


def _is_host(host: bytes) -> bool:
    return all(byte in b"-._~%!$&'()*+;=:[]" or chr(byte).isalnum() for byte in host if byte < 0x80) and host.isascii()


def _length(headers: dict[bytes, list[bytes]], *, modern: bool) -> int | str | None:
    lengths, codings = headers.get(b"content-length", []), headers.get(b"transfer-encoding", [])
    if codings:
        chunked = codings[0].lower() == b"chunked" and not lengths and modern
        return None if chunked else "refused"
    if not lengths:
        return 0
    digits = lengths[0]
    return int(digits) if digits and set(digits) <= set(b"0123456789") and len(digits) <= 18 else "refused"


def read_chunks(data: bytes) -> tuple[bytes, bytes | None] | None:
    """Return the body and what follows it (None: it goes on), or None if it has to be refused."""
    body = b""
    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            whole = re.fullmatch(rb"[0-9A-Fa-f]{0,16}\r?", line)
            return (body, None) if whole and line != b"\r" else None
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line):
            return None
        size = int(line, 16)
        chunk, end, data = rest[:size], rest[size : size + 2], rest[size + 2 :]
        if not b"\r\n".startswith(end):
            return None
        body += chunk
        if len(chunk) < size or len(end) < 2:
            return body, None
        if not size:
            return body, data


def check_head(data: bytes) -> None:
    """Fail unless the server reads this head as the reference does."""
    expected = read_head(data)
    parser = HeadParser()
    head = _parsed(parser, data)
    if head is None:
        assert expected is None, f"refused without need: {data!r}"
    elif expected is None:
        # Methods that the reference does not list are fine; everything else it refuses must be refused.
        assert head.method.encode() not in METHODS, f"accepted: {data!r} as {head}"
    else:
        found = Framing(head.method, head.path, head.query, head.headers.get("host"), head.content_length)
        assert found == expected, data
        if head.keep_alive:  # What follows is read alike, whatever came before.
            assert parser.parse(data) == head, data


def _parsed(parser: HeadParser, data: bytes) -> Head | None:
    try:
        return parser.parse(data)
    except BadHead:
        return None


def check_chunks(data: bytes, cuts: list[int]) -> None:
    """Fail unless the server decodes this as the reference does, however it is cut."""
    expected = read_chunks(data)
    ends = sorted({cut for cut in cuts if cut < len(data)} | {0, len(data)})
    decoder = ChunkedDecoder()
    body = b""
    rest = b""
    try:
        for start, stop in pairwise(ends):
            given = data[start:stop]
            pieces, left = decoder.feed(given)
            assert given.endswith(left), data
            assert sum(map(len, pieces)) + len(left) <= len(given), data
            assert not left or decoder.over, data
            body += b"".join(pieces)
            rest += left
    except BadChunk:
        assert expected is None, f"refused without need: {data!r}"
        return
    if expected is None:
        # A size line that cannot become right is refused at its end, or when it is too long.
        assert not decoder.over, f"accepted: {data!r} as {body!r}"
        return
    assert (body, rest if decoder.over else None) == expected, data


def check_body(length: int | None, data: bytes, cuts: list[int]) -> None:
    """Fail unless a body takes its own bytes and no others, and gives back all the memory it took."""
    memory = BodyMemory(limit_bytes=2**30)
    body = Body(length, memory=memory, say_continue=None, stop_receiving=_nothing, go_on_receiving=_nothing)
    ends = sorted({cut for cut in cuts if cut < len(data)} | {0, len(data)})
    rest = b""
    for start, stop in pairwise(ends):
        rest += data[start:stop] if body.is_complete() else body.feed(data[start:stop])
        if rest:
            assert body.is_complete(), data
    if length is not None:
        assert (body.received, rest) == (min(length, len(data)), data[length:]), data
    body.release()
    assert memory.held_bytes == 0, data


def _nothing() -> None:
    return
