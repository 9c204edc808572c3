"""What tests of several database servers share: clusters, made once for a module and healed after each test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from tests.database.cluster import Cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streaming_cluster(open_directory: Callable[[], Path]) -> AsyncIterator[Cluster]:
    """A primary and two replicas that follow as fast as they can; commits wait for neither."""
    async with Cluster(open_directory()) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def waiting_cluster(open_directory: Callable[[], Path]) -> AsyncIterator[Cluster]:
    """A primary and two replicas; a commit is acknowledged once both have it on disk."""
    async with Cluster(open_directory(), synchronous=True) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def cluster(streaming_cluster: Cluster) -> AsyncIterator[Cluster]:
    """The streaming cluster, for replicas to be hurt. Its primary is not to be killed: others need it."""
    yield streaming_cluster
    await streaming_cluster.heal()


@pytest_asyncio.fixture
async def synchronous_cluster(waiting_cluster: Cluster) -> AsyncIterator[Cluster]:
    """The cluster whose commits wait, for replicas to be hurt. Its primary is not to be killed: others need it."""
    yield waiting_cluster
    await waiting_cluster.heal()
