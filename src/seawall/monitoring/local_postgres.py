"""A PostgreSQL's processes, where they run on this machine: which is the first, whether it lives, what they have used.

Read from `/proc`, which answers also when the server does not.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

GONE: Final = frozenset("ZX")


def postmaster_of(backend_pid: int, *, role: str, proc: Path = PROC) -> int | None:
    """Return the first process of the server whose process for our session has this number; None: not on this machine.

    A server elsewhere gives numbers of its own, which may be anybody's here: so it has to be a PostgreSQL process that
    says it serves this role.
    """
    try:
        title = (proc / str(backend_pid) / "cmdline").read_bytes().replace(b"\0", b" ")
        fields = _fields(proc, backend_pid)
    except (OSError, ValueError):
        return None
    if not title.startswith(b"postgres:") or role.encode() not in title.split():
        return None
    return int(fields[1])


def is_alive(postmaster: int, *, proc: Path = PROC) -> bool:
    """Return whether this process is there, and still a PostgreSQL."""
    try:
        return (proc / str(postmaster) / "comm").read_text() == "postgres\n" and _fields(proc, postmaster)[
            0
        ] not in GONE
    except (OSError, ValueError):
        return False


def used_s(postmaster: int, *, proc: Path = PROC) -> float | None:
    """Return the processor time of the server so far, in seconds: of its first process and all it has started.

    That of processes which have ended is kept by the first one, so the figure only grows. Source: proc_pid_stat(5),
    fields 14 to 17.
    """
    try:
        fields = _fields(proc, postmaster)
        ticks = sum(map(int, fields[11:15]))
        children = (proc / str(postmaster) / "task" / str(postmaster) / "children").read_text().split()
    except (OSError, ValueError):
        return None
    for child in children:
        with suppress(OSError, ValueError):  # it has just ended
            ticks += sum(map(int, _fields(proc, int(child))[11:13]))
    return ticks / TICKS_PER_S


def _fields(proc: Path, pid: int) -> list[str]:
    """Return what `/proc/PID/stat` says after the name, which may hold anything: state, parent, …"""
    return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
