"""What is counted of a request says where its time went, whether it was good, and whose it was."""

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.telemetry.metrics import DURATION_BUCKETS_S
from seawall.telemetry.minute_users import CLAIMED_MAX, NUMBER_MAX, Accounts, MinuteUsers
from seawall.telemetry.points import BY_NAME, GROUPS, total
from seawall.telemetry.seconds import MOVED_BYTES_PER_S, SLOW_S, Outcome, SecondCounts
from seawall.telemetry.segments import SEGMENTS, STOPWATCH, Segment, Stopwatch, timed, unwatched
from seawall.telemetry.top import COUNTERS, REQUEST_S, TOLD, TopTenants

READS = GROUPS.index("reads")
NOTHING = [0.0] * len(SEGMENTS)


def sums(**segments: float) -> list[float]:
    return [segments.get(segment.name.lower(), 0.0) for segment in SEGMENTS]


def observed(outcome: Outcome, duration_s: float = 0.01, moved_bytes: int = 0, **segments: float) -> dict[str, float]:
    counts = SecondCounts()
    counts.observe(READS, outcome, duration_s, sums(**segments), moved_bytes=moved_bytes)
    return {name.partition(".")[2]: value for name, value in counts.take().items() if value}


# Stopwatches.


@given(st.lists(st.tuples(st.sampled_from(SEGMENTS), st.floats(0, 100)), max_size=50), st.floats(0, 1e6))
def test_segments_are_exclusive_and_add_up_to_the_duration(
    switches: list[tuple[Segment, float]], started_s: float
) -> None:
    watch, now_s, expected_s = Stopwatch(started_s), started_s, Counter[Segment]()

    for segment, passes_s in switches:
        expected_s[watch.running] += now_s + passes_s - now_s  # type: ignore[assignment]  # a Counter of seconds
        now_s += passes_s
        watch.switch(segment, now_s)
    watch.switch(Segment.OTHER, now_s)

    assert math.fsum(watch.sums_s) == pytest.approx(now_s - started_s, abs=1e-6)
    for segment in SEGMENTS:
        assert watch.sums_s[segment] == pytest.approx(expected_s[segment], abs=1e-6)


async def test_what_goes_on_beside_a_request_is_not_waited_for_twice() -> None:
    watch = Stopwatch(0.0)
    STOPWATCH.set(watch)

    async def work() -> Stopwatch | None:
        with timed(Segment.DISK):
            return STOPWATCH.get()

    beside = await asyncio.gather(unwatched(work()), unwatched(work()))

    assert [*beside] == [None, None]
    assert watch.sums_s[Segment.DISK] == 0.0
    assert STOPWATCH.get() is watch


async def test_a_block_that_fails_gives_back_what_ran_before() -> None:
    watch = Stopwatch(0.0)
    STOPWATCH.set(watch)

    with pytest.raises(OSError), timed(Segment.DISK):  # noqa: PT011 - any
        raise OSError

    assert watch.running is Segment.OTHER


# Seconds.


def test_every_count_is_a_column() -> None:
    assert set(SecondCounts().take()) <= set(BY_NAME)
    assert len(SecondCounts().take()) == len(GROUPS) * (5 + len(DURATION_BUCKETS_S) + 1 + len(SEGMENTS))


@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(GROUPS))), st.sampled_from([*Outcome]), st.floats(0, 20), st.booleans())
    )
)
def test_seconds_add_up_to_what_was_observed(requests: list[tuple[int, Outcome, float, bool]]) -> None:
    counts, taken = SecondCounts(), Counter[str]()

    bad = 0
    for group, outcome, duration_s, takes in requests:
        bad += counts.observe(group, outcome, duration_s, sums(other=duration_s), moved_bytes=0)
        if takes:
            taken.update(counts.take())
    taken.update(counts.take())

    served = sum(outcome is Outcome.SERVED for _, outcome, _, _ in requests)
    assert total(taken, "failed") + total(taken, "refused") == pytest.approx(bad)
    assert total(taken, "requests") == pytest.approx(served + bad)
    assert sum(value for name, value in taken.items() if ".le." in name) == pytest.approx(served)
    spent_s = sum(value for name, value in taken.items() if ".segment." in name)
    assert total(taken, "seconds") == pytest.approx(spent_s)


@pytest.mark.parametrize(
    ("outcome", "column"),
    [
        (Outcome.REFUSED, "refused"),
        (Outcome.FAILED, "failed"),
        (Outcome.NO_ROOM, "failed"),
        (Outcome.DISK_FAILED, "failed"),
    ],
)
def test_what_was_not_served_is_refused_or_failed_and_never_slow(outcome: Outcome, column: str) -> None:
    found = observed(outcome, 10.0, other=10.0)

    assert found == {"requests": 1, column: 1, "seconds": 10.0, "segment.other": 10.0}


def test_a_refusal_that_was_told_later_took_nobodys_time() -> None:
    assert observed(Outcome.REFUSED, 0.4, admission=0.4) == {"requests": 1, "refused": 1, "segment.admission": 0.4}


