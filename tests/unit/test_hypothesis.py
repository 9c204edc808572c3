"""Whether a drill's hypothesis held is decided from what became of each second's requests."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.drills.faults import FAULTS
from seawall.drills.hypothesis import STEADY_FOR_S, Hypothesis, Second, judge, recovery_s, share_of

STRICT = Hypothesis(during_min=0.9, answered_within_s=2.0, recovered_within_s=3.0)
BROKEN_S, MENDED_S, END_S = 10.0, 20.0, 40


def drill(*, during: float = 1.0, bad_after_s: int = 0, asked: int = 100) -> list[Second]:
    """Make a drill in which this share is served in time during the fault, and nothing for so long after it."""

    def share(at_s: int) -> float:
        if BROKEN_S <= at_s < MENDED_S:
            return during
        return 0.0 if MENDED_S <= at_s < MENDED_S + bad_after_s else 1.0

    return [Second(at_s=at_s, asked=asked, in_time=round(asked * share(at_s))) for at_s in range(END_S)]


def complaints(seconds: list[Second], *, lost_writes: int = 0, hypothesis: Hypothesis = STRICT) -> str:
    verdict = judge(hypothesis, seconds, broken_s=BROKEN_S, mended_s=MENDED_S, lost_writes=lost_writes)
    assert verdict.held == (not verdict.complaints)
    return "\n".join(verdict.complaints)


def test_a_drill_in_which_all_are_served_holds() -> None:
    verdict = judge(STRICT, drill(), broken_s=BROKEN_S, mended_s=MENDED_S, lost_writes=0)

    assert verdict.held
    assert (verdict.before, verdict.during, verdict.after, verdict.recovered_s) == (1.0, 1.0, 1.0, 0.0)


def test_each_thing_that_does_not_hold_is_said() -> None:
    sick = [replace(second, in_time=0) if second.at_s < BROKEN_S else second for second in drill()]
    slow = [replace(second, slowest_s=2.5) if second.at_s == 12 else second for second in drill()]

    assert "before it, 0.0 %" in complaints(sick)
    assert "during it, 80.0 %" in complaints(drill(during=0.8))
    assert "somebody waited 2.5 s" in complaints(slow)
    assert "took 4.0 s to recover" in complaints(drill(bad_after_s=4))
    assert "did not recover" in complaints(drill(bad_after_s=100))
    assert "1 acknowledged writes were lost" in complaints(drill(), lost_writes=1)


def test_what_just_holds_is_not_complained_of() -> None:
    assert complaints(drill(during=0.9, bad_after_s=3)) == ""


def test_of_what_was_not_asked_nothing_is_known() -> None:
    unasked = [second for second in drill() if second.at_s < 15]

    assert "during it, nothing was asked" in complaints([s for s in drill() if s.at_s < 10])
    assert "after it, nothing was asked" in complaints(unasked)


def test_the_seconds_in_which_a_fault_begins_and_ends_belong_to_nobody() -> None:
    bad = [replace(s, in_time=0) if s.at_s in {10, 20} else s for s in drill()]

    verdict = judge(STRICT, bad, broken_s=10.5, mended_s=20.5, lost_writes=0)

    assert verdict.held
    assert verdict.recovered_s == 0.5


@given(
    good=st.lists(st.booleans(), min_size=STEADY_FOR_S, max_size=30), mended_s=st.floats(0, 10), share=st.floats(0.1, 1)
)
def test_a_recovery_is_followed_by_good_seconds_and_nothing_before_it_was_one(
    good: list[bool], mended_s: float, share: float
) -> None:
    seconds = [Second(at_s=at_s, asked=50, in_time=50 * is_good) for at_s, is_good in enumerate(good)]

    found = recovery_s(seconds, mended_s=mended_s, share_min=share)

    starts = [
        at_s
        for at_s in range(len(good) - STEADY_FOR_S + 1)
        if at_s + 1 > mended_s and all(good[at_s : at_s + STEADY_FOR_S])
    ]
    assert found == (max(0.0, starts[0] - mended_s) if starts else None)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_a_share_lies_between_the_worst_second_and_the_best(pairs: list[tuple[int, int]]) -> None:
    seconds = [Second(at_s=n, asked=max(pair), in_time=min(pair)) for n, pair in enumerate(pairs)]
    shares = [second.in_time / second.asked for second in seconds if second.asked]

    found = share_of(seconds)

    assert found is None if not shares else min(shares) - 1e-9 <= (found or 0) <= max(shares) + 1e-9


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot have been served"):
        Second(at_s=0, asked=1, in_time=2)
    with pytest.raises(ValueError, match="shares are from 0 to 1"):
        Hypothesis(during_min=1.5)


def test_faults_have_names_of_their_own_and_say_what_they_are() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(
        fault.about.endswith(".") and fault.about.count(".") == fault.about.rstrip(".").count(".") + 1
        for fault in FAULTS
    )
    assert sum(fault.is_trap for fault in FAULTS) >= 3
    assert all(fault.name.startswith("trap-") == fault.is_trap for fault in FAULTS)
