"""Who comes when, and who asks again."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.drills.load import (
    GIVE_UP,
    POLITE,
    POLITE_BASE_S,
    POLITE_MAX_S,
    REQUESTS_MAX,
    Crowd,
    Kind,
    Load,
    Manner,
    Phase,
    Retry,
    Sort,
    instant,
    surge_phases,
)
from seawall.telemetry.purpose import Urgency

phases = st.lists(
    st.builds(Phase, rate_per_s=st.floats(0, 200), seconds=st.floats(0.1, 3.0)), min_size=1, max_size=4
).map(tuple)
crowds = st.builds(Crowd, name=st.uuids().map(str), phases=phases, think_s=st.floats(0, 5))
loads = st.builds(Load, crowds=st.lists(crowds, min_size=1, max_size=3).map(tuple), seed=st.integers(0, 1000))


def a_crowd(name: str = "all", *, rate_per_s: float = 100.0, seconds: float = 10.0, think_s: float = 1.0) -> Crowd:
    return Crowd(name=name, phases=(Phase(rate_per_s=rate_per_s, seconds=seconds),), think_s=think_s)


@given(load=loads)
def test_users_come_in_order_within_their_phases_and_only_those_who_are_active(load: Load) -> None:
    arrivals = [*load.arrivals()]

    assert all(earlier.due_s <= later.due_s for earlier, later in pairwise(arrivals))
    for arrival in arrivals:
        crowd = load.crowds[arrival.crowd]
        first = sum(other.users for other in load.crowds[: arrival.crowd])
        began_s = 0.0
        for phase in crowd.phases:
            if began_s <= arrival.due_s < began_s + phase.seconds:
                assert first <= arrival.user < first + crowd.users_active(phase.rate_per_s)
                break
            began_s += phase.seconds
        else:
            pytest.fail("somebody came outside every phase")
        assert arrival.user < load.users
        assert arrival.sort < len(crowd.mix)


@given(load=loads)
def test_the_same_seed_brings_the_same_users_at_the_same_moments(load: Load) -> None:
    assert [*load.arrivals()] == [*load.arrivals()]


def test_as_many_come_as_the_rate_says_and_the_surge_brings_further_users() -> None:
    crowd = Crowd(
        name="all",
        phases=surge_phases(calm_per_s=50, surge_per_s=500, before_s=20, surge_s=20, after_s=20),
        think_s=10.0,
    )
    load = Load.with_surge(crowd, before_s=20, surge_s=20)

    by_phase = Counter(int(arrival.due_s // 20) for arrival in load.arrivals())
    calm = {arrival.user for arrival in load.arrivals() if not 20 <= arrival.due_s < 40}
    surge = {arrival.user for arrival in load.arrivals() if 20 <= arrival.due_s < 40}

    # Poisson: five standard deviations.
    assert by_phase == {
        0: pytest.approx(1000, abs=160),
        1: pytest.approx(10_000, abs=500),
        2: pytest.approx(1000, abs=160),
    }
    assert max(calm) < 500
    assert load.users == 5000
    assert len(surge) > 4000


def test_a_user_asks_about_once_in_a_think_time_and_does_not_wait_for_anything() -> None:
    load = Load(crowds=(a_crowd(rate_per_s=200, seconds=50, think_s=0.5),))

    by_user = Counter(arrival.user for arrival in load.arrivals())

    assert len(by_user) == 100
    assert all(count == pytest.approx(100, abs=50) for count in by_user.values())


def test_a_crowd_without_a_think_time_is_one_user() -> None:
    load = Load(crowds=(a_crowd("flood", think_s=0), a_crowd("others", think_s=1)))

    users = {crowd: {a.user for a in load.arrivals() if a.crowd == crowd} for crowd in (0, 1)}

    assert users == {0: {0}, 1: set(range(1, 101))}


def test_a_mix_is_mixed_by_its_shares() -> None:
    mix = (Sort(kind=Kind.GET, share=3), Sort(kind=Kind.PUT, share=1))
    crowd = Crowd(name="all", phases=(Phase(rate_per_s=1000, seconds=4),), mix=mix)

    sorts = Counter(arrival.sort for arrival in Load(crowds=(crowd,)).arrivals())

    assert sorts[0] / sorts.total() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("sort", "urgency"),
    [
        (Sort(kind=Kind.GET), Urgency.INTERACTIVE),
        (Sort(kind=Kind.LIST), Urgency.INTERACTIVE),
        (Sort(kind=Kind.PUT), Urgency.NORMAL),
        (Sort(kind=Kind.PUT, background=True), Urgency.BACKGROUND),
    ],
)
def test_a_sort_of_request_is_in_the_class_the_service_sees_it_in(sort: Sort, urgency: Urgency) -> None:
    assert sort.urgency is urgency


@given(
    attempts=st.integers(1, 10),
    retry_after_s=st.none() | st.floats(0, 60),
    luck=st.floats(0, 1),
)
def test_the_polite_never_come_sooner_than_told_and_not_for_ever(
    attempts: int, retry_after_s: float | None, luck: float
) -> None:
    pause_s = POLITE.pause_s(attempts=attempts, retry_after_s=retry_after_s, luck=luck)

    assert (pause_s is None) == (attempts > POLITE.retries)
    if pause_s is not None:
        told_s = retry_after_s or 0.0
        assert told_s <= pause_s <= told_s + min(POLITE_MAX_S, POLITE_BASE_S * 2 ** (attempts - 1))


def test_others_ask_again_at_once_or_go() -> None:
    def pauses(retry: Retry) -> list[float | None]:
        return [retry.pause_s(attempts=attempts, retry_after_s=5.0, luck=0.5) for attempts in (1, 2, 3)]

    assert pauses(instant(2)) == [0.0, 0.0, None]
    assert pauses(GIVE_UP) == [None, None, None]


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda: Phase(rate_per_s=-1, seconds=1),
        lambda: Phase(rate_per_s=1, seconds=0),
        lambda: Phase(rate_per_s=float("nan"), seconds=1),
        lambda: Sort(kind=Kind.GET, share=0),
        lambda: Retry(manner=Manner.NONE, retries=1),
        lambda: Retry(manner=Manner.POLITE, retries=0),
        lambda: Crowd(name="none", phases=()),
        lambda: a_crowd(think_s=-1),
        lambda: Load(crowds=()),
        lambda: Load(crowds=(a_crowd(), a_crowd())),
        lambda: Load(crowds=(a_crowd(seconds=1),), surge_from_s=0.5, surge_until_s=1.5),
        lambda: Load(crowds=(a_crowd(rate_per_s=REQUESTS_MAX, seconds=2),)),
    ],
)
def test_a_load_refuses_to_be_nonsense(nonsense: object) -> None:
    assert callable(nonsense)
    with pytest.raises(ValueError, match=r".+"):
        nonsense()
