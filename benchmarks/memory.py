"""Does a node's memory stay flat under one huge upload and a thousand slow readers?

    python -m benchmarks.memory [--gib 5] [--readers 1000]

Answer, 2026-11-23, 2 cores: see docs/benchmarks.md.
"""

import argparse
import json
import re
import socket
import time
from pathlib import Path

from benchmarks.__main__ import throwaway_service
from benchmarks.load import NOISE, Endpoint, family

MIB = 1024 * 1024


def node_of(endpoint: Endpoint) -> int:
    """Return the process id of the service's node."""
    for pid in family(endpoint.pids):
        if b"\0node\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise RuntimeError("there is no node")


def memory_mib(pid: int, field: str) -> float:
    """Return a memory figure of a process: VmRSS or VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def upload(endpoint: Endpoint, path: str, size: int) -> float:
    """Send one object of so many bytes in one request; return how long that took, in seconds."""
    host, port = endpoint.host.split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), 600) as link:
        target = endpoint.presign("PUT", path)
        link.sendall(f"PUT {target} HTTP/1.1\r\nHost: {endpoint.host}\r\nContent-Length: {size}\r\n\r\n".encode())
        sent = 0
        while sent < size:
            piece = memoryview(NOISE)[: size - sent]
            link.sendall(piece)
            sent += len(piece)
        answer = link.recv(4096)
    if b" 200 OK" not in answer:
        raise RuntimeError(f"the upload was answered {answer[:200]!r}")
    return time.monotonic() - started


def read_slowly(endpoint: Endpoint, path: str, *, readers: int, seconds: float) -> int:
    """Let so many clients read a little each second; return how many were still served at the end."""
    host, port = endpoint.host.split(":")
    target = endpoint.presign("GET", path)
    request = f"GET {target} HTTP/1.1\r\nHost: {endpoint.host}\r\n\r\n".encode()
    links = []
    for _ in range(readers):
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        link.connect((host, int(port)))
        link.sendall(request)
        links.append(link)
    ends = time.monotonic() + seconds
    alive = 0
    while time.monotonic() < ends:
        alive = sum(bool(link.recv(8192)) for link in links)
        time.sleep(0.5)
    for link in links:
        link.close()
    return alive


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=5.0)
    parser.add_argument("--readers", type=int, default=1000)
    chosen = parser.parse_args()
    with throwaway_service() as endpoint:
        node = node_of(endpoint)
        endpoint.request("PUT", "/memory")
        result: dict[str, object] = {"idle_mib": round(memory_mib(node, "VmRSS"), 1)}
        size = int(chosen.gib * 1024 * MIB)
        took_s = upload(endpoint, "/memory/huge", size)
        result["upload_mib_per_s"] = round(size / MIB / took_s, 1)
        result["peak_mib_after_upload"] = round(memory_mib(node, "VmHWM"), 1)
        endpoint.request("PUT", "/memory/eight", NOISE * 8)
        result["slow_readers_served"] = read_slowly(endpoint, "/memory/eight", readers=chosen.readers, seconds=15)
        result["peak_mib_after_readers"] = round(memory_mib(node, "VmHWM"), 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
