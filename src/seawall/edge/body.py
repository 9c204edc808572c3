"""The body of a request: received in pieces, held in bounded memory.

When the consumer is slow, receiving stops and TCP tells the client. Timeouts and the least
acceptable rate are the server's affair.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from seawall.edge.chunked import BadChunk, ChunkedDecoder
from seawall.errors import IncompleteBody, Invalid

HELD_MAX_BYTES = 512 * 1024
HELD_MIN_BYTES = 64 * 1024
# One connection may hold this share of what is still free, so that many share fairly and a few are
# not held back (Choudhury and Hahne, "Dynamic Queue Length Thresholds", ToN 6(2), 1998).
SHARE_OF_FREE = 8


class BodyMemory:
    """How many bytes of bodies wait for their consumers in this process. State: that number."""

    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def __repr__(self) -> str:
        return f"<BodyMemory {self.held_bytes} of {self.limit_bytes} bytes>"

    @property
    def threshold_bytes(self) -> int:
        """How much one body may hold before its connection stops receiving."""
        free = self.limit_bytes - self.held_bytes
        return min(HELD_MAX_BYTES, max(HELD_MIN_BYTES, free // SHARE_OF_FREE))


class Body:
    """What follows the head. State: pieces received and not yet consumed.

    Args:
        length: how many bytes were announced; None when chunked.
        memory: counts what is held in the whole process.
        before_first_read: called when the body is asked for, to say `100 Continue`.
        stop_receiving: called when too much is held.
        go_on_receiving: called when it is consumed.
    """

    __slots__ = (
        "_before_first_read",
        "_begun",
        "_chunks",
        "_consumer",
        "_failure",
        "_go_on_receiving",
        "_held_bytes",
        "_memory",
        "_pieces",
        "_stop_receiving",
        "length",
        "paused",
        "received",
    )

    def __init__(
        self,
        length: int | None,
        *,
        memory: BodyMemory,
        before_first_read: Callable[[], None],
        stop_receiving: Callable[[], None],
        go_on_receiving: Callable[[], None],
    ) -> None:
        self.length = length
        self.received = 0
        self.paused = False
        self._memory = memory
        self._before_first_read = before_first_read
        self._stop_receiving = stop_receiving
        self._go_on_receiving = go_on_receiving
        self._chunks = ChunkedDecoder() if length is None else None
        self._pieces: list[memoryview] = []
        self._held_bytes = 0
        self._begun = False
        self._consumer: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    def is_complete(self) -> bool:
        """Whether the last byte was received."""
        return self._chunks.over if self._chunks is not None else self.received == self.length

    @property
    def untouched(self) -> bool:
        """Whether nobody asked for it and nothing of it came."""
        return not self._begun and not self.received

    # What the connection calls.

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return those behind the end of the body."""
        if self._chunks is not None:
            try:
                pieces, rest = self._chunks.feed(data)
            except BadChunk as error:
                self.fail(Invalid(f"The chunked coding is broken: {error}."))
                return b""
        else:
            assert self.length is not None
            wanted = self.length - self.received
            pieces, rest = [memoryview(data)[:wanted]], data[wanted:]
        for piece in pieces:
            if piece:
                self._pieces.append(piece)
                self.received += len(piece)
                self._held_bytes += len(piece)
                self._memory.held_bytes += len(piece)
        if self._held_bytes >= self._memory.threshold_bytes and not self.is_complete():
            self._pause()
        self._wake()
        return rest

    def fail(self, failure: Exception) -> None:
        """Tell the consumer that the rest will not come."""
        if not self.is_complete() and self._failure is None:
            self._failure = failure
            self._wake()

    def release(self) -> None:
        """Drop what nobody consumed: the exchange is over."""
        self._take()
        self.fail(IncompleteBody())

    # What the consumer calls.

    async def read(self, *, limit: int) -> memoryview:
        """Return the whole body.

        Raises:
            Invalid: it is longer than `limit` bytes; nothing more is received.
            IncompleteBody: the client went away, or was too slow.
        """
        too_long = Invalid(f"The request body is longer than {limit} bytes.")
        if self.length is not None and self.length > limit:
            raise too_long
        self._begin()
        if self.is_complete() and len(self._pieces) == 1:
            return self._take()[0]
        whole = bytearray()
        while True:
            for piece in self._take():
                whole += piece
            if len(whole) > limit:
                raise too_long
            if self.is_complete():
                return memoryview(whole)
            self._unpause()
            await self._wait()

    async def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield the body in batches of pieces.

        Raises:
            IncompleteBody: the client went away, or was too slow.
        """
        self._begin()
        while True:
            pieces = self._take()
            self._unpause()
            if pieces:
                yield pieces
            elif self.is_complete():
                return
            else:
                await self._wait()

    # Inside.

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("a body is read once")
        if not self.received and not self.is_complete():
            self._before_first_read()
        self._begun = True

    def _take(self) -> list[memoryview]:
        pieces, self._pieces = self._pieces, []
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0
        return pieces

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._stop_receiving()

    def _unpause(self) -> None:
        if self.paused:
            self.paused = False
            self._go_on_receiving()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._pieces or self.is_complete():
            return
        self._consumer = asyncio.get_running_loop().create_future()
        try:
            await self._consumer
        finally:
            self._consumer = None

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)
