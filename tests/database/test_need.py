import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.clock import monotonic_s
from seawall.database import leases
from seawall.database.budget import useful
from seawall.database.endpoint import Endpoint
from seawall.database.leases import NEEDED_S, Need
from seawall.database.pool import Pool

NOWHERE = Endpoint(host="/nowhere", port=1, user="nobody", password="", database="none")
LEAST, MOST = 2, 20


def a_need(endpoint: Endpoint = NOWHERE, *, size: int = 4, most: int = MOST) -> tuple[Pool, Need]:
    pool = Pool(endpoint, size=size, application_name="tests", statement_timeout_s=5.0)
    return pool, Need(pool, most=most, least=LEAST)


# What a pool could use.


@pytest.mark.parametrize(
    ("lent", "waiting", "waited", "wanted"),
    [
        (0, 0, False, 2),
        (1, 0, False, 2),
        (4, 0, False, 5),
        (8, 0, False, 10),
        (8, 0, True, 16),
        (8, 3, True, 16),
        (8, 10, True, 20),
        (16, 0, False, 20),
        (20, 50, True, 20),
    ],
)
def test_a_pool_could_use_what_it_lends_and_some_to_spare_and_twice_its_size_when_somebody_waited(
    *, lent: int, waiting: int, waited: bool, wanted: int
) -> None:
    assert useful(size=8, lent=lent, waiting=waiting, waited=waited, least=LEAST, most=MOST) == wanted


@given(size=st.integers(0, 50), lent=st.integers(0, 50), waiting=st.integers(0, 50), waited=st.booleans())
def test_what_is_useful_is_within_its_bounds_and_never_less_than_is_used(
    *, size: int, lent: int, waiting: int, waited: bool
) -> None:
    found = useful(size=size, lent=lent, waiting=waiting, waited=waited, least=LEAST, most=MOST)

    assert LEAST <= found <= MOST
    assert found >= min(MOST, lent + waiting)
    assert useful(size=size, lent=lent + 1, waiting=waiting, waited=waited, least=LEAST, most=MOST) >= found


@given(used=st.integers(0, 16), size=st.integers(1, MOST))
def test_under_a_steady_load_what_is_wanted_soon_stays_as_it_is(used: int, size: int) -> None:
    wanted = []
    for _ in range(12):
        lent = min(used, size)
        size = useful(size=size, lent=lent, waiting=used - lent, waited=used > size, least=LEAST, most=MOST)
        wanted.append(size)

    assert size >= used
    assert len(set(wanted[-4:])) == 1


# Of late.


def test_a_busy_pool_gets_more_at_once_and_an_idle_one_gives_back_after_a_while() -> None:
    _, need = a_need()
    started_s = monotonic_s() + NEEDED_S + 1  # what it wanted at first is forgotten

    assert need.at(started_s, 4) == 4
    assert need.at(started_s + 3, 12) == 12
    for later_s in range(4, 33):
        assert need.at(started_s + later_s, 4) == 12
    assert need.at(started_s + 3 + NEEDED_S + 0.1, 4) == 4


def test_bursts_with_pauses_between_them_do_not_make_the_pool_smaller_and_larger() -> None:
    _, need = a_need()
    started_s = monotonic_s() + NEEDED_S + 1

    assert {need.at(started_s + 3 * n, 12 if n % 8 == 0 else 2) for n in range(200)} == {12}


@given(wanted=st.lists(st.tuples(st.integers(0, 15), st.integers(LEAST, MOST)), max_size=60))
def test_it_is_the_most_that_was_wanted_of_late(wanted: list[tuple[int, int]]) -> None:
    _, need = a_need()
    now_s = monotonic_s() + NEEDED_S + 1
    seen: list[tuple[float, int]] = []
    for pause_s, how_many in wanted:
        now_s += pause_s
        seen.append((now_s, how_many))

        assert need.at(now_s, how_many) == max(number for at_s, number in seen if at_s >= now_s - NEEDED_S)


# Of a pool.


def test_a_node_that_starts_wants_all_it_may_have() -> None:
    _, need = a_need()

    assert need() == MOST
    assert repr(need) == "<Need 20 of 2 to 20>"


def test_it_never_wants_more_than_the_settings_allow_even_as_its_least() -> None:
    _, need = a_need(most=1)

    assert need() == 1


async def test_an_idle_pool_gives_back_and_one_for_which_somebody_waited_grows(
    database_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "NEEDED_S", 0.0)
    pool, need = a_need(database_endpoint, size=2)
    need()
    assert need() == LEAST

    await borrow_at_once(pool, 2)
    assert need() == 3
    await borrow_at_once(pool, 5)
    assert need() == 4
    await pool.resize(6)
    await borrow_at_once(pool, 5)
    assert need() == 7
    assert need() == LEAST
    await pool.close()


async def borrow_at_once(pool: Pool, number: int) -> None:
    async def borrow() -> None:
        async with pool.connection(deadline_s=monotonic_s() + 5.0):
            await asyncio.sleep(0.1)

    await asyncio.gather(*(borrow() for _ in range(number)))