def test_an_answer_is_slow_when_we_took_too_long_and_not_when_the_client_did() -> None:
    late_s = SLOW_S["reads"] + 0.1

    assert observed(Outcome.SERVED, late_s, database=late_s)["slow"] == 1
    assert "slow" not in observed(Outcome.SERVED, late_s, network=late_s)


def test_large_bodies_may_take_longer() -> None:
    late_s = SLOW_S["reads"] + 0.9

    assert "slow" not in observed(Outcome.SERVED, late_s, moved_bytes=MOVED_BYTES_PER_S, disk=late_s)
    assert observed(Outcome.SERVED, late_s, moved_bytes=MOVED_BYTES_PER_S // 2, disk=late_s)["slow"] == 1


def test_who_goes_away_is_not_counted_unless_we_did_not_answer_for_too_long() -> None:
    assert observed(Outcome.GONE, 10.0) == {}
    assert observed(Outcome.GAVE_UP, 0.1) == {}
    assert observed(Outcome.GAVE_UP, 10.0)["failed"] == 1


# Users.


@given(st.lists(st.one_of(st.integers(0, 300), st.integers(0, 1 << 20), st.integers(NUMBER_MAX, 1 << 60))))
def test_accounts_are_a_set(numbers: list[int]) -> None:
    accounts = Accounts()

    for number in numbers:
        accounts.add(number)

    assert accounts.everybody() == sorted(set(numbers))
    assert accounts.count == len(set(numbers))
    assert sorted(accounts.new) == sorted(set(numbers))


def test_each_second_tells_who_is_new_in_this_minute() -> None:
    users = MinuteUsers(600.0)
    users.seen.add(1)
    users.fail(2)
    first = users.take(601.0)
    users.seen.add(1)
    users.fail(1)
    users.fail("SWSOMEKEY")
    users.fail("SWSOMEKEY")
    second = users.take(602.0)
    third = users.take(603.0)

    assert first == {"minute": 10, "seen": [1, 2], "failed": [2], "claimed": []}
    assert second == {"minute": 10, "seen": [], "failed": [1], "claimed": ["SWSOMEKEY"]}
    assert third == {"minute": 10, "seen": [], "failed": [], "claimed": []}


def test_a_new_minute_begins_with_nobody() -> None:
    users = MinuteUsers(600.0)
    users.fail(1)

    last = users.take(660.1)
    users.fail(1)
    first = users.take(661.0)

    assert last == {"minute": 10, "seen": [1], "failed": [1], "claimed": []}
    assert first == {"minute": 11, "seen": [1], "failed": [1], "claimed": []}


def test_whoever_listens_anew_is_told_everybody_of_this_minute() -> None:
    users = MinuteUsers(600.0)
    users.seen.add(5)
    users.fail(7)
    users.fail("SWSOMEKEY")
    users.take(601.0)

    users.tell_again()

    assert users.take(602.0) == {"minute": 10, "seen": [5, 7], "failed": [7], "claimed": ["SWSOMEKEY"]}


def test_claims_are_bounded() -> None:
    users = MinuteUsers(0.0)

    for number in range(CLAIMED_MAX + 10):
        users.fail(f"SW{number}")

    assert len(users.take(1.0)["claimed"]) == CLAIMED_MAX


# Tenants.


def test_few_tenants_are_told_exactly_the_largest_first() -> None:
    top = TopTenants()
    top.add(1, 1, 0.1, 0)
    top.add(2, 1, 0.2, 0)
    top.add(2, 1, 0.1, 1)

    told, share = top.take()

    assert told == [(2, 2, pytest.approx(0.3), 1), (1, 1, 0.1, 0)]
    assert share == pytest.approx(0.75)
    assert top.take() == ([], 0.0)


def test_a_tenant_that_is_only_refused_is_told_too() -> None:
    top = TopTenants()

    for _ in range(50):
        top.add(9, 1, 0.0, 1)

    assert top.take() == ([(9, 50, 0.0, 50)], 0.0)


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0.0, 0.01, 0.5])), max_size=2000), st.data())
def test_whoever_takes_much_is_never_missed(requests: list[tuple[int, float]], data: st.DataObject) -> None:
    top, weights = TopTenants(), Counter[int]()
    hog = data.draw(st.integers(1000, 1010))
    mixed = data.draw(st.permutations([*requests, *[(hog, 0.5)] * (1 + len(requests) // 10)]))

    for tenant, work_s in mixed:
        top.add(tenant, 1, work_s, 0)
        weights[tenant] += work_s + REQUEST_S  # type: ignore[assignment]  # a Counter of seconds

    total_weight = sum(weights.values())
    told, _ = top.take()
    assert len(told) <= TOLD
    assert [one[2] + REQUEST_S * one[1] for one in told] == sorted(
        (one[2] + REQUEST_S * one[1] for one in told), reverse=True
    )
    if weights[hog] > total_weight / COUNTERS * (COUNTERS / TOLD):
        assert hog in {one[0] for one in told}
