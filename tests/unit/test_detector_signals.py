"""Signals without an objective: a warning, in a sentence, when one becomes unusual."""

from collections.abc import Iterable
from random import Random

import pytest

from seawall.monitoring.signals import EVERY_S, SIGNALS, SignalWatch
from seawall.monitoring.things import Alert, Severity
from seawall.telemetry.points import BY_NAME

BEGIN_S = 1_790_000_000.0
PROBE = [signal for signal in SIGNALS if signal.column == "disk.probe_s"]
HOURS_2 = 7200


def watched(watch: SignalWatch, values: Iterable[float | None], *, begin_s: float = BEGIN_S) -> list[Alert]:
    found = []
    for second, value in enumerate(values):
        found += watch.observe(begin_s + second, {} if value is None else {"disk.probe_s": value})
    return found


def ordinary(seconds: int) -> list[float | None]:
    chance = Random(1)
    return [chance.uniform(0.001, 0.003) for _ in range(seconds)]


def test_a_signal_that_stays_what_it_was_is_not_mentioned() -> None:
    assert watched(SignalWatch(PROBE), ordinary(HOURS_2)) == []


def test_a_signal_that_becomes_unusual_is_a_warning_in_a_sentence() -> None:
    watch = SignalWatch(PROBE)

    assert watched(watch, ordinary(HOURS_2)) == []
    alerts = watched(watch, [0.25] * 60, begin_s=BEGIN_S + HOURS_2)

    assert len(alerts) == 1
    [alert] = alerts
    assert (alert.name, alert.severity) == ("signal:disk.probe_s", Severity.WARNING)
    assert alert.reason == "the disk's probe takes 0.25 s; 0.002 s is usual"
    assert alert.observed == pytest.approx(0.25)
    assert alert.threshold == pytest.approx(0.002, abs=0.0005)
    assert BEGIN_S + HOURS_2 <= alert.began_s < alert.fired_s <= BEGIN_S + HOURS_2 + 2 * EVERY_S


def test_what_concerns_nobody_is_not_mentioned_however_rare_it_is() -> None:
    watch = SignalWatch(PROBE)

    watched(watch, ordinary(HOURS_2))

    assert watched(watch, [0.004] * 60, begin_s=BEGIN_S + HOURS_2) == []


def test_seconds_that_are_missing_and_a_clock_that_jumps_do_no_harm() -> None:
    watch = SignalWatch(PROBE)

    assert watched(watch, [None] * 100) == []
    assert watched(watch, ordinary(HOURS_2), begin_s=BEGIN_S + 86_400) == []
    assert watched(watch, ordinary(HOURS_2), begin_s=BEGIN_S) == []
    assert watched(watch, [0.3] * 60, begin_s=BEGIN_S + 86_400 * 365) != []


def test_every_signal_is_a_column_and_can_be_spoken_of() -> None:
    assert len({signal.column for signal in SIGNALS}) == len(SIGNALS)
    for number, signal in enumerate(SIGNALS):
        assert signal.column in BY_NAME
        watch = SignalWatch([signal])
        chance = Random(number)
        seconds = [{signal.column: signal.matters * chance.uniform(0.9, 1.1)} for _ in range(3000)]
        odd = [{signal.column: signal.matters * 100}] * 30

        found = [alert for at, point in enumerate(seconds + odd) for alert in watch.observe(BEGIN_S + at, point)]

        assert [alert.name for alert in found] == [f"signal:{signal.column}"]
        assert found[0].reason.startswith(f"{signal.says} ")
        assert "is usual" in found[0].reason


def test_each_second_a_few_signals_are_judged_and_not_all_at_once() -> None:
    watch = SignalWatch()

    assert repr(watch) == f"<SignalWatch of {len(SIGNALS)} signals, each 10 s>"
    ends = {int(BEGIN_S + one._shift_s) % EVERY_S for one in watch._watched}
    assert len(ends) == EVERY_S
