import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.objects.kit import INLINE_MAX, PART_MIN, SEGMENT_MAX, SIZES, Node, assert_catalogue_is_whole

from seawall.access import Caller
from seawall.errors import (
    BlobCorrupt,
    BlobMissing,
    BucketExists,
    BucketNotEmpty,
    BucketOwned,
    Denied,
    IncompleteBody,
    Invalid,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    PreconditionFailed,
)
from seawall.objects import store as stores
from seawall.objects.digests import Digests
from seawall.objects.reading import open_version
from seawall.objects.store import KeyTooLong, check_key
from seawall.objects.sweeper import Sweeper
from seawall.objects.things import Condition, Description

ABSENT = Condition(absent=True)
BUCKETS = ["one", "two"]
KEYS = ["a", "a/b", "z\U0010ffff"]


def some_bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


# As a dictionary.

bodies = st.builds(some_bytes, st.sampled_from(SIZES), st.integers(0, 1000))
places = st.tuples(st.sampled_from(BUCKETS), st.sampled_from(KEYS))
parts = st.lists(
    st.tuples(st.integers(1, 4), st.builds(some_bytes, st.sampled_from([PART_MIN, *SIZES[4:]]), st.integers(0, 1000))),
    min_size=1,
    max_size=4,
)
steps = st.one_of(
    st.tuples(st.just("put"), places, bodies),
    st.tuples(st.just("put"), places, bodies),
    st.tuples(st.just("put if absent"), places, bodies),
    st.tuples(st.just("put if match"), places, bodies),
    st.tuples(st.just("copy"), places, places),
    st.tuples(st.just("delete"), places, st.none()),
    st.tuples(st.just("complete"), places, parts),
    st.tuples(st.just("abort"), places, parts),
    st.tuples(st.just("read"), places, st.tuples(st.integers(0, 9000), st.integers(0, 9000))),
    st.tuples(st.just("recreate"), places, st.none()),
    st.tuples(st.just("sweep"), places, st.none()),
)


@dataclass(slots=True)
class Dictionary:
    """What the store should be like. State: the bytes of each key of each bucket."""

    node: Node
    caller: Caller
    held: dict[tuple[str, str], bytes]

    async def do(self, what: str, place: tuple[str, str], value: Any) -> None:
        """Do the same to both, and compare."""
        act: dict[str, Callable[[tuple[str, str], Any], Any]] = {
            "put": self._put,
            "put if absent": self._put_if_absent,
            "put if match": self._put_if_match,
            "copy": self._copy,
            "delete": self._delete,
            "complete": self._complete,
            "abort": self._abort,
            "read": self._read,
            "recreate": self._recreate,
            "sweep": self._sweep,
        }
        await act[what](place, value)

    async def _put(self, place: tuple[str, str], data: bytes) -> None:
        stored = await self.node.put(self.caller, *place, data)
        assert stored.etag == md5(data).hexdigest()
        self.held[place] = data

    async def _put_if_absent(self, place: tuple[str, str], data: bytes) -> None:
        if place in self.held:
            with pytest.raises(PreconditionFailed):
                await self.node.put(self.caller, *place, data, condition=ABSENT)
        else:
            await self.node.put(self.caller, *place, data, condition=ABSENT)
            self.held[place] = data

    async def _put_if_match(self, place: tuple[str, str], data: bytes) -> None:
        with pytest.raises(PreconditionFailed if place in self.held else NoSuchKey):
            await self.node.put(self.caller, *place, data, condition=Condition(etag="another"))
        if place in self.held:
            version = await self.node.store.look_up(self.caller, *place)
            await self.node.put(self.caller, *place, data, condition=Condition(etag=version.etag))
            self.held[place] = data

    async def _copy(self, place: tuple[str, str], target: tuple[str, str]) -> None:
        if place not in self.held:
            with pytest.raises(NoSuchKey):
                await self.node.copy(self.caller, place, target)
        else:
            await self.node.copy(self.caller, place, target)
            self.held[target] = self.held[place]

    async def _delete(self, place: tuple[str, str], _: None) -> None:
        await self.node.store.delete(self.caller, place[0], [place[1]])
        self.held.pop(place, None)

    async def _complete(self, place: tuple[str, str], sent: list[tuple[int, bytes]]) -> None:
        upload = await self.node.begin(self.caller, *place)
        named = {}
        for number, data in sent:
            named[number] = await self.node.put_part(upload, number, data)
        kept = dict(sent)
        numbers = sorted(kept)[: max(1, len(kept) - 1)]  # one part is not used, where there are two
        await self.node.uploads.complete(upload, [named[number] for number in numbers])
        self.held[place] = b"".join(kept[number] for number in numbers)

    async def _abort(self, place: tuple[str, str], sent: list[tuple[int, bytes]]) -> None:
        upload = await self.node.begin(self.caller, *place)
        for number, data in sent:
            await self.node.put_part(upload, number, data)
        await self.node.uploads.abort(upload)

    async def _read(self, place: tuple[str, str], span: tuple[int, int]) -> None:
        if place in self.held:
            start, stop = sorted(span)
            data = await self.node.get(self.caller, *place, start=start, stop=stop)
            assert data == self.held[place][start:stop]

    async def _recreate(self, place: tuple[str, str], _: None) -> None:
        name = place[0]
        if any(bucket == name for bucket, _ in self.held):
            with pytest.raises(BucketNotEmpty):
                await self.node.store.buckets.delete(self.caller, name)
        else:
            await self.node.begin(self.caller, name, "never completed")
            await self.node.store.buckets.delete(self.caller, name)
            await self.node.store.buckets.add(self.caller, name, region="")

    async def _sweep(self, _place: tuple[str, str], _: None) -> None:
        sweeper = Sweeper(self.node.database, self.node.blobs, grace_s=0.0, interval_s=1.0)
        await sweeper.sweep(compact_above=0.01)

    async def assert_same(self) -> None:
        """Compare all of both."""
        for name in BUCKETS:
            assert await self.node.keys(self.caller, name) == sorted(key for bucket, key in self.held if bucket == name)
        for place, data in self.held.items():
            assert await self.node.get(self.caller, *place) == data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=st.lists(steps, max_size=25))
