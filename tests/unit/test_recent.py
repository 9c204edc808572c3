"""Where the usual ends and now begins."""

from seawall.monitoring.cases import Tenant
from seawall.monitoring.recent import KEPT_S, MARGIN_S, NOW_S, SINCE_MAX_S, USUAL_S, Recent, replica_ages
from seawall.telemetry.metrics import number


def seconds(count: int) -> Recent:
    """Return so many, each with its number."""
    recent = Recent()
    for second in range(1, count + 1):
        recent.add(second, {"gate.level": second}, [[7, 2, 0.5, 1], [second, 1, 0.1, 0]])
    return recent


def test_where_nobody_has_noticed_anything_now_is_the_last_seconds() -> None:
    windows = seconds(400).windows(400)

    assert [point["gate.level"] for point in windows.now] == [*range(400 - int(NOW_S) + 1, 401)]
    assert windows.before[-1]["gate.level"] == 400 - NOW_S
    assert len(windows.before) == USUAL_S


def test_where_an_alert_knows_the_onset_the_usual_ends_well_before_it() -> None:
    windows = seconds(400).windows(400, began_s=392)

    assert windows.now[0]["gate.level"] == 392
    assert windows.before[-1]["gate.level"] == 391 - MARGIN_S


def test_a_long_incident_is_compared_with_what_was_before_it() -> None:
    windows = seconds(400).windows(400, began_s=200)

    assert len(windows.now) == SINCE_MAX_S
    assert windows.before[-1]["gate.level"] == 200 - MARGIN_S


def test_accounts_are_summed_up_over_now() -> None:
    tenants = seconds(30).windows(30).tenants

    assert tenants[0] == Tenant(number=7, requests=20, work_s=5.0, refused=10)
    assert len(tenants) == 1 + NOW_S


def test_a_replica_is_as_old_as_the_node_sees_it_that_sees_it_worst() -> None:
    name = "db_client_replica_age_seconds"

    ages_s = replica_ages([{name: [number(0.4, "a:5432"), number(3.0, "b:5432")]}, {name: [number(7.0, "a:5432")]}, {}])

    assert ages_s == {"a:5432": 7.0, "b:5432": 3.0}


def test_it_keeps_a_bounded_past_and_bears_a_clock_set_back() -> None:
    recent = seconds(2000)
    assert repr(recent) == f"<Recent {int(KEPT_S) + 1} s>"

    recent.add(1500, {"gate.level": 0.0})

    windows = recent.windows(1500)
    assert [point["gate.level"] for point in windows.now][-1] == 0
    assert len(windows.now) == NOW_S


def test_nothing_kept_is_nothing_to_compare() -> None:
    windows = Recent().windows(10)

    assert (windows.before, windows.now, windows.tenants) == ((), (), ())
