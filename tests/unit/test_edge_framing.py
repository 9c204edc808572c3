"""The server and a second, plain reading of the grammar agree on where every request ends."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.edge.reference import check_body, check_chunks, check_head, read_chunks, read_head

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    b"PUT /a/b%20c?d=e&f HTTP/1.1\r\nHost: test:9000\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
    b"POST http://other/x?y HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    b"DELETE / HTTP/1.0\r\nX-A: b\r\nX-A: c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: test\r\nX-Amz-Meta-A: \xc3\xa9\t \r\nTransfer-Encoding:chunked\r\n\r\n",
]
INTERESTING = [
    *[bytes([byte]) for byte in b"\r\n\t :;,+-0x#\0\x0b\x7f\x80\xff/?@"],
    b"\r\n",
    b"\n\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"chunked",
    b"identity",
    b"HTTP/1.1",
    b"Host: test\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Take something right, and do to it what a smuggler would."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "delete", "replace", "double"])):
            case "insert":
                data = data[:at] + draw(st.sampled_from(INTERESTING)) + data[at:]
            case "delete":
                data = data[:at] + data[at + draw(st.integers(1, 4)) :]
            case "replace":
                data = data[:at] + draw(st.sampled_from(INTERESTING)) + data[at + 1 :]
            case _:
                data = data[:at] + data[at : at + 30] + data[at:]
    return data


NAMES = [b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"X-A"]
VALUES = [b"test", b"0", b"5", b"007", b"5, 5", b"chunked", b"Chunked", b"close", b"100-continue", b"h2c", b"", b"a,b"]
LINES = st.tuples(
    st.sampled_from(NAMES), st.sampled_from([b":", b": ", b":\t", b" : ", b""]), st.sampled_from(VALUES)
).map(b"".join)
HEADS = st.tuples(
    st.sampled_from([b"GET", b"PUT", b"HEAD", b"CONNECT", b"get", b"PRI", b"SOURCE", b""]),
    st.sampled_from([b" ", b"  ", b"\t"]),
    st.sampled_from(
        [b"/", b"/a?b", b"*", b"http://o", b"http://o?q", b"HTTPS://o/p", b"//o/p", b"a", b"/#", b"ftp://o/"]
    ),
    st.sampled_from([b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b" HTTP/0.9", b" RTSP/1.0", b" ICE/1.0", b""]),
    st.lists(LINES, max_size=5).map(lambda lines: b"".join(b"\r\n" + line for line in lines)),
    st.just(b"\r\n\r\n"),
).map(b"".join)


@settings(max_examples=1500, deadline=None)
@given(data=st.one_of(mutated(SEEDS), HEADS))
@example(data=b"GET /\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n")
def test_heads_are_accepted_and_refused_as_the_grammar_says(data: bytes) -> None:
    end = data.find(b"\r\n\r\n") + 4  # What the connection gives to the parser: all up to the first empty line.
    check_head(data[:end] if end >= 4 else data)


CHUNKS = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"A\r\nhellohello\r\n00b\r\n, and world\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
    b"0\r\n\r\n",
]


@settings(max_examples=1500, deadline=None)
@given(data=st.one_of(st.sampled_from(CHUNKS), mutated(CHUNKS)), cuts=st.lists(st.integers(0, 80), max_size=8))
def test_chunks_are_accepted_and_refused_as_the_grammar_says_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    check_chunks(data, cuts)


@settings(max_examples=300, deadline=None)
@given(
    length=st.one_of(st.none(), st.integers(0, 100)),
    data=st.one_of(st.binary(max_size=120), mutated(CHUNKS)),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
def test_a_body_takes_its_own_bytes_and_no_others(length: int | None, data: bytes, cuts: list[int]) -> None:
    check_body(length, data, cuts)


def test_the_reference_knows_right_from_wrong() -> None:
    accepted = read_head(SEEDS[1])

    assert accepted is not None
    assert (accepted.path, accepted.query, accepted.length) == ("/a/b%20c", "d=e&f", 12)
    assert read_head(b"GET / HTTP/1.1\n\n") is None
    assert read_chunks(CHUNKS[1]) == (b"hellohello, and world", b"GET / HTTP/1.1\r\n")
    assert read_chunks(b"5\r\nhel") == (b"hel", None)
    assert read_chunks(b"4\r\nhello\r\n") is None


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_right_is_accepted(seed: bytes) -> None:
    assert read_head(seed) is not None
    check_head(seed)
