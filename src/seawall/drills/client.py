"""S3 as a drill's users speak it: signed requests over kept connections, at some tens of microseconds each.

A `Link` is one connection of one user; it knows one request at a time and believes only answers that say how long they
are, as ours do. It has no timeouts: whoever waits decides for how long, and then aborts the link.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

from seawall.clock import monotonic_s, wall_s
from seawall.drills.load import Kind
from seawall.s3.signature import ALGORITHM, SigningKey

REGION: Final = "us-east-1"
HEAD_MAX_BYTES: Final = 16 * 1024
KEPT_S: Final = 60.0
"""A link that was idle for longer is not used again: the service closes it after 75 s, and they might cross."""

LIST_QUERY: Final = "list-type=2&max-keys=100&prefix=get%2F"
EMPTY_SHA256: Final = hashlib.sha256().hexdigest()
NOISE: Final = hashlib.shake_128(b"what the bodies of drills are made of").digest(1 << 20)
SIGNED_HEADERS: Final = "host;x-amz-content-sha256;x-amz-date"

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*([0-9]+(?:\.[0-9]+)?)[ \t]*\r\n", re.IGNORECASE)
ETAG = re.compile(rb"\r\netag:[ \t]*\"?([^\"\r\n]*)\"?[ \t]*\r\n", re.IGNORECASE)
CODE = re.compile(rb"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the service's S3 door is, and the bucket of the drill."""

    host: str
    port: int
    bucket: str = ""

    @classmethod
    def of(cls, url: str, *, bucket: str = "") -> Self:
        """Read `http://host:port`."""
        place = urlsplit(url)
        return cls(host=place.hostname or "", port=place.port or 80, bucket=bucket)

    @property
    def name(self) -> str:
        """Host and port, as in the Host header."""
        return f"{self.host}:{self.port}"

    def path(self, key: str = "") -> str:
        """Return the path of a key, or of the bucket; keys of drills need no encoding."""
        return f"/{self.bucket}/{key}" if key else f"/{self.bucket}"

    def source_of(self, user: int) -> str | None:
        """Return the address a user comes from: on loopback each has their own, as in life.

        One address has only some 28,000 ports, and a port rests for a minute after its connection was closed; and the
        service may well judge clients by their address. Elsewhere the system chooses.
        """
        if not self.host.startswith("127."):
            return None
        number = user % (254 * 254 * 253)
        return f"127.{1 + number // 254 // 254}.{1 + number // 254 % 254}.{1 + number % 254}"


# What is sent.


