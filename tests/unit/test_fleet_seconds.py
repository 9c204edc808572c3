"""Every report of a node counts once, in the second it belongs to or a later one."""

from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seawall.monitoring.seconds import FORGOTTEN_S, SILENT_S, STARTING_S, STRAGGLERS_S, WAITING_MAX, Seconds, silent


def one(requests: float = 1.0) -> dict[str, float]:
    return {"reads.requests": requests}


def requests_of(seconds: Seconds, now_s: float) -> list[tuple[int, dict[str, float]]]:
    return [
        (second.number, {node: point["reads.requests"] for node, point in second.nodes.items()})
        for second in seconds.look(now_s)
    ]


def test_a_second_is_over_when_everybody_has_reported() -> None:
    seconds = Seconds(100.0)
    seconds.note("a", one(), 100.3)
    seconds.note("b", one(2), 100.9)

    assert requests_of(seconds, 100.99) == []
    assert requests_of(seconds, 101.0) == [(100, {"a": 1, "b": 2})]


def test_a_straggler_is_waited_for_a_moment() -> None:
    seconds = Seconds(100.0)
    for node in ("a", "b"):
        seconds.note(node, one(), 100.2)
    assert requests_of(seconds, 101.0) == [(100, {"a": 1, "b": 1})]
    seconds.note("a", one(), 101.2)

    assert requests_of(seconds, 102.0) == []
    seconds.note("b", one(), 102.1)
    assert requests_of(seconds, 102.1) == [(101, {"a": 1, "b": 1})]


def test_who_is_too_late_counts_into_a_later_second() -> None:
    seconds = Seconds(100.0)
    for node in ("a", "b"):
        seconds.note(node, one(), 100.2)
    seconds.look(101.0)
    seconds.note("a", one(), 101.2)

    assert requests_of(seconds, 102.0) == []
    assert requests_of(seconds, 102.0 + STRAGGLERS_S) == [(101, {"a": 1})]
    seconds.note("a", one(), 102.2)
    seconds.note("b", one(5), 102.45)
    seconds.note("b", one(1), 102.9)
    assert requests_of(seconds, 103.0) == [(102, {"a": 1, "b": 5})]
    seconds.note("a", one(), 103.2)
    assert requests_of(seconds, 104.0) == [(103, {"a": 1, "b": 1})]


def test_a_report_on_the_edge_of_a_second_makes_neither_a_gap_nor_a_double() -> None:
    seconds = Seconds(100.0)
    found = []
    for second in range(100, 140):
        # Due when the second begins, now a little early and now a little late.
        seconds.note("a", one(), second + (0.01 if second % 2 else -0.01) + (0.02 if second == 100 else 0))
        found += requests_of(seconds, second + 0.02)

    assert [point for _, point in found] == [{"a": 1}] * len(found)
    assert len(found) >= 39


def test_nobody_waits_for_a_node_that_is_silent() -> None:
    seconds = Seconds(100.0)
    for node in ("a", "b"):
        seconds.note(node, one(), 100.5)
    seconds.look(101.0)
    for second in range(101, 106):
        seconds.note("a", one(), second + 0.5)
        seconds.look(second + 1 + STRAGGLERS_S)

    seconds.note("a", one(), 106.5)
    assert requests_of(seconds, 107.0) == [(106, {"a": 1})]


def test_a_keeper_that_was_stopped_tells_the_seconds_apart_that_nodes_told_it_meanwhile() -> None:
    seconds = Seconds(100.0)
    seconds.note("a", one(), 100.5)
    seconds.look(101.0)

    assert requests_of(seconds, 111.2) == []  # what was said is still to be read
    for number in range(10):
        seconds.note("a", one(number), 111.21)
    assert requests_of(seconds, 111.22) == []
    assert requests_of(seconds, 111.2 + STRAGGLERS_S) == [(101 + number, {"a": number}) for number in range(10)]


def test_a_keeper_that_is_always_late_still_tells_of_every_second() -> None:
    seconds = Seconds(100.0)
    found = []
    for look in range(20):
        for moment in range(3):
            seconds.note("a", one(), 100.2 + look * 1.5 + moment / 2)
        found += requests_of(seconds, 101.5 + look * 1.5)

    assert [number for number, _ in found] == [*range(100, 130)][: len(found)]
    assert len(found) >= 29


def test_a_keeper_that_was_stopped_for_long_goes_on_with_the_present() -> None:
    seconds = Seconds(100.0)
    for number in range(WAITING_MAX * 2):
        seconds.note("a", one(), 100.0 + number)
    seconds.look(5000.0)

    found = requests_of(seconds, 5001.0)

    assert sum(point.get("a", 0) for _, point in found) == WAITING_MAX * 2
    assert found[-1][0] == 5000
    assert seconds.skipped == 4901 - WAITING_MAX


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 2.5)), max_size=60),
    st.lists(st.floats(0.01, 4.0), min_size=1, max_size=50),
)
def test_whatever_comes_when_it_counts_exactly_once(reports: list[tuple[str, float]], steps: list[float]) -> None:
    seconds = Seconds(100.0)
    now_s, counted, numbers = 100.0, 0.0, []

    def look(now_s: float) -> Iterable[float]:
        for number, nodes in requests_of(seconds, now_s):
            numbers.append(number)
            yield from nodes.values()

    for index, (node, step_s) in enumerate(reports):
        seconds.note(node, one(), now_s)
        now_s += step_s * steps[index % len(steps)] / 4
        counted += sum(look(now_s))
    for _ in range(WAITING_MAX + 5):
        now_s += 1.0
        counted += sum(look(now_s))

    assert counted == len(reports)
    assert numbers == [*range(100, 100 + len(numbers))]


def test_silent_is_who_was_expected_and_is_not_heard_of() -> None:
    ages_s = {"a": 0.5, "b": SILENT_S + 1, "stranger": 100.0}
    expected = {"a": 0.0, "b": 0.0, "new": 90.0, "never came": 99.0 - STARTING_S}

    assert silent(ages_s, expected, 100.0) == {"b": SILENT_S + 1, "never came": STARTING_S + 1}


def test_where_nobody_is_expected_who_was_heard_of_lately_should_be_there() -> None:
    assert silent({"a": 0.5, "b": 4.0, "gone": FORGOTTEN_S + 1}, None, 100.0) == {"b": 4.0}
