"""Processes that do nothing but use a processor."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from seawall.drills.undo import see_through

BURN: Final = """
import os, sys
parent, nice, core = map(int, sys.argv[1:])
os.sched_setaffinity(0, [core])
os.nice(nice)
# Nobody is left burning when the drill is killed.
while os.getppid() == parent:
    for _ in range(200_000):
        pass
"""

BURNERS: Final = 3
"""On each core: who shares it with them gets about a quarter of it."""

MODEST: Final = 19
"""The niceness of who takes only what nobody else wants."""

KILLED_WITHIN_S: Final = 5.0


@asynccontextmanager
async def burning(cores: Iterable[int], *, burners: int = BURNERS, nice: int = 0) -> AsyncIterator[list[int]]:
    """Burn these cores for the length of the block; yields the process ids."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for core in cores:
            for _ in range(burners):
                processes.append(_start(core, nice))
        yield [process.pid for process in processes]
    finally:
        await see_through(_kill(processes))


def cores_of(pids: Iterable[int]) -> set[int]:
    """Return the cores that processes may run on; of those that are gone, none."""
    found: set[int] = set()
    for pid in pids:
        with suppress(ProcessLookupError):
            found |= os.sched_getaffinity(pid)
    return found


def quiet_core(*, busy: set[int], usable: set[int]) -> int:
    """Return a core that is not busy; where all are, the last one, which is then for the modest only.

    >>> quiet_core(busy={0}, usable={0, 1}), quiet_core(busy={0, 1}, usable={0, 1})
    (1, 1)
    """
    return max(usable - busy or usable)


def _start(core: int, nice: int) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C is for us, and the scheduler shares out among sessions (sched(7), autogroup).
    return subprocess.Popen(  # noqa: S603 - our own program, our own arguments
        [sys.executable, "-I", "-S", "-c", BURN, str(os.getpid()), str(nice), str(core)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(KILLED_WITHIN_S)
