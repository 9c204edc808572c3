"""Who is let in, and how many: the gate's decisions, and the gate before a service that is simulated."""

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.admission import WINDOW_S, Gate, GateSettings
from seawall.admission.gate import WAITING_MAX
from seawall.admission.pace import FLOOR_PER_S, next_capacity_per_s, pace_for
from seawall.admission.ranks import (
    BEYOND_SHARE,
    EVERYBODY,
    LEVELS,
    RANKS,
    Threshold,
    rank_of,
    spared_below,
    threshold_for,
)
from seawall.admission.shares import Shares, Standing, fair_share
from seawall.telemetry.purpose import Urgency


@given(st.lists(st.tuples(st.integers(0, RANKS - 1), st.floats(0, 100)), max_size=40), st.floats(0, 2_000))
def test_what_the_threshold_lets_in_is_what_is_allowed_or_everything(
    counts: list[tuple[int, float]], allowed: float
) -> None:
    arrivals = [0.0] * RANKS
    for rank, count in counts:
        arrivals[rank] += count

    rank, part = threshold_for(arrivals, allowed)

    let_in = sum(arrivals[:rank]) + (part * arrivals[rank] if rank < RANKS else 0.0)

    assert let_in == pytest.approx(min(allowed, sum(arrivals)), abs=1e-6)
    assert 0 <= part <= 1


def test_a_look_turns_away_no_more_than_one_class_more_and_none_while_that_helps() -> None:
    arrivals = [2.0] * RANKS
    normal, background = Urgency.NORMAL * LEVELS, Urgency.BACKGROUND * LEVELS
    only_reads = [2.0] * normal + [0.0] * (RANKS - normal)

    assert spared_below(arrivals, EVERYBODY, is_shrinking=False) == background
    assert spared_below(arrivals, Threshold(background + 7, 0.5), is_shrinking=False) == background
    assert spared_below(arrivals, Threshold(background, 0.0), is_shrinking=False) == normal
    assert spared_below(arrivals, Threshold(background, 0.0), is_shrinking=True) == background
    assert spared_below(only_reads, EVERYBODY, is_shrinking=False) == Urgency.INTERACTIVE * LEVELS
    assert spared_below([0.0] * RANKS, EVERYBODY, is_shrinking=False) == 0


@given(st.sampled_from(Urgency), st.integers(0, 2**41), st.integers(0, 1000))
def test_a_rank_is_within_its_class_and_never_the_level_of_the_heavy(urgency: Urgency, user: int, turn: int) -> None:
    rank = rank_of(urgency, user, turn=turn)

    assert rank // LEVELS == urgency
    assert rank % LEVELS < LEVELS - 1


def test_users_are_spread_over_all_levels_and_dealt_anew_each_turn() -> None:
    users = range(1, 20_001)

    levels = Counter(rank_of(Urgency.NORMAL, user, turn=1) for user in users)
    moved = sum(rank_of(Urgency.NORMAL, user, turn=1) != rank_of(Urgency.NORMAL, user, turn=2) for user in users)

    assert len(levels) == LEVELS - 1
    assert max(levels.values()) < 1.5 * len(users) / LEVELS
    assert moved > 0.9 * len(users)


@given(capacity_per_s=st.floats(0, 1e6), level=st.floats(0, 100), idle_looks=st.integers(0, 100))
def test_more_is_let_in_than_can_be_served_exactly_while_the_queue_is_shorter_than_it_may_be(
    capacity_per_s: float, level: float, idle_looks: int
) -> None:
    pace_per_s = pace_for(capacity_per_s, best_per_s=capacity_per_s, level=level, idle_looks=idle_looks)

    assert pace_per_s >= max(FLOOR_PER_S, capacity_per_s / 4)
    if capacity_per_s > 4 * FLOOR_PER_S:
        assert 0.29 * capacity_per_s <= pace_per_s <= 2 * capacity_per_s
        assert (pace_per_s > capacity_per_s) == (level < 1 - 1e-9) or level == pytest.approx(1)


