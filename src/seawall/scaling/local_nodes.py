"""Nodes as processes on this machine: started, started again when they die, drained at the end.

Each runs in a session of its own, so that Ctrl-C in the keeper's terminal reaches the keeper alone.
Nodes outlive a keeper that is killed and go on serving; the next keeper finds them by the file that
lists them, and drains them before it starts its own.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from seawall.clock import monotonic_s
from seawall.telemetry.journal import Tell, tell_nobody

log = logging.getLogger(__name__)

# A node that dies at once is not started in a tight loop.
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 10.0
# A node that has lived so long died of something new.
STABLE_S = 30.0
POLL_INTERVAL_S = 0.1
KILL_GRACE_S = 5.0


class LocalNodes:
    """Keeps a number of node processes running. State: the processes.

    Args:
        count: how many.
        environment: that of each.
        descriptors: listening sockets each inherits.
        roster: the file that lists their process ids.
        drain_s: how long one may take to end.
        tell: is told when one starts and when one dies.
    """

    def __init__(
        self,
        count: int,
        *,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        roster: Path,
        drain_s: float,
        tell: Tell = tell_nobody,
    ) -> None:
        self.count = count
        self._environment = environment
        self._descriptors = descriptors
        self._roster = roster
        self._drain_s = drain_s
        self._tell = tell
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        return f"<LocalNodes {len(self._running)} of {self.count} running>"

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each node that runs, by its name."""
        return {name: process.pid for name, process in self._running.items()}

    async def keep(self, name: str) -> None:
        """Keep one node running, until cancelled."""
        pause_s = PAUSE_FIRST_S
        while True:
            started_s = monotonic_s()
            process = self._start(name)
            code = await _exit_of(process)
            self._running.pop(name, None)
            self._write_roster()
            lived_s = monotonic_s() - started_s
            log.error("node.died", extra={"node": name, "exit_code": code, "lived_s": round(lived_s, 1)})
            self._tell("node.died", node=name, exit_code=code, lived_s=round(lived_s, 1))
            pause_s = PAUSE_FIRST_S if lived_s > STABLE_S else min(pause_s * 2, PAUSE_MAX_S)
            await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """Drain every node, and wait for it; kill those that take too long."""
        processes = [*self._running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                async with asyncio.timeout(self._drain_s + KILL_GRACE_S):
                    await _exit_of(process)
            except TimeoutError:
                log.warning("node.killed", extra={"pid": process.pid})
                process.kill()
                await _exit_of(process)
        self._running.clear()
        self._roster.unlink(missing_ok=True)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "seawall", "node", "--name", name]
        for descriptor in self._descriptors:
            command += ["--listener", str(descriptor)]
        process = subprocess.Popen(  # noqa: S603 - our own program, and no word of the command from outside
            command,
            env=self._environment,
            pass_fds=self._descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running[name] = process
        self._write_roster()
        log.info("node.started", extra={"node": name, "pid": process.pid})
        self._tell("node.started", node=name, pid=process.pid)
        return process

    def _write_roster(self) -> None:
        """Write down who runs. A full disk must not keep nodes from being watched: each failure would start another."""
        draft = self._roster.with_suffix(".new")
        try:
            self._roster.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps([process.pid for process in self._running.values()]))
            draft.rename(self._roster)
        except OSError as error:
            log.warning("node.roster_not_written", extra={"error": str(error)})


async def stop_strays(roster: Path, *, drain_s: float) -> None:
    """Drain the nodes that a dead keeper left behind: they hold its listening sockets."""
    try:
        listed = roster.read_text()  # noqa: ASYNC240 - once, before anything is served
        strays = [pid for pid in map(int, json.loads(listed)) if _is_node(pid)]
    except (OSError, ValueError):
        return
    for pid in strays:
        log.info("node.stray_stopped", extra={"pid": pid})
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline_s = monotonic_s() + drain_s + KILL_GRACE_S
    while any(_is_node(pid) for pid in strays):
        if monotonic_s() > deadline_s:
            for pid in filter(_is_node, strays):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline_s = float("inf")
        await asyncio.sleep(POLL_INTERVAL_S)


async def _exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process without a thread or a signal handler of the event loop."""
    while (code := process.poll()) is None:
        await asyncio.sleep(POLL_INTERVAL_S)
    return code


def _is_node(pid: int) -> bool:
    """Whether this process id still belongs to a node: ids are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return b"seawall" in command and b"node" in command and state != "Z"
