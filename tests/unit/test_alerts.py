"""Alerts come within seconds when it matters, once for each episode, and not for what does not matter."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.monitoring.scenarios import BEGIN_S, SCENARIOS, Scenario, book, events_of, point

from seawall.monitoring.alerts import REFRACTORY_S, AlertBook, AlertEvent, Turn
from seawall.monitoring.things import Alert, Severity
from seawall.telemetry.points import rolled

WELL = point(requests=50)
DOWN = point(requests=50, failed=50)
NOW_S = 1000.0


def told(
    alerts: AlertBook, points: Iterable[Mapping[str, float]], *, at_s: float = BEGIN_S, now_s: float = NOW_S
) -> list[tuple[int, AlertEvent]]:
    """Return what a book says of points, each with its number."""
    return [
        (second, event)
        for second, now in enumerate(points)
        for event in alerts.observe(at_s + second, now, now_s + second)
    ]


def turns(events: Iterable[tuple[int, AlertEvent]]) -> list[tuple[int, Turn]]:
    return [(second, event.turn) for second, event in events]


# How soon.


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_page_comes_as_soon_as_promised_or_not_at_all(scenario: Scenario) -> None:
    events = [*events_of(scenario)]
    pages = [(at_s, event.alert) for at_s, event in events if event.wakes]

    if scenario.pages_within_s is None:
        assert events == []
    else:
        (at_s, alert), *more = pages
        assert 0 < at_s <= scenario.pages_within_s
        assert alert.name == scenario.alert
        assert more == []


def test_an_alert_says_when_it_began_and_what_was_seen() -> None:
    [(second, event)] = told(book(), [*[WELL] * 120, *[point(requests=50, failed=15)] * 6])
    alert = event.alert

    assert second == 125
    assert (alert.name, alert.rule, alert.severity) == ("availability", "requests 60s/10s", Severity.PAGE)
    assert (alert.began_s, alert.fired_s) == (BEGIN_S + 120, BEGIN_S + 125)
    assert (alert.observed, alert.threshold) == pytest.approx((0.18, 0.03))
    assert alert.reason == (
        "18 % of requests failed or were refused in the last 10 s, and 3 % in the last 60 s (90 of 3,000); "
        "promised are at most 0.1 %."
    )


def test_that_all_writes_fail_is_told_though_they_are_few() -> None:
    calm = {**point(requests=1000), "writes.requests": 10.0}
    broken = {**calm, "writes.failed": 10.0}

    [(second, event)] = told(book(), [*[calm] * 100, *[broken] * 5])

    assert second <= 102
    assert event.alert.rule == "writes 60s/10s"


def test_nothing_is_said_where_nothing_is_asked() -> None:
    assert told(book(), [point()] * 2000) == []


# One episode.


def test_an_episode_is_over_when_it_was_clean_for_half_a_minute() -> None:
    events = told(book(), [*[WELL] * 100, *[DOWN] * 60, *[WELL] * 600])

    (opened, first), (over, last) = events
    assert (first.turn, last.turn) == (Turn.OPENED, Turn.OVER)
    assert first.wakes
    assert not last.wakes
    assert opened == 101
    # The short window is clean 10 s after the last failure, and then stays so for 30 s.
    assert 160 + 9 + 30 <= over <= 160 + 10 + 31
    assert last.ended_s == BEGIN_S + 159
    assert last.episode == first.episode


def test_what_flaps_is_one_episode_and_wakes_seldom() -> None:
    flapping = chain.from_iterable([*[DOWN] * 20, *[WELL] * 60] for _ in range(30))

    events = told(book(), [*[WELL] * 100, *flapping, *[WELL] * 600])

    assert len({event.episode for _, event in events}) == 1
    assert [turn for _, turn in turns(events)] == [Turn.OPENED, Turn.OVER, Turn.REOPENED, Turn.OVER]
    assert events[-1][0] > 100 + 29 * 80


def test_trouble_long_after_an_episode_is_another() -> None:
    pause = [WELL] * int(REFRACTORY_S + 60)

    events = told(book(), [*[WELL] * 100, *[DOWN] * 10, *pause, *[DOWN] * 10])

    assert [turn for _, turn in turns(events)] == [Turn.OPENED, Turn.OVER, Turn.OPENED]
    assert events[0][1].episode != events[2][1].episode


def test_what_a_fast_rule_has_told_is_not_told_by_a_slow_one_hours_later() -> None:
    # Ten minutes of it are 2.8 % of six hours, and 23 % of the month's budget.
    events = told(book(), [*[WELL] * 3600, *[DOWN] * 600, *[WELL] * 3600])

    assert [event.alert.rule for _, event in events] == ["requests 60s/10s"] * 2


def test_further_alerts_join_and_the_episode_is_over_with_the_last() -> None:
    slow = point(requests=50, slow=50)
    events = told(book(), [*[WELL] * 100, *[slow] * 20, *[DOWN] * 20, *[WELL] * 100])

    assert [(event.turn, event.alert.name) for _, event in events] == [
        (Turn.OPENED, "latency"),
        (Turn.JOINED, "availability"),
        (Turn.RESOLVED, "latency"),
        (Turn.OVER, "availability"),
    ]
    assert [event.wakes for _, event in events] == [True, False, False, False]


def test_a_page_that_joins_a_warning_wakes() -> None:
    fewer = {**WELL, "nodes.up": 3.0, "nodes.expected": 4.0}
    whole = {**WELL, "nodes.up": 4.0, "nodes.expected": 4.0}
    events = told(book(), [*[whole] * 100, *[fewer] * 10, *[{**DOWN, **fewer, "reads.failed": 50.0}] * 10])

    assert [(event.turn, event.severity, event.wakes) for _, event in events] == [
        (Turn.OPENED, Severity.WARNING, False),
        (Turn.JOINED, Severity.PAGE, True),
    ]


def test_what_another_has_found_joins_and_ends_when_it_is_not_found_again() -> None:
    alerts = book()
    told(alerts, [*[WELL] * 60, *[DOWN] * 3])
    signal = Alert(
        name="signal:disk.probe_s",
        severity=Severity.WARNING,
        rule="detector",
        began_s=BEGIN_S + 60,
        fired_s=BEGIN_S + 63,
        observed=0.4,
        threshold=0.02,
        reason="The disk takes 400 ms for a small write; 4 ms are usual.",
    )

    [joined] = alerts.note(signal, BEGIN_S + 63, NOW_S + 63)
    assert alerts.note(signal, BEGIN_S + 64, NOW_S + 64) == []
    after = told(alerts, [WELL] * 60, at_s=BEGIN_S + 65, now_s=NOW_S + 65)

    assert (joined.turn, joined.wakes) == (Turn.JOINED, False)
    assert [(event.turn, event.alert.name) for _, event in after] == [
        (Turn.RESOLVED, "signal:disk.probe_s"),
        (Turn.OVER, "availability"),
    ]


STRETCHES = st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.integers(0, 4), st.integers(0, 20))


@settings(max_examples=50, deadline=None)
@given(stretches=st.lists(STRETCHES, max_size=12))
def test_what_is_active_has_fired_and_is_not_over(stretches: list[tuple[int, float, int, int]]) -> None:
    alerts, fired, is_open, now_s = book(), set[tuple[str, str]](), False, NOW_S
    for seconds, share, nodes, pause_s in stretches:
        now_s += pause_s
        for _ in range(seconds):
            now_s += 1
            asked = 50.0 if nodes else 0.0
            now = point(requests=asked, failed=asked * share, nodes=nodes, **{"nodes.expected": 4.0})
            for event in alerts.observe(BEGIN_S + now_s, now, now_s):
                if event.fired:
                    assert is_open is (event.turn is Turn.JOINED)
                    fired.add((event.alert.name, event.alert.rule))
                else:
                    assert is_open
                    fired.remove((event.alert.name, event.alert.rule))
                    assert (event.turn is Turn.OVER) is (not fired)
                is_open = bool(fired)
            assert {(alert.name, alert.rule) for alert in alerts.active} == fired
            assert json.loads(json.dumps(alerts.as_json()))["active"] == [asdict(alert) for alert in alerts.active]


# Nodes.


def test_that_no_node_reports_is_a_page_at_once() -> None:
    silent = point(nodes=0, **{"nodes.expected": 1.0})

    [(second, event)] = told(book(), [*[WELL] * 60, *[silent] * 4])

    assert second == 60
    assert event.wakes
    assert event.alert.name == "nodes"
    # They are counted until they were silent for 3 s.
    assert event.alert.began_s == BEGIN_S + 57
    assert event.alert.reason == "No node has reported for 3 s, of 1."


def test_that_no_node_is_ready_is_a_page_within_three_seconds() -> None:
    unready = point(nodes=2, **{"nodes.ready": 0.0})

    [(second, event)] = told(book(), [*[point(nodes=2, requests=9)] * 60, *[unready] * 4])

    assert second == 62
    assert event.wakes
    assert event.alert.reason == "No node has been ready for 3 s; 2 of 2 report, and say so."


def test_a_node_that_hangs_is_a_warning_at_once_and_half_of_them_a_page_if_it_lasts() -> None:
    hung = point(requests=25, nodes=1, **{"nodes.expected": 2.0})

    events = told(book(), [*[point(requests=50, nodes=2)] * 60, *[hung] * 30])

    assert turns(events) == [(60, Turn.OPENED), (72, Turn.JOINED)]
    assert [(event.severity, event.wakes) for _, event in events] == [(Severity.WARNING, False), (Severity.PAGE, True)]


def test_nodes_may_take_their_time_to_start_and_to_come_in_addition() -> None:
    starting = point(nodes=0, **{"nodes.expected": 1.0})
    growing = point(requests=50, nodes=1, **{"nodes.expected": 4.0})

    assert told(book(), [*[starting] * 50, *[WELL] * 60, *[growing] * 50, *[point(nodes=4)] * 9]) == []


def test_nodes_that_never_come_are_told() -> None:
    starting = point(nodes=0, **{"nodes.expected": 1.0})
    growing = point(requests=50, nodes=1, **{"nodes.expected": 4.0})

    [(never, first)] = told(book(), [starting] * 70)
    [(too_few, second)] = told(book(), [*[WELL] * 60, *[growing] * 70])

    assert (never, first.wakes) == (60, True)
    assert (too_few, second.wakes) == (120, False)


def test_that_no_node_was_ready_for_a_moment_is_no_news() -> None:
    hiccup = [point(nodes=1, **{"nodes.ready": 0.0})] * 2

    assert told(book(), [*[WELL] * 60, *hiccup, *[WELL] * 60, *hiccup, *[WELL] * 60]) == []


# Traffic.


def busy(requests: float, *, users: float) -> dict[str, float]:
    return point(requests=requests, **{"users.seen": users})


def test_that_everybody_stops_at_once_is_a_page_where_many_came_for_long() -> None:
    [(second, event)] = told(book(), [*[busy(100, users=40)] * 330, *[point()] * 10])

    assert 330 <= second <= 333
    assert (event.alert.name, event.wakes) == ("traffic", True)
    assert event.alert.reason == (
        "Hardly a request has ended for 3 s, where 40 users made 100 a second. None is under way: nobody reaches us."
    )


def test_it_says_so_when_requests_are_under_way_and_do_not_end() -> None:
    stuck = point(**{"gate.in_flight": 16.0})

    [(_, event)] = told(book(), [*[busy(100, users=40)] * 330, *[stuck] * 10])

    assert event.alert.reason.endswith("16 are under way.")


def test_that_some_stop_at_once_wakes_nobody() -> None:
    [(_, event)] = told(book(), [*[busy(100, users=4)] * 330, *[point()] * 10])

    assert (event.turn, event.severity, event.wakes) == (Turn.OPENED, Severity.WARNING, False)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([busy(100, users=1)] * 330, id="one client has done its work"),
        pytest.param([busy(second % 5 == 0, users=20) for second in range(900)], id="little is asked at night"),
        pytest.param([busy(100 * 0.995**second, users=40) for second in range(2000)], id="traffic ebbs"),
        pytest.param([busy(100, users=40)] * 20, id="it has only begun"),
    ],
)
def test_that_it_becomes_quiet_is_no_news(before: list[dict[str, float]]) -> None:
    assert told(book(), [*before, *[point()] * 600]) == []


def test_it_is_over_when_they_are_back() -> None:
    events = told(book(), [*[busy(100, users=40)] * 330, *[point()] * 100, *[busy(90, users=40)] * 100])

    assert [turn for _, turn in turns(events)] == [Turn.OPENED, Turn.OVER]
    assert events[-1][1].ended_s == BEGIN_S + 429


def test_after_an_hour_it_is_how_it_is() -> None:
    events = told(book(), [*[busy(100, users=40)] * 330, *[point()] * 3700])

    assert [turn for _, turn in turns(events)] == [Turn.OPENED, Turn.OVER]


# Bad days.


def test_a_clock_that_is_set_back_changes_nothing_but_what_is_written() -> None:
    alerts = book()
    before = told(alerts, [*[WELL] * 100, *[DOWN] * 10])
    after = told(alerts, [*[DOWN] * 10, *[WELL] * 100], at_s=BEGIN_S + 110 - 3600, now_s=NOW_S + 110)

    assert [turn for _, turn in turns(before + after)] == [Turn.OPENED, Turn.OVER]
    assert after[0][0] <= 10 + 10 + 31


def test_two_minutes_of_which_nothing_is_known_are_neither_clean_nor_bad() -> None:
    alerts = book()
    told(alerts, [*[WELL] * 100, *[DOWN] * 10])

    after = told(alerts, [*[DOWN] * 20, *[WELL] * 60], at_s=BEGIN_S + 230, now_s=NOW_S + 230)

    assert [turn for _, turn in turns(after)] == [Turn.OVER]
    assert after[0][0] >= 20 + 30


def kept(points: list[Mapping[str, float]], *, at_s: float = BEGIN_S) -> list[tuple[float, float, Mapping[str, float]]]:
    """Return what the keeper's rings hold of points."""
    return [
        (at_s + second, step, points[second] if step == 1 else rolled(points[second : second + step]))
        for step in (1, 10, 60)
        for second in range(0, len(points), step)
    ]