@given(
    capacity_per_s=st.floats(0, 1e6),
    served_per_s=st.floats(0, 1e6),
    level=st.floats(0, 10),
    elapsed_s=st.floats(0.001, 10),
)
def test_the_capacity_moves_towards_what_was_served_but_never_down_while_nothing_waited(
    capacity_per_s: float, served_per_s: float, level: float, elapsed_s: float
) -> None:
    after_per_s = next_capacity_per_s(capacity_per_s, served_per_s=served_per_s, level=level, elapsed_s=elapsed_s)

    assert min(capacity_per_s, served_per_s) - 1e-6 <= after_per_s <= max(capacity_per_s, served_per_s) + 1e-6
    if level == 0:
        assert after_per_s >= capacity_per_s - 1e-6


@given(st.dictionaries(st.integers(0, 50), st.floats(0.01, 1000), min_size=1), st.data())
def test_a_fair_share_gives_away_all_there_is_and_nobody_wants_less_than_they_get(
    usages: dict[int, float], data: st.DataObject
) -> None:
    wanting = data.draw(st.sets(st.sampled_from(sorted(usages)), min_size=1))

    fair = fair_share(usages, wanting=wanting)

    total = sum(usages.values())
    given_away = sum(fair if tenant in wanting else min(cost, fair) for tenant, cost in usages.items())
    assert given_away >= total * (1 - 1e-9)
    if fair > 0.05 * total * (1 + 1e-9):
        assert given_away == pytest.approx(total)


def test_nobody_has_a_share_while_nobody_is_turned_away() -> None:
    shares = Shares()
    for number in range(1000):
        assert shares.take(1, now_s=number / 1000) is Standing.LIGHT
        shares.serve(1)
    shares.look(1.0)

    assert shares.fair_per_s == math.inf


def test_who_takes_more_than_its_share_is_beyond_it_for_the_rest_and_who_takes_less_is_light() -> None:
    shares = Shares()
    standings: dict[int, Counter[Standing]] = {1: Counter(), 2: Counter()}

    for tick in range(6000):
        now_s = tick / 1000
        shares.turn_away(1)
        shares.turn_away(2)
        # 180 a second, and 20: fair are 100.
        for tenant, is_due in ((1, tick % 50 < 9), (2, tick % 50 == 0)):
            if is_due:
                standing = shares.take(tenant, now_s=now_s)
                shares.serve(tenant)
                if now_s > 3:
                    standings[tenant][standing] += 1
        if tick % 250 == 0:
            shares.look(now_s)

    assert shares.fair_per_s == pytest.approx(100, rel=0.1)
    assert set(standings[2]) == {Standing.LIGHT}
    assert standings[1][Standing.BEYOND] > 0.4 * standings[1].total()


def test_who_was_given_nothing_has_a_share_all_the_same() -> None:
    assert fair_share({1: 10.0}, wanting={1, 2}) == 5.0


# The gate before a service that is simulated: so many servers, each busy for so long with a request.

HOLD_S = 0.05
SERVERS = 6
CAPACITY_PER_S = SERVERS / HOLD_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    due_s: float
    tenant: int
    urgency: Urgency = Urgency.INTERACTIVE
    attempts_left: int = 0
    retry_s: float = 0.0
    is_cheap: bool = False
    """Whether it is served without any of the servers."""
    fails: bool = False
    """Whether it finds out inside that it cannot be served, for a reason that is no overload."""


@dataclass(slots=True)
class Run:
    gate: Gate
    served: list[tuple[Request, float]] = field(default_factory=list)
    lost: list[Request] = field(default_factory=list)

    def goodput(self, start_s: float, stop_s: float) -> float:
        """What was served in a stretch, as part of what can be."""
        return sum(start_s <= at_s < stop_s for _, at_s in self.served) / (CAPACITY_PER_S * (stop_s - start_s))

    def success(self, tenant: int | None = None, urgency: Urgency | None = None) -> float:
        def counts(request: Request) -> bool:
            return (tenant is None or request.tenant == tenant) and (urgency is None or request.urgency is urgency)

        served = sum(counts(request) for request, _ in self.served)
        return served / (served + sum(map(counts, self.lost)))


def arrivals(
    noise: random.Random, per_s: float, start_s: float, stop_s: float, users: Iterable[int], **request: object
) -> list[Request]:
    known, at_s, found = [*users], start_s, []
    while (at_s := at_s + noise.expovariate(per_s)) < stop_s:
        found.append(Request(due_s=at_s, tenant=noise.choice(known), **request))  # type: ignore[arg-type]
    return found


