"""How long the disk takes is known, also while it hangs, and nobody waits for it."""

import os
import threading
from pathlib import Path

import pytest

from seawall.clock import monotonic_s
from seawall.monitoring import disk_probe
from seawall.monitoring.disk_probe import DiskProbe

PATIENCE_S = 20.0


def wait_until(probe: DiskProbe, name: str, *, above: float = -1.0) -> float:
    """Return a column once it is there, and above something."""
    deadline_s = monotonic_s() + PATIENCE_S
    tick = threading.Event()
    while (value := probe.point().get(name, -2.0)) <= above:
        assert monotonic_s() < deadline_s
        tick.wait(0.01)
    return value


def test_a_small_write_is_timed_and_free_space_looked_at(tmp_path: Path) -> None:
    with DiskProbe(tmp_path / "probe", database_directory=lambda: tmp_path, interval_s=0.01) as probe:
        took_s = wait_until(probe, "disk.probe_s")
        free = wait_until(probe, "database.disk_free_bytes")

    assert took_s < PATIENCE_S
    assert free > 0
    assert probe.trouble == ""
    assert (tmp_path / "probe").stat().st_size == disk_probe.WRITTEN_BYTES


def test_a_write_that_fails_is_told_in_the_systems_words(tmp_path: Path) -> None:
    with DiskProbe(tmp_path / "nowhere" / "probe", interval_s=0.01) as probe:
        wait_until(probe, "disk.probe_s")

    assert "No such file" in probe.trouble


def test_a_disk_that_hangs_counts_for_as_long_as_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _descriptor: answers.wait(PATIENCE_S))

    with DiskProbe(tmp_path / "probe", interval_s=0.01) as probe:
        assert wait_until(probe, "disk.probe_s", above=0.1) > 0.1
        answers.set()


def test_a_disk_that_hangs_at_its_free_space_counts_too(tmp_path: Path) -> None:
    hangs = threading.Event()

    def directory() -> Path:
        hangs.wait(PATIENCE_S)
        return tmp_path

    with DiskProbe(tmp_path / "probe", database_directory=directory, interval_s=0.01) as probe:
        took_s = wait_until(probe, "disk.probe_s", above=0.2)
        hangs.set()

    assert took_s > 0.2
