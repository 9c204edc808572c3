import asyncio
import random
from collections.abc import Sequence
from functools import partial
from hashlib import md5
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.objects.kit import PART_MIN, SEGMENT_MAX, BytesPayload, Node, assert_catalogue_is_whole

from seawall.access import Caller
from seawall.errors import (
    BadDigest,
    BlobMissing,
    InvalidPart,
    InvalidPartOrder,
    NoSuchKey,
    NoSuchUpload,
    PartTooSmall,
    PreconditionFailed,
)
from seawall.objects import NamedPart
from seawall.objects import store as stores
from seawall.objects.digests import Digests, composite_checksum
from seawall.objects.reading import open_version
from seawall.objects.sweeper import Sweeper
from seawall.objects.things import Condition, Description, Span, Version
from seawall.objects.uploads import Upload

PIECES = [some.to_bytes(1, "big") * size for some, size in enumerate([PART_MIN, SEGMENT_MAX, 2 * SEGMENT_MAX, 70])]


async def sent(
    node: Node, caller: Caller, bucket: str, key: str, pieces: Sequence[bytes]
) -> tuple[Upload, list[NamedPart]]:
    upload = await node.begin(caller, bucket, key)
    return upload, [await node.put_part(upload, number, data) for number, data in enumerate(pieces, start=1)]


def checksum_of(data: bytes, algorithm: str) -> str:
    digests = Digests(algorithm=algorithm)
    digests.update(data)
    return digests.checksum


# What parts make.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([PART_MIN, SEGMENT_MAX, SEGMENT_MAX + 1, 3 * SEGMENT_MAX]), min_size=1, max_size=6),
    numbers=st.sets(st.integers(1, 10_000), min_size=6, max_size=6),
    last=st.sampled_from([0, 1, 70, 5000]),
    data=st.data(),
)
async def test_every_stretch_of_an_object_in_parts_is_that_of_its_bytes(
    node: Node, alice: Caller, bucket: str, *, sizes: list[int], numbers: set[int], last: int, data: st.DataObject
) -> None:
    pieces = [random.Random(n).randbytes(size) for n, size in enumerate([*sizes[:-1], last])]
    upload = await node.begin(alice, bucket, "key")
    order = sorted(zip(sorted(numbers), pieces, strict=False), key=lambda part: -len(part[1]))
    named = [await node.put_part(upload, number, piece) for number, piece in order]
    stored = await node.uploads.complete(upload, sorted(named, key=lambda part: part.part_number))
    whole = b"".join(pieces)

    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    assert await node.get(alice, bucket, "key", start=start, stop=stop) == whole[start:stop]
    assert stored.size_bytes == len(whole)
    assert stored.checksum == checksum_of(whole, "CRC64NVME")
    version = await node.store.look_up(alice, bucket, "key")
    spans = [await node.uploads.span_of_part(version, rank) for rank in range(1, len(pieces) + 2)]
    starts = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    assert spans == [*(Span(start=at, stop=at + len(piece)) for at, piece in zip(starts, pieces, strict=True)), None]


async def test_a_part_sent_again_replaces_the_one_before_and_those_not_named_are_dropped(
    node: Node, alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)
    again = await node.put_part(upload, 2, PIECES[2])

    with pytest.raises(InvalidPart):
        await node.uploads.complete(upload, named)
    await node.uploads.complete(upload, [named[0], again])

    assert await node.get(alice, bucket, "key") == PIECES[0] + PIECES[2]
    assert await connection.fetchval("select count(*) from parts") == 2
    assert await connection.fetchval("select count(*) from garbage") == 3
    await assert_catalogue_is_whole(connection)


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        ([], InvalidPartOrder),
        ([2, 1], InvalidPartOrder),
        ([1, 1], InvalidPartOrder),
        ([1, 9], InvalidPart),
        ([4, 5], PartTooSmall),
    ],
)
async def test_a_list_of_parts_that_makes_no_object_is_refused_and_the_upload_goes_on(
    node: Node, alice: Caller, bucket: str, chosen: list[int], error: type[Exception]
) -> None:
    upload, named = await sent(node, alice, bucket, "key", [*PIECES, b"the last one"])
    by_number = {part.part_number: part for part in named}
    unknown = NamedPart(part_number=9, etag="0" * 32, checksums={})

    with pytest.raises(error):
        await node.uploads.complete(upload, [by_number.get(number, unknown) for number in chosen])

    await node.uploads.complete(upload, named[:4])
    assert await node.get(alice, bucket, "key") == b"".join(PIECES)


