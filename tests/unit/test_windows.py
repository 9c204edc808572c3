"""Sums over a while are what adding up would give, however time goes."""

from hypothesis import given
from hypothesis import strategies as st

from seawall.monitoring.objectives import Counts
from seawall.monitoring.windows import Windows

SECONDS = st.tuples(st.integers(0, 12), st.integers(0, 50), st.integers(0, 50))


@given(seconds=st.lists(SECONDS, max_size=60), step_s=st.sampled_from([1, 2, 5]))
def test_windows_hold_what_happened_in_them(seconds: list[tuple[int, int, int]], step_s: int) -> None:
    windows = Windows(step_s=step_s, long_s=20, short_s=10)
    happened: list[tuple[int, Counts]] = []
    now_s = 1000

    for passed_s, total, bad in seconds:
        now_s += passed_s
        windows.advance(now_s)
        windows.add(Counts(total, bad), now_s)
        happened.append((now_s // step_s, Counts(total, bad)))

        for window_s, sums, known in (
            (20, windows.long, windows.long_known),
            (10, windows.short, windows.short_known),
        ):
            within = [(slot, counts) for slot, counts in happened if slot > now_s // step_s - window_s // step_s]
            assert sums == (sum(counts.total for _, counts in within), sum(counts.bad for _, counts in within))
            assert known == len({slot for slot, _ in within}) / (window_s // step_s)


def test_time_that_goes_backwards_stands_still() -> None:
    windows = Windows(step_s=1, long_s=20, short_s=10)
    windows.advance(100)
    windows.add(Counts(5, 1), 100)
    windows.advance(50)

    assert windows.long == (5, 1)


def test_where_trouble_began_and_ended_is_found() -> None:
    windows = Windows(step_s=1, long_s=60, short_s=10)
    bads = [0, 1, 0, 0, 0, *[0] * 30, 5, 4, 0, 6, 5, 0, 0]
    for second, bad in enumerate(bads):
        windows.advance(second)
        windows.add(Counts(10, bad), second)

    assert windows.began_age_s(0.2) == len(bads) - 1 - 35
    assert windows.ended_age_s(0.2) == 2