def test_a_restart_in_the_middle_goes_on_with_the_same_episode() -> None:
    before: list[Mapping[str, float]] = [*[WELL] * 300, *[DOWN] * 20]
    alerts = book()
    [(_, opened)] = told(alerts, before)
    state = json.loads(json.dumps(alerts.as_json()))

    resumed = book()
    resumed.resume(state, kept(before), at_s=BEGIN_S + 325, now_s=5.0)
    after = told(resumed, [*[DOWN] * 20, *[WELL] * 400, *[DOWN] * 5], at_s=BEGIN_S + 326, now_s=6.0)

    assert resumed.episode is not None
    assert [event.turn for _, event in after] == [Turn.OVER, Turn.OPENED]
    assert after[0][1].episode == opened.episode
    assert after[0][1].alert == opened.alert


def test_what_was_over_before_a_restart_is_not_told_again_after_it() -> None:
    before: list[Mapping[str, float]] = [*[WELL] * 600, *[DOWN] * 600, *[WELL] * 600]
    alerts = book()
    told(alerts, before)

    resumed = book()
    resumed.resume(json.loads(json.dumps(alerts.as_json())), kept(before), at_s=BEGIN_S + 1801, now_s=5.0)

    assert told(resumed, [WELL] * 60, at_s=BEGIN_S + 1802, now_s=6.0) == []


def test_a_slow_burn_is_told_as_soon_though_there_was_a_restart() -> None:
    burning = list(chain.from_iterable(repeat([WELL, point(requests=50, failed=2)], 1800)))
    steady: list[Mapping[str, float]] = [WELL] * 3600
    [(second, _)] = told(book(), [*steady, *burning])

    resumed = book()
    resumed.resume(None, kept([*steady, *burning[:1200]]), at_s=BEGIN_S + 4800, now_s=5.0)
    [(later, event)] = told(resumed, burning[1200:], at_s=BEGIN_S + 4800, now_s=5.0)

    assert event.alert.rule == "requests 1h/5m"
    assert abs(later + 4800 - second) <= 20


def test_points_of_the_future_are_left_out() -> None:
    resumed = book()
    resumed.resume(None, kept([DOWN] * 600, at_s=BEGIN_S + 1000), at_s=BEGIN_S, now_s=NOW_S)

    assert told(resumed, [WELL] * 60) == []
