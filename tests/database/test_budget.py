import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.database.budget import FLOOR, Activity, Claim, Limits, allowance, check, decide, room, shares
from seawall.errors import Misconfigured

LIMITS = Limits(max_connections=40, reserved=8, role="seawall", role_limit=32)
ALLOWED = 28
NOBODY = Activity(working={}, asking={})

many_limits = st.builds(
    Limits,
    max_connections=st.integers(1, 500),
    reserved=st.integers(0, 20),
    role=st.just("seawall"),
    role_limit=st.none() | st.integers(0, 500),
)
demands_and_weights = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=12)


def the_claims(wanted: Sequence[tuple[int, int]]) -> list[Claim]:
    return [
        Claim(node=f"node-{place}", demand=demand, weight=weight, granted=0)
        for place, (demand, weight) in enumerate(wanted)
    ]


# The allowance.


def test_the_fleet_may_have_what_is_not_reserved_less_a_tenth() -> None:
    assert allowance(LIMITS) == 40 - 8 - 4 == ALLOWED


def test_a_tenth_is_rounded_against_the_fleet() -> None:
    assert allowance(replace(LIMITS, max_connections=41, role_limit=None)) == 41 - 8 - 5


@pytest.mark.parametrize(("foreign", "allowed"), [(0, 28), (4, 28), (5, 27), (20, 12), (32, 0), (39, 0)])
def test_foreign_connections_first_use_up_the_tenth_and_then_the_allowance(foreign: int, allowed: int) -> None:
    assert allowance(LIMITS, foreign=foreign) == allowed


def test_what_has_our_role_counts_towards_its_limit() -> None:
    limits = replace(LIMITS, role_limit=20)

    assert allowance(limits, foreign=3) == 20
    assert allowance(limits, foreign=3, foreign_of_role=3) == 17


@given(limits=many_limits, foreign=st.integers(0, 500), of_role=st.integers(0, 500))
def test_the_fleet_and_all_others_never_have_more_than_there_are(limits: Limits, foreign: int, of_role: int) -> None:
    allowed = allowance(limits, foreign=foreign, foreign_of_role=min(foreign, of_role))

    assert 0 <= allowed <= max(0, limits.max_connections - limits.reserved - foreign)
    assert allowed <= max(0, 0.9 * limits.max_connections - limits.reserved)
    assert limits.role_limit is None or allowed <= limits.role_limit
    assert allowance(limits, foreign=foreign + 1) <= allowance(limits, foreign=foreign)


# The shares.


@given(wanted=demands_and_weights, allowed=st.integers(0, 120))
def test_shares_are_never_more_than_there_is_and_never_more_than_is_wanted(
    wanted: list[tuple[int, int]], allowed: int
) -> None:
    given_ = shares(the_claims(wanted), allowance=allowed)

    assert len(given_) == len(wanted)
    assert sum(given_) == min(allowed, sum(max(FLOOR, demand) for demand, _ in wanted))
    assert all(0 <= share <= max(FLOOR, demand) for share, (demand, _) in zip(given_, wanted, strict=True))


@given(wanted=demands_and_weights, allowed=st.integers(0, 120))
def test_everybody_has_the_floor_or_those_who_came_first_have(wanted: list[tuple[int, int]], allowed: int) -> None:
    given_ = shares(the_claims(wanted), allowance=allowed)

    if allowed >= FLOOR * len(wanted):
        assert min(given_, default=FLOOR) >= FLOOR
    else:
        assert given_ == sorted(given_, reverse=True)
        assert max(given_) - min(given_) <= 1


@given(wanted=demands_and_weights, allowed=st.integers(0, 120))
def test_nobody_who_wants_more_has_less_for_its_weight_than_another_could_spare(
    wanted: list[tuple[int, int]], allowed: int
) -> None:
    claims = the_claims(wanted)
    given_ = shares(claims, allowance=allowed)

    for poor, has in zip(claims, given_, strict=True):
        for rich, owns in zip(claims, given_, strict=True):
            if has < poor.demand and owns > FLOOR:
                assert (owns - 1) * poor.weight <= has * rich.weight


@settings(max_examples=200)
@given(wanted=st.lists(st.integers(0, 6), min_size=1, max_size=4), allowed=st.integers(8, 24))
def test_of_all_divisions_it_is_the_one_that_gives_most_to_who_has_least(wanted: list[int], allowed: int) -> None:
    # The definition, tried out: of everything possible, the greatest when the smallest share is compared first.
    possible = itertools.product(*(range(FLOOR, max(FLOOR, demand) + 1) for demand in wanted))
    best = max(sorted(division) for division in possible if sum(division) <= allowed)

    assert sorted(shares(the_claims([(demand, 1) for demand in wanted]), allowance=allowed)) == best


