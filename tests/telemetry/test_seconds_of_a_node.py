"""A real node tells, each second, what its requests were like, for whom, and how everything it rests on is."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import pytest
import pytest_asyncio
from botocore.config import Config
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from seawall.access import AccountBook, NewAccount
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.service import Node, listening_socket, running_node
from seawall.settings import Settings
from seawall.telemetry import link
from seawall.telemetry.link import Link, Message
from seawall.telemetry.points import BY_NAME, merged, total

NAME = "node-1"
PATIENCE_S = 15.0

# What no point of a healthy single server with idle clients must lack.
ALWAYS = {
    name
    for name, column in BY_NAME.items()
    if not name.startswith(("nodes.", "database.", "replica.", "tcp.", "cpu."))
    and name
    not in {"gate.pace_per_s", "disk.probe_s", "clients.first_byte_s", "clients.drain_s", "pool.busy", "seconds"}
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A node tunes the collector for itself alone."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@dataclass(slots=True)
class Heard:
    """A node, and a keeper that only listens. State: what it heard, second by second."""

    node: Node
    link: Link
    address: tuple[str, int]
    account: int
    keys: tuple[str, str]
    messages: list[Message]

    def client(self, *, keys: tuple[str, str] | None = None) -> S3Client:
        access_key, secret_key = keys or self.keys
        config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=20)
        return boto3.client(
            "s3",
            endpoint_url="http://{}:{}".format(*self.address),
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
            config=config,
        )

    async def do(self, call: Callable[..., Any], **arguments: Any) -> Any:
        return await asyncio.to_thread(call, **arguments)

    async def fail(self, call: Callable[..., Any], **arguments: Any) -> str:
        with pytest.raises(ClientError) as failure:
            await self.do(call, **arguments)
        return str(failure.value.response["Error"]["Code"])

    def all(self, what: str) -> float:
        return sum(total(message["point"], what) for message in self.messages)

    def users(self, which: str) -> set[Any]:
        return {who for message in self.messages for who in message["users"][which]}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def heard_node(endpoint: Endpoint, data_dir: Path, **settings: Any) -> AsyncIterator[Heard]:
    # The client is a thread of this process: the loop may be late without anybody being asked for too much.
    chosen = Settings(data_dir=data_dir, request_log=False, reserve_bytes=0, drain_s=2.0, queue_s=60.0, **settings)

    async def nothing(_: Message) -> Message:
        return {}

    async with Database(endpoint, DatabaseSettings(), application_name="tests", connections=1) as database:
        book = AccountBook(database)
        pair = await book.add(NewAccount(name="alice"))
    connection = await asyncpg.connect(**endpoint.connect_arguments())
    account = await connection.fetchval("select account_id from access_keys where access_key = $1", pair.access_key)
    await connection.close()
    listener = listening_socket("127.0.0.1", 0)
    messages: list[Message] = []
    async with (
        Link(chosen.socket_path(), nothing, hear=lambda _, message: messages.append(message)) as keeper,
        running_node(chosen, name=NAME, endpoints=[endpoint], listeners=[listener]) as node,
    ):
        address = listener.getsockname()
        yield Heard(node, keeper, address, account, (pair.access_key, pair.secret_key), messages)


@pytest_asyncio.fixture
async def heard(database_endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    """A node whose seconds are short."""
    monkeypatch.setattr(link, "SUMMARY_INTERVAL_S", 0.05)
    async with heard_node(database_endpoint, tmp_path / "data") as one:
        yield one


async def test_a_point_has_all_columns_a_node_can_measure_and_no_others(heard: Heard) -> None:
    await heard.until(lambda: len(heard.messages) > 2)

    point = heard.messages[-1]["point"]

    assert set(point) <= set(BY_NAME)
    assert not ALWAYS - set(point)
    assert point["pool.without_lease"] == 0
    assert 0 <= point["pool.busy"] <= 1
    assert point["disk.free_bytes"] > 0
    assert all(isinstance(value, int | float) for value in point.values())


async def test_requests_are_counted_by_group_with_where_their_time_went_and_whose_they_were(heard: Heard) -> None:
    s3 = heard.client()
    await heard.do(s3.create_bucket, Bucket="first")
    for number, size in enumerate((100, 50_000, 3_000_000)):
        await heard.do(s3.put_object, Bucket="first", Key=f"key {number}", Body=bytes(size))
        body = (await heard.do(s3.get_object, Bucket="first", Key=f"key {number}"))["Body"]
        assert len(await heard.do(body.read)) == size
    await heard.do(s3.delete_objects, Bucket="first", Delete={"Objects": [{"Key": f"key {n}"} for n in range(3)]})
    assert await heard.fail(s3.get_object, Bucket="first", Key="key 1") == "NoSuchKey"
    await heard.until(lambda: heard.all("requests") >= 9)

    fleet = Counter[str]()
    for message in heard.messages:
        fleet.update({name: value for name, value in message["point"].items() if name.split(".")[0][-1] == "s"})
    assert (fleet["reads.requests"], fleet["writes.requests"], fleet["others.requests"]) == (4, 4, 1)
    assert heard.all("failed") == heard.all("refused") == 0
    for segment in ("authentication", "database", "disk", "hashing", "other"):
        assert fleet[f"writes.segment.{segment}"] > 0, segment
    # 3 MB are hashed by several algorithms, most of it beside the event loop.
    assert fleet["writes.segment.hashing"] > 0.001
    assert fleet["reads.segment.database"] > 0
    for group in ("reads", "writes", "others"):
        spent_s = sum(value for name, value in fleet.items() if name.startswith(f"{group}.segment."))
        assert spent_s == pytest.approx(fleet[f"{group}.seconds"])
    assert fleet["clients.opened"] >= 1
    assert heard.users("seen") == {heard.account}
    assert heard.users("failed") == heard.users("claimed") == set()
    assert {one[0] for message in heard.messages for one in message["tenants"]} == {heard.account}
    assert sum(one[1] for message in heard.messages for one in message["tenants"]) == 9
    samples = dict(heard.link.metrics())[NAME]["seawall_request_segment_seconds_total"]
    assert sum(sample["value"] for sample in samples) == pytest.approx(heard.all("seconds"))


async def test_what_was_refused_failed_whom_it_was_for_and_a_cap_ends_when_it_is_lifted(heard: Heard) -> None:
    s3 = heard.client()
    await heard.do(s3.create_bucket, Bucket="first")
    await heard.until(lambda: heard.all("requests") == 1)

    assert heard.link.tell(NAME, {"knob": "something else"})
    assert heard.link.tell(NAME, {"knob": "limit_tenant", "tenant": heard.account, "per_s": 0.001})
    await heard.until(lambda: heard.node.gate.shares.caps(0.0))
    with suppress(ClientError):  # The first one may be what is allowed.
        await heard.do(s3.list_buckets)
    codes = {await heard.fail(s3.list_buckets) for _ in range(2)}
    await heard.until(lambda: heard.all("refused") >= 2)

    assert codes == {"SlowDown"}
    assert heard.users("failed") == {heard.account}
    assert heard.all("failed") == 0
    refused = sum(message["point"]["others.segment.admission"] for message in heard.messages)
    refused += sum(message["point"]["reads.segment.admission"] for message in heard.messages)
    assert refused > 0

    assert heard.link.tell(NAME, {"knob": "limit_tenant", "tenant": heard.account, "per_s": None})
    await heard.until(lambda: not heard.node.gate.shares.caps(0.0))
    await heard.do(s3.list_buckets)


async def test_a_failure_is_counted_for_those_whose_key_nobody_can_look_up(
    database_endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SUMMARY_INTERVAL_S", 0.05)
    async with heard_node(database_endpoint, tmp_path / "data", database_patience_s=0.3) as heard:
        s3, stranger = heard.client(), heard.client(keys=("SWSOMEBODY", "nobody knows it"))
        await heard.do(s3.create_bucket, Bucket="first")

        await heard.node.database.pool.resize(0)  # As if no connection could be had.
        codes = {await heard.fail(one.list_buckets) for one in (s3, stranger)}
        await heard.until(lambda: heard.all("failed") + heard.all("refused") >= 2)

        assert codes <= {"ServiceUnavailable", "SlowDown"}
        assert heard.users("failed") == {heard.account}
        assert heard.users("claimed") == {"SWSOMEBODY"}
        point = merged([message["point"] for message in heard.messages])
        assert point["others.segment.database_wait"] + point["reads.segment.database_wait"] > 0.2


async def test_a_node_that_is_told_to_drain_takes_no_more_connections(heard: Heard) -> None:
    await heard.until(lambda: heard.messages)
    assert heard.messages[-1]["ready"]

    heard.link.tell(NAME, {"knob": "drain"})
    heard.link.tell(NAME, {"knob": "drain"})
    await heard.until(lambda: heard.messages and heard.messages[-1]["reason"] == "draining")

    with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
        await asyncio.open_connection(*heard.address)
