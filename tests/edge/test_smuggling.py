"""No request hides in another: what two servers could read differently is refused, and the connection with it."""

import pytest
from tests.edge.kit import MIB, echo, request, serving

from seawall.edge import Exchange
from seawall.errors import Invalid

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: test\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    # Two ways to say where the body ends.
    "length beside chunked": (400, PUT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked beside length": (400, PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, PUT + b"Content-Length: 0\r\nContent-Length: 37\r\n\r\n"),
    "the same length twice": (400, PUT + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    "two lengths in one": (400, PUT + b"Content-Length: 0, 37\r\n\r\n"),
    "the same length twice in one": (400, PUT + b"Content-Length: 0, 0\r\n\r\n"),
    # Lengths that some read as another number.
    "positive length": (400, PUT + b"Content-Length: +0\r\n\r\n"),
    "negative length": (400, PUT + b"Content-Length: -1\r\n\r\n"),
    "hexadecimal length": (400, PUT + b"Content-Length: 0x0\r\n\r\n"),
    "length with a space inside": (400, PUT + b"Content-Length: 0 0\r\n\r\n"),
    "length beyond 64 bits": (400, PUT + b"Content-Length: 18446744073709551616\r\n\r\n"),
    "overlong length": (400, PUT + b"Content-Length: 0000000000000000000\r\n\r\n"),
    "length in other digits": (400, PUT + "Content-Length: ٠\r\n\r\n".encode()),
    "length with an exponent": (400, PUT + b"Content-Length: 0e1\r\n\r\n"),
    "empty length": (400, PUT + b"Content-Length:\r\n\r\n"),
    # Codings that some do not see.
    "two transfer codings": (400, PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "chunked, then identity": (400, PUT + b"Transfer-Encoding: chunked, identity\r\n\r\n"),
    "gzip, chunked": (501, PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "chunked, chunked": (400, PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n"),
    "identity": (400, PUT + b"Transfer-Encoding: identity\r\n\r\n"),
    "almost chunked": (400, PUT + b"Transfer-Encoding: xchunked\r\n\r\n"),
    "quoted chunked": (400, PUT + b'Transfer-Encoding: "chunked"\r\n\r\n'),
    "chunked with a parameter": (400, PUT + b"Transfer-Encoding: chunked;q=1\r\n\r\n"),
    "chunked behind a vertical tab": (400, PUT + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    "chunked before a tab": (400, PUT + b"Transfer-Encoding: chunked\t\r\n\r\n"),
    "no coding at all": (400, PUT + b"Transfer-Encoding:\r\n\r\n"),
    "chunked under HTTP/1.0": (501, b"PUT / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"),
    # Other protocols and other request lines.
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/0.9 before HTTP/1.1": (400, b"GET /\r\n" + HIDDEN),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\nHost: test\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\nHost: test\r\n\r\n"),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "RTSP": (400, b"DESCRIBE / RTSP/1.0\r\nHost: test\r\n\r\n"),
    "ICE": (400, b"SOURCE / ICE/1.0\r\nHost: test\r\n\r\n"),
    "lower case protocol": (400, b"GET / http/1.1\r\nHost: test\r\n\r\n"),
    "lower case method": (400, b"get / HTTP/1.1\r\nHost: test\r\n\r\n"),
    "unknown method": (400, b"FETCH / HTTP/1.1\r\nHost: test\r\n\r\n"),
    "two spaces before the target": (400, b"GET  / HTTP/1.1\r\nHost: test\r\n\r\n"),
    "two spaces behind the target": (400, b"GET /  HTTP/1.1\r\nHost: test\r\n\r\n"),
    "space behind the version": (400, b"GET / HTTP/1.1 \r\nHost: test\r\n\r\n"),
    "tab in the request line": (400, b"GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n"),
    "space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n"),
    # Line ends that some do not see.
    "bare line feed behind the request line": (400, b"GET / HTTP/1.1\nHost: test\r\n\r\n"),
    "bare line feed behind a header": (400, b"GET / HTTP/1.1\r\nHost: test\nX-A: b\r\n\r\n"),
    "bare line feeds all over": (400, b"GET / HTTP/1.1\nHost: test\n\n"),
    "bare line feed before the empty line": (400, b"GET / HTTP/1.1\r\nHost: test\n\r\n"),
    "bare line feed as the empty line": (400, b"GET / HTTP/1.1\r\nHost: test\r\n\n\r\n\r\n"),
    "bare line feed before the request": (400, b"\nGET / HTTP/1.1\r\nHost: test\r\n\r\n"),
    "bare carriage return in a value": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: b\rX-C: d\r\n\r\n"),
    "two carriage returns": (400, b"GET / HTTP/1.1\r\nHost: test\r\r\n\r\n"),
    "bare carriage return before the request": (400, b"\rGET / HTTP/1.1\r\nHost: test\r\n\r\n"),
    # Headers that some read otherwise.
    "folded header": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: b\r\n c\r\n\r\n"),
    "folded length": (400, PUT + b"Content-Length:\r\n 37\r\n\r\n"),
    "space before the first header": (400, b"GET / HTTP/1.1\r\n Host: test\r\n\r\n"),
    "space before the colon": (400, PUT + b"Content-Length : 37\r\n\r\n"),
    "tab before the colon": (400, PUT + b"Transfer-Encoding\t: chunked\r\n\r\n"),
    "space in a name": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX A: b\r\n\r\n"),
    "NUL in a name": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX\0A: b\r\n\r\n"),
    "letter outside ASCII in a name": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX\xe9A: b\r\n\r\n"),
    "parenthesis in a name": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX(A): b\r\n\r\n"),
    "empty name": (400, b"GET / HTTP/1.1\r\nHost: test\r\n: b\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX-A\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: b\0c\r\n\r\n"),
    "control character in a value": (400, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: b\x01c\r\n\r\n"),
    # Whose request it is.
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "no host beside an absolute target": (400, b"GET http://test/ HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n"),
    "the same host twice": (400, b"GET / HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n"),
    "two hosts in one": (400, b"GET / HTTP/1.1\r\nHost: test, other\r\n\r\n"),
    "host with a path": (400, b"GET / HTTP/1.1\r\nHost: test/hidden\r\n\r\n"),
    "host with a user": (400, b"GET / HTTP/1.1\r\nHost: user@test\r\n\r\n"),
    "host with a space": (400, b"GET / HTTP/1.1\r\nHost: test other\r\n\r\n"),
    "two signatures": (400, b"GET / HTTP/1.1\r\nHost: test\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n"),
    # Targets.
    "target outside ASCII": (400, b"GET /\xe9 HTTP/1.1\r\nHost: test\r\n\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n"),
    "control character in the target": (400, b"GET /\x7f HTTP/1.1\r\nHost: test\r\n\r\n"),
    "fragment in the target": (400, b"GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n"),
    "target that is no path": (400, b"GET a HTTP/1.1\r\nHost: test\r\n\r\n"),
    "target of another scheme": (400, b"GET ftp://test/ HTTP/1.1\r\nHost: test\r\n\r\n"),
    "absolute target without a host": (400, b"GET http:///a HTTP/1.1\r\nHost: test\r\n\r\n"),
    "absolute target with a user": (400, b"GET http://user@test/ HTTP/1.1\r\nHost: test\r\n\r\n"),
    "asterisk": (400, b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n"),
    "CONNECT": (405, b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n"),
    # Sizes and wishes.
    "head longer than 16 KiB": (431, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: " + b"b" * 16 * 1024 + b"\r\n\r\n"),
    "endless header": (431, b"GET / HTTP/1.1\r\nHost: test\r\nX-A: " + b"b" * 20 * 1024),
    "endless target": (431, b"GET /" + b"a" * 20 * 1024),
    "more than 100 headers": (431, b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X-A: b\r\n" * 100 + b"\r\n"),
    "unknown expectation": (417, PUT + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\n"),
    "expectation twice": (417, PUT + b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_once_and_nothing_after_it_is_a_request(name: str) -> None:
    status, head = REFUSED[name]

    async with serving(echo) as served, served.connect() as client:
        response = await client.ask(head + HIDDEN)
        await client.send(HIDDEN)
        rest = await client.rest()

    assert response.status == status
    assert response.headers["connection"] == "close"
    assert response.body
    assert rest == b""
    assert served.exchanges == []
    assert served.server.counts.bad_heads == 1


CHUNKED = b"PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"

BROKEN: dict[str, bytes] = {
    "extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "quoted extension": b'5;a="\r\n0\r\n\r\n"\r\nhello\r\n0\r\n\r\n',
    "extension of the last chunk": b"0;a\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "positive": b"+5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab behind the size": b"5\t\r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nhellohellohello!\r\n0\r\n\r\n",
    "other digits": "٥\r\nhello\r\n0\r\n\r\n".encode(),
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "overlong size": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "no end of the size": b"5" * 40,
    "line feed only behind the size": b"5\nhello\r\n0\r\n\r\n",
    "line feed only behind the data": b"5\r\nhello\n0\r\n\r\n",
    "line feed only behind the last chunk": b"0\n\r\n",
    "line feed only at the end": b"0\r\n\n\r\n",
    "carriage return only": b"5\rhello\r\n0\r\n\r\n",
    "two carriage returns": b"5\r\r\nhello\r\n0\r\n\r\n",
    "more data than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "less data than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "trailers": b"0\r\nX-A: b\r\n\r\n",
    "trailing length": b"0\r\nContent-Length: 37\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_chunked_body_ends_the_connection_and_nothing_in_it_is_a_request(name: str) -> None:
    async with serving(_refuse_what_cannot_be_read) as served, served.connect() as client:
        response = await client.ask(CHUNKED + BROKEN[name] + HIDDEN)
        await client.send(HIDDEN)
        rest = await client.rest()

    assert response.status == 400
    assert response.headers["connection"] == "close"
    assert rest == b""
    assert [exchange.path for exchange in served.exchanges] == ["/"]


ACCEPTED: dict[str, tuple[bytes, tuple[str, str, str, bytes]]] = {
    "a plain request": (b"GET /a?b HTTP/1.1\r\nHost: test\r\n\r\n", ("/a", "b", "test", b"")),
    "an empty line before it": (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: test\r\n\r\n", ("/a", "", "test", b"")),
    "an absolute target": (b"GET http://other/a?b HTTP/1.1\r\nHost: test\r\n\r\n", ("/a", "b", "other", b"")),
    "an absolute target without a path": (
        b"GET HTTP://other:80?b HTTP/1.1\r\nHost: test\r\n\r\n",
        ("/", "b", "other:80", b""),
    ),
    "an address of version 6": (b"GET / HTTP/1.1\r\nHost: [::1]:9000\r\n\r\n", ("/", "", "[::1]:9000", b"")),
    "an empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", ("/", "", "", b"")),
    "spaces around a length": (PUT + b"Content-Length: \t5 \t\r\n\r\nhello", ("/", "", "test", b"hello")),
    "zeros before a length": (PUT + b"Content-Length: 0005\r\n\r\nhello", ("/", "", "test", b"hello")),
    "chunks": (CHUNKED + b"2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n", ("/", "", "test", b"hello")),
    "zeros before a size": (CHUNKED + b"0000000000000005\r\nhello\r\n000\r\n\r\n", ("/", "", "test", b"hello")),
    "upper case chunked": (
        PUT + b"TRANSFER-ENCODING: CHUNKED\r\n\r\nA\r\nhellohello\r\n0\r\n\r\n",
        ("/", "", "test", b"hellohello"),
    ),
    "an upgrade, which is ignored": (
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        ("/", "", "test", b""),
    ),
    "an upgrade with a body": (
        PUT + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        ("/", "", "test", b"hello"),
    ),
    "a GET with a body": (request("/", body=b"hello"), ("/", "", "test", b"hello")),
    "100 headers": (
        b"GET / HTTP/1.1\r\nHost: test\r\n" + b"X-A: b\r\n" * 99 + b"\r\n",
        ("/", "", "test", b""),
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_what_can_be_read_in_one_way_only_is_served_and_so_is_what_follows(name: str) -> None:
    sent, (path, query, host, body) = ACCEPTED[name]

    async with serving(echo) as served, served.connect() as client:
        first = await client.ask(sent + request("/next"))
        second = await client.response()

    seen, following = served.exchanges
    assert (first.status, first.body, second.status) == (200, body, 200)
    assert (seen.path, seen.query, seen.headers["host"]) == (path, query, host)
    assert following.path == "/next"


async def test_headers_are_told_as_they_came_without_the_spaces_around_them() -> None:
    async with serving(echo) as served, served.connect() as client:
        await client.ask(b"GET / HTTP/1.1\r\nHost: test\r\nX-A: \t b\xe9 \t c \t \r\nx-a: d\r\n\r\n")

    assert served.exchanges[0].headers["x-a"] == "b\xe9 \t c,d"


async def _refuse_what_cannot_be_read(exchange: Exchange) -> None:
    with pytest.raises(Invalid):
        await exchange.body.read(limit=MIB)
    exchange.respond(400, [])
