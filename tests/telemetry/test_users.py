"""Users are counted exactly, and a day of minutes survives what happens to files."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seawall.telemetry import users as module
from seawall.telemetry.users import NUMBER_MAX, Bitmap, UserMinutes, Users

some_numbers = st.sets(st.integers(0, 5000), max_size=30)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(one=some_numbers, other=some_numbers)
def test_a_bitmap_is_a_set_of_numbers(one: set[int], other: set[int]) -> None:
    first, second = Bitmap(one), Bitmap([*other, *other])

    union = first | second

    assert {*union} == one | other
    assert len(union) == union.count == len(one | other)
    assert {*first} == one
    assert Bitmap.from_bytes(first.to_bytes()) == first
    assert Bitmap.from_bytes(first.to_bytes()).count == len(one)
    assert all(number in first for number in one)
    assert not any(number in first for number in other - one)


def test_a_million_users_are_an_eighth_of_a_mebibyte() -> None:
    everybody = Bitmap(range(1_000_000))

    assert everybody.count == 1_000_000
    assert len(everybody._bits) == 125_000
    assert len(everybody.to_bytes()) < 1000


def test_what_no_account_can_have_is_passed_over_and_said_so() -> None:
    bitmap = Bitmap()

    assert bitmap.add([1, -1, NUMBER_MAX, 10**30, 2]) == 3
    assert {*bitmap} == {1, 2}


@pytest.mark.parametrize("content", [b"", b"nonsense", Bitmap([1]).to_bytes()[:-1]])
def test_bytes_that_are_no_bitmap_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a bitmap"):
        Bitmap.from_bytes(content)


def minutes_in(path: Path) -> UserMinutes:
    return UserMinutes(path / "users", kept=10)


def add(minutes: UserMinutes, minute: int, *, seen: list[int], failed: list[int] | None = None) -> None:
    minutes.add(minute, Users(seen=Bitmap(seen), failed=Bitmap(failed or [])))
    minutes.flush()


def test_what_is_added_bit_by_bit_is_there_as_a_whole_before_and_after_it_is_made_one(tmp_path: Path) -> None:
    minutes = minutes_in(tmp_path)
    for number in range(100):
        add(minutes, 7, seen=[number, 1000], failed=[number] if number < 10 else [])
    minutes.add(7, Users(claimed={"AKIAONE", "AKIATWO"}))
    minutes.flush()
    before = minutes.read(7)
    size = (tmp_path / "users" / "minute-0007.users").stat().st_size

    minutes.compact(7)

    assert before == minutes_in(tmp_path).read(7)
    assert {*before.seen} == {*range(100), 1000}
    assert {*before.failed} == {*range(10)}
    assert before.claimed == {"AKIAONE", "AKIATWO"}
    assert (tmp_path / "users" / "minute-0007.users").stat().st_size < size / 5


def test_users_of_a_stretch_of_time_are_each_counted_once(tmp_path: Path) -> None:
    minutes = minutes_in(tmp_path)
    for minute in (100, 101, 103):
        add(minutes, minute, seen=[minute, 5], failed=[6])

    assert {*minutes.between(100 * 60 + 59, 103 * 60).seen} == {100, 101, 103, 5}
    assert {*minutes.between(101 * 60, 102 * 60).seen} == {101, 5}
    assert minutes.between(0, 103 * 60).failed.count == 1


def test_a_minute_of_the_day_before_is_not_todays(tmp_path: Path) -> None:
    minutes = minutes_in(tmp_path)
    add(minutes, 101, seen=[1])
    add(minutes, 111, seen=[2])

    assert not minutes.read(101)
    assert {*minutes.read(111).seen} == {2}
    assert len([*(tmp_path / "users").iterdir()]) == 1


def test_what_a_crash_tore_costs_no_more_than_itself(tmp_path: Path) -> None:
    minutes = minutes_in(tmp_path)
    add(minutes, 7, seen=[1])
    add(minutes, 7, seen=[2])
    path = tmp_path / "users" / "minute-0007.users"
    os.truncate(path, path.stat().st_size - 2)

    again = minutes_in(tmp_path)
    add(again, 7, seen=[3])

    assert {*minutes_in(tmp_path).read(7).seen} == {1, 3}


def test_what_the_disk_does_not_take_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = minutes_in(tmp_path)
    add(minutes, 7, seen=[1])

    with monkeypatch.context() as patched:

        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "write", fail)
        for minute in (7, 8):
            with pytest.raises(OSError, match="No space"):
                add(minutes, minute, seen=[minute * 10])
        assert {*minutes.between(0, 8 * 60).seen} == {1, 70, 80}

    add(minutes, 9, seen=[90])
    assert {*minutes_in(tmp_path).between(0, 9 * 60).seen} == {1, 70, 80, 90}


def test_made_up_keys_cannot_fill_memory() -> None:
    users = Users()

    users.claim("x" * 1000 + str(number) for number in range(5))
    users.claim(str(number) for number in range(20_000))

    assert len(users.claimed) == module.CLAIMED_MAX
    assert max(map(len, users.claimed)) == module.KEY_MAX_CHARACTERS
