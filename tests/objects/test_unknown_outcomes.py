"""When the catalogue is lost before it answers, the version's own number says whether the write was done."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.objects.kit import Node

from seawall.access import Caller
from seawall.database import Database
from seawall.errors import DeadlineExceeded, NoSuchKey, OutcomeUnknown
from seawall.objects.things import Condition

WHEN = ["before", "after"]


def lose(monkeypatch: pytest.MonkeyPatch, database: Database, method: str, query: str, when: str) -> None:
    """Lose the connection once, before or after the statement took effect."""
    real = getattr(database, method)
    lost: list[str] = []

    async def losing(asked: Any, *arguments: Any, **options: Any) -> Any:
        if not asked.name.endswith(query) or lost:
            return await real(asked, *arguments, **options)
        lost.append(asked.name)
        if when == "after":
            await real(asked, *arguments, **options)
        raise OutcomeUnknown

    monkeypatch.setattr(database, method, losing)


@pytest.mark.parametrize("when", WHEN)
async def test_a_put_whose_outcome_is_unknown_is_looked_up(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lose(monkeypatch, node.database, "write", ".put_object", when)

    if when == "before":
        with pytest.raises(OutcomeUnknown):
            await node.put(alice, bucket, "a", b"new")
        with pytest.raises(NoSuchKey):
            await node.get(alice, bucket, "a")
    else:
        await node.put(alice, bucket, "a", b"new")
        assert await node.get(alice, bucket, "a") == b"new"


@pytest.mark.parametrize("when", WHEN)
async def test_a_conditional_put_whose_outcome_is_unknown_is_looked_up(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lose(monkeypatch, node.database, "fetch_one", ".put_object_if_absent", when)

    if when == "before":
        with pytest.raises(OutcomeUnknown):
            await node.put(alice, bucket, "a", b"new", condition=Condition(absent=True))
    else:
        await node.put(alice, bucket, "a", b"new", condition=Condition(absent=True))
        assert await node.get(alice, bucket, "a") == b"new"


async def test_a_put_that_was_overwritten_meanwhile_stays_unknown(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.put(alice, bucket, "a", b"another's")
    lose(monkeypatch, node.database, "write", ".put_object", "before")

    with pytest.raises(OutcomeUnknown):
        await node.put(alice, bucket, "a", b"new")

    assert await node.get(alice, bucket, "a") == b"another's"


@pytest.mark.parametrize("when", WHEN)
async def test_a_delete_whose_outcome_is_unknown_is_looked_up_and_never_done_twice(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    await node.put(alice, bucket, "a", b"old")
    lose(monkeypatch, node.database, "write", ".delete_object", when)

    if when == "before":
        with pytest.raises(OutcomeUnknown):
            await node.store.delete(alice, bucket, ["a"])
        assert await node.get(alice, bucket, "a") == b"old"
    else:
        await node.store.delete(alice, bucket, ["a"])
        with pytest.raises(NoSuchKey):
            await node.get(alice, bucket, "a")


@pytest.mark.parametrize("when", WHEN)
async def test_a_completion_whose_outcome_is_unknown_is_looked_up(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    upload = await node.begin(alice, bucket, "a")
    part = await node.put_part(upload, 1, b"x" * 200)
    real = node.uploads._complete
    lost: list[bool] = []

    async def losing(*arguments: Any, **options: Any) -> Any:
        if lost:
            return await real(*arguments, **options)
        lost.append(True)
        if when == "after":
            await real(*arguments, **options)
        raise OutcomeUnknown

    monkeypatch.setattr(node.uploads, "_complete", losing)

    if when == "before":
        with pytest.raises(OutcomeUnknown):
            await node.uploads.complete(upload, [part])
        await node.uploads.complete(upload, [part])
    else:
        assert (await node.uploads.complete(upload, [part])).size_bytes == 200
    assert await node.get(alice, bucket, "a") == b"x" * 200


@pytest.mark.parametrize("verb", ["put", "delete", "complete"])
async def test_an_outcome_that_cannot_be_looked_up_stays_unknown(
    node: Node, alice: Caller, bucket: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    upload = await node.begin(alice, bucket, "a")
    part = await node.put_part(upload, 1, b"x" * 200)

    async def lost(*_: Any, **__: Any) -> Any:
        raise OutcomeUnknown

    async def too_late(*_: Any, **__: Any) -> Any:
        raise DeadlineExceeded

    monkeypatch.setattr(node.database, "write", lost)
    monkeypatch.setattr(node.uploads, "_complete", lost)
    monkeypatch.setattr(node.database, "fetch_one", too_late)

    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: node.put(alice, bucket, "a", b"new"),
        "delete": lambda: node.store.delete(alice, bucket, ["a"]),
        "complete": lambda: node.uploads.complete(upload, [part]),
    }
    with pytest.raises(OutcomeUnknown):
        await verbs[verb]()
