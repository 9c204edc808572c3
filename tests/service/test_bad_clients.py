"""Clients that waste connections and time do not keep ordinary ones from being served, nor fill the node's memory.

What one bad client gets to hear stands in tests/edge/test_patience.py; here are many of them at once, at the service
itself, and beside them ordinary clients whose requests are counted. They come from many addresses of this machine, as
they would from many machines.
"""

import asyncio
import re
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.service.kit import KIB, MIB, RunningService, budgeted, keys_in, wait_until
from tests.service.signing import HOST, Request, presigned

PATIENCE_S = 2.0
"""How patient the service is told to be with whoever is slow."""

WINDOW_S = 0.5
WINDOWS = 4
ORDINARY_CLIENTS = 4
KEPT_SHARE = 0.5
"""How much of what is served without bad clients must be served beside them."""

NODE_BYTES_MAX = 300 * MIB
"""What a node may take; DESIGN, section 6."""

CONNECTIONS_AN_ADDRESS = 8
OPENED_AT_ONCE = 64
ANSWER_S = 20.0
RESET = struct.pack("ii", 1, 0)

IDLE = budgeted(short=2_000, usual=10_000)
MEASURED_AT = budgeted(short=1_000, usual=5_000)
SLOW = budgeted(short=200, usual=500)

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scene:
    """A service, a bucket in it, and requests that anyone may send who has their links."""

    service: RunningService
    bucket: str
    small: bytes
    large: bytes

    def put(self, key: str, size_bytes: int) -> bytes:
        """Return the head of a request to store something under a key."""
        link = presigned(Request(method="PUT", path=f"/{self.bucket}/{key}"), self.service.root, expires_s=3600)
        return _head("PUT", link.target, f"Content-Length: {size_bytes}")

    @property
    def node_bytes(self) -> int:
        """How much memory the node holds."""
        (pid,) = self.service.node_pids()
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()

    @property
    def connections(self) -> int:
        """How many connections the node says it has."""
        found = re.search(rb"^http_server_connections\{.*?\} ([0-9.e+]+)$", self.service.health("/metrics")[1], re.M)
        assert found is not None
        return round(float(found[1]))


@pytest.fixture(scope="module")
def scene(open_directory: Callable[[], Path]) -> Iterator[Scene]:
    """A service that is impatient with the slow, and patient with the idle."""
    settings = {
        "SEAWALL_HEAD_S": f"{PATIENCE_S:g}",
        "SEAWALL_STALL_S": f"{PATIENCE_S:g}",
        "SEAWALL_DRAIN_S": "1",
        "SEAWALL_REQUEST_LOG": "false",
    }
    running = RunningService(data_dir=open_directory() / "data", home=open_directory(), settings=settings)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        running.start()
        bucket = running.new_bucket()
        running.s3().put_object(Bucket=bucket, Key="small", Body=bytes(KIB))
        running.s3().put_object(Bucket=bucket, Key="large", Body=bytes(16 * MIB))
        links = (presigned(Request(method="GET", path=f"/{bucket}/{key}"), running.root, expires_s=3600)
                 for key in ("small", "large"))  # fmt: skip
        small, large = (_head("GET", link.target) for link in links)
        yield Scene(service=running, bucket=bucket, small=small, large=large)
        assert running.stop() == 0
        assert running.troubles() == []
    finally:
        running.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@dataclass(slots=True)
class Counter:
    """How many requests were answered."""

    served: int = 0
    other: int = 0


async def goodput_per_s(scene: Scene) -> float:
    """Return how many small reads a few ordinary clients get answered in a second, at the best of a few moments."""
    counter = Counter()
    async with _running(*(_ask_on_and_on(scene, counter) for _ in range(ORDINARY_CLIENTS))):
        best = 0
        await asyncio.sleep(WINDOW_S / 2)
        for _ in range(WINDOWS):
            before = counter.served
            await asyncio.sleep(WINDOW_S)
            best = max(best, counter.served - before)
    assert counter.other == 0
    return best / WINDOW_S


