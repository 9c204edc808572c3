"""What does it cost a node to say where time goes?

    python -m benchmarks.telemetry_cost [--before COMMIT] [--bursts 300]

Two services at once, one of them of the commit before there were segments and seconds, take turns: bursts of 320 GETs
of 1 KiB over 32 connections. What counts is the CPU of the node alone. Bursts are short and many, so that whatever
else the machine does is the same for both; of each the best twentieth is told, since what disturbs only ever adds.

Answer, see docs/benchmarks.md.
"""

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.__main__ import throwaway_service
from benchmarks.load import Endpoint, body_of
from benchmarks.memory import node_of

ROOT = Path(__file__).parents[1]
BEFORE = "ef5b5fa"
KEYS = 500
SIZE = 1024
CONNECTIONS = 32
BURST = 320


@contextmanager
def source_of(commit: str) -> Iterator[Path]:
    """Check a commit out beside, for the length of the block."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "source"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", str(place), commit], check=True)
        try:
            yield place / "src"
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


class Reader:
    """Reads objects over some connections. State: them, and which object is next."""

    def __init__(self, endpoint: Endpoint) -> None:
        endpoint.request("PUT", "/bench")
        for number in range(KEYS):
            endpoint.request("PUT", f"/bench/{number}", body_of(str(number), SIZE))
        targets = [endpoint.presign("GET", f"/bench/{number}") for number in range(KEYS)]
        self.pid = node_of(endpoint)
        self.spent_us: list[float] = []
        self._requests = [f"GET {target} HTTP/1.1\r\nHost: {endpoint.host}\r\n\r\n".encode() for target in targets]
        self._next = 0
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        host, port = endpoint.host.split(":")
        for _ in range(CONNECTIONS):
            opened = socket.create_connection((host, int(port)), 30)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[opened.fileno()] = opened
            self._poll.register(opened.fileno(), select.EPOLLIN)

    def burst(self) -> None:
        """Read so many objects, and note what each cost the node."""
        before_s = self._cpu_s()
        left = BURST - CONNECTIONS
        under_way = CONNECTIONS
        for opened in self._sockets.values():
            self._ask(opened)
        while under_way:
            for descriptor, _ in self._poll.poll(30):
                opened = self._sockets[descriptor]
                answer = opened.recv(8192)
                while not answer.startswith(b"HTTP/1.1 200") or len(answer.partition(b"\r\n\r\n")[2]) < SIZE:
                    if answer[:12] not in b"HTTP/1.1 200":
                        raise RuntimeError(f"a read was answered {answer[:200]!r}")
                    answer += opened.recv(8192)
                if left:
                    left -= 1
                    self._ask(opened)
                else:
                    under_way -= 1
        self.spent_us.append((self._cpu_s() - before_s) / BURST * 1e6)

    def close(self) -> None:
        """Hang up."""
        for opened in self._sockets.values():
            opened.close()
        self._poll.close()

    def _ask(self, opened: socket.socket) -> None:
        opened.sendall(self._requests[self._next % KEYS])
        self._next += 1

    def _cpu_s(self) -> float:
        """Return how long the threads of the node have run, more exactly than in ticks."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


def main() -> None:
    """Print the answer as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--bursts", type=int, default=300)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        sources = {"without": stack.enter_context(source_of(chosen.before)), "with": ROOT / "src"}
        readers = {}
        for name, source in sources.items():
            endpoint = stack.enter_context(throwaway_service(name, PYTHONPATH=str(source)))
            readers[name] = Reader(endpoint)
            stack.callback(readers[name].close)
        for turn in range(chosen.bursts):
            # Not always the same one first.
            for reader in list(readers.values())[:: 1 if turn % 2 else -1]:
                reader.burst()
        cost_us = {
            # The first ones warm up.
            name: statistics.quantiles(reader.spent_us[len(reader.spent_us) // 10 :], n=20)[0]
            for name, reader in readers.items()
        }
    print(
        json.dumps(
            {
                "node_cpu_us_per_get": {name: round(value, 2) for name, value in cost_us.items()},
                "more_percent": round(100 * (cost_us["with"] / cost_us["without"] - 1), 1),
                "bursts": chosen.bursts,
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