def simulate(requests: Iterable[Request], *, until_s: float, least_level: float = 0.0) -> Run:
    """Let requests come to a gate before so many servers with one queue between them.

    `least_level` is how long that queue seems to be when it is empty: in a busy service somebody always waits.
    """
    free_s = [0.0] * SERVERS
    now_s = 0.0

    def level() -> float:
        return max(least_level, (min(free_s) - now_s) / 0.1)

    gate = Gate(GateSettings(), {"servers": level}, now_s=0.0)
    run = Run(gate)
    inside: Counter[int] = Counter()
    order = itertools.count()
    events: list[tuple[float, int, str, Request | None]] = [
        (request.due_s, next(order), "comes", request) for request in requests
    ]
    events += [(tick * WINDOW_S, next(order), "look", None) for tick in range(1, int(until_s / WINDOW_S))]
    heapq.heapify(events)
    while events:
        now_s, _, what, request = heapq.heappop(events)
        if request is None:
            gate.look(now_s)
        elif what == "ends":
            gate.leave(request.tenant, served=True)
            inside[request.tenant] -= 1
            run.served.append((request, now_s))
        elif gate.enter(request.urgency, request.tenant, request.tenant, now_s=now_s) is None:
            if request.fails:
                gate.leave(request.tenant, served=False)
                run.lost.append(request)
                continue
            if request.is_cheap:
                gate.leave(request.tenant, served=True)
                run.served.append((request, now_s))
                continue
            # The queue has a bound of its own, and is fair: as `database.waiting` predicts a wait.
            waiting = sum(inside.values())
            turns = min(waiting, (1 + inside[request.tenant]) * sum(count > 0 for count in inside.values()))
            if turns / CAPACITY_PER_S > 0.5:
                gate.leave(request.tenant, served=False)
                come_again(events, order, run, request, now_s)
                continue
            inside[request.tenant] += 1
            first = min(range(SERVERS), key=free_s.__getitem__)
            free_s[first] = max(free_s[first], now_s) + HOLD_S
            heapq.heappush(events, (free_s[first], next(order), "ends", request))
        else:
            come_again(events, order, run, request, now_s + 0.4)
    return run


def come_again(
    events: list[tuple[float, int, str, Request | None]],
    order: "itertools.count[int]",
    run: Run,
    request: Request,
    told_s: float,
) -> None:
    if not request.attempts_left:
        run.lost.append(request)
        return
    again = Request(
        due_s=request.due_s,
        tenant=request.tenant,
        urgency=request.urgency,
        attempts_left=request.attempts_left - 1,
        retry_s=request.retry_s,
    )
    heapq.heappush(events, (told_s + request.retry_s, next(order), "comes", again))


@pytest.mark.parametrize("multiple", [1.4, 2, 10])
@pytest.mark.parametrize("attempts_left", [0, 3])
def test_goodput_stays_near_the_capacity_in_a_surge_and_everybody_is_served_after_it(
    multiple: float, attempts_left: int
) -> None:
    noise = random.Random(1)
    users = range(1, 3000)
    surge = arrivals(noise, multiple * CAPACITY_PER_S, 2.0, 17.0, users, attempts_left=attempts_left)
    calm = arrivals(noise, 0.7 * CAPACITY_PER_S, 17.0, 30.0, users)
    before = arrivals(noise, 0.5 * CAPACITY_PER_S, 0.0, 2.0, users)

    run = simulate([*before, *surge, *calm], until_s=35.0)

    assert run.goodput(2.0, 17.0) > 0.93
    late = [request for request in run.lost if request.due_s > 17.0 + 3.0]
    assert len(late) <= 0.01 * len(calm)
    assert sorted(done_s - request.due_s for request, done_s in run.served if not request.attempts_left)


def test_what_fails_for_another_reason_does_not_keep_the_rest_out_for_ever() -> None:
    noise = random.Random(6)
    users = range(1, 3000)
    fine = arrivals(noise, 0.5 * CAPACITY_PER_S, 0.0, 40.0, users)
    failing = arrivals(noise, 0.75 * CAPACITY_PER_S, 0.0, 40.0, users, fails=True)
    burst = arrivals(noise, 4 * CAPACITY_PER_S, 5.0, 6.0, users)

    run = simulate([*fine, *failing, *burst], until_s=45.0, least_level=0.05)

    late = [request for request in run.lost if not request.fails and request.due_s > 15.0]
    assert len(late) <= 0.01 * len(fine)