class Signer:
    """Signs as one account. State: the signing key of the day."""

    __slots__ = ("_access_key", "_date", "_key", "_scope", "_secret_key")

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._date = ""
        self._scope = ""
        self._key: SigningKey | None = None

    def __repr__(self) -> str:
        return f"<Signer {self._access_key}>"

    def head(
        self,
        method: str,
        path: str,
        query: str = "",
        *,
        host: str,
        payload: str = EMPTY_SHA256,
        length: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the head of a request, signed now.

        Args:
            method: as sent.
            path: encoded as it is signed.
            query: likewise, its parts in the order of their names.
            host: the Host header.
            payload: the SHA-256 of the body, in hexadecimal.
            length: of the body; None where there is none.
            more: headers that are not signed.
        """
        stamp = _stamp(int(wall_s()))
        if self._key is None or stamp[:8] != self._date:
            self._date = stamp[:8]
            self._scope = f"{self._date}/{REGION}/s3/aws4_request"
            self._key = SigningKey(self._secret_key, date=self._date, region=REGION)
        canonical = (
            f"{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n"
            f"{SIGNED_HEADERS}\n{payload}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = self._key.sign(f"{ALGORITHM}\n{stamp}\n{self._scope}\n{digest}")
        length_line = "" if length is None else f"Content-Length: {length}\r\n"
        more_lines = "".join(f"{name}: {value}\r\n" for name, value in more.items()) if more else ""
        return (
            f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\nHost: {host}\r\n"
            f"x-amz-content-sha256: {payload}\r\nx-amz-date: {stamp}\r\n"
            f"Authorization: {ALGORITHM} Credential={self._access_key}/{self._scope}, "
            f"SignedHeaders={SIGNED_HEADERS}, Signature={signature}\r\n{length_line}{more_lines}\r\n"
        ).encode()

    def request(self, method: str, path: str, query: str = "", *, host: str, body: bytes | None = None) -> bytes:
        """Return a whole request, signed now."""
        if body is None:
            return self.head(method, path, query, host=host)
        payload = hashlib.sha256(body).hexdigest()
        return self.head(method, path, query, host=host, payload=payload, length=len(body)) + body


def object_key(number: int) -> str:
    """Return the key of one of the objects that are stored before a load begins."""
    return f"get/{number:06d}"


def body_of(key: str, size_bytes: int) -> bytes:
    """Return the bytes that belong under a key: no two keys have the same."""
    head = hashlib.sha256(key.encode()).digest()
    # `% len` of a number out of the digest: windows of the noise, so that not only the first bytes differ.
    start = int.from_bytes(head[:4], "big") % (len(NOISE) // 2)
    body = head + NOISE[start : start + size_bytes]
    while len(body) < size_bytes:
        body += NOISE
    return body[:size_bytes]


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


# What comes back.


class Answer(NamedTuple):
    """An answer to one request. Status 0: there was none, and `reason` says why; `reason` is the error's code else.

    `body` is whole only where it was asked to be kept.
    """

    status: int
    reason: str = ""
    retry_after_s: float | None = None
    etag: str = ""
    length: int = 0
    body: bytes = b""


Listener = Callable[[Answer], None]


class Links:
    """Counts connections. State: how many are open, and how many were at once at the most."""

    def __init__(self) -> None:
        self.open = 0
        self.most = 0

    def __repr__(self) -> str:
        return f"<Links {self.open} open, at most {self.most}>"

    def add(self) -> None:
        """One is open."""
        self.open += 1
        self.most = max(self.most, self.open)

    def remove(self) -> None:
        """One is closed."""
        self.open -= 1


class Link(asyncio.Protocol):
    """One connection. State: who waits for the answer to the request under way, and how much of it is there."""

    __slots__ = (
        "_body",
        "_closes",
        "_head",
        "_keep",
        "_left",
        "_listener",
        "_open",
        "_partial",
        "_unasked",
        "idle_since_s",
        "transport",
    )

    def __init__(self, opened: "Links") -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since_s = monotonic_s()
        self._listener: Listener | None = None
        self._keep = False
        self._head = b""
        self._partial: Answer | None = None
        self._body: list[bytes] = []
        self._left = 0
        self._unasked = b""
        self._closes = False
        self._open = opened

    def __repr__(self) -> str:
        state = "lost" if self.transport is None else "idle" if self._listener is None else "waiting"
        return f"<Link {state}>"

    @classmethod
    async def open(cls, target: Target, links: "Links", *, source: str | None) -> Self:
        """Connect.

        Raises:
            OSError: nobody listens there, or there is no port left here.
        """
        loop = asyncio.get_running_loop()
        local = None if source is None else (source, 0)
        _, link = await loop.create_connection(lambda: cls(links), target.host, target.port, local_addr=local)
        return link

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent on it now."""
        return (
            self._listener is None
            and not self._closes
            and self.transport is not None
            and not self.transport.is_closing()
            and monotonic_s() - self.idle_since_s < KEPT_S
        )

    def ask(self, request: bytes, listener: Listener, *, keep: bool = False) -> None:
        """Send a request; `listener` hears of its end once and later, unless the link is given up before.

        A service that has too many connections may have answered already.
        """
        self._listener = listener
        self._keep = keep
        self._head = b""
        self._partial = None
        self._body.clear()
        loop = asyncio.get_running_loop()
        if self._unasked:
            data, self._unasked = self._unasked, b""
            loop.call_soon(self.data_received, data)
        elif self.transport is None or self.transport.is_closing():
            loop.call_soon(partial(self._end, Answer(0, "closed"), close=False))
        else:
            self.transport.write(request)

    def give_up(self) -> None:
        """Close the connection at once; nobody hears of it."""
        self._listener = None
        self._closes = True
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self._open.add()

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of an answer."""
        if self._listener is None:
            # Nobody asked: the service says why it is about to close.
            self._closes = True
            self._unasked = (self._unasked + data)[:HEAD_MAX_BYTES]
            return
        if self._partial is None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > HEAD_MAX_BYTES:
                    self._end(Answer(0, "a head without an end"), close=True)
                return
            head, data = self._head[: end + 2], self._head[end + 4 :]
            self._partial = self._read_head(head)
            if self._partial is None:
                self._end(Answer(0, "not an answer"), close=True)
                return
        self._left -= len(data)
        if data and (self._keep or (self._partial.status >= 300 and not self._body)):
            self._body.append(data)
        if self._left <= 0:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still waits."""
        self.transport = None
        self._open.remove()
        if self._listener is not None:
            self._end(Answer(0, "reset" if exc is not None else "closed"), close=False)

    def _read_head(self, head: bytes) -> Answer | None:
        """Return the answer that begins so; None where it is none."""
        length = LENGTH.search(head)
        if length is None or head[:9] != b"HTTP/1.1 " or not head[9:12].isdigit():
            return None
        status = int(head[9:12])
        self._left = int(length[1])
        self._closes = CLOSE.search(head) is not None
        etag = ETAG.search(head)
        retry_after = RETRY_AFTER.search(head) if status >= 300 else None
        return Answer(
            status=status,
            retry_after_s=float(retry_after[1]) if retry_after is not None else None,
            etag=etag[1].decode("latin-1") if etag is not None else "",
            length=self._left,
        )

    def _finish(self) -> None:
        answer = self._partial
        assert answer is not None
        if self._left < 0:
            self._end(Answer(0, "more than announced"), close=True)
            return
        if self._body:
            body = b"".join(self._body)
            code = CODE.search(body) if answer.status >= 300 else None
            answer = answer._replace(body=body, reason=code[1].decode() if code is not None else "")
        self._end(answer, close=self._closes)

    def _end(self, answer: Answer, *, close: bool) -> None:
        listener, self._listener = self._listener, None
        self.idle_since_s = monotonic_s()
        if close:
            self._closes = True
            if self.transport is not None:
                self.transport.close()
        if listener is not None:
            listener(answer)


class Caller:
    """One account that asks for one thing after the other. State: its link, opened anew when lost."""

    def __init__(self, target: Target, signer: Signer, *, source: str | None = None) -> None:
        self.target = target
        self._signer = signer
        self._source = source
        self._link: Link | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            self._link.give_up()

    async def ask(
        self, method: str, path: str, query: str = "", *, body: bytes | None = None, timeout_s: float = 10.0
    ) -> Answer:
        """Return the whole answer; one of status 0 where there was none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._link is None or not self._link.is_usable:
                    self._link = await Link.open(self.target, Links(), source=self._source)
                answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

                def hear(answer: Answer) -> None:
                    if not answered.done():
                        answered.set_result(answer)

                request = self._signer.request(method, path, query, host=self.target.name, body=body)
                self._link.ask(request, hear, keep=True)
                return await answered
        except TimeoutError:
            return Answer(0, "timed out")
        except OSError as error:
            return Answer(0, type(error).__name__)
        finally:
            if self._link is not None and not self._link.is_usable:
                self._link.give_up()
                self._link = None


def method_and_query(kind: Kind) -> tuple[str, str]:
    """Return how a kind of request begins; the path depends on its key."""
    return ("PUT" if kind is Kind.PUT else "GET", LIST_QUERY if kind is Kind.LIST else "")