async def served_beside(scene: Scene, alone_per_s: float) -> None:
    """Fail unless ordinary clients get at least their share of what they get alone."""
    beside_per_s = await goodput_per_s(scene)
    print(f"{beside_per_s:,.0f} of {alone_per_s:,.0f} a second")  # noqa: T201 - for whoever runs it with -s
    assert beside_per_s >= KEPT_SHARE * alone_per_s


async def test_slowloris_heads_that_never_end_take_nothing_from_ordinary_clients(scene: Scene) -> None:
    alone_per_s = await goodput_per_s(scene)
    answers: list[bytes] = []

    async def drip(number: int) -> None:
        while True:
            async with _connected(scene, number) as opened:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(opened, b"GET / HTTP/1.1\r\nX-A: ")
                with suppress(OSError):
                    while True:
                        await loop.sock_sendall(opened, b"b")
                        with suppress(TimeoutError):
                            async with asyncio.timeout(0.5):
                                answers.append(await loop.sock_recv(opened, KIB))
                            break

    async with _running(*(drip(number) for number in range(SLOW))):
        await _until(lambda: len(answers) > 0)
        await served_beside(scene, alone_per_s)

    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers if answer)


async def test_slow_readers_take_nothing_from_ordinary_clients(scene: Scene) -> None:
    alone_per_s = await goodput_per_s(scene)
    begun = 0

    async def read(number: int) -> None:
        nonlocal begun
        async with _connected(scene, number, receive_buffer=4096) as opened:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(opened, scene.large)
            with suppress(OSError):
                await loop.sock_recv(opened, 512)
                begun += 1
                while await loop.sock_recv(opened, 4 * KIB):
                    await asyncio.sleep(0.5)

    async with _running(*(read(number) for number in range(SLOW))):
        await _until(lambda: begun == SLOW)
        await served_beside(scene, alone_per_s)
        assert scene.node_bytes < NODE_BYTES_MAX


async def test_half_open_connections_take_nothing_from_ordinary_clients_and_are_closed(scene: Scene) -> None:
    alone_per_s = await goodput_per_s(scene)
    beginnings = (
        b"GET /half HTTP/1.1\r\n",
        scene.put("half", 4 * KIB) + bytes(KIB),
        # Who asks for much, and is gone before it comes.
        scene.large,
    )

    async def begin(number: int) -> None:
        async with _connected(scene, number, receive_buffer=4096) as opened:
            await asyncio.get_running_loop().sock_sendall(opened, beginnings[number % len(beginnings)])
            await asyncio.Event().wait()

    async with _running(*(begin(number) for number in range(SLOW))):
        await _until(lambda: scene.connections >= SLOW)
        await served_beside(scene, alone_per_s)
        # Nobody has closed anything on this side.
        await _until(lambda: scene.connections < 10)

    assert "half" not in keys_in(scene.service.s3(), scene.bucket)


