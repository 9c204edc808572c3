"""A node is started once, whatever the disk says."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from seawall.scaling import LocalNodes


class Process:
    """Stands for a process that runs. State: how many were started."""

    started = 0

    def __init__(self, *_: object, **__: object) -> None:
        Process.started += 1
        self.pid = Process.started

    def poll(self) -> int | None:
        return None


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "started", 0)
    monkeypatch.setattr(subprocess, "Popen", Process)


async def test_a_full_disk_starts_no_node_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    nodes = LocalNodes(1, environment={}, descriptors=[], roster=tmp_path / "run" / "nodes.json", drain_s=0)
    keeping = asyncio.create_task(nodes.keep("node-1"))

    await asyncio.sleep(0)

    assert not keeping.done()
    assert nodes.pids == {"node-1": 1}
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