async def test_a_store_is_like_a_dictionary_whatever_is_done_to_it(
    node: Node, alice: Caller, connection: "asyncpg.Connection[asyncpg.Record]", done: list[tuple[str, Any, Any]]
) -> None:
    await connection.execute("delete from current_objects; delete from parts; delete from uploads; delete from buckets")
    for name in BUCKETS:
        await node.store.buckets.add(alice, name, region="")
    dictionary = Dictionary(node=node, caller=alice, held={})

    for what, place, value in done:
        await dictionary.do(what, place, value)

    await dictionary.assert_same()
    await assert_catalogue_is_whole(connection)
    scrubbed = await Sweeper(node.database, node.blobs, grace_s=0.0, interval_s=1.0).scrub()
    assert (scrubbed.missing, scrubbed.corrupt) == ([], [])


@pytest.mark.parametrize(
    ("size", "tier"),
    [
        (0, "inline"),
        (INLINE_MAX, "inline"),
        (INLINE_MAX + 1, "s/"),
        (SEGMENT_MAX, "s/"),
        (SEGMENT_MAX + 1, "f/"),
    ],
)
async def test_where_bytes_are_kept_depends_on_how_many_they_are(
    node: Node, alice: Caller, bucket: str, size: int, tier: str
) -> None:
    await node.put(alice, bucket, "key", b"x" * size)

    version = await node.store.look_up(alice, bucket, "key")
    assert ("inline" if version.inline is not None else version.location or "").startswith(tier)
    assert (version.content_type, version.headers) == ("text/plain", {"x-amz-meta-size": str(size)})


async def test_a_body_that_ends_early_is_not_stored(node: Node, alice: Caller, bucket: str) -> None:
    for size in SIZES[1:]:
        payload = ShortPayload(some_bytes(size, 1))
        with pytest.raises(IncompleteBody):
            await node.store.put(alice, bucket, "key", payload, digests=Digests(), description=Description())

    assert await node.keys(alice, bucket) == []