def test_the_queue_inside_stays_short_while_ten_times_too_much_arrives() -> None:
    noise = random.Random(2)
    requests = arrivals(noise, 10 * CAPACITY_PER_S, 0.0, 15.0, range(1, 3000))

    run = simulate(requests, until_s=20.0)

    waits_s = sorted(done_s - request.due_s for request, done_s in run.served if request.due_s > 2.0)
    assert waits_s[int(0.99 * len(waits_s))] < 0.5


def test_a_surge_in_all_classes_is_cut_at_once() -> None:
    noise = random.Random(2)
    users = range(1, 3000)
    before = arrivals(noise, 0.5 * CAPACITY_PER_S, 0.0, 5.0, users)
    surge = [
        request
        for urgency in (Urgency.INTERACTIVE, Urgency.NORMAL, Urgency.BACKGROUND)
        for request in arrivals(noise, 3 * CAPACITY_PER_S, 5.0, 12.0, users, urgency=urgency)
    ]

    run = simulate([*before, *surge], until_s=15.0)

    waits_s = sorted(done_s - request.due_s for request, done_s in run.served if 5.0 <= request.due_s < 10.0)
    assert waits_s[int(0.99 * len(waits_s))] < 0.45


def test_a_surge_of_what_costs_more_than_what_came_before_finds_a_short_queue_as_soon() -> None:
    noise = random.Random(7)
    users = range(1, 3000)
    cheap = arrivals(noise, 2000.0, 0.0, 10.0, users, is_cheap=True)
    surge = arrivals(noise, 5 * CAPACITY_PER_S, 10.0, 20.0, users)

    run = simulate([*cheap, *surge], until_s=25.0)

    waits_s = sorted(done_s - request.due_s for request, done_s in run.served if request.due_s > 13.0)
    assert waits_s[int(0.99 * len(waits_s))] < 0.5
    assert run.goodput(10.0, 20.0) > 0.93


def test_the_urgent_are_served_while_background_work_floods() -> None:
    noise = random.Random(3)
    flood = arrivals(noise, 10 * CAPACITY_PER_S, 1.0, 15.0, range(1, 3000), urgency=Urgency.BACKGROUND)
    urgent = arrivals(noise, 0.3 * CAPACITY_PER_S, 0.0, 15.0, range(1, 3000), attempts_left=2)

    run = simulate([*flood, *urgent], until_s=20.0)

    assert run.success(urgency=Urgency.INTERACTIVE) >= 0.99
    assert run.goodput(1.0, 15.0) > 0.93


def test_what_is_many_and_costs_little_is_not_turned_away_for_what_is_less_urgent_and_costs_much() -> None:
    noise = random.Random(8)
    users = range(1, 3000)
    many = arrivals(noise, 2000.0, 0.0, 15.0, users, is_cheap=True)
    flood = arrivals(noise, 10 * CAPACITY_PER_S, 1.0, 15.0, users, urgency=Urgency.BACKGROUND)

    run = simulate([*many, *flood], until_s=20.0)

    assert run.success(urgency=Urgency.INTERACTIVE) >= 0.99
    served = sum(request.urgency is Urgency.BACKGROUND and 1 <= done_s < 15 for request, done_s in run.served)
    assert served / (14.0 * CAPACITY_PER_S) > 0.9


@pytest.mark.parametrize("urgency", [Urgency.INTERACTIVE, Urgency.NORMAL])
def test_a_tenant_within_its_share_is_served_while_another_floods(urgency: Urgency) -> None:
    noise = random.Random(4)
    flood = arrivals(noise, 10 * CAPACITY_PER_S, 1.0, 15.0, [7])
    within = arrivals(noise, 0.2 * CAPACITY_PER_S, 0.0, 15.0, [8], urgency=urgency, attempts_left=2)

    run = simulate([*flood, *within], until_s=20.0)

    assert run.success(tenant=8) >= 0.99
    assert run.goodput(1.0, 15.0) > 0.93


