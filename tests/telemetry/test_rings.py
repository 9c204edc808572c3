"""Rings give back what was written, whatever the clock, a crash or another release did to them."""

import os
import random
from pathlib import Path

import pytest

from seawall.telemetry.points import COLUMNS, NAMES, rolled
from seawall.telemetry.rings import Ring

COLUMNS_TESTED = ("reads.requests", "loop.lag_s", "memory.available_bytes", "nodes.up", "strange")


def a_ring(path: Path, *, slots: int = 100, step_s: int = 1, columns: tuple[str, ...] = COLUMNS_TESTED) -> Ring:
    return Ring(path / "a.ring", step_s=step_s, slots=slots, columns=columns)


def test_points_are_given_back_with_what_was_measured_only(tmp_path: Path) -> None:
    with a_ring(tmp_path) as ring:
        ring.append(1000.9, {"reads.requests": 3.0, "unknown": 1.0})
        ring.append(1002.0, {"loop.lag_s": 0.25})

        assert ring.read(1000, 1010) == [(1000.0, {"reads.requests": 3.0}), (1002.0, {"loop.lag_s": 0.25})]
        assert ring.read(1001, 1002) == []
        assert ring.read(1000, 1010, names={"loop.lag_s"}) == [(1000.0, {}), (1002.0, {"loop.lag_s": 0.25})]


def test_only_as_much_is_kept_as_the_ring_is_long(tmp_path: Path) -> None:
    with a_ring(tmp_path, slots=100) as ring:
        for at_s in range(1000, 1350):
            ring.append(at_s, {"reads.requests": float(at_s)})

        assert [at_s for at_s, _ in ring.read(0, 1350)] == [*range(1250, 1350)]
        assert ring.path.stat().st_size < 16 * 1024


def test_neighbours_become_one_as_their_columns_say(tmp_path: Path) -> None:
    chance = random.Random(1)
    points = [
        {name: chance.random() for name in COLUMNS_TESTED if chance.random() < 0.7 and name != "strange"}
        for _ in range(90)
    ]
    with a_ring(tmp_path) as ring:
        for at_s, point in enumerate(points, 1000):
            ring.append(at_s, point)

        found = ring.read(1000, 1090, points_max=9)

    assert [at_s for at_s, _ in found] == [1000 + 10 * group for group in range(9)]
    for group, (_, point) in enumerate(found):
        assert point == pytest.approx(rolled(points[group * 10 : group * 10 + 10]))


def test_a_chart_of_the_same_width_has_the_same_points_a_moment_later(tmp_path: Path) -> None:
    with a_ring(tmp_path) as ring:
        for at_s in range(1000, 1100):
            ring.append(at_s, {"reads.requests": 1.0})

        first = ring.read(1000, 1090, points_max=9)
        second = ring.read(1003, 1093, points_max=9)

    assert first[1:] == second[1:9]


def test_a_clock_that_is_set_mixes_nothing(tmp_path: Path) -> None:
    with a_ring(tmp_path, slots=100) as ring:
        for at_s in (1000, 1001, 1002):
            ring.append(at_s, {"reads.requests": 1.0})
        for at_s in (901, 902):  # set back: the same places as 1001, 1002
            ring.append(at_s, {"reads.requests": 2.0})

        assert ring.read(1000, 1100) == [(1000.0, {"reads.requests": 1.0})]
        assert ring.read(900, 1000) == [(901.0, {"reads.requests": 2.0}), (902.0, {"reads.requests": 2.0})]


def test_a_record_that_was_not_written_whole_counts_as_none(tmp_path: Path) -> None:
    with a_ring(tmp_path) as ring:
        for at_s in (1000, 1001, 1002):
            ring.append(at_s, {"reads.requests": 1.0})
        place = ring.layout.position(1001) + ring.layout.record_bytes - 3
    with ring.path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")

    with a_ring(tmp_path) as ring:
        assert [at_s for at_s, _ in ring.read(1000, 1010)] == [1000, 1002]


def test_a_file_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    with a_ring(tmp_path) as ring:
        for at_s in range(1000, 1100):
            ring.append(at_s, {"reads.requests": 1.0})
        os.truncate(ring.path, ring.layout.position(1050) + 5)

        assert [at_s for at_s, _ in ring.read(1000, 1100)] == [*range(1000, 1050)]


def test_other_columns_are_taken_over_by_their_names(tmp_path: Path) -> None:
    with a_ring(tmp_path) as ring:
        ring.append(1000, {"reads.requests": 3.0, "loop.lag_s": 0.5})
        ring.append(1001, {"loop.lag_s": 0.75})

    with a_ring(tmp_path, columns=("pool.lent", "loop.lag_s"), slots=50) as ring:
        ring.append(1002, {"pool.lent": 7.0})

        assert ring.read(1000, 1010) == [
            (1000.0, {"loop.lag_s": 0.5}),
            (1001.0, {"loop.lag_s": 0.75}),
            (1002.0, {"pool.lent": 7.0}),
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.ring"]


@pytest.mark.parametrize("content", [b"something else entirely", b"SEARING\n" + b"\xff" * 100])
def test_a_file_that_is_something_else_is_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ring").write_bytes(content)

    with a_ring(tmp_path) as ring:
        assert ring.read(1000, 1010) == []
        ring.append(1000, {"nodes.up": 1.0})
        assert ring.read(1000, 1010) == [(1000.0, {"nodes.up": 1.0})]

    assert (tmp_path / "a.ring.aside").read_bytes() == content


def test_a_ring_of_another_step_is_set_aside(tmp_path: Path) -> None:
    with a_ring(tmp_path, step_s=10) as ring:
        ring.append(1000, {"nodes.up": 1.0})

    with a_ring(tmp_path, step_s=1) as ring:
        assert ring.read(900, 1000) == []

    assert (tmp_path / "a.ring.aside").exists()


def test_every_column_of_a_point_can_be_kept(tmp_path: Path) -> None:
    point = {column.name: float(index) for index, column in enumerate(COLUMNS)}
    with Ring(tmp_path / "a.ring", step_s=60, slots=10, is_exact=False) as ring:
        ring.append(6000, point)

        assert ring.read(6000, 6060) == [(6000.0, point)]
    assert len({*NAMES}) == len(NAMES)
