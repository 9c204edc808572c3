import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import Invalid
from seawall.objects.listing import (
    BEYOND_EVERY_KEY,
    Page,
    decode_token,
    encode_token,
    page_bounds,
    read_page,
    seek_position,
    successor_of_key,
    successor_of_prefix,
)

SECRET = b"made up for this test"
LARGEST = "\U0010ffff"

# Text that PostgreSQL can store: any code point but NUL and surrogates, the awkward ones often.
letters = st.sampled_from("ab/-. \x01\x7f\u0080\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff") | st.characters(
    exclude_characters="\0", exclude_categories=["Cs"]
)
texts = st.text(letters, max_size=6)


def a_row(*, keys: list[str], prefixes: list[str]) -> dict[str, object]:
    return {
        "keys": keys or None,
        "sizes_bytes": [len(key) for key in keys] or None,
        "etags": " ".join(f"etag{n}" for n in range(len(keys))) if keys else None,
        "last_modified_s": [float(n) for n in range(len(keys))] or None,
        "checksums": " ".join("" for _ in keys) if keys else None,
        "prefixes": prefixes or None,
    }


@given(key=texts, other=texts)
def test_nothing_lies_between_a_key_and_its_successor(key: str, other: str) -> None:
    assert (other > key) == (other >= successor_of_key(key))


@given(prefix=texts, rest=texts, other=texts)
def test_the_successor_of_a_prefix_parts_what_starts_with_it_from_what_comes_after(
    prefix: str, rest: str, other: str
) -> None:
    successor = successor_of_prefix(prefix)

    if successor is None:
        assert other < prefix or other.startswith(prefix)
    else:
        assert prefix + rest < successor
        assert (other >= successor) == (other > prefix and not other.startswith(prefix))


@given(prefix=texts)
def test_the_successor_of_a_prefix_can_be_stored(prefix: str) -> None:
    (successor_of_prefix(prefix) or "").encode()


def test_the_successor_of_a_prefix_steps_over_surrogates_and_carries() -> None:
    assert successor_of_prefix("a\ud7ff") == "a\ue000"
    assert successor_of_prefix("a" + LARGEST * 2) == "b"
    assert successor_of_prefix(LARGEST) is None
    assert successor_of_prefix("") is None


def test_code_points_and_bytes_give_one_order() -> None:
    # Not so in UTF-16, where U+FFFF comes after U+10000.
    ordered = ["\x01", "\x7f", "\u0080", "\ud7ff", "\ue000", "\uffff", "\U00010000", LARGEST]

    assert sorted(ordered) == ordered == sorted(ordered, key=str.encode)


@pytest.mark.parametrize(
    ("prefix", "delimiter", "start_after", "seek"),
    [
        ("", "/", "", ""),
        ("photos/", "/", "", "photos/"),
        ("", "/", "a", "a\x01"),
        ("", "/", "a/", "a0"),
        ("", "/", "a/b", "a/b\x01"),
        ("", "/", "a/b/", "a/b/\x01"),
        ("a/", "/", "a/", "a/\x01"),
        ("a/", "/", "a/b/", "a/b0"),
        ("", "", "a/", "a/\x01"),
        ("", "--", "a--", "a-."),
        ("", "aa", "aaa", "aaa\x01"),
        ("", LARGEST, LARGEST, BEYOND_EVERY_KEY),
        ("", "/x", "a", "a\x01"),
        ("m/", "/", "a", "m/"),
    ],
)
def test_a_listing_starts_after_a_key_but_past_the_whole_of_a_common_prefix(
    prefix: str, delimiter: str, start_after: str, seek: str
) -> None:
    assert seek_position(prefix=prefix, delimiter=delimiter, start_after=start_after) == seek


def test_a_page_never_starts_before_its_prefix() -> None:
    assert page_bounds(prefix="m", delimiter="", seek="a", max_keys=10).seek == "m"


def test_a_page_asks_for_one_entry_more_than_it_shows_and_for_none_to_show_none() -> None:
    assert page_bounds(prefix="", delimiter="", seek="", max_keys=10).page_size == 11
    assert page_bounds(prefix="", delimiter="", seek="", max_keys=0).page_size == 0


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("argument", ["prefix", "delimiter", "seek"])
def test_text_that_no_key_can_hold_is_refused(argument: str, text: str) -> None:
    arguments = {"prefix": "", "delimiter": "", "seek": "", argument: text}

    with pytest.raises(Invalid):
        page_bounds(**arguments, max_keys=10)


def test_an_empty_answer_is_an_empty_page() -> None:
    page = read_page(a_row(keys=[], prefixes=[]), max_keys=10)

    assert page == Page(keys=[], sizes_bytes=[], etags=[], last_modified_s=[], checksums=[], prefixes=[])
    assert not page.is_truncated
    assert page.last_name == ""


def test_an_answer_that_just_fits_is_the_last_page() -> None:
    page = read_page(a_row(keys=["a", "b"], prefixes=["c/"]), max_keys=3)

    assert len(page) == 3
    assert page.next_seek is None
    assert page.last_name == "c/"


@pytest.mark.parametrize(
    ("keys", "prefixes", "shown_keys", "shown_prefixes", "next_seek"),
    [
        (["a", "b", "d"], [], ["a", "b"], [], "b\x01"),
        (["a"], ["b/", "c/"], ["a"], ["b/"], "b0"),
        (["b", "c"], ["a/"], ["b"], ["a/"], "b\x01"),
        (["c"], ["a/", "b/"], [], ["a/", "b/"], "b0"),
    ],
)
def test_the_entry_too_many_is_not_shown_and_the_next_page_starts_after_the_last_shown(
    keys: list[str], prefixes: list[str], shown_keys: list[str], shown_prefixes: list[str], next_seek: str
) -> None:
    page = read_page(a_row(keys=keys, prefixes=prefixes), max_keys=2)

    assert (page.keys, page.prefixes, page.next_seek) == (shown_keys, shown_prefixes, next_seek)
    assert page.is_truncated
    assert [key for key, *_ in page.objects()] == shown_keys


@given(seek=texts)
def test_a_continuation_token_gives_back_its_position(seek: str) -> None:
    assert decode_token(SECRET, encode_token(SECRET, seek)) == seek


@given(seek=texts, at=st.integers(0), letter=st.sampled_from("ABCDabcd0189-_=+/ é"))
def test_a_token_changed_in_any_letter_is_refused(seek: str, at: int, letter: str) -> None:
    token = encode_token(SECRET, seek)
    at %= len(token)
    changed = token[:at] + letter + token[at + 1 :]

    if changed != token:
        with pytest.raises(Invalid):
            decode_token(SECRET, changed)


@pytest.mark.parametrize("token", ["", "a", "photos/2026", "=", base64.urlsafe_b64encode(b"x" * 40).decode(), "\ud800"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid):
        decode_token(SECRET, token)


def test_a_token_of_another_service_is_refused() -> None:
    with pytest.raises(Invalid):
        decode_token(SECRET, encode_token(b"another secret", "a"))
