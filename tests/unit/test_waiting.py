"""Who is served next, and who is told to come back later."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.database.waiting import (
    INTERVAL_S,
    LEAST_URGENT_FIRST_EVERY,
    TARGET_S,
    Waiter,
    WaitingRoom,
)
from seawall.errors import DeadlineExceeded, Overloaded
from seawall.telemetry.purpose import Purpose, Urgency

FOR_EVER_S = 1e9


def a_waiter(
    *, tenant: int = 1, urgency: Urgency = Urgency.NORMAL, deadline_s: float = FOR_EVER_S, cost: float = 1.0
) -> Waiter:
    answer = asyncio.get_running_loop().create_future()
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody hears of it
    return Waiter(answer, deadline_s, Purpose(tenant=tenant, urgency=urgency), cost=cost)


def served(room: WaitingRoom, *, now_s: float = 0.0, at_most: int = 1_000_000) -> list[Waiter]:
    found: list[Waiter] = []
    while len(found) < at_most and (waiter := room.next(now_s, [])) is not None:
        found.append(waiter)
    return found


def what_became_of(waiter: Waiter) -> type[BaseException] | None:
    error = waiter.answer.exception() if waiter.answer.done() else None
    return None if error is None else type(error)


async def test_those_of_one_tenant_are_served_in_the_order_they_came() -> None:
    room = WaitingRoom()
    waiters = [a_waiter() for _ in range(20)]
    for waiter in waiters:
        room.enter(waiter, now_s=0.0)

    assert served(room) == waiters
    assert (len(room), room.counts.served) == (0, 20)


async def test_who_sends_a_thousand_requests_waits_behind_themselves() -> None:
    room = WaitingRoom()
    for _ in range(1000):
        room.enter(a_waiter(tenant=1), now_s=0.0)
    few = [a_waiter(tenant=2) for _ in range(3)]
    for waiter in few:
        room.enter(waiter, now_s=0.0)

    first = served(room, at_most=7)

    assert [waiter for waiter in first if waiter.purpose.tenant == 2] == few


async def test_a_tenant_whose_work_costs_four_times_as_much_gets_a_fourth_of_the_turns() -> None:
    room = WaitingRoom()
    for _ in range(200):
        room.enter(a_waiter(tenant=1, cost=4.0), now_s=0.0)
        room.enter(a_waiter(tenant=2, cost=1.0), now_s=0.0)

    turns = Counter(waiter.purpose.tenant for waiter in served(room, at_most=100))

    assert turns == {1: pytest.approx(20, abs=2), 2: pytest.approx(80, abs=2)}


async def test_the_more_urgent_goes_first_and_the_least_urgent_does_not_starve() -> None:
    room = WaitingRoom()
    for urgency in (Urgency.BACKGROUND, Urgency.NORMAL, Urgency.INTERACTIVE, Urgency.CRITICAL):
        for _ in range(100):
            room.enter(a_waiter(urgency=urgency), now_s=0.0)

    turns = Counter(waiter.purpose.urgency for waiter in served(room, at_most=2 * LEAST_URGENT_FIRST_EVERY))

    assert turns == {Urgency.CRITICAL: 2 * LEAST_URGENT_FIRST_EVERY - 2, Urgency.BACKGROUND: 2}


async def test_nobody_is_served_after_their_deadline() -> None:
    room = WaitingRoom()
    late, in_time = a_waiter(deadline_s=1.0), a_waiter(deadline_s=1.1)
    room.enter(late, now_s=0.0)
    room.enter(in_time, now_s=0.0)

    assert served(room, now_s=1.0) == [in_time]
    assert what_became_of(late) is DeadlineExceeded
    with pytest.raises(DeadlineExceeded):
        room.enter(a_waiter(deadline_s=1.0), now_s=1.0)
    assert room.counts.expired == 2


async def test_whose_wait_would_take_a_tenth_of_the_time_they_have_is_told_at_once() -> None:
    room = WaitingRoom()
    room.turn_s = 0.01
    for _ in range(10):
        room.enter(a_waiter(deadline_s=5.0), now_s=0.0)

    assert room.predicted_wait_s(Purpose(tenant=1)) == pytest.approx(0.1)
    with pytest.raises(Overloaded) as refusal:
        room.enter(a_waiter(deadline_s=0.99), now_s=0.0)
    assert refusal.value.retry_after_s == 1.0
    room.enter(a_waiter(deadline_s=1.01), now_s=0.0)
    assert (len(room), room.counts.refused) == (11, 1)


async def test_few_who_ask_for_much_are_a_long_wait_too() -> None:
    room = WaitingRoom()
    room.turn_s = 0.005
    for _ in range(3):
        room.enter(a_waiter(cost=100.0), now_s=0.0)

    with pytest.raises(Overloaded):
        room.enter(a_waiter(deadline_s=5.0), now_s=0.0)


async def test_a_newcomer_is_not_refused_for_the_queue_of_another() -> None:
    room = WaitingRoom()
    room.turn_s = 0.01
    for _ in range(50):
        room.enter(a_waiter(tenant=1, deadline_s=5.0), now_s=0.0)

    room.enter(a_waiter(tenant=2, deadline_s=1.0), now_s=0.0)
    with pytest.raises(Overloaded):
        room.enter(a_waiter(tenant=1, deadline_s=1.0), now_s=0.0)

    assert [waiter.purpose.tenant for waiter in served(room, at_most=2)] == [1, 2]


async def test_who_is_more_urgent_is_not_refused_for_those_who_are_less() -> None:
    room = WaitingRoom()
    room.turn_s = 0.01
    for _ in range(50):
        room.enter(a_waiter(tenant=1, urgency=Urgency.BACKGROUND, deadline_s=5.0), now_s=0.0)

    room.enter(a_waiter(tenant=1, urgency=Urgency.INTERACTIVE, deadline_s=1.0), now_s=0.0)


async def test_who_is_first_is_served_before_others_of_its_class_and_starves_none_of_them() -> None:
    room = WaitingRoom()
    others = [a_waiter(tenant=number) for number in (5, 6, 7)]
    for waiter in others:
        room.enter(waiter, now_s=0.0)

    turns: list[Waiter] = []
    for _ in range(12):
        # Another one comes each time the last one is served: two batches that take turns do that.
        room.put_back(a_waiter(tenant=0), now_s=0.0, is_first=True)
        turns += served(room, at_most=1)

    assert turns[0].purpose.tenant == 0
    assert [waiter for waiter in turns if waiter.purpose.tenant] == others
    assert sum(waiter.purpose.tenant == 0 for waiter in turns) >= len(turns) / 2


async def test_a_queue_that_stands_is_trimmed_and_one_that_empties_is_not() -> None:
    """Two arrive for each one served, so the wait grows; then as many as are served, and it shrinks again."""
    room = WaitingRoom()
    now_s = 0.0
    longest_s = 0.0
    for _ in range(1000):
        for _ in range(2):
            room.enter(a_waiter(), now_s=now_s)
        now_s += 0.005
        waiter = room.next(now_s, [])
        assert waiter is not None
        if now_s > 3 * INTERVAL_S:  # one to begin with, one in which it stands, one to see that
            longest_s = max(longest_s, now_s - waiter.arrived_s)
    shed_under_load = room.counts.shed

    assert longest_s <= 2 * TARGET_S + 0.005
    assert shed_under_load == pytest.approx(1000, rel=0.1)
    served(room, now_s=now_s)
    for _ in range(1000):
        room.enter(a_waiter(), now_s=now_s)
        now_s += 0.005
        assert room.next(now_s, []) is not None
    assert room.counts.shed <= shed_under_load + 20


async def test_a_burst_that_drains_within_an_interval_is_served_whole() -> None:
    room = WaitingRoom()
    for _ in range(30):
        room.enter(a_waiter(), now_s=0.0)

    turns = [room.next(0.005 * number, []) for number in range(30)]

    assert None not in turns
    assert room.counts.shed == 0


async def test_the_last_who_waits_is_served_however_long_it_took() -> None:
    room = WaitingRoom()
    for step in range(10):
        waiter = a_waiter()
        room.enter(waiter, now_s=float(step))
        assert room.next(step + 0.9, []) is waiter


async def test_who_fills_the_room_pays_for_it() -> None:
    room = WaitingRoom(limit=10)
    flood = [a_waiter(tenant=1) for _ in range(10)]
    for waiter in flood:
        room.enter(waiter, now_s=0.0)

    with pytest.raises(Overloaded):
        room.enter(a_waiter(tenant=1), now_s=0.0)
    turned_away = room.enter(a_waiter(tenant=2), now_s=0.0)

    assert turned_away is flood[0]
    assert what_became_of(flood[0]) is Overloaded
    assert len(room) == 10


async def test_those_who_have_gone_make_room_and_are_not_served() -> None:
    room = WaitingRoom(limit=3)
    waiters = [a_waiter() for _ in range(3)]
    for waiter in waiters:
        room.enter(waiter, now_s=0.0)

    waiters[1].answer.cancel()
    room.one_has_gone(now_s=0.0)
    newcomer = a_waiter()
    room.enter(newcomer, now_s=0.0)

    assert served(room) == [waiters[0], waiters[2], newcomer]


async def test_when_half_have_gone_they_are_taken_out_at_once() -> None:
    room = WaitingRoom()
    waiters = [a_waiter() for _ in range(100)]
    for waiter in waiters:
        room.enter(waiter, now_s=0.0)

    for waiter in waiters[:51]:
        waiter.answer.cancel()
        room.one_has_gone(now_s=0.0)

    assert len(room) == 49


@dataclass(slots=True)
class Ledger:
    """What became of everybody who was let in."""

    entered: list[Waiter] = field(default_factory=list)
    taken: list[Waiter] = field(default_factory=list)
    left: list[Waiter] = field(default_factory=list)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("enter"), st.integers(1, 3), st.sampled_from(Urgency), st.floats(0.0, 2.0), st.floats(0.1, 10.0)
        ),
        st.tuples(st.just("put back"), st.integers(0, 3), st.booleans(), st.floats(0.1, 100.0)),
        st.tuples(st.just("next")),
        st.tuples(st.just("wait"), st.floats(0.0, 0.3)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("dismiss")),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(steps=STEPS, turn_s=st.floats(0.0, 0.05))
async def test_everybody_leaves_once_and_nobody_is_forgotten(steps: list[tuple[object, ...]], turn_s: float) -> None:
    room, ledger, now_s = WaitingRoom(limit=8), Ledger(), 0.0
    room.turn_s = turn_s
    for step in steps:
        match step:
            case ("enter", int(tenant), Urgency() as urgency, float(patience_s), float(cost)):
                waiter = a_waiter(tenant=tenant, urgency=urgency, deadline_s=now_s + patience_s, cost=cost)
                try:
                    turned_away = room.enter(waiter, now_s=now_s)
                except (DeadlineExceeded, Overloaded):
                    continue
                ledger.entered.append(waiter)
                if turned_away is not None:
                    ledger.left.append(turned_away)
            case ("put back", int(tenant), bool(is_first), float(cost)):
                if len(room) < 8:
                    ledger.entered.append(a_waiter(tenant=tenant, deadline_s=now_s + 1.0, cost=cost))
                    room.put_back(ledger.entered[-1], now_s=now_s, is_first=is_first)
            case ("next",):
                next_one = room.next(now_s, ledger.left)
                if next_one is not None:
                    assert next_one.deadline_s > now_s
                    assert not next_one.answer.done()
                    next_one.answer.set_result(None)
                    ledger.taken.append(next_one)
            case ("wait", float(wait_s)):
                now_s += wait_s
            case ("cancel", int(number)):
                if number < len(ledger.entered):
                    ledger.entered[number].answer.cancel()
            case ("dismiss",):
                ledger.left += room.dismiss(now_s=now_s)
        assert len(room) == len(list(room)) <= 8
        assert room.standing_s == pytest.approx(turn_s * sum(waiter.cost for waiter in room))
    ledger.left += room.dismiss(Overloaded(), now_s=now_s)

    assert len(room) == 0
    assert "0 waiting, 0 flows" in repr(room)
    assert Counter(map(id, ledger.taken + ledger.left)) == Counter(map(id, ledger.entered))
    assert all(waiter.answer.done() for waiter in ledger.entered)