def test_users_keep_their_level_so_that_who_gets_through_gets_through_with_everything() -> None:
    noise = random.Random(5)
    requests = arrivals(noise, 3 * CAPACITY_PER_S, 0.0, 15.0, range(1, 300))

    run = simulate(requests, until_s=20.0)

    served = Counter(request.tenant for request, done_s in run.served if done_s > 2.0)
    lost = Counter(request.tenant for request in run.lost if request.due_s > 2.0)
    untouched = sum(lost[user] <= 0.1 * served[user] for user in range(1, 300))
    assert untouched > 0.2 * 300


def test_refusals_are_delayed_until_too_many_wait_and_then_the_connection_is_closed() -> None:
    gate = Gate(GateSettings(refusal_delay_s=0.5), {"always": lambda: 10.0}, now_s=0.0)
    for number in range(1000):
        if gate.enter(Urgency.NORMAL, number, number, now_s=0.1) is None:
            gate.leave(number, served=False)
    gate.look(0.25)
    assert gate.is_limiting

    refusals = [gate.enter(Urgency.BACKGROUND, number, number, now_s=0.3) for number in range(100)]
    gate.waiting = WAITING_MAX
    beyond = gate.enter(Urgency.BACKGROUND, 1, 1, now_s=0.3)

    delays_s = [refusal.delay_s for refusal in refusals if refusal is not None]
    assert len(delays_s) == 100
    assert all(delay_s is not None and 0.25 <= delay_s <= 0.5 for delay_s in delays_s)
    assert beyond is not None
    assert beyond.delay_s is None
    assert gate.counts.closed == 1


def test_a_tenant_that_is_capped_gets_no_more_than_that_however_much_is_free_and_others_do_not_notice() -> None:
    gate = Gate(GateSettings(), {}, now_s=0.0)
    gate.shares.cap(7, 10.0, now_s=0.0, until_s=60.0)

    admitted = {7: 0, 8: 0}
    for step in range(2000):
        now_s = step / 100
        for tenant in admitted:
            if gate.enter(Urgency.NORMAL, tenant, tenant, now_s=now_s) is None:
                admitted[tenant] += 1
                gate.leave(tenant, served=True)

    assert admitted[8] == 2000
    assert 10 * 20 <= admitted[7] <= 10 * 20 + 10
    assert not gate.is_limiting


def test_what_a_capped_tenant_sends_takes_from_its_cap() -> None:
    shares = Shares()
    shares.cap(7, 10.0, now_s=0.0, until_s=60.0)

    assert shares.take(7, now_s=0.0) is Standing.LIGHT
    shares.charge(7, now_s=0.0, cost=100.0)

    assert shares.take(7, now_s=0.1) is Standing.CAPPED
    assert shares.take(7, now_s=2.0) is Standing.LIGHT


def test_a_cap_is_lifted_when_told_so_and_ends_by_itself() -> None:
    shares = Shares()
    for tenant in (7, 8):
        shares.cap(tenant, 0.0, now_s=0.0, until_s=60.0)
        shares.take(tenant, now_s=0.0)
    assert shares.take(7, now_s=1.0) is Standing.CAPPED
    assert shares.caps(1.0) == {7: 0.0, 8: 0.0}

    shares.cap(7, None, now_s=2.0, until_s=62.0)

    assert shares.take(7, now_s=2.0) is Standing.LIGHT
    assert shares.take(8, now_s=59.0) is Standing.CAPPED
    assert shares.take(8, now_s=60.0) is Standing.LIGHT
    assert shares.caps(60.0) == {}


def test_nothing_is_refused_and_nothing_remembered_when_nothing_is_scarce() -> None:
    gate = Gate(GateSettings(), {"nothing": lambda: 0.5}, now_s=0.0)

    for number in range(10_000):
        assert gate.enter(Urgency.BACKGROUND, number % 7, number % 7, now_s=number / 1000) is None
        gate.leave(number % 7, served=True)
        if number % 250 == 0:
            gate.look(number / 1000)

    assert gate.threshold is EVERYBODY
    assert gate.pace_per_s == math.inf
    assert gate.in_flight == 0
    assert BEYOND_SHARE == RANKS - 1