@given(wanted=demands_and_weights, allowed=st.integers(0, 120))
def test_with_more_to_divide_nobody_has_less(wanted: list[tuple[int, int]], allowed: int) -> None:
    claims = the_claims(wanted)

    before, after = (shares(claims, allowance=allowed + more) for more in (0, 1))

    assert all(later >= earlier for earlier, later in zip(before, after, strict=True))


@given(wanted=demands_and_weights.filter(bool), allowed=st.integers(0, 120), data=st.data())
def test_who_wants_more_does_not_get_less_and_the_others_do_not_get_more(
    wanted: list[tuple[int, int]], allowed: int, data: st.DataObject
) -> None:
    claims = the_claims(wanted)
    who = data.draw(st.integers(0, len(claims) - 1))
    greedy = [*claims]
    greedy[who] = replace(claims[who], demand=claims[who].demand + data.draw(st.integers(1, 20)))

    before, after = shares(claims, allowance=allowed), shares(greedy, allowance=allowed)

    assert after[who] >= before[who]
    assert all(
        later <= earlier for place, (earlier, later) in enumerate(zip(before, after, strict=True)) if place != who
    )


@given(wanted=demands_and_weights.filter(bool), allowed=st.integers(0, 120), data=st.data())
def test_when_one_leaves_nobody_has_less(wanted: list[tuple[int, int]], allowed: int, data: st.DataObject) -> None:
    claims = the_claims(wanted)
    who = data.draw(st.integers(0, len(claims) - 1))

    before = shares(claims, allowance=allowed)
    after = shares(claims[:who] + claims[who + 1 :], allowance=allowed)

    assert all(later >= earlier for earlier, later in zip(before[:who] + before[who + 1 :], after, strict=True))


def test_weight_is_for_those_who_compete() -> None:
    assert shares(the_claims([(30, 1), (30, 3)]), allowance=20) == [5, 15]
    assert shares(the_claims([(30, 1), (8, 3)]), allowance=20) == [12, 8]


