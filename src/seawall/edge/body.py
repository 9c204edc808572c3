"""The body of a request: received in pieces, held in bounded memory.

When the consumer is slow, receiving stops and TCP tells the client. Timeouts and the least
acceptable rate are the server's affair.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from seawall.clock import monotonic_s
from seawall.edge.chunked import BadChunk, ChunkedDecoder
from seawall.errors import IncompleteBody, Invalid, Overloaded
from seawall.telemetry.segments import STOPWATCH, Segment

HELD_MAX_BYTES = 512 * 1024
HELD_MIN_BYTES = 32 * 1024
# A piece costs two objects besides its bytes: sent byte by byte, a body takes a hundred times its length.
PIECE_BYTES = 256
SMALL_PIECE_BYTES = 4096
# A consumer of batches is woken for this much, or half of what one body may hold if that is less: what it does with a
# batch (a thread, a write to the disk) costs by the batch as well as by the byte.
BATCH_BYTES = 256 * 1024
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

    @property
    def used_part(self) -> float:
        """Which part of what may be held is held."""
        return self.held_bytes / self.limit_bytes

    @property
    def scarce(self) -> bool:
        """Whether connections shall receive in small pieces."""
        return self.held_bytes * 2 > self.limit_bytes


class Body:
    """What follows the head. State: pieces received and not yet consumed.

    Args:
        length: how many bytes were announced; None when chunked.
        memory: counts what is held in the whole process.
        say_continue: called when the body is asked for, if the client waits for that.
        stop_receiving: called when too much is held.
        go_on_receiving: called when it is consumed.
    """

    __slots__ = (
        "_begun",
        "_chunks",
        "_consumer",
        "_discarded",
        "_enough_bytes",
        "_failure",
        "_go_on_receiving",
        "_held_bytes",
        "_kept_bytes",
        "_memory",
        "_pieces",
        "_say_continue",
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
        say_continue: Callable[[], None] | None,
        stop_receiving: Callable[[], None],
        go_on_receiving: Callable[[], None],
    ) -> None:
        self.length = length
        self.received = 0
        self.paused = False
        self._memory = memory
        self._say_continue = say_continue
        self._stop_receiving = stop_receiving
        self._go_on_receiving = go_on_receiving
        self._chunks = ChunkedDecoder() if length is None else None
        self._pieces: list[memoryview] = []
        self._held_bytes = 0
        self._kept_bytes = 0
        self._begun = False
        self._discarded = False
        self._consumer: asyncio.Future[None] | None = None
        self._enough_bytes = 1
        self._failure: Exception | None = None

    def is_complete(self) -> bool:
        """Whether the last byte was received."""
        return self._chunks.over if self._chunks is not None else self.received == self.length

    @property
    def memory_is_scarce(self) -> bool:
        """Whether bodies hold so much already that this one should be consumed as it comes."""
        return self._memory.scarce

    @property
    def withheld(self) -> bool:
        """Whether the client waits to be asked for it, and was not."""
        return self._say_continue is not None and not self._begun and not self.received

    @property
    def awaited(self) -> bool:
        """Whether it is the client's turn: to send."""
        if self.is_complete():
            return False
        return self._discarded or not (self.paused or self._failure is not None or self.withheld)

    # What the connection calls.

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return those behind the end of the body."""
        if self._failure is not None and (self._chunks is not None or not self._discarded):
            return b""  # Nobody can tell any more where it ends, or it comes too late.
        if self._chunks is not None:
            try:
                pieces, rest = self._chunks.feed(data)
            except BadChunk as error:
                self.fail(Invalid(f"The chunked coding is broken: {error}."))
                return b""
            if len(pieces) > 1 + len(data) // SMALL_PIECE_BYTES:
                pieces = [memoryview(b"".join(pieces))]
        else:
            assert self.length is not None
            wanted = self.length - self.received
            pieces, rest = [memoryview(data)[:wanted]], data[wanted:]
        for piece in pieces:
            self.received += len(piece)
            if piece and not self._discarded:
                self._pieces.append(piece)
                self._held_bytes += len(piece) + PIECE_BYTES
                self._memory.held_bytes += len(piece) + PIECE_BYTES
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
        """Drop what nobody consumed, and what comes from now on: the exchange is over."""
        self._discarded = True
        self.paused = False
        if self._pieces:
            self._take()
        self._memory.held_bytes -= self._kept_bytes
        self._kept_bytes = 0
        if not self.is_complete():
            self.fail(IncompleteBody())

    # What the consumer calls.

    async def read(self, *, limit: int) -> list[memoryview]:
        """Return the whole body, in few pieces. It counts as held until it is released.

        Raises:
            Invalid: it is longer than `limit` bytes; nothing more is received.
            Overloaded: bodies hold all the memory they may; nothing more is received.
            IncompleteBody: the client went away, or was too slow.
        """
        if self.length is not None and self.length > limit:
            raise _too_long(limit)
        self._begin()
        whole: list[memoryview] = []
        while True:
            whole += self._take()
            size_bytes = sum(map(len, whole))
            self._keep(size_bytes)
            if size_bytes > limit:
                raise _too_long(limit)
            if len(whole) > 1 + size_bytes // SMALL_PIECE_BYTES:
                whole = [memoryview(b"".join(whole))]
            if self.is_complete():
                return whole
            self._unpause()
            await self._wait(1)

    async def batches(self) -> AsyncIterator[list[memoryview]]:
        """Yield the body in batches of pieces, no smaller than need be.

        Raises:
            IncompleteBody: the client went away, or was too slow.
        """
        self._begin()
        while True:
            await self._wait(BATCH_BYTES)
            pieces = self._take()
            self._unpause()
            if not pieces:
                return
            yield pieces

    # Inside.

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("a body is read once")
        withheld = self.withheld
        self._begun = True
        # Also for an empty body: clients take an answer without leave for the last on the connection.
        if withheld and self._say_continue is not None:
            self._say_continue()

    def _take(self) -> list[memoryview]:
        pieces, self._pieces = self._pieces, []
        self._memory.held_bytes -= self._held_bytes
        self._held_bytes = 0
        return pieces

    def _keep(self, size_bytes: int) -> None:
        """Count what was taken and is still in memory."""
        self._memory.held_bytes += size_bytes - self._kept_bytes
        self._kept_bytes = size_bytes
        if self._memory.held_bytes > self._memory.limit_bytes:
            raise Overloaded

    def _pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._stop_receiving()

    def _unpause(self) -> None:
        if self.paused:
            self.paused = False
            self._go_on_receiving()

    async def _wait(self, enough_bytes: int) -> None:
        """Wait until that much is held, or as much as may be, or all there is."""
        self._enough_bytes = enough_bytes
        if not self._is_worth_taking():
            self._consumer = asyncio.get_running_loop().create_future()
            watch = STOPWATCH.get()
            before = None if watch is None else watch.switch(Segment.NETWORK, monotonic_s())
            try:
                await self._consumer
            finally:
                self._consumer = None
                if watch is not None and before is not None:
                    watch.switch(before, monotonic_s())
        if self._failure is not None and not self._pieces:
            raise self._failure

    def _is_worth_taking(self) -> bool:
        enough_bytes = min(self._enough_bytes, self._memory.threshold_bytes // 2)
        return self._held_bytes >= enough_bytes or self.paused or self.is_complete() or self._failure is not None

    def _wake(self) -> None:
        if self._consumer is not None and not self._consumer.done() and self._is_worth_taking():
            self._consumer.set_result(None)


def _too_long(limit: int) -> Invalid:
    return Invalid(f"The request body is longer than {limit} bytes.")
