"""What tests of objects need: nodes on a real disk and a real catalogue, and people who use them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.objects.kit import INLINE_MAX, PART_MIN, SEGMENT_MAX, Node

from seawall.access import AccountBook, Caller, Credentials, NewAccount
from seawall.blobs import BlobSettings, DiskBlobStore
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.objects import ObjectStore, Uploads, uploads
from seawall.objects.store import ObjectSettings


@asynccontextmanager
async def running_node(endpoint: Endpoint, root: Path) -> AsyncIterator[Node]:
    """A node whose tiers are small, so that tests are fast."""
    settings = BlobSettings(
        root=root, segment_blob_max_bytes=SEGMENT_MAX, segment_size_bytes=4 * SEGMENT_MAX, reserve_bytes=0
    )
    async with (
        Database(endpoint, DatabaseSettings(), application_name="tests of objects") as database,
        DiskBlobStore(settings) as blobs,
    ):
        store = ObjectStore(database, blobs, ObjectSettings(inline_max_bytes=INLINE_MAX))
        yield Node(database=database, blobs=blobs, store=store, uploads=Uploads(store))


@pytest_asyncio.fixture
async def nodes(
    database_endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of one service."""
    monkeypatch.setattr(uploads, "PART_MIN_BYTES", PART_MIN)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_node(database_endpoint, tmp_path / "blobs"))
        second = await stack.enter_async_context(running_node(database_endpoint, tmp_path / "blobs"))
        yield first, second


@pytest_asyncio.fixture
async def node(nodes: tuple[Node, Node]) -> Node:
    """One of the nodes."""
    return nodes[0]


async def _caller(node: Node, name: str) -> Caller:
    pair = await AccountBook(node.database).add(NewAccount(name=name))
    credential = await Credentials(node.database).find(pair.access_key)
    assert credential is not None
    return credential.caller


@pytest_asyncio.fixture
async def alice(node: Node) -> Caller:
    """Somebody with an account."""
    return await _caller(node, "alice")


@pytest_asyncio.fixture
async def bob(node: Node) -> Caller:
    """Somebody else."""
    return await _caller(node, "bob")


@pytest_asyncio.fixture
async def bucket(node: Node, alice: Caller) -> str:
    """A bucket of alice's."""
    return (await node.store.buckets.add(alice, "hers", region="")).name
