"""Who takes writes and who answers reads follows from what the servers said."""

from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.clock import monotonic_s
from seawall.database import Balancer, Endpoint
from seawall.database.pool import Pool
from seawall.database.servers import Marks, Server, Sighting, expected_s, freshest_of, primary_of, readers_of
from seawall.errors import Misconfigured

NO_POOL = cast(Pool, type("NoPool", (), {"size": 1})())


def server(*, in_recovery: bool = True, timeline: int = 1, position: int = 100, is_ill: bool = False) -> Server:
    endpoint = Endpoint(host="h", port=1, user="u", password="p", database="d")
    sighting = Sighting(in_recovery=in_recovery, timeline=timeline, position=position)
    one = Server(endpoint, NO_POOL, endpoint)
    one.see(sighting)
    if is_ill:
        one.fall_ill()
    return one


def leader(*, timeline: int = 1) -> Server:
    return server(in_recovery=False, timeline=timeline)


def test_the_primary_is_who_says_so() -> None:
    servers = [server(), leader(), server()]

    assert primary_of(servers) is servers[1]


def test_there_is_no_primary_while_nobody_says_so() -> None:
    assert primary_of([server(), server()]) is None


def test_of_two_primaries_the_one_promoted_last_is_right_even_if_it_is_ill() -> None:
    servers = [leader(timeline=1), leader(timeline=2)]
    servers[1].fall_ill()

    assert primary_of(servers) is servers[1]


def test_a_primary_that_is_ill_is_still_the_primary_if_nobody_else_is() -> None:
    servers = [leader(), server()]
    servers[0].fall_ill()

    assert primary_of(servers) is servers[0]
    assert readers_of(servers, servers[0]) == ()


def test_a_replica_that_was_put_out_is_asked_nothing_not_even_what_is_old() -> None:
    primary, out, well = leader(), server(), server()
    out.is_put_out = True
    out.fresh_s = well.fresh_s = 1.0

    assert readers_of([primary, out, well], primary) == (well,)
    assert freshest_of([primary, out], now_s=1.0, age_max_s=10.0) is None


def test_replicas_are_asked_unless_they_are_ill_late_or_follow_somebody_else() -> None:
    primary, well, ill, late, stranger = leader(), server(), server(is_ill=True), server(), server(timeline=2)
    late.is_awaited_at = late.replayed + 1

    assert readers_of([primary, well, ill, late, stranger], primary) == (well,)


def test_a_late_replica_is_asked_again_once_it_was_seen_where_it_was_awaited() -> None:
    primary, late = leader(), server(position=100)
    late.is_awaited_at = 200
    late.see(Sighting(in_recovery=True, timeline=1, position=199))
    assert readers_of([primary, late], primary) == ()

    late.see(Sighting(in_recovery=True, timeline=1, position=200))

    assert readers_of([primary, late], primary) == (late,)


def test_no_replica_is_asked_where_commits_are_seen_before_they_are_on_disk() -> None:
    primary, replica = leader(), server()
    primary.see(Sighting(in_recovery=False, timeline=1, position=100, waits_for_disk=False))

    assert readers_of([primary, replica], primary) == ()


def test_the_age_of_an_answer_is_counted_from_when_the_primary_was_where_the_replica_is() -> None:
    marks = Marks()
    for at_s, position in ((1.0, 10), (2.0, 20), (3.0, 20), (4.0, 30)):
        marks.add(at_s, position)

    assert marks.when_at(9) == float("-inf")
    assert marks.when_at(10) == 1.0
    assert marks.when_at(25) == 3.0
    assert marks.when_at(31) == 4.0


def test_the_freshest_replica_answers_if_it_is_fresh_enough() -> None:
    old, fresh = server(), server()
    old.fresh_s, fresh.fresh_s = 5.0, 8.0

    assert freshest_of([leader(), old, fresh], now_s=10.0, age_max_s=2.0) is fresh
    assert freshest_of([leader(), old, fresh], now_s=10.1, age_max_s=2.0) is None


@given(round_s=st.floats(0, 10), rows=st.integers(0, 5000), idle_s=st.floats(0, 100))
def test_more_rows_are_never_expected_sooner_and_slowness_is_forgotten(
    round_s: float, rows: int, idle_s: float
) -> None:
    now = expected_s(round_s=round_s, rows=rows, idle_s=idle_s)

    assert now < expected_s(round_s=round_s, rows=rows + 1, idle_s=idle_s)
    assert now >= expected_s(round_s=round_s, rows=rows, idle_s=idle_s + 1)


@pytest.mark.parametrize(
    ("url", "places"),
    [
        ("postgresql://u:p@a,b:2/d", [("a", 5432), ("b", 2)]),
        ("postgresql://u:p@[::1]:1,b/d", [("::1", 1), ("b", 5432)]),
        ("postgresql://u:p@/d?host=/run/a,/run/b&port=6", [("/run/a", 6), ("/run/b", 6)]),
        ("postgresql://u:p@/d?host=a,b&port=1,2&target_session_attrs=any", [("a", 1), ("b", 2)]),
        ("postgresql://u:p@a/d", [("a", 5432)]),
        ("postgresql:///d", [("127.0.0.1", 5432)]),
    ],
)
def test_an_address_may_name_several_servers(url: str, places: list[tuple[str, int]]) -> None:
    assert [(one.host, one.port) for one in Endpoint.parse(url)] == places


@pytest.mark.parametrize("url", ["postgresql://a,b/d?port=1,2,3", "postgresql://a:1,b:x/d", "postgresql://a:1,a:1/d"])
def test_an_address_of_several_servers_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured):
        Endpoint.parse(url)


def test_a_replica_that_follows_another_primary_is_not_awaited_where_the_old_one_was() -> None:
    replica = server(position=100)
    replica.is_awaited_at = 200

    replica.see(Sighting(in_recovery=True, timeline=2, position=150))

    assert not replica.is_late


async def test_a_replica_is_put_out_and_let_in_again_and_the_primary_never_is() -> None:
    abandoned: list[str] = []

    def named(name: str, one: Server) -> Server:
        pool = cast(Pool, type("APool", (), {"size": 1, "abandon": lambda _: abandoned.append(name)})())
        return replace(one, endpoint=replace(one.endpoint, host=name), pool=pool)

    primary, replica = named("primary", leader()), named("replica", server())
    balancer = Balancer([primary, replica], application_name="tests")
    balancer._decide()
    now_s = monotonic_s()

    def readers() -> tuple[Server, ...]:
        return balancer.readers

    assert readers() == (replica,)

    for _ in range(2):
        assert balancer.put_out(replica.endpoint.name, until_s=now_s + 60)
    assert not balancer.put_out(primary.endpoint.name, until_s=now_s + 60)
    assert not balancer.put_out("nobody", until_s=now_s + 60)
    assert readers() == ()
    assert balancer.primary is primary
    assert abandoned == ["replica"]

    assert balancer.put_out(replica.endpoint.name, until_s=now_s)
    assert readers() == (replica,)
