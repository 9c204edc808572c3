"""Load on an S3 endpoint from outside: presigned requests, by wrk or by plain sockets."""

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

HERE = Path(__file__).parent
WRK_THREADS = 2
NOISE = os.urandom(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A service to put load on, and the processes whose cost is counted."""

    name: str
    url: str
    access_key: str
    secret_key: str
    pids: tuple[int, ...] = ()

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def presign(self, method: str, path: str, query: dict[str, str] | None = None) -> str:
        """Return a request target that needs no headers: path and signed query."""
        request = AWSRequest(method=method, url=f"{self.url}{path}", params=query or {})
        credentials = Credentials(self.access_key, self.secret_key)
        S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=86400).add_auth(request)
        parts = urlsplit(str(request.url))
        return f"{parts.path}?{parts.query}"

    def request(self, method: str, path: str, body: bytes = b"", query: dict[str, str] | None = None) -> bytes:
        """Send one request and return the answer's body.

        Raises:
            RuntimeError: it was not a success.
        """
        connection = http.client.HTTPConnection(self.host, timeout=120)
        try:
            connection.request(method, self.presign(method, path, query), body=body)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path} was answered {answer.status}: {text[:200]!r}")
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one timed run gave. CPU is that of the endpoint's processes, in µs per operation."""

    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us: float
    peak_mib: float
    duration_s: float = 0.0


def body_of(key: str, size: int) -> bytes:
    """Return bytes that nobody else has under that key."""
    head = hashlib.sha256(key.encode()).digest()
    return (head + NOISE * (size // len(NOISE) + 1))[:size]


def family(pids: Sequence[int]) -> set[int]:
    """Return these processes and all below them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    todo = [*pids]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return the user and system time a family has spent, its dead members included."""
    ticks = 0
    for pid in family(pids):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mib(pids: Sequence[int]) -> float:
    """Return the highest resident memory of the largest process of a family.

    PostgreSQL's are left out: the memory they share would be counted for each.
    """
    peaks = [0.0]
    for pid in family(pids):
        with suppress(OSError):
            if b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()[:200]:
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            if found is not None:
                peaks.append(int(found[1]) / 1024)
    return max(peaks)


def run_wrk(
    endpoint: Endpoint,
    method: str,
    targets: Sequence[str],
    *,
    connections: int,
    seconds: int,
    body: bytes | None = None,
) -> Outcome:
    """Put load on an endpoint with wrk.

    Raises:
        RuntimeError: wrk is not there, or failed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("the benchmarks need `wrk` (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "targets"
        listed.write_text("\n".join(targets) + "\n")
        command = [wrk, f"-t{WRK_THREADS}", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s"]
        command += ["-s", str(HERE / "replay.lua"), endpoint.url, "--", str(listed), method, str(WRK_THREADS)]
        if body is not None:
            (Path(scratch) / "body").write_bytes(body)
            command.append(str(Path(scratch) / "body"))
        before = cpu_s(endpoint.pids)
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        spent = cpu_s(endpoint.pids) - before
    found = re.search(r"^RESULT (.*)$", printed, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said: {printed[-300:]}")
    result = json.loads(found[1])
    count = max(1, result["requests"])
    return Outcome(
        per_s=result["requests"] / result["duration_us"] * 1e6,
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
        failed=result["failed"],
        cpu_us=spent / count * 1e6,
        peak_mib=peak_mib(endpoint.pids),
        duration_s=result["duration_us"] / 1e6,
    )


def run_sockets(
    endpoint: Endpoint,
    method: str,
    targets: Sequence[str],
    *,
    connections: int,
    seconds: int,
    body: bytes | None = None,
) -> Outcome:
    """Put load on an endpoint with a thread a connection: for bodies so large that Python does not matter."""
    took_s: list[float] = []
    failed: list[str] = []
    ends: list[float] = []
    turn = iter(range(1 << 60))
    before = cpu_s(endpoint.pids)
    started = time.monotonic()

    def work() -> None:
        with socket.create_connection((endpoint.host.split(":")[0], int(endpoint.host.split(":")[1])), 120) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = bytearray(1 << 20)
            while time.monotonic() < started + seconds:
                at = time.monotonic()
                try:
                    status = _exchange(
                        link, endpoint.host, method, targets[next(turn) % len(targets)], body=body, buffer=buffer
                    )
                except (OSError, ValueError) as error:
                    failed.append(str(error))
                    break
                if 200 <= status < 300:
                    took_s.append(time.monotonic() - at)
                else:
                    failed.append(str(status))
        ends.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s.sort()
    count = max(1, len(took_s))
    return Outcome(
        per_s=len(took_s) / (max(ends) - started),
        p50_ms=took_s[len(took_s) // 2] * 1e3 if took_s else 0.0,
        p99_ms=took_s[min(len(took_s) - 1, len(took_s) * 99 // 100)] * 1e3 if took_s else 0.0,
        failed=len(failed),
        cpu_us=(cpu_s(endpoint.pids) - before) / count * 1e6,
        peak_mib=peak_mib(endpoint.pids),
        duration_s=max(ends) - started,
    )


def _exchange(
    link: socket.socket, host: str, method: str, target: str, *, body: bytes | None, buffer: bytearray
) -> int:
    """Send one request, read its whole answer, and return the status."""
    length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
    link.sendall(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n".encode())
    if body is not None:
        link.sendall(body)
    head = b""
    while b"\r\n\r\n" not in head:
        data = link.recv(65536)
        if not data:
            raise OSError("closed before the answer")
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    announced = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
    if announced is None:
        raise ValueError("an answer without a length")
    left = int(announced[1]) - len(rest)
    while left > 0:
        count = link.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise OSError("closed within the answer")
        left -= count
    return int(head.split(None, 2)[1])
