"""The journal keeps what happened, in order, through crashes, full disks and clocks that are set."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seawall.drills.small_disk import filled, small_disk
from seawall.errors import Misconfigured
from seawall.monitoring.things import Layer
from seawall.telemetry import journal as module
from seawall.telemetry.journal import Journal, read_events

KIB = 1024


def numbers(journal: Journal) -> list[Any]:
    return [event.fields["number"] for event in journal.events() if event.kind == "test"]


def on_disk(path: Path) -> list[Any]:
    return [event.fields["number"] for event in read_events(path) if event.kind == "test"]


def newest_file(path: Path) -> Path:
    return max(path.glob("journal-*.jsonl"))


def test_events_are_on_the_disk_in_order_and_only_we_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    with Journal(path, reserve_bytes=64 * KIB) as journal:
        written = [journal.write("test", number=number) for number in range(5)]
        assert journal.settle()

        assert [json.loads(line)["fields"] for line in newest_file(path).read_text().splitlines()] == [
            {"number": number} for number in range(5)
        ]
        assert journal.events() == written
        assert [event.sequence for event in written] == [1, 2, 3, 4, 5]
    assert stat.S_IMODE(newest_file(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert (path / "reserve").stat().st_blocks * 512 >= 64 * KIB


def test_numbers_go_on_where_they_ended(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("test", number=1)

    with Journal(tmp_path) as journal:
        event = journal.write("test", number=2)

    assert event.sequence == 2
    assert on_disk(tmp_path) == [1, 2]


@pytest.mark.parametrize("tail", [b'{"sequence": 2, "at_s": 1', b"\0\0\0\0", b'{"sequence": 2}'])
def test_a_line_torn_by_a_crash_is_cut_off_and_the_rest_is_there(tmp_path: Path, tail: bytes) -> None:
    with Journal(tmp_path) as journal:
        journal.write("test", number=1)
    with newest_file(tmp_path).open("ab") as file:
        file.write(tail)

    with Journal(tmp_path) as journal:
        assert numbers(journal) == [1]
        assert journal.write("test", number=2).sequence == 2

    assert on_disk(tmp_path) == [1, 2]
    assert tail not in newest_file(tmp_path).read_bytes().splitlines()


def test_a_line_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write("test", number=1)
    with newest_file(tmp_path).open("ab") as file:
        file.write(b"\xff\xfe nonsense\n[]\n")

    with Journal(tmp_path) as journal:
        journal.write("test", number=2)
        assert numbers(journal) == [1, 2]


def test_what_was_killed_is_read_by_who_comes_next(tmp_path: Path) -> None:
    program = """if True:
        import os, pathlib, signal, sys
        from seawall.telemetry.journal import Journal
        journal = Journal(pathlib.Path(sys.argv[1]))
        for number in range(10):
            journal.write("test", number=number)
        journal.settle()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL

    with Journal(tmp_path) as journal:
        assert numbers(journal) == [*range(10)]
        assert journal.write("test", number=10).sequence == 11


def test_the_oldest_files_go_when_there_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_MAX_BYTES", 2 * KIB)
    monkeypatch.setattr(module, "FILES_MAX", 3)
    monkeypatch.setattr(module, "TAIL", 5)

    with Journal(tmp_path) as journal:
        for number in range(200):
            journal.write("test", number=number)
        assert journal.settle()
        kept = numbers(journal)

    files = sorted(tmp_path.glob("journal-*.jsonl"))
    assert len(files) == 3
    assert all(file.stat().st_size <= 2 * KIB for file in files)
    assert kept == [*range(kept[0], 200)]
    assert kept == on_disk(tmp_path)


def test_readers_and_writers_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_MAX_BYTES", 4 * KIB)
    monkeypatch.setattr(module, "TAIL", 10)
    wrong: list[object] = []
    with Journal(tmp_path) as journal:
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                found = [event.sequence for event in journal.events()]
                if found != sorted(set(found)):
                    wrong.append(found)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(150):
            journal.write("test", number=number)
        assert journal.settle(30)
        is_over.set()
        for reader in readers:
            reader.join(30)

    assert not wrong