class ShortPayload:
    """A body that announces one byte more than it has."""

    must_stream = False

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data) + 1
        self._data = data

    async def read(self) -> list[memoryview]:
        return [memoryview(self._data)]

    async def batches(self) -> Any:
        yield [memoryview(self._data)]

    def decode(self, pieces: Any) -> Any:
        return pieces

    def finish(self, digests: Digests) -> None:
        pass


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("", Invalid),
        ("a\0b", Invalid),
        ("half \ud800", Invalid),
        ("é" * 513, KeyTooLong),
        ("a" * 1025, KeyTooLong),
    ],
)
def test_what_cannot_be_a_key_is_refused(key: str, error: type[Invalid]) -> None:
    with pytest.raises(error):
        check_key(key)


@pytest.mark.parametrize("key", ["a" * 1024, "é" * 512, "..", "/", "\\", "\x01\n\x7f", "\U0010ffff"])
async def test_strange_keys_are_keys_like_any_other(node: Node, alice: Caller, bucket: str, key: str) -> None:
    check_key(key)
    await node.put(alice, bucket, key, b"here")

    assert await node.get(alice, bucket, key) == b"here"
    assert await node.keys(alice, bucket) == [key]


# Conditions.


@pytest.mark.parametrize("size", [3, INLINE_MAX + 1, SEGMENT_MAX + 1])
async def test_of_many_who_write_only_where_nothing_is_exactly_one_does(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, size: int
) -> None:
    for turn in range(6):
        written = [some_bytes(size, seed) for seed in range(10)]

        outcomes = await asyncio.gather(
            *(nodes[n % 2].put(alice, bucket, f"{turn}", data, condition=ABSENT) for n, data in enumerate(written)),
            return_exceptions=True,
        )

        won = [data for data, outcome in zip(written, outcomes, strict=True) if not isinstance(outcome, Exception)]
        assert len(won) == 1
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {PreconditionFailed}
        assert await nodes[0].get(alice, bucket, f"{turn}") == won[0]


