"""What waits for one target: its order, what may be left out, and when it is given up."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from seawall.monitoring.notices import Notice, Status
from seawall.monitoring.outbox import PATIENCE_S, WAITING_MAX, Letter, Line, pause_s
from seawall.monitoring.things import Severity

OPENED, UPDATED, ACKNOWLEDGED, RESOLVED = Status


def notice(incident: str, status: Status, summary: str = "") -> Notice:
    return Notice(
        incident_id=incident,
        status=status,
        severity=Severity.PAGE,
        alert="availability",
        title="t",
        summary=summary,
        opened_s=0.0,
        at_s=0.0,
        resolved_s=1.0 if status is Status.RESOLVED else None,
    )


def told(letter: Letter) -> tuple[str, Status, str]:
    return (letter.notice.incident_id, letter.notice.status, letter.notice.summary)


def emptied(line: Line, *, now_s: float) -> list[tuple[str, Status, str]]:
    found = []
    while letter := line.take(now_s=now_s):
        found.append(told(letter))
        line.done(is_target_well=True)
    return found


def line_with(*notices: Notice, waiting_max: int = WAITING_MAX) -> Line:
    line = Line(waiting_max=waiting_max)
    for one in notices:
        line.put(one, now_s=0.0)
    return line


def summaries(letters: Sequence[Letter]) -> list[str]:
    return [letter.notice.summary for letter in letters]


def test_notices_leave_in_the_order_they_came() -> None:
    line = line_with(notice("a", OPENED), notice("b", OPENED), notice("a", RESOLVED))

    assert emptied(line, now_s=0.0) == [("a", OPENED, ""), ("b", OPENED, ""), ("a", RESOLVED, "")]
    assert line.wait_s(now_s=0.0) is None


def test_a_newer_update_takes_the_place_of_one_that_was_not_sent() -> None:
    line = line_with(
        notice("a", OPENED),
        notice("a", UPDATED, "1"),
        notice("b", UPDATED, "other"),
        notice("a", ACKNOWLEDGED),
        notice("a", UPDATED, "2"),
        notice("a", RESOLVED),
    )

    assert emptied(line, now_s=0.0) == [
        ("a", OPENED, ""),
        ("b", UPDATED, "other"),
        ("a", ACKNOWLEDGED, ""),
        ("a", UPDATED, "2"),
        ("a", RESOLVED, ""),
    ]


def test_an_update_that_failed_is_not_tried_again_once_there_is_a_newer_one() -> None:
    line = line_with(notice("a", UPDATED, "1"))
    line.take(now_s=0.0)
    line.put(notice("a", UPDATED, "2"), now_s=0.0)

    line.failed(now_s=0.0, retry_after_s=None, jitter=1.0)

    assert emptied(line, now_s=1.0) == [("a", UPDATED, "2")]


def test_what_failed_is_tried_again_after_a_pause_before_what_follows_it() -> None:
    line = line_with(notice("a", OPENED), notice("a", RESOLVED))
    first = line.take(now_s=10.0)

    assert line.failed(now_s=10.0, retry_after_s=None, jitter=1.0) == []

    assert line.take(now_s=10.9) is None
    assert line.wait_s(now_s=10.75) == 0.25
    assert line.take(now_s=11.0) is first
    assert len(line) == 2


def test_a_notice_the_target_chokes_on_holds_up_no_other_incident() -> None:
    line = line_with(notice("a", OPENED), notice("a", RESOLVED), notice("b", OPENED))
    line.take(now_s=0.0)
    line.failed(now_s=0.0, retry_after_s=None, jitter=1.0)

    assert emptied(line, now_s=1.0) == [("b", OPENED, ""), ("a", OPENED, ""), ("a", RESOLVED, "")]


def test_what_is_under_way_is_taken_again_by_who_comes_after_a_crash() -> None:
    line = line_with(notice("a", OPENED))

    assert line.take(now_s=0.0) is line.take(now_s=0.0)


def test_a_target_that_asks_for_time_gets_it_up_to_a_bound() -> None:
    assert pause_s(1, retry_after_s=7.0, jitter=0.0) == 7.0
    assert pause_s(1, retry_after_s=86_400.0, jitter=0.0) == 120.0
    assert pause_s(7, retry_after_s=1.0, jitter=1.0) == 60.0


@given(failures=st.integers(1, 10_000), jitter=st.floats(0, 1), retry_after_s=st.none() | st.floats(0, 1e9))
def test_a_pause_is_never_shorter_than_half_a_second_nor_longer_than_its_bounds(
    failures: int, jitter: float, retry_after_s: float | None
) -> None:
    assert 0.5 <= pause_s(failures, retry_after_s=retry_after_s, jitter=jitter) <= 120.0


def test_a_success_ends_the_pauses() -> None:
    line = line_with(notice("a", OPENED), notice("b", OPENED), notice("c", OPENED))
    for now_s in (0.0, 100.0, 200.0):
        line.take(now_s=now_s)
        line.failed(now_s=now_s, retry_after_s=None, jitter=1.0)

    line.take(now_s=300.0)
    line.done(is_target_well=True)
    line.take(now_s=300.0)
    line.failed(now_s=300.0, retry_after_s=None, jitter=1.0)

    assert line.wait_s(now_s=300.0) == 1.0


def test_what_was_not_sent_in_time_is_given_up() -> None:
    line = line_with(notice("a", OPENED, "old"))
    line.put(notice("b", OPENED, "new"), now_s=PATIENCE_S)
    line.take(now_s=PATIENCE_S)

    late = line.failed(now_s=PATIENCE_S, retry_after_s=None, jitter=0.0)

    assert summaries(late) == ["old"]
    assert [told(letter) for letter in line.clear()] == [("b", OPENED, "new")]


def test_a_full_line_gives_up_its_oldest_update() -> None:
    line = line_with(notice("a", OPENED), notice("a", UPDATED, "old"), notice("b", UPDATED, "newer"), waiting_max=3)

    given_up = line.put(notice("c", OPENED), now_s=0.0)

    assert summaries(given_up) == ["old"]
    assert len(line) == 3


def test_a_full_line_without_updates_gives_up_the_newest() -> None:
    line = line_with(*(notice(str(number), OPENED, str(number)) for number in range(WAITING_MAX)))

    given_up = line.put(notice("last", RESOLVED, "last"), now_s=0.0)

    assert summaries(given_up) == ["last"]
    assert len(line) == WAITING_MAX


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(list(Status))) | st.sampled_from(["sent", "failed"]), max_size=60
)


@given(STEPS)
def test_whatever_happens_the_notices_of_an_incident_keep_their_order_and_only_updates_are_left_out(
    steps: list[tuple[str, Status] | str],
) -> None:
    line, now_s = Line(), 0.0
    put: list[tuple[str, Status, str]] = []
    sent: list[tuple[str, Status, str]] = []

    def conclude(*, fails: bool) -> bool:
        nonlocal now_s
        now_s += line.wait_s(now_s=now_s) or 0.0
        letter = line.take(now_s=now_s)
        if letter is None:
            return False
        if fails:
            assert not line.failed(now_s=now_s, retry_after_s=None, jitter=0.0)
        else:
            sent.append(told(letter))
            line.done(is_target_well=True)
        return True

    for number, step in enumerate(steps):
        if isinstance(step, str):
            conclude(fails=step == "failed")
        else:
            put.append((*step, str(number)))
            assert not line.put(notice(*step, str(number)), now_s=now_s)
    while conclude(fails=False):
        pass

    for incident in "abc":
        wanted = [one for one in put if one[0] == incident]
        found = [one for one in sent if one[0] == incident]
        assert found == [one for one in wanted if one in found]
        assert {one for one in wanted if one not in found} <= {one for one in wanted if one[1] is Status.UPDATED}
        updates = [one for one in wanted if one[1] is Status.UPDATED]
        assert not updates or updates[-1] in found


def test_a_line_shows_what_it_holds() -> None:
    assert repr(line_with(notice("a", OPENED))) == "<Line 1 waiting, 0 failures in a row>"
