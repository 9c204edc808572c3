"""What the process and its machine look like from outside: processor, memory, open files, TCP.

Read each second from `/proc`, a few files that cost the kernel some microseconds each. What a kernel, or a container,
does not tell is left out: what was not measured is not there. Parsing is plain, and its samples are in the tests.

Sources: proc(5); Documentation/filesystems/proc.rst, /proc/net/snmp (RFC 4022 names) and netstat; tcp(7), `tcp_info`.
"""

import os
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from seawall.clock import monotonic_s

T = TypeVar("T")

PROC: Final = Path("/proc")
PAGE_BYTES: Final = resource.getpagesize()
NANO: Final = 1e-9

# In `struct tcp_info`, behind eight bytes and four other words: of a listening socket, its accept queue's length.
_UNACKED: Final = struct.Struct("@24xI")


def machine_ticks(text: str) -> tuple[int, int, int]:
    """Return how long the machine's processors were busy, were stolen from it, and both and idle, from `/proc/stat`.

    >>> machine_ticks("cpu  10 1 4 80 5 0 0 3 2 0\\ncpu0 ...")
    (15, 3, 103)
    """
    user, nice, system, idle, waiting, irq, softirq, stolen = map(int, text.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + softirq
    return busy, stolen, busy + stolen + idle + waiting


def run_delay_s(text: str) -> float:
    """Return how long a task was ready to run and was not let, from its `schedstat`: the second number.

    >>> run_delay_s("5000000000 1500000000 77")
    1.5
    """
    return int(text.split()[1]) * NANO


def resident_bytes(text: str) -> int:
    """Return how much memory a process has, from its `statm`."""
    return int(text.split()[1]) * PAGE_BYTES


def available_bytes(text: str) -> int | None:
    """Return what is left of the machine's memory, from `/proc/meminfo`.

    >>> available_bytes("MemTotal: 100 kB\\nMemFree: 10 kB\\nMemAvailable:   60 kB\\n")
    61440
    """
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def net_counters(text: str) -> dict[str, int]:
    """Return the counters of `/proc/net/snmp` or `netstat`: a line of names, then one of values.

    >>> net_counters("Tcp: RtoMin RetransSegs\\nTcp: 200 7\\n")["Tcp.RetransSegs"]
    7
    """
    lines = text.splitlines()
    found: dict[str, int] = {}
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        protocol = names.partition(":")[0]
        pairs = zip(names.split()[1:], values.split()[1:], strict=False)
        found.update((f"{protocol}.{name}", int(value)) for name, value in pairs)
    return found


def accept_queue(listener: socket.socket) -> int | None:
    """Return how many connections wait to be accepted; None where the kernel does not say."""
    if listener.family == socket.AF_UNIX or listener.fileno() < 0:
        return None
    try:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
    except OSError:
        return None
    return int(_UNACKED.unpack(told)[0]) if len(told) == _UNACKED.size else None


def open_descriptors() -> int:
    """Return how many files the process has open."""
    # Since Linux 6.2 that is the directory's size; before, they have to be listed, which takes a while for thousands.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - as fast as can be


def started_s(proc: Path = PROC) -> float:
    """Return when this process was started, in seconds since 1970: after so many ticks since the machine was."""
    ticks = int((proc / "self" / "stat").read_text().rpartition(")")[2].split()[19])
    booted = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


class Host:
    """State: what was read last, as counters only tell something by how much they have grown.

    It looks at the thread it is made in as the one that must not wait for a processor: an event loop's.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._thread = proc / "self" / "task" / str(threading.get_native_id()) / "schedstat"
        self._before = self._counters()

    def __repr__(self) -> str:
        return f"<Host {len(self._before)} counters>"

    def take(self, listeners: Iterable[socket.socket] = ()) -> dict[str, float]:
        """Return what can be told of the time since this was asked last, by the names of a point's columns."""
        before, now = self._before, self._counters()
        self._before = now
        point = {**self._gauges(), **grown(before, now)}
        queues = [queue for listener in listeners if (queue := accept_queue(listener)) is not None]
        if queues:
            point["tcp.accept_queue"] = float(max(queues))
        return point

    def _counters(self) -> dict[str, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        found = {"now_s": monotonic_s(), "used_s": usage.ru_utime + usage.ru_stime}
        waited_s = self._read(self._thread, run_delay_s)
        if waited_s is not None:
            found["waited_s"] = waited_s
        ticks = self._read(self._proc / "stat", machine_ticks)
        if ticks is not None:
            found["busy"], found["stolen"], found["ticks"] = map(float, ticks)
        for file, names in (("snmp", ("Tcp.RetransSegs",)), ("netstat", ("TcpExt.ListenOverflows",))):
            counters = self._read(self._proc / "net" / file, net_counters) or {}
            found.update((name, float(counters[name])) for name in names if name in counters)
        return found

    def _gauges(self) -> dict[str, float]:
        point: dict[str, float] = {}
        resident = self._read(self._proc / "self" / "statm", resident_bytes)
        if resident is not None:
            point["memory.resident_bytes"] = float(resident)
        available = self._read(self._proc / "meminfo", available_bytes)
        if available is not None:
            point["memory.available_bytes"] = float(available)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        with suppress(OSError):
            point["descriptors.used"] = open_descriptors() / most
        return point

    def _read(self, path: Path, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(path.read_text())
        except (OSError, ValueError, IndexError):
            return None  # This kernel does not tell, or tells otherwise.


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Return what follows from two looks at the counters; nothing of what one of them lacks.

    >>> grown({"now_s": 1.0, "used_s": 5.0}, {"now_s": 3.0, "used_s": 6.0})
    {'cpu.used': 0.5}
    """
    by = {name: value - before[name] for name, value in now.items() if name in before}
    elapsed_s, ticks = by.get("now_s", 0.0), by.get("ticks", 0.0)
    point: dict[str, float] = {}
    if elapsed_s > 0:
        point["cpu.used"] = by["used_s"] / elapsed_s
        if "waited_s" in by:
            point["cpu.waited"] = by["waited_s"] / elapsed_s
    if ticks > 0:
        point["cpu.machine"] = by["busy"] / ticks
        point["cpu.stolen"] = by["stolen"] / ticks
    for column, name in (("tcp.retransmits", "Tcp.RetransSegs"), ("tcp.overflows", "TcpExt.ListenOverflows")):
        if name in by:
            point[column] = max(0.0, by[name])
    return point