def test_events_are_found_by_time_and_ordered_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        for at_s in (1000.0, 1001.0, 500.0, 501.0):  # the clock was set back
            monkeypatch.setattr(module, "wall_s", lambda at_s=at_s: at_s)
            journal.write("test", number=at_s)

        assert numbers(journal) == [1000, 1001, 500, 501]
        assert [event.at_s for event in journal.events(500, 501)] == [500]
        assert [event.at_s for event in journal.events(501)] == [1000, 1001, 501]


def test_whatever_an_event_holds_it_is_written(tmp_path: Path) -> None:
    endless: list[object] = []
    endless.append(endless)

    with Journal(tmp_path) as journal:
        event = journal.write(
            "test", layer=Layer.DISK, share=float("nan"), path=tmp_path, pair=(1, 2), deep=endless, text="ä\udc80\n"
        )
        long = journal.write("test", text="x" * 300_000)
        assert journal.settle()
        found = [*read_events(tmp_path)]

    assert found == [event, long]
    assert event.fields["layer"] == "disk"
    assert event.fields["share"] is None
    assert event.fields["pair"] == [1, 2]
    assert set(long.fields) == {"left_out_bytes"}


async def test_a_full_disk_takes_events_from_the_reserve_and_then_they_wait(
    open_directory: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "RESERVE_CHECK_S", 0.1)
    monkeypatch.setattr(module, "PENDING_MAX", 300)
    disk = open_directory()
    try:
        async with small_disk(disk, size_bytes=2 * KIB * KIB):
            with Journal(disk / "journal", reserve_bytes=256 * KIB) as journal:
                journal.write("test", number=0)
                assert journal.settle()
                async with filled(disk):
                    for number in range(1, 101):
                        journal.write("test", number=number, text="x" * 1000)
                    assert journal.settle(), "the reserve holds these"
                    assert on_disk(disk / "journal") == [*range(101)]

                    for number in range(101, 400):
                        journal.write("test", number=number, text="x" * 1000)
                    assert not journal.settle(0.3), "this is more than the reserve"
                    assert numbers(journal) == [*range(400)]
                    while not journal.dropped:
                        journal.write("test", number=400, text="x" * 1000)
                    dropped = journal.dropped

                assert journal.settle(30), "there is room again"
                journal.write("test", number=401)
                assert journal.settle()
                kinds = [event.kind for event in journal.events()]
                assert kinds.count("journal.dropped") == 1
                assert dropped == 1
                assert on_disk(disk / "journal")[:400] == [*range(400)]
                assert on_disk(disk / "journal")[-1] == 401
    except Misconfigured as error:
        pytest.skip(str(error))


async def test_the_reserve_is_set_aside_again(
    open_directory: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESERVE_CHECK_S", 0.05)
    disk = open_directory()
    try:
        async with small_disk(disk, size_bytes=2 * KIB * KIB):
            with Journal(disk / "journal", reserve_bytes=256 * KIB) as journal:
                journal.write("test", number=0)
                assert journal.settle()
                reserve = disk / "journal" / "reserve"
                async with filled(disk):
                    for number in range(1, 101):
                        journal.write("test", number=number, text="x" * 1000)
                    assert journal.settle()
                    assert reserve.stat().st_blocks * 512 < 256 * KIB
                for _ in range(500):
                    journal.write("test", number=0)
                    assert journal.settle()
                    if reserve.stat().st_blocks * 512 >= 256 * KIB:
                        break
                    threading.Event().wait(0.01)
                assert reserve.stat().st_blocks * 512 >= 256 * KIB
    except Misconfigured as error:
        pytest.skip(str(error))


def test_a_disk_that_fails_keeps_events_waiting_and_history_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    with Journal(tmp_path) as journal:
        journal.write("test", number=0)
        assert journal.settle()
        real, failures = os.fdatasync, iter(range(20))

        def fail(descriptor: int) -> None:
            if next(failures, None) is None:
                real(descriptor)
            else:
                raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        for number in range(1, 4):
            journal.write("test", number=number)
        assert journal.settle(30)

        assert numbers(journal) == [0, 1, 2, 3]
        assert on_disk(tmp_path) == [0, 1, 2, 3]
        assert len([*tmp_path.glob("journal-*.jsonl")]) == 2


def test_a_journal_that_has_no_place_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    journal = Journal(tmp_path / "file" / "journal")
    journal.write("test", number=1)

    assert not journal.settle(0.2)
    assert numbers(journal) == [1]
    journal.close(0.1)
