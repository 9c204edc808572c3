"""What a replica shows is believed only if the primary showed it too."""

from hypothesis import given
from hypothesis import strategies as st

from seawall.database.read_index import CYCLE, FIRST_NORMAL_XID, ReadIndex

HALF = CYCLE // 2


def index(next_xid: int, *in_progress: int) -> ReadIndex:
    return ReadIndex(position=0, next_xid=next_xid, in_progress=frozenset(in_progress))


def test_a_row_is_shown_if_its_transaction_was_over() -> None:
    assert index(100).shows(99)


def test_a_row_is_not_shown_if_its_transaction_was_in_progress() -> None:
    assert not index(100, 99).shows(99)


def test_a_row_is_not_shown_if_its_transaction_had_not_begun() -> None:
    assert not index(100).shows(100)
    assert not index(100).shows(101)


def test_a_row_that_is_missing_says_nothing() -> None:
    assert not index(100).covers(None)
    assert index(100).covers({"xmin": 99})
    assert not index(100).covers({"xmin": 100})


def test_rows_of_the_server_itself_are_always_shown() -> None:
    assert all(index(5).shows(xmin) for xmin in range(FIRST_NORMAL_XID))


@given(next_xid=st.integers(FIRST_NORMAL_XID, 1 << 40), age=st.integers(1, HALF))
def test_a_row_is_shown_across_the_end_of_an_epoch(next_xid: int, age: int) -> None:
    xid = next_xid - age
    xmin = xid % CYCLE

    assert xid < FIRST_NORMAL_XID or xmin < FIRST_NORMAL_XID or index(next_xid).shows(xmin)
    assert xid < FIRST_NORMAL_XID or xmin < FIRST_NORMAL_XID or not index(next_xid, xid).shows(xmin)


@given(next_xid=st.integers(FIRST_NORMAL_XID, 1 << 40), ahead=st.integers(0, HALF - 1))
def test_what_began_later_is_never_shown(next_xid: int, ahead: int) -> None:
    xmin = (next_xid + ahead) % CYCLE

    assert xmin < FIRST_NORMAL_XID or not index(next_xid).shows(xmin)
