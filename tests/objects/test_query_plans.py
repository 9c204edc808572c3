"""Every named query is run once, before there are statistics and after, and its plan is looked at.

`auto_explain` shows what PostgreSQL really did, the statements inside triggers and functions included.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from seawall.access.callers import QUERIES as ACCESS
from seawall.database import Endpoint, Query
from seawall.database.local_server import LocalServer
from seawall.database.pool import SERVER_SETTINGS
from seawall.incidents.copies import QUERIES as INCIDENTS
from seawall.objects.buckets import QUERIES as OBJECTS
from seawall.objects.store import LIST_PAGE
from seawall.objects.sweeper import QUERIES as SWEEPER
from seawall.service import QUERIES as SERVICE

LARGE = {"current_objects", "parts", "garbage", "uploads", "accounts", "access_keys", "buckets"}

UPLOAD = UUID(int=7)
OVER = UUID(int=600_007)
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
A_ROW = (uuid4(), 3, "etag", "text/plain", '{"a": "b"}', None, b"abc", None, None)
BATCH = ([uuid4()], [3], ["etag"], ["text/plain"], [None], [None], [b"abc"], [None])

EVERY_QUERY: Mapping[str, tuple[object, ...]] = {
    "access.credential": (["key 5", "key 6", "nobody's"],),
    "access.epoch": (),
    "access.add_account": ("canonical new", "new", "New", "", False, False),
    "access.add_access_key": ("key new", 5, "secret"),
    "access.remove_access_keys": (5,),
    "access.list_accounts": (),
    "access.account_by_name": ("account 5",),
    "access.owns_buckets": (5,),
    "access.remove_account": (1900,),
    "access.service_secret": (),
    "incidents.keep": ("2026-11-24-1", "open", 0.0, None, "Files could not be read", "{}"),
    "incidents.owners": (["key 5", "nobody's"],),
    "objects.bucket_by_name": (["bucket 5", "none"],),
    "objects.buckets_of": (5, "", "", 10, None),
    "objects.add_bucket": ("bucket new", 5, ""),
    "objects.hold_bucket": (5,),
    "objects.share_bucket": (5,),
    "objects.bucket_holds_objects": (1,),
    "objects.remove_uploads_of_bucket": (5,),
    "objects.remove_parts_of_uploads": ([UPLOAD],),
    "objects.remove_bucket": (1900,),
    "objects.current_version": ([1, 2, 3], ["key 00010", "key 20001", "none"]),
    "objects.put_object": ([2], ["key 20001"], *BATCH),
    "objects.put_object_if_absent": (1, "new", *A_ROW),
    "objects.put_object_if_match": (2, "key 20001", *A_ROW, "etag"),
    "objects.put_object_of_parts": (4, "key 45001", *A_ROW[:6], None, None, UPLOAD),
    "objects.delete_object": ([2, 3, 4], ["key 20001", "key 35001", "key 45001"]),
    "objects.delete_object_if_match": (4, "key 45001", "etag"),
    "objects.add_upload": (uuid4(), 5, "key", 5, None, None, None, False),
    "objects.upload": ([UPLOAD],),
    "objects.hold_upload": (UPLOAD,),
    "objects.put_part": (UPLOAD, 1, 3, "etag", None, b"abc", None),
    "objects.parts_after": (UPLOAD, 3, 10),
    "objects.parts_of_object": ([UPLOAD, OVER],),
    "objects.part_by_rank": (UPLOAD, 3),
    "objects.place_parts": (UPLOAD, [1, 2, 3], [0, 1, 2]),
    "objects.remove_some_parts": (UPLOAD, [2, 3]),
    "objects.remove_parts": (UPLOAD,),
    "objects.remove_upload": (UPLOAD,),
    "objects.object_of_upload": (4, "key 45001", OVER),
    "objects.uploads_after": (5, "", "\U0010ffff", "", None, UUID(int=0), 10),
    "objects.upload_position": (UPLOAD,),
    "objects.account": ([5, 6],),
    "objects.list_page": (1, "", "/", "0", "", "\U0010ffff", 100),
    "service.hold": (0.0,),
    "sweeper.garbage_files": ("", 0.0),
    "sweeper.named_locations": (["f/20001", "s/segment 0000/35001", "none"], True),
    "sweeper.forget_garbage": (["f/garbage 00001"],),
    "sweeper.garbage_by_segment": (),
    "sweeper.blobs_in_segment": ("s/segment 0005/", "s/segment 00050", 10),
    "sweeper.move_objects": (["s/segment 0000/35001"], ["s/other/1"]),
    "sweeper.move_parts": (["s/segment parts/00001"], ["s/other/1"]),
    "sweeper.forget_segment": ("s/segment 0005/", "s/segment 00050"),
    "sweeper.objects_to_scrub": ("",),
    "sweeper.parts_to_scrub": ("",),
}

READS_MUCH = {
    "access.list_accounts": "lists all accounts, for operators",
    "sweeper.garbage_by_segment": "sums all garbage up, once a minute",
}
ROWS_MAX = 1000
"""A page of garbage has as many rows; an object here has 100 parts, and a bucket 50 uploads."""

FILL = """
    insert into accounts (canonical_id, name, display_name)
    select 'canonical ' || n, 'account ' || n, 'Account' from generate_series(1, 2000) as n;

    insert into access_keys (access_key, account_id, secret_key)
    select 'key ' || n, n, 'secret' from generate_series(1, 1800) as n;

    insert into buckets (name, owner_id) select 'bucket ' || n, n from generate_series(1, 1500) as n;
    insert into buckets (name, owner_id) select 'bucket ' || n, 1 from generate_series(1501, 2000) as n;

    insert into current_objects (bucket_id, key, version_id, size_bytes, etag, inline, location, upload_id)
    select
        case when n <= 20000 then 1 when n <= 35000 then 2 when n <= 45000 then 3 else 4 end,
        'key ' || lpad(n::text, 5, '0'),
        gen_random_uuid(), 3, 'etag',
        case when n <= 20000 then 'abc'::bytea end,
        case
            when n between 20001 and 35000 then 'f/' || n
            when n between 35001 and 45000 then 's/segment ' || lpad((n % 100)::text, 4, '0') || '/' || n
        end,
        case when n > 45000 then lpad(to_hex(555006 + n), 32, '0')::uuid end
    from generate_series(1, 50000) as n;

    insert into uploads (upload_id, bucket_id, key, initiator_id)
    select lpad(to_hex(n), 32, '0')::uuid, 1 + n % 1000, 'upload ' || n, 1 from generate_series(1, 50000) as n;

    insert into parts (upload_id, part_number, size_bytes, etag, location, start_byte)
    select
        lpad(to_hex(case when n <= 25000 then n % 500 else 600007 + n % 500 end), 32, '0')::uuid,
        1 + n / 500, 3, 'etag', 's/segment parts/' || lpad(n::text, 5, '0'), n
    from generate_series(1, 50000) as n;

    insert into garbage (location, size_bytes)
    select
        case when n <= 25000 then 'f/garbage ' else 's/segment ' || lpad((n % 500)::text, 4, '0') || '/garbage ' end
            || lpad(n::text, 5, '0'),
        3
    from generate_series(1, 50000) as n;