@pytest.mark.parametrize(("demand", "granted", "weight"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_a_claim_that_makes_no_sense_is_refused(demand: int, granted: int, weight: int) -> None:
    with pytest.raises(ValueError, match="nobody can claim"):
        Claim(node="node-1", demand=demand, granted=granted, weight=weight)


# What may be granted now.


def test_a_connection_is_kept_for_each_node_that_is_not_there_yet() -> None:
    claims = [Claim(node="node-1", demand=50, granted=1)]

    assert room(LIMITS, NOBODY, claims, nodes_max=12) == ALLOWED - 11
    assert room(LIMITS, NOBODY, claims, nodes_max=1) == ALLOWED


@given(st.integers(2, 20), st.integers(0, 12))
def test_who_takes_all_that_is_free_is_not_given_what_nodes_have_open(open_: int, keeper: int) -> None:
    claims = [Claim(node="node-1", demand=50, granted=max(open_, 7))]
    foreign = LIMITS.usable - open_ - keeper
    everything = Activity(foreign=foreign, working={"node-1": open_ - 1, "keeper": keeper}, asking={"node-1": 1})

    planned = room(LIMITS, replace(everything, foreign=0), claims, nodes_max=8)
    assert room(LIMITS, everything, claims, nodes_max=8) == min(open_, planned)
    decision = decide(LIMITS, everything, claims, mine=0, nodes_max=8)
    assert decision.share >= min(open_, 2)


@given(st.integers(2, 7), st.integers(1, LIMITS.reserved))
def test_strangers_beyond_what_is_left_for_them_are_not_given_what_nodes_have_open(open_: int, beyond: int) -> None:
    limits = replace(LIMITS, role_limit=LIMITS.usable)
    claims = [Claim(node="node-1", demand=7, granted=7)]
    full = Activity(
        foreign=limits.usable - open_ + beyond,
        foreign_of_role=limits.usable - open_,
        working={"node-1": open_ - 1},
        asking={"node-1": 1},
    )

    assert decide(limits, full, claims, mine=0, nodes_max=8).share == open_


def test_nodes_that_are_about_to_ask_use_what_was_kept_for_them() -> None:
    claims = [Claim(node="node-1", demand=50, granted=1)]
    asking = {"node-1": 1, "node-2": 1, "node-3": 1}

    assert room(LIMITS, Activity(working={}, asking=asking), claims, nodes_max=4) == ALLOWED - 3
    assert room(LIMITS, Activity(working={}, asking=asking), claims, nodes_max=2) == ALLOWED - 2


def test_what_is_open_without_a_grant_counts_and_what_is_open_with_one_does_not_count_twice() -> None:
    claims = [Claim(node="node-1", demand=50, granted=6), Claim(node="node-1", demand=50, granted=2)]
    within = Activity(working={"node-1": 6}, asking={"node-1": 2})
    beyond = Activity(working={"node-1": 9, "keeper": 2, "dead-node": 5}, asking={"node-1": 2})

    assert room(LIMITS, within, claims, nodes_max=2) == ALLOWED
    assert room(LIMITS, beyond, claims, nodes_max=2) == ALLOWED - 3 - 2 - 5


def test_who_is_about_to_ask_may_have_what_each_node_has_beside_its_pool() -> None:
    claims = [Claim(node="node-1", demand=50, granted=2)]

    assert room(LIMITS, NOBODY, claims, nodes_max=3, beside=2) == ALLOWED - 4
    checking = Activity(working={"node-1": 1, "node-2": 1}, asking={"node-1": 1, "node-2": 1})
    assert room(LIMITS, checking, claims, nodes_max=3, beside=2) == ALLOWED - 4
    working = Activity(working={"node-2": 4}, asking={"node-2": 1})
    assert room(LIMITS, working, claims, nodes_max=3, beside=2) == ALLOWED - 4 - 3
    not_asking = Activity(working={"node-2": 1}, asking={})
    assert room(LIMITS, not_asking, claims, nodes_max=3, beside=2) == ALLOWED - 4 - 1


def test_a_share_falls_at_once_and_a_grant_only_when_the_node_says_so() -> None:
    first, second = Claim(node="a", demand=28, granted=28), Claim(node="b", demand=28, granted=1)

    told_to_close = decide(LIMITS, NOBODY, [first, second], mine=0, nodes_max=2)
    must_wait = decide(LIMITS, NOBODY, [first, second], mine=1, nodes_max=2)
    may_grow = decide(LIMITS, NOBODY, [replace(first, granted=14), second], mine=1, nodes_max=2)

    assert (told_to_close.share, told_to_close.granted) == (14, 28)
    assert (must_wait.share, must_wait.granted) == (14, 1)
    assert (may_grow.share, may_grow.granted) == (14, 14)


class Fleet:
    """Nodes that ask, close, leave and die in any order. State: the leases, and what each node has open."""

    def __init__(self, nodes_max: int, *, beside: int = 1) -> None:
        self.nodes_max = nodes_max
        self.beside = beside
        self.claims: list[Claim] = []
        self.closing: dict[str, int] = {}
        self.open: Counter[str] = Counter()

    def renew(self, node: str, demand: int) -> None:
        names = [claim.node for claim in self.claims]
        if node not in names:
            if len(names) == self.nodes_max:
                return
            self.claims.append(Claim(node=node, demand=demand, granted=self.beside))
            self.open[node] = self.beside
        mine = [claim.node for claim in self.claims].index(node)
        claim = replace(self.claims[mine], demand=demand)
        self.claims[mine] = claim
        activity = Activity(working={**self.open}, asking={})
        decision = decide(
            *(LIMITS, activity, self.claims),
            mine=mine,
            nodes_max=self.nodes_max,
            floor=self.beside + 1,
            beside=self.beside,
        )
        self.claims[mine] = replace(claim, granted=decision.granted)
        if decision.share < decision.granted:
            self.closing[node] = max(self.beside, decision.share)
        else:
            self.open[node] = decision.granted

    def close(self, node: str) -> None:
        """The node has closed what it should, and says so."""
        size = self.closing.pop(node, None)
        for mine, claim in enumerate(self.claims):
            if claim.node == node and size is not None and size < claim.granted:
                self.open[node] = min(size, self.open[node])
                self.claims[mine] = replace(claim, granted=size)

    def leave(self, node: str) -> None:
        self.claims = [claim for claim in self.claims if claim.node != node]
        self.closing.pop(node, None)
        self.open.pop(node, None)

    def pause(self, node: str) -> None:
        """Its lease ends, and what it has open stays open."""
        self.claims = [claim for claim in self.claims if claim.node != node]
        self.closing.pop(node, None)


NODES = ["a", "b", "c", "d", "e"]
steps = st.lists(
    st.tuples(
        st.sampled_from(["renew", "renew", "renew", "close", "leave", "pause"]),
        st.sampled_from(NODES),
        st.integers(1, 40),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(steps=steps, beside=st.integers(1, 3))
def test_in_every_order_of_events_no_more_is_open_or_granted_than_is_allowed(
    steps: list[tuple[str, str, int]], beside: int
) -> None:
    fleet = Fleet(nodes_max=len(NODES), beside=beside)

    for step, node, demand in steps:
        paused = node in fleet.open and node not in [claim.node for claim in fleet.claims]
        match step:
            case "renew" if not paused:
                fleet.renew(node, demand)
            case "close":
                fleet.close(node)
            case "leave":
                fleet.leave(node)
            case "pause":
                fleet.pause(node)
        assert sum(claim.granted for claim in fleet.claims) <= ALLOWED
        assert sum(fleet.open.values()) <= ALLOWED


@given(wanted=st.dictionaries(st.sampled_from(NODES), st.integers(1, 40), min_size=1), steps=steps)
def test_when_nothing_changes_any_more_everybody_soon_has_its_share(
    wanted: dict[str, int], steps: list[tuple[str, str, int]]
) -> None:
    fleet = Fleet(nodes_max=len(NODES))
    for _, node, demand in steps:
        fleet.renew(node, demand)
    for node in NODES:
        if node not in wanted:
            fleet.leave(node)

    for _ in range(2):  # once to learn that there is less and to close, once more to hear that others have closed
        for node, demand in wanted.items():
            fleet.renew(node, demand)
        for node in wanted:
            fleet.close(node)
    for node, demand in wanted.items():
        fleet.renew(node, demand)

    fair = shares(fleet.claims, allowance=ALLOWED - len(NODES) + len(wanted))
    assert [claim.granted for claim in fleet.claims] == fair


# The arithmetic at start.


def test_what_fits_is_not_refused() -> None:
    check(LIMITS, nodes_max=12, keeper_connections=4)
    check(replace(LIMITS, role_limit=28), nodes_max=12, keeper_connections=4)


def test_more_nodes_than_fit_are_refused_with_the_numbers_that_would_do() -> None:
    with pytest.raises(Misconfigured) as refusal:
        check(LIMITS, nodes_max=13, keeper_connections=4)

    assert str(refusal.value) == (
        "13 nodes (one of them to replace another) with at least 2 connections each and 4 beside them need 30, but of "
        "max_connections = 40 only 28 are left for Seawall (8 are reserved, 10 % are headroom): set max_connections "
        "to 43, or run at most 12 nodes."
    )
    check(replace(LIMITS, max_connections=43), nodes_max=13, keeper_connections=4)
    check(LIMITS, nodes_max=12, keeper_connections=4)


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (replace(LIMITS, role_is_superuser=True), "The database role seawall is a superuser"),
        (replace(LIMITS, sees_everybody=False), "grant pg_monitor to seawall."),
        (replace(LIMITS, role_limit=None), "no connection limit.*alter role seawall connection limit 32."),
        (replace(LIMITS, role_limit=33), "may open 33 connections.*only 32.*alter role seawall connection limit 32."),
        (
            replace(LIMITS, role_limit=27),
            "may open only 27 connections.*need 28.*alter role seawall connection limit 32",
        ),
    ],
    ids=["superuser", "blind", "unlimited", "too many", "too few"],
)
def test_a_role_that_could_exhaust_the_server_or_starve_a_node_is_refused(limits: Limits, sentence: str) -> None:
    with pytest.raises(Misconfigured, match=sentence):
        check(limits, nodes_max=12, keeper_connections=4)


@given(limits=many_limits, nodes_max=st.integers(1, 40), keeper=st.integers(0, 5))
def test_whatever_is_not_refused_can_be_given_to_all_nodes_at_once(limits: Limits, nodes_max: int, keeper: int) -> None:
    try:
        check(limits, nodes_max=nodes_max, keeper_connections=keeper)
    except Misconfigured:
        return
    claims = the_claims([(FLOOR, 1)] * nodes_max)
    there = room(limits, Activity(working={"keeper": keeper}, asking={}), claims, nodes_max=nodes_max)

    assert shares(claims, allowance=there) == [FLOOR] * nodes_max
