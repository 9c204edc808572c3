import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seawall.database.queries import load_queries
from seawall.objects.listing import Page, decode_token, encode_token, page_bounds, read_page, seek_position

SECRET = b"made up for this test"
BUCKET = 7
LIST_PAGE = load_queries("seawall.objects", "listing.sql")["list_page"]

# Few different letters, so that keys share prefixes, hold delimiters and end in each other.
pieces = st.sampled_from(
    [
        "a",
        "b",
        "/",
        "//",
        "-",
        ".",
        " ",
        "0",
        "\x01",
        "\x7f",
        "é",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
    ]
)
awkward = st.lists(pieces, max_size=6).map("".join)
anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
texts = awkward | anything
some_keys = awkward | awkward | anything
key_sets = (st.sets(some_keys, max_size=10) | st.sets(some_keys, min_size=10, max_size=60)).map(
    lambda keys: keys - {""}
)
delimiters = st.sampled_from(["", "/", "/", "//", "a/", "aa", "\ud7ff", "\U0010ffff", "a\U0010ffff"]) | texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A bucket, and one way to list all of it."""

    keys: frozenset[str]
    prefix: str
    delimiter: str
    start_after: str
    max_keys: int
    by_marker: bool


async def fill(connection: "asyncpg.Connection[asyncpg.Record]", keys: Sequence[str]) -> None:
    await connection.execute("delete from current_objects")
    await connection.execute(
        """
        insert into current_objects (bucket_id, key, version_id, size_bytes, etag, checksum, inline)
        select bucket_id, key, gen_random_uuid(), length(key), md5(key), 'CRC32:' || left(md5(key), 8), ''
        from unnest($1::text[]) as key
        cross join unnest($2::bigint[]) as bucket_id
        """,
        keys,
        [BUCKET - 1, BUCKET, BUCKET + 1],
    )


async def a_page(
    connection: "asyncpg.Connection[asyncpg.Record]", *, prefix: str, delimiter: str, seek: str, max_keys: int
) -> Page:
    bounds = page_bounds(prefix=prefix, delimiter=delimiter, seek=seek, max_keys=max_keys)
    return read_page(await connection.fetchrow(LIST_PAGE.sql, *bounds.arguments(BUCKET)), max_keys=max_keys)


async def all_pages(
    connection: "asyncpg.Connection[asyncpg.Record]",
    *,
    max_keys: int,
    prefix: str = "",
    delimiter: str = "",
    start_after: str = "",
    by_marker: bool = False,
) -> list[str]:
    """Walk a listing as a client does, by continuation tokens or by markers; return all names in order."""
    seek = seek_position(prefix=prefix, delimiter=delimiter, start_after=start_after)
    names: list[str] = []
    while True:
        page = await a_page(connection, prefix=prefix, delimiter=delimiter, seek=seek, max_keys=max_keys)
        names += sorted([*page.keys, *page.prefixes])
        if page.next_seek is None:
            return names
        assert len(page) == max_keys
        if by_marker:
            seek = seek_position(prefix=prefix, delimiter=delimiter, start_after=page.last_name)
        else:
            seek = decode_token(SECRET, encode_token(SECRET, page.next_seek))


def naive_listing(keys: Iterable[str], *, prefix: str, delimiter: str, start_after: str) -> Iterator[str]:
    """List as the manual describes it, by looking at every key."""
    last = None
    for key in sorted(keys):
        if not key.startswith(prefix) or key <= start_after:
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if at < 0 else key[: at + len(delimiter)]
        if name not in (last, start_after):
            yield name
        last = name


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    """Make listings of which many start at, or inside, something that is there."""
    keys = draw(key_sets)
    beginnings = st.just("") | texts
    if keys:
        whole = st.sampled_from(sorted(keys))
        beginnings |= whole | st.tuples(whole, st.integers(0, 12)).map(lambda cut: cut[0][: cut[1]])
    return Walk(
        keys=frozenset(keys),
        prefix=draw(beginnings),
        delimiter=draw(delimiters),
        start_after=draw(beginnings),
        max_keys=draw(st.integers(1, 12)),
        by_marker=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walk=walks())
async def test_walking_all_pages_gives_every_name_once_and_in_order(
    connection: "asyncpg.Connection[asyncpg.Record]", walk: Walk
) -> None:
    await fill(connection, list(walk.keys))

    names = await all_pages(
        connection,
        max_keys=walk.max_keys,
        prefix=walk.prefix,
        delimiter=walk.delimiter,
        start_after=walk.start_after,
        by_marker=walk.by_marker,
    )

    expected = naive_listing(walk.keys, prefix=walk.prefix, delimiter=walk.delimiter, start_after=walk.start_after)
    assert names == list(expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=12),
    max_keys=st.integers(1, 60),
)
async def test_steps_and_batches_take_turns_without_losing_a_key(
    connection: "asyncpg.Connection[asyncpg.Record]", runs: list[tuple[int, int]], max_keys: int
) -> None:
    keys = set()
    for run, (loose, folders) in enumerate(runs):
        keys |= {f"{run:02}-a{n:02}" for n in range(loose)}
        keys |= {f"{run:02}-b{n:02}/{leaf}" for n in range(folders) for leaf in "xyz"}
    await fill(connection, list(keys))

    names = await all_pages(connection, max_keys=max_keys, delimiter="/")

    assert names == list(naive_listing(keys, prefix="", delimiter="/", start_after=""))


@pytest.mark.parametrize("by_marker", [False, True], ids=["by token", "by marker"])
async def test_names_between_a_key_and_its_folder_are_not_lost_after_a_page_that_ends_at_the_key(
    connection: "asyncpg.Connection[asyncpg.Record]",
    by_marker: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    # Seeking to the last name with a slash behind it would skip the three that sort before the slash.
    keys = ["a", "a b", "a-1", "a.txt", "a/b", "a0"]
    await fill(connection, keys)

    flat = await all_pages(connection, max_keys=1, by_marker=by_marker)
    folded = await all_pages(connection, max_keys=1, delimiter="/", by_marker=by_marker)

    assert flat == keys
    assert folded == ["a", "a b", "a-1", "a.txt", "a/", "a0"]


async def test_a_marker_that_is_a_common_prefix_is_not_listed_again(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await fill(connection, ["a/1", "a/2", "b/1", "c"])

    assert await all_pages(connection, max_keys=10, delimiter="/", start_after="a/") == ["b/", "c"]


async def test_a_start_inside_a_folder_still_shows_the_folder_while_keys_of_it_follow(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await fill(connection, ["a/1", "a/2", "b/1"])

    assert await all_pages(connection, max_keys=10, delimiter="/", start_after="a/1") == ["a/", "b/"]
    assert await all_pages(connection, max_keys=10, delimiter="/", start_after="a/2") == ["b/"]


async def test_a_page_of_nothing_is_empty_and_not_truncated(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await fill(connection, ["a", "b/c"])

    for delimiter in ("", "/"):
        page = await a_page(connection, prefix="", delimiter=delimiter, seek="", max_keys=0)
        assert len(page) == 0
        assert not page.is_truncated


async def test_each_object_keeps_its_own_facts(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await fill(connection, ["a", "bb", "d/e"])
    await connection.execute("update current_objects set checksum = null, last_modified = 'epoch' where key = 'bb'")

    page = await a_page(connection, prefix="", delimiter="/", seek="", max_keys=10)

    (a, bb) = page.objects()
    assert a[:3] == ("a", 1, "0cc175b9c0f1b6a831c399e269772661")
    assert a[4] == "CRC32:0cc175b9"
    assert bb == ("bb", 2, "21ad0bd836b90d08f4cf640b4c298e7c", 0.0, "")
    assert page.prefixes == ["d/"]


@pytest.mark.parametrize(
    ("shape", "prefix", "names"),
    [
        ("'folder' || i % 4 || '/' || i", "", 4),
        ("lpad(i::text, 5, '0') || '/x'", "", 100),
        ("'d/e/e/p/' || lpad(i::text, 5, '0')", "d/e/", 1),
        ("case when i % 2 = 0 then lpad(i::text, 5, '0') else lpad(i::text, 5, '0') || '/x' end", "", 100),
        ("'wide/' || lpad(i::text, 5, '0')", "wide/", 100),
    ],
    ids=["few large folders", "one key per folder", "deep", "keys and folders in turn", "no folders"],
)
async def test_the_cost_of_a_page_depends_on_what_it_shows_and_not_on_what_folders_hold(
    connection: "asyncpg.Connection[asyncpg.Record]", shape: str, prefix: str, names: int
) -> None:
    # The table has never been analysed, as after a restore: the plan may not depend on it.
    await connection.execute(
        f"""
        insert into current_objects (bucket_id, key, version_id, size_bytes, etag, inline)
        select {BUCKET}, {shape}, $1, 0, '', '' from generate_series(1, 20000) as i
        """,
        UUID(int=0),
    )
    bounds = page_bounds(prefix=prefix, delimiter="/", seek=prefix, max_keys=99)

    explain = "explain (analyze, buffers, timing off, format json) "
    for _ in range(2):  # the first call also reads the catalogue
        plan = json.loads(await connection.fetchval(explain + LIST_PAGE.sql, *bounds.arguments(BUCKET)))[0]["Plan"]
    function = plan["Plans"][0]

    assert function["Actual Rows"] == names
    # A step reads the four levels of an index and the row; 20,000 keys fill several hundred pages.
    assert function["Shared Hit Blocks"] + function["Shared Read Blocks"] <= 6 * (names + 2)