@pytest.mark.long
async def test_ten_thousand_idle_connections_take_nothing_from_ordinary_clients_and_little_memory(
    scene: Scene,
) -> None:
    alone_per_s = await goodput_per_s(scene)
    opened: list[socket.socket] = []
    turns = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_one(number: int) -> None:
        async with turns:
            one = await _connect(scene, number)
            opened.append(one)
            assert await _ask(one, scene.small) == 200

    try:
        await asyncio.gather(*(open_one(number) for number in range(MEASURED_AT)))
        await served_beside(scene, alone_per_s)
        assert scene.node_bytes < NODE_BYTES_MAX
        await asyncio.gather(*(open_one(number) for number in range(MEASURED_AT, IDLE)))
        await served_beside(scene, alone_per_s)
        assert len(opened) == IDLE
        await _until(lambda: scene.connections >= IDLE)
        # They were kept, all of them.
        for one in opened[:: IDLE // 100]:
            assert await _ask(one, scene.small) == 200
        assert scene.node_bytes < NODE_BYTES_MAX
        print(f"{scene.node_bytes / MIB:.0f} MiB")  # noqa: T201 - for whoever runs it with -s
    finally:
        for one in opened:
            one.close()
    await _until(lambda: scene.connections < 10)


async def test_clients_that_vanish_in_the_middle_of_a_body_take_nothing_from_ordinary_clients(scene: Scene) -> None:
    alone_per_s = await goodput_per_s(scene)
    head = scene.put("vanished", MIB)
    vanished = 0

    async def vanish(number: int) -> None:
        nonlocal vanished
        while True:
            async with _connected(scene, number) as opened:
                with suppress(OSError):
                    await asyncio.get_running_loop().sock_sendall(opened, head + bytes(64 * KIB))
                await asyncio.sleep(0.05)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            vanished += 1
            await asyncio.sleep(0.15)

    async with _running(*(vanish(number) for number in range(20))):
        await served_beside(scene, alone_per_s)

    assert vanished > 50
    await _until(lambda: scene.connections < 10)
    assert "vanished" not in keys_in(scene.service.s3(), scene.bucket)


async def test_gigantic_heads_are_refused_and_take_nothing_from_ordinary_clients(scene: Scene) -> None:
    alone_per_s = await goodput_per_s(scene)
    head = b"GET / HTTP/1.1\r\nHost: test\r\nX-A: " + b"a" * MIB
    answers: list[bytes] = []

    async def send(number: int) -> None:
        while True:
            async with _connected(scene, number) as opened:
                loop = asyncio.get_running_loop()
                # It is refused before all of it was sent.
                with suppress(OSError):
                    await loop.sock_sendall(opened, head)
                with suppress(OSError):
                    answers.append(await loop.sock_recv(opened, KIB))
            await asyncio.sleep(0.2)

    async with _running(*(send(number) for number in range(10))):
        await served_beside(scene, alone_per_s)

    assert len(answers) > 20
    assert {answer[:13] for answer in answers if answer} == {b"HTTP/1.1 431 "}
    assert scene.node_bytes < NODE_BYTES_MAX


# Clients.


async def _ask_on_and_on(scene: Scene, counter: Counter) -> None:
    opened = await _connect(scene, 0)
    try:
        while True:
            if await _ask(opened, scene.small) == 200:
                counter.served += 1
            else:
                counter.other += 1
    finally:
        opened.close()


async def _ask(opened: socket.socket, request: bytes) -> int:
    """Send a request and return the status of its answer, which is taken whole."""
    # Not `wait_for`: before Python 3.12 it takes no notice of being cancelled when the answer comes at that moment.
    async with asyncio.timeout(ANSWER_S):
        await asyncio.get_running_loop().sock_sendall(opened, request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += await _more(opened)
        head, _, body = received.partition(b"\r\n\r\n")
        found = LENGTH.search(head + b"\r\n")
        missing = int(found[1]) - len(body) if found else 0
        while missing > 0:
            missing -= len(await _more(opened))
        return int(head.split(b" ", 2)[1])


async def _more(opened: socket.socket) -> bytes:
    data = await asyncio.get_running_loop().sock_recv(opened, 64 * KIB)
    if not data:
        raise EOFError("the service closed the connection")
    return data


async def _connect(scene: Scene, number: int, *, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection from an address that only a few others come from."""
    place = number // CONNECTIONS_AN_ADDRESS
    opened = socket.socket()
    try:
        opened.settimeout(0)
        if receive_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.bind((f"127.1.{place // 250}.{place % 250 + 1}", 0))
        async with asyncio.timeout(ANSWER_S):
            await asyncio.get_running_loop().sock_connect(opened, scene.service.address)
    except BaseException:
        opened.close()
        raise
    return opened


@asynccontextmanager
async def _connected(scene: Scene, number: int, *, receive_buffer: int | None = None) -> AsyncIterator[socket.socket]:
    opened = await _connect(scene, number, receive_buffer=receive_buffer)
    try:
        yield opened
    finally:
        opened.close()


@asynccontextmanager
async def _running(*clients: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Have clients do what they do for the length of the block; that one failed is raised."""
    tasks = [asyncio.create_task(client) for client in clients]
    try:
        yield
        failed = [task for task in tasks if task.done() and task.exception() is not None]
        for task in failed:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, within_s=30.0, what="clients and service are where they should be")


def _head(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode("ascii")