async def test_an_object_of_another_size_than_was_stated_is_refused(node: Node, alice: Caller, bucket: str) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)

    with pytest.raises(InvalidPart):
        await node.uploads.complete(upload, named, size_bytes=1)
    await node.uploads.complete(upload, named, size_bytes=sum(map(len, PIECES)))


@pytest.mark.parametrize(
    ("algorithm", "full_object"),
    [("CRC32", True), ("CRC32C", True), ("CRC64NVME", True), ("CRC32", False), ("SHA256", False), ("XXHASH3", False)],
)
async def test_the_checksum_of_the_whole_follows_from_those_of_the_parts(
    node: Node,
    alice: Caller,
    bucket: str,
    algorithm: str,
    full_object: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    upload_id = await node.uploads.begin(
        alice, bucket, "key", description=Description(), checksum_algorithm=algorithm, full_object=full_object
    )
    upload = await node.uploads.find(alice, bucket, "key", upload_id)
    named = []
    for number, data in enumerate(PIECES, start=1):
        stored, _ = await node.uploads.put_part(upload, number, BytesPayload(data), Digests(algorithm=algorithm))
        named.append(NamedPart(part_number=number, etag=stored.etag, checksums={}))
    of_parts = [checksum_of(data, algorithm) for data in PIECES]
    expected = checksum_of(b"".join(PIECES), algorithm) if full_object else composite_checksum(of_parts)

    wrong = [NamedPart(part_number=1, etag=named[0].etag, checksums={algorithm: "AAAA"}), *named[1:]]
    with pytest.raises(InvalidPart):
        await node.uploads.complete(upload, wrong)
    with pytest.raises(BadDigest):
        await node.uploads.complete(upload, named, checksum=f"{algorithm}:AAAAAA==")
    completed = await node.uploads.complete(upload, named, checksum=expected)

    assert completed.checksum == expected
    assert (await node.store.look_up(alice, bucket, "key")).checksum == expected


async def test_a_checksum_that_cannot_be_worked_out_is_not_taken_on_trust(
    node: Node, alice: Caller, bucket: str
) -> None:
    upload = await node.begin(alice, bucket, "key")
    named = []
    for number, algorithm in enumerate(["CRC32", "SHA256"], start=1):
        stored, _ = await node.uploads.put_part(upload, number, BytesPayload(PIECES[0]), Digests(algorithm=algorithm))
        named.append(NamedPart(part_number=number, etag=stored.etag, checksums={}))

    with pytest.raises(BadDigest):
        await node.uploads.complete(upload, named, checksum="CRC32:AAAAAA==")
    assert (await node.uploads.complete(upload, named)).checksum is None


# Ends of an upload.


async def test_an_upload_that_is_over_takes_no_parts_and_ends_only_once(
    node: Node, alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    upload, _ = await sent(node, alice, bucket, "key", PIECES)
    await node.uploads.abort(upload)

    for refused in (node.put_part(upload, 1, b"late"), node.uploads.abort(upload)):
        with pytest.raises(NoSuchUpload):
            await refused
    with pytest.raises(NoSuchUpload):
        await node.uploads.find(alice, bucket, "key", upload.upload_id)
    assert await connection.fetchval("select count(*) from garbage") == 4
    await assert_catalogue_is_whole(connection)


async def test_an_upload_belongs_to_its_key(node: Node, alice: Caller, bucket: str) -> None:
    upload, _ = await sent(node, alice, bucket, "key", PIECES)

    for key, upload_id in (("other", upload.upload_id), ("key", uuid4())):
        with pytest.raises(NoSuchUpload):
            await node.uploads.find(alice, bucket, key, upload_id)


async def test_completing_again_says_the_same_again(nodes: tuple[Node, Node], alice: Caller, bucket: str) -> None:
    upload, named = await sent(nodes[0], alice, bucket, "key", PIECES)

    answers = await asyncio.gather(*(nodes[n % 2].uploads.complete(upload, named) for n in range(6)))

    assert {(stored.etag, stored.checksum, stored.size_bytes) for stored in answers} == {
        (answers[0].etag, answers[0].checksum, sum(map(len, PIECES)))
    }
    row = await nodes[1].uploads.completed_before(alice, bucket, "key", upload.upload_id)
    assert row["etag"] == answers[0].etag
    await nodes[0].put(alice, bucket, "key", b"something else")
    with pytest.raises(NoSuchUpload):
        await nodes[0].uploads.complete(upload, named)


async def test_completing_and_aborting_at_once_does_one_of_them(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for turn in range(25):
        upload, named = await sent(nodes[0], alice, bucket, f"{turn}", PIECES)

        outcomes = await asyncio.gather(
            nodes[0].uploads.complete(upload, named), nodes[1].uploads.abort(upload), return_exceptions=True
        )

        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [type(error) for error in failed] == [NoSuchUpload]
        completed = not isinstance(outcomes[0], BaseException)
        assert (f"{turn}" in await nodes[0].keys(alice, bucket)) == completed
    await assert_catalogue_is_whole(connection)


async def test_a_part_that_comes_while_its_upload_ends_is_in_it_or_refused(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for turn in range(25):
        key = f"{turn}"
        upload, named = await sent(nodes[0], alice, bucket, key, PIECES)
        other = bytes(len(PIECES[1]))

        completed, late = await asyncio.gather(
            nodes[0].uploads.complete(upload, named), nodes[1].put_part(upload, 2, other), return_exceptions=True
        )

        if isinstance(completed, BaseException):
            assert isinstance(completed, InvalidPart), "it came before, and is another than was named"
            assert not isinstance(late, BaseException)
            await nodes[0].uploads.abort(upload)
        else:
            assert isinstance(late, NoSuchUpload)
            assert await nodes[1].get(alice, bucket, key) == b"".join(PIECES)
    await assert_catalogue_is_whole(connection)


async def test_a_condition_that_does_not_hold_leaves_the_upload_as_it_is(
    node: Node, alice: Caller, bucket: str
) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)

    with pytest.raises(NoSuchKey):
        await node.uploads.complete(upload, named, condition=Condition(etag="any"))
    present = await node.put(alice, bucket, "key", b"here first")
    with pytest.raises(PreconditionFailed):
        await node.uploads.complete(upload, named, condition=Condition(absent=True))
    with pytest.raises(PreconditionFailed):
        await node.uploads.complete(upload, named, condition=Condition(etag="another"))
    assert await node.get(alice, bucket, "key") == b"here first"
    await node.uploads.complete(upload, named, condition=Condition(etag=present.etag))

    assert await node.get(alice, bucket, "key") == b"".join(PIECES)


async def test_of_many_uploads_completed_where_nothing_is_exactly_one_becomes_the_object(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    begun = [await sent(nodes[0], alice, bucket, "key", PIECES[:3]) for _ in range(8)]

    outcomes = await asyncio.gather(
        *(
            nodes[n % 2].uploads.complete(upload, named, condition=Condition(absent=True))
            for n, (upload, named) in enumerate(begun)
        ),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PreconditionFailed"] * 7 + ["Stored"]
    await assert_catalogue_is_whole(connection)


# Reading while others write.


async def test_a_reader_who_has_begun_gets_the_old_bytes_though_the_object_is_overwritten(
    node: Node, alice: Caller, bucket: str
) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)
    await node.uploads.complete(upload, named)

    with await node.store.open(alice, bucket, "key") as opened:
        chunks = opened.chunks(Span(start=0, stop=opened.version.size_bytes))
        got = bytes(await anext(chunks))
        await node.put(alice, bucket, "key", b"new")
        got += b"".join([bytes(chunk) async for chunk in chunks])

    assert got == b"".join(PIECES)
    assert await node.get(alice, bucket, "key") == b"new"


async def test_a_reader_who_has_begun_follows_parts_that_are_moved(
    nodes: tuple[Node, Node], alice: Caller, bucket: str
) -> None:
    node, other = nodes
    pieces = [bytes([n]) * SEGMENT_MAX for n in range(12)]
    upload = await node.begin(alice, bucket, "key")
    named = []
    for number, piece in enumerate(pieces, start=1):
        named.append(await node.put_part(upload, number, piece))
        await node.put(alice, bucket, "dead", piece)
    await node.uploads.complete(upload, named)
    sweeper = Sweeper(other.database, other.blobs, grace_s=0.0, interval_s=1.0)

    with await node.store.open(alice, bucket, "key") as opened:
        chunks = opened.chunks(Span(start=0, stop=opened.version.size_bytes))
        got = bytes(await anext(chunks))
        # What the reader has not come to is moved, and removed without any grace.
        rewritten, removed = [await sweeper.sweep(compact_above=0.1) for _ in range(2)]
        node.blobs.release_removed_segments()
        got += b"".join([bytes(chunk) async for chunk in chunks])

    assert rewritten.blobs_moved > 0
    assert removed.segments_removed > 0
    assert got == b"".join(pieces)


async def test_an_object_overwritten_between_its_row_and_its_parts_is_read_anew(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)
    await node.uploads.complete(upload, named)
    met: list[str] = []

    async def overwritten_just_before(version: Any, *rest: Any) -> Any:
        if not met:
            await node.put(alice, bucket, "key", b"new")
        met.append(version.etag)
        return await open_version(version, *rest)

    monkeypatch.setattr(stores, "open_version", overwritten_just_before)

    assert await node.get(alice, bucket, "key") == b"new"
    assert met[1] == md5(b"new").hexdigest()


async def test_a_part_that_is_lost_is_reported_instead_of_a_shorter_object(
    node: Node, alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    upload, named = await sent(node, alice, bucket, "key", PIECES)
    await node.uploads.complete(upload, named)
    await connection.execute("delete from parts where part_number = 3")

    with pytest.raises(BlobMissing):
        await node.get(alice, bucket, "key")


# Copies of stretches.


def the_same(span: Span, _version: Version) -> Span:
    return span


async def test_stretches_of_other_objects_are_parts_as_well(node: Node, alice: Caller, bucket: str) -> None:
    whole = random.Random(1).randbytes(4 * SEGMENT_MAX)
    await node.put(alice, bucket, "source", whole)
    upload = await node.begin(alice, bucket, "key")
    spans = [Span(start=10, stop=10 + PART_MIN), Span(start=0, stop=len(whole)), Span(start=5, stop=6)]

    named = []
    for number, span in enumerate(spans, start=1):
        stored, _ = await node.uploads.copy_part(
            alice, upload, number, (bucket, "source"), check=partial(the_same, span), digests=Digests()
        )
        named.append(NamedPart(part_number=number, etag=stored.etag, checksums={}))
    await node.uploads.complete(upload, named)

    assert await node.get(alice, bucket, "key") == b"".join(whole[span.start : span.stop] for span in spans)


# Lists.


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(
        st.sampled_from(["a", "a/", "a/b", "a/c", "b", "b/b/b", "é", "\U0010ffff", "\U0010ffffx"]), max_size=12
    ),
    prefix=st.sampled_from(["", "a", "a/", "b/", "\U0010ffff"]),
    delimiter=st.sampled_from([None, "/"]),
    limit=st.integers(1, 5),
)
async def test_walking_all_pages_of_uploads_gives_each_once_and_in_order(
    node: Node,
    alice: Caller,
    bucket: str,
    connection: "asyncpg.Connection[asyncpg.Record]",
    *,
    keys: list[str],
    prefix: str,
    delimiter: str | None,
    limit: int,
) -> None:
    await connection.execute("delete from uploads")
    begun = [(key, (await node.begin(alice, bucket, key)).upload_id) for key in keys]
    where = await node.store.buckets.find(alice, bucket)

    uploads: list[tuple[str, UUID]] = []
    common: list[str] = []
    after_key, after_upload = "", None
    while True:
        page = await node.uploads.page(
            where, prefix=prefix, delimiter=delimiter, after_key=after_key, after_upload=after_upload, limit=limit
        )
        uploads += [(row["key"], row["upload_id"]) for row in page.uploads]
        common += page.common_prefixes
        if not page.is_truncated:
            break
        assert len(page.uploads) + len(page.common_prefixes) == limit
        after_key, after_upload = page.next_key, page.next_upload

    inside = [(key, upload_id) for key, upload_id in begun if key.startswith(prefix)]
    grouped = {
        key[: key.index(delimiter, len(prefix)) + 1]
        for key, _ in inside
        if delimiter is not None and delimiter in key[len(prefix) :]
    }
    single = [one for one in inside if delimiter is None or delimiter not in one[0][len(prefix) :]]
    assert uploads == sorted(single, key=lambda one: one[0])
    assert common == sorted(grouped)