async def test_of_many_who_write_over_the_version_they_saw_exactly_one_does(
    nodes: tuple[Node, Node], alice: Caller, bucket: str
) -> None:
    stored = await nodes[0].put(alice, bucket, "key", b"first")
    for turn in range(6):
        condition = Condition(etag=stored.etag)
        outcomes = await asyncio.gather(
            *(nodes[n % 2].put(alice, bucket, "key", b"%d %d" % (turn, n), condition=condition) for n in range(10)),
            return_exceptions=True,
        )

        (stored,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert (await nodes[1].store.look_up(alice, bucket, "key")).etag == stored.etag


async def test_of_many_who_delete_the_version_they_saw_exactly_one_does(
    nodes: tuple[Node, Node], alice: Caller, bucket: str
) -> None:
    stored = await nodes[0].put(alice, bucket, "key", b"bytes")

    outcomes = await asyncio.gather(
        *(nodes[n % 2].store.delete(alice, bucket, ["key"], etag=stored.etag) for n in range(10)),
        return_exceptions=True,
    )

    assert outcomes.count(None) == 1
    assert {type(outcome) for outcome in outcomes if outcome is not None} == {NoSuchKey}


async def test_deleting_another_version_than_the_present_one_is_refused(node: Node, alice: Caller, bucket: str) -> None:
    await node.put(alice, bucket, "key", b"bytes")

    with pytest.raises(PreconditionFailed):
        await node.store.delete(alice, bucket, ["key"], etag="another")
    assert await node.get(alice, bucket, "key") == b"bytes"


# Buckets, as two nodes see them.


async def test_a_bucket_belongs_to_whoever_made_it(node: Node, alice: Caller, bob: Caller, bucket: str) -> None:
    await node.put(alice, bucket, "key", b"hers")

    with pytest.raises(BucketOwned):
        await node.store.buckets.add(alice, bucket, region="")
    with pytest.raises(BucketExists):
        await node.store.buckets.add(bob, bucket, region="")
    for refused in every_verb(node, bob, bucket):
        with pytest.raises(Denied):
            await refused
    with pytest.raises(Denied):
        await node.store.look_up(None, bucket, "key")
    with pytest.raises(Denied):
        await node.store.look_up(None, "nowhere", "key")


def every_verb(node: Node, caller: Caller, bucket: str) -> list[Any]:
    return [
        node.store.look_up(caller, bucket, "key"),
        node.get(caller, bucket, "key"),
        node.put(caller, bucket, "key", b"mine"),
        node.put(caller, bucket, "new", b"mine", condition=ABSENT),
        node.put(caller, bucket, "key", b"mine", condition=Condition(etag="any")),
        node.copy(caller, (bucket, "key"), (bucket, "other")),
        node.store.delete(caller, bucket, ["key"]),
        node.store.delete(caller, bucket, ["key"], etag="any"),
        node.keys(caller, bucket),
        node.begin(caller, bucket, "key"),
        node.store.buckets.delete(caller, bucket),
    ]


async def test_nobody_keeps_access_to_a_bucket_that_somebody_else_made_again(
    nodes: tuple[Node, Node], alice: Caller, bob: Caller, bucket: str
) -> None:
    first, second = nodes
    await second.put(alice, bucket, "key", b"hers")
    await first.store.delete(alice, bucket, ["key"])
    await first.store.buckets.delete(alice, bucket)
    await first.store.buckets.add(bob, bucket, region="")
    await first.put(bob, bucket, "key", b"his")

    for refused in every_verb(second, alice, bucket):
        with pytest.raises(Denied):
            await refused

    assert await second.get(bob, bucket, "key") == b"his"
    assert await first.keys(bob, bucket) == ["key"]


async def test_a_bucket_made_again_under_another_number_is_the_same_to_its_owner(
    nodes: tuple[Node, Node], alice: Caller, bucket: str
) -> None:
    first, second = nodes

    async def made_again() -> None:
        await second.keys(alice, bucket)
        await first.store.delete(alice, bucket, await first.keys(alice, bucket))
        await first.store.buckets.delete(alice, bucket)
        await first.store.buckets.add(alice, bucket, region="")

    await made_again()
    await second.put(alice, bucket, "plain", b"1")
    await made_again()
    await second.put(alice, bucket, "absent", b"2", condition=ABSENT)
    await made_again()
    stored = await first.put(alice, bucket, "match", b"3")
    await second.put(alice, bucket, "match", b"4", condition=Condition(etag=stored.etag))
    assert await second.get(alice, bucket, "match") == b"4"
    await made_again()
    upload = await first.begin(alice, bucket, "upload")
    part = await second.put_part(await second.uploads.find(alice, bucket, "upload", upload.upload_id), 1, b"part")
    await second.uploads.complete(upload, [part])
    assert await second.keys(alice, bucket) == ["upload"]


async def test_a_bucket_that_is_gone_is_gone_on_every_node(
    nodes: tuple[Node, Node], alice: Caller, bucket: str
) -> None:
    first, second = nodes
    await second.keys(alice, bucket)
    await first.store.buckets.delete(alice, bucket)

    for refused in every_verb(second, alice, bucket):
        with pytest.raises(NoSuchBucket):
            await refused


@pytest.mark.parametrize("kind", ["put", "put if absent", "begin", "part", "complete"])
async def test_nothing_is_ever_in_a_bucket_that_was_deleted_meanwhile(
    nodes: tuple[Node, Node], alice: Caller, connection: "asyncpg.Connection[asyncpg.Record]", kind: str
) -> None:
    first, second = nodes
    lived = died = 0
    for turn in range(40):
        name = f"bucket-{turn}"
        await first.store.buckets.add(alice, name, region="")
        await second.keys(alice, name)
        upload = await second.begin(alice, name, "upload")
        part = await second.put_part(upload, 1, b"part")
        acts: dict[str, Callable[[], Any]] = {
            "put": lambda: second.put(alice, name, "key", b"bytes"),  # noqa: B023
            "put if absent": lambda: second.put(alice, name, "key", b"bytes", condition=ABSENT),  # noqa: B023
            "begin": lambda: second.begin(alice, name, "other"),  # noqa: B023
            "part": lambda: second.put_part(upload, 2, b"x" * 100),  # noqa: B023
            "complete": lambda: second.uploads.complete(upload, [part]),  # noqa: B023
        }

        async def later(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await first.store.buckets.delete(alice, name)  # noqa: B023

        outcomes = await asyncio.gather(
            acts[kind](), later(random.Random(turn).random() * 0.004), return_exceptions=True
        )

        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(
                outcome, NoSuchBucket | BucketNotEmpty | NoSuchUpload
            )
        lived += outcomes[1] is not None
        died += outcomes[1] is None
        await assert_catalogue_is_whole(connection)
    assert lived + died == 40


# Blobs that go or change.


@pytest.mark.parametrize("size", [INLINE_MAX + 1, SEGMENT_MAX + 1])
async def test_a_reader_that_meets_a_blob_that_is_gone_reads_the_row_once_more(
    node: Node, alice: Caller, bucket: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = some_bytes(size, 1), some_bytes(size, 2)
    await node.put(alice, bucket, "key", old)
    met: list[str] = []

    async def overwritten_just_before(version: Any, *rest: Any) -> Any:
        met.append(version.etag)
        if len(met) == 1:
            await node.put(alice, bucket, "key", new)
            raise BlobMissing
        return await open_version(version, *rest)

    monkeypatch.setattr(stores, "open_version", overwritten_just_before)

    assert await node.get(alice, bucket, "key") == new
    assert met == [md5(old).hexdigest(), md5(new).hexdigest()]


async def test_a_blob_that_is_lost_for_good_is_reported_and_not_looked_for_for_ever(
    node: Node, alice: Caller, bucket: str
) -> None:
    await node.put(alice, bucket, "key", some_bytes(SEGMENT_MAX + 1, 1))
    version = await node.store.look_up(alice, bucket, "key")
    assert version.location is not None
    await node.blobs.delete(version.location)

    with pytest.raises(BlobMissing):
        await node.get(alice, bucket, "key")
    with pytest.raises(BlobMissing):
        await node.copy(alice, (bucket, "key"), (bucket, "copy"))


async def test_a_copy_does_not_make_corrupt_bytes_look_sound(
    node: Node, alice: Caller, bucket: str, tmp_path: Path
) -> None:
    for size in (INLINE_MAX + 1, SEGMENT_MAX + 1):
        await node.put(alice, bucket, "key", some_bytes(size, 1))
        for path in (tmp_path / "blobs").rglob("*-*"):
            for file in [path] if path.is_file() else [*path.iterdir()]:
                with file.open("r+b") as opened:
                    opened.seek(40)
                    opened.write(b"flipped")
        # A large one is as corrupt as its source, because nobody reads it; a small one is read, and refused.
        with suppress(BlobCorrupt):
            await node.copy(alice, (bucket, "key"), (bucket, "copy"))
        with pytest.raises((BlobCorrupt, NoSuchKey)):
            await node.get(alice, bucket, "copy")


async def test_the_same_key_written_by_everybody_at_once_holds_one_of_their_bodies(
    nodes: tuple[Node, Node], alice: Caller, bucket: str, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    bodies = [some_bytes(random.Random(n).choice(SIZES), n) for n in range(60)]

    async def read() -> None:
        for _ in range(20):
            data = await nodes[1].get(alice, bucket, "key")
            assert data in bodies

    await nodes[0].put(alice, bucket, "key", bodies[0])
    await asyncio.gather(
        *(nodes[n % 2].put(alice, bucket, "key", data) for n, data in enumerate(bodies)), *(read() for _ in range(4))
    )

    assert await nodes[0].get(alice, bucket, "key") in bodies
    blobs = sum(len(data) > INLINE_MAX for data in [*bodies, bodies[0]])
    named = await connection.fetchval("select count(*) from current_objects where location is not null")
    assert await connection.fetchval("select count(*) from garbage") == blobs - named


async def test_many_keys_are_deleted_at_once_and_those_that_are_not_there_are_no_error(
    node: Node, alice: Caller, bucket: str
) -> None:
    keys = [f"{n}" for n in range(300)]
    await asyncio.gather(*(node.put(alice, bucket, key, b"x") for key in keys))

    await node.store.delete(alice, bucket, [*keys[:-1], *keys[:-1], "never there"])

    assert await node.keys(alice, bucket) == [keys[-1]]
