from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.database.local_configuration import (
    GIB,
    KIB,
    MIB,
    as_file,
    configuration,
    usable_cores,
    usable_memory_bytes,
)

MACHINES = st.integers(128 * MIB, 4096 * GIB)


def size_bytes(settings: Mapping[str, str], name: str) -> int:
    return int(settings[name].removesuffix("kB")) * KIB


def test_a_quarter_of_memory_is_shared_buffers_and_three_quarters_are_assumed_cached() -> None:
    settings = configuration(16 * GIB, 4)

    assert size_bytes(settings, "shared_buffers") == 4 * GIB
    assert size_bytes(settings, "effective_cache_size") == 12 * GIB


def test_a_very_large_machine_gives_no_more_than_eight_gib_to_shared_buffers() -> None:
    assert size_bytes(configuration(1024 * GIB, 64), "shared_buffers") == 8 * GIB


def test_a_small_machine_gets_a_small_log_and_so_a_short_recovery() -> None:
    assert size_bytes(configuration(512 * MIB, 1), "max_wal_size") == 256 * MIB
    assert size_bytes(configuration(64 * GIB, 8), "max_wal_size") == 4 * GIB


@given(memory_bytes=MACHINES, cores=st.integers(1, 256))
def test_every_connection_sorting_at_once_fits_in_memory(memory_bytes: int, cores: int) -> None:
    settings = configuration(memory_bytes, cores)

    sorting = int(settings["max_connections"]) * size_bytes(settings, "work_mem")
    vacuuming = 3 * size_bytes(settings, "autovacuum_work_mem")
    assert sorting + vacuuming + size_bytes(settings, "shared_buffers") <= 2 * memory_bytes
    assert memory_bytes < GIB or sorting + vacuuming + size_bytes(settings, "shared_buffers") <= memory_bytes


@given(memory_bytes=MACHINES, cores=st.integers(1, 256))
def test_an_acknowledged_write_is_durable_on_every_machine(memory_bytes: int, cores: int) -> None:
    settings = configuration(memory_bytes, cores)

    assert (settings["fsync"], settings["full_page_writes"], settings["synchronous_commit"]) == ("on", "on", "on")


def test_an_older_server_is_not_told_what_it_does_not_know() -> None:
    assert "reserved_connections" in configuration(GIB, 2, major=16)
    assert "reserved_connections" not in configuration(GIB, 2, major=15)


def test_a_value_with_quotes_and_backslashes_stays_one_value() -> None:
    assert as_file({"log_line_prefix": r"it's \o "}) == "log_line_prefix = 'it''s \\\\o '\n"


@pytest.mark.parametrize(
    ("cgroup", "file", "limit"),
    [
        ("0::/app\n", "sys/fs/cgroup/app/memory.max", "64000000"),
        ("0::/slice/app\n", "sys/fs/cgroup/slice/memory.max", "64000000"),
        ("0::/not/mounted/here\n", "sys/fs/cgroup/memory.max", "64000000"),
        ("3:cpu:/\n4:memory:/app\n0::/\n", "sys/fs/cgroup/memory/app/memory.limit_in_bytes", "64000000"),
    ],
    ids=["version 2", "an ancestor's", "inside a container", "version 1"],
)
def test_the_limit_of_a_control_group_is_the_memory_there_is(
    tmp_path: Path, cgroup: str, file: str, limit: str
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(limit + "\n")

    assert usable_memory_bytes(tmp_path) == 64000000


def test_without_a_limit_the_memory_is_the_machines(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/app\n")
    (tmp_path / "sys/fs/cgroup/app").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/app/memory.max").write_text("max\n")

    assert usable_memory_bytes(tmp_path) == usable_memory_bytes(tmp_path / "nothing here")


def test_there_is_a_core_to_run_on() -> None:
    assert usable_cores() >= 1
