"""Faults are rehearsed on the real service; a drill that is ended leaves nothing behind.

Half the margins of the drill: a noisy machine is no reason to fail.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from seawall.drills.faults import Fault, fault_named
from seawall.drills.rehearsal import rehearse

SECONDS = 3.0
SOON_S = 60.0


def shortened(name: str) -> Fault:
    """Return a fault whose drill does not look at it for long afterwards."""
    fault = fault_named(name)
    assert fault is not None
    return replace(fault, hypothesis=replace(fault.hypothesis, recovered_within_s=2.0))


def half(share: float) -> float:
    """Return a threshold that leaves twice as much room for failures, and more on a noisy machine."""
    return 1 - max(2 * (1 - share), 0.1)


async def drill(*arguments: str, scratch: Path) -> asyncio.subprocess.Process:
    """Start the command, with its throwaway service below `scratch`."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seawall", "drill", "fault", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )


def works_in(directory: Path) -> list[str]:
    """Return the processes that name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            named = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in named:
            found.append(process.name)
    return found


async def test_a_busy_core_is_survived() -> None:
    fault = shortened("cpu-hog")
    told: list[str] = []

    result = await rehearse(fault, seconds=SECONDS, tell=told.append)

    verdict = result.verdict
    assert verdict.before is not None
    assert verdict.during is not None
    assert verdict.before >= half(fault.hypothesis.before_min)
    assert verdict.during >= half(fault.hypothesis.during_min)
    assert verdict.lost_writes == 0
    assert result.acknowledged_writes > 0
    assert result.mended_s - result.broken_s >= SECONDS
    assert any(fault.about in what for what in told)


async def test_the_command_breaks_a_network_and_says_how_it_went(open_directory: Callable[[], Path]) -> None:
    scratch, out = open_directory(), open_directory()
    arguments = ("network-latency", "--seconds", f"{SECONDS:g}", "--json", "--out", str(out))

    process = await drill(*arguments, scratch=scratch)
    said, remarks = await asyncio.wait_for(process.communicate(), SOON_S)

    found: dict[str, Any] = json.loads(said)
    fault = found["faults"]["network-latency"]
    during = [second for second in fault["reads"] if fault["broken_s"] <= second["at_s"] < fault["mended_s"] - 1]
    assert process.returncode == (0 if found["held"] else 1)
    # There and back: nobody was faster than the way is long.
    assert min(second["slowest_s"] for second in during) >= 0.3
    assert fault["verdict"]["during"] >= half(fault["hypothesis"]["during_min"])
    assert fault["verdict"]["lost_writes"] == 0
    assert json.loads((out / "scoreboard.json").read_text()) == found
    assert "broken" in (out / "network-latency.svg").read_text()
    assert b"putting it right" in remarks
    assert ([*scratch.iterdir()], works_in(scratch)) == ([], [])


async def test_nothing_is_left_of_a_drill_that_is_ended(open_directory: Callable[[], Path]) -> None:
    scratch = open_directory()

    process = await drill("blocking-lock", "--seconds", "60", scratch=scratch)
    assert process.stderr is not None
    async with asyncio.timeout(SOON_S):
        async for line in process.stderr:
            if line.startswith(b"blocking-lock:"):
                break
        await asyncio.sleep(0.5)
        assert works_in(scratch)
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert process.returncode == 1
    assert ([*scratch.iterdir()], works_in(scratch)) == ([], [])
