"""What tests of the blob store need: a store on a real disk, and eyes on what it asks of the system."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.blobs.kit import SystemCalls, open_under

from seawall.blobs import BlobSettings, DiskBlobStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The place for one store; not made yet."""
    return tmp_path / "blobs"


@pytest_asyncio.fixture
async def store(root: Path) -> AsyncIterator[DiskBlobStore]:
    """A store with nothing in it, whatever room the disk has."""
    async with DiskBlobStore(BlobSettings(root=root, reserve_bytes=0)) as store:
        yield store


@pytest.fixture
def calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> SystemCalls:
    """Everything the store asks of the disk from here on."""
    calls = SystemCalls(root)

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: object, *args: Any, **kwargs: Any) -> Any:
            calls.note(name, target)
            return real(target, *args, **kwargs)

        return call

    for name in ("pwritev", "fdatasync", "fsync", "rename", "link", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    return calls


@pytest.fixture
def leaves_nothing_open(root: Path) -> Iterator[Callable[[], list[str]]]:
    """Fails a test after which a descriptor under the root is open; called, it lists those open now."""

    yield partial(open_under, root)
    assert open_under(root) == []