"""


def named_queries() -> Iterator[Query]:
    for queries in (ACCESS, INCIDENTS, OBJECTS, SERVICE):
        yield from queries.values()
    yield LIST_PAGE
    for name, query in SWEEPER.items():
        # The file lies in the package of the objects, and is told apart here.
        yield replace(query, name=f"sweeper.{name}")


@pytest.fixture
async def watched(
    database_endpoint: Endpoint, local_server: LocalServer
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection with the settings of those that serve, on which PostgreSQL tells every plan."""
    administrator = replace(local_server.superuser, database=database_endpoint.database)
    opened = await asyncpg.connect(**administrator.connect_arguments(), server_settings=SERVER_SETTINGS)
    await opened.execute("load 'auto_explain'")
    for name, value in {
        "log_min_duration": "0",
        "log_analyze": "on",
        "log_nested_statements": "on",
        "log_format": "json",
    }.items():
        await opened.execute(f"set auto_explain.{name} = {value}")
    await opened.execute(FILL)
    yield opened
    await opened.close()


async def plans_of(connection: "asyncpg.Connection[asyncpg.Record]", query: Query) -> list[dict[str, Any]]:
    """Run a query and take back what it did; return the plans of all statements that took part."""
    told: list[str] = []

    def listen(_connection: object, message: Any) -> None:
        told.append(message.message)

    statement = await connection.prepare(query.sql)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("set local client_min_messages = log")
    connection.add_log_listener(listen)
    try:
        await statement.fetch(*EVERY_QUERY[query.name])
        await connection.fetch("select")  # a plan is told when the next statement takes its place
        await asyncio.sleep(0)
    finally:
        connection.remove_log_listener(listen)
        await transaction.rollback()
    plans = [json.loads(message.partition("plan:\n")[2]) for message in told if "plan:\n" in message]
    assert any(query.sql[:40] in plan["Query Text"] for plan in plans), "its own plan must be among them"
    return plans


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def complaints(query: Query, plans: list[dict[str, Any]]) -> Iterator[str]:
    for plan in plans:
        for node in nodes(plan["Plan"]):
            table = node.get("Relation Name")
            if table not in LARGE:
                continue
            looped = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            seen = looped * node["Actual Loops"]
            if query.name in READS_MUCH:
                continue
            if node["Node Type"] == "Seq Scan":
                yield f"{query.name} scans {table} from end to end"
            if seen > ROWS_MAX:
                yield f"{query.name} looks at {seen:.0f} rows of {table} ({node['Node Type']})"
            if node["Node Type"].startswith("Index") and "Index Cond" not in node:
                yield f"{query.name} walks all of {node['Index Name']}"


def test_every_named_query_is_run_here() -> None:
    assert {query.name for query in named_queries()} == set(EVERY_QUERY)
    assert set(READS_MUCH) <= set(EVERY_QUERY)


async def test_no_query_reads_a_large_table_from_end_to_end(watched: "asyncpg.Connection[asyncpg.Record]") -> None:
    found: list[str] = []

    for statistics in ("before there are any", "after analyze"):
        if statistics == "after analyze":
            await watched.execute("analyze")
        for query in named_queries():
            plans = await plans_of(watched, query)
            found += [f"{complaint}, {statistics}" for complaint in complaints(query, plans)]

    assert found == []
