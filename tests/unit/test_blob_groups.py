import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from seawall.blobs.groups import GroupCommit, GroupLimits
from seawall.errors import Overloaded

LIMITS = GroupLimits(queue_max=100, queue_max_bytes=1000, group_max=10, group_max_bytes=100)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def doubling(seen: list[list[int]]) -> Callable[[Sequence[int]], Sequence[int]]:
    def commit(items: Sequence[int]) -> Sequence[int]:
        seen.append(list(items))
        if 13 in items:
            raise RuntimeError("thirteen")
        return [2 * item for item in items]

    return commit


async def test_each_caller_gets_the_answer_to_its_own_item(executor: ThreadPoolExecutor) -> None:
    group = GroupCommit(doubling([]), executor=executor, limits=LIMITS)

    assert await asyncio.gather(*(group.join(n) for n in range(9))) == [2 * n for n in range(9)]


async def test_groups_stay_within_their_limits_and_in_order(executor: ThreadPoolExecutor) -> None:
    seen: list[list[int]] = []
    group = GroupCommit(doubling(seen), executor=executor, limits=LIMITS)

    await asyncio.gather(*(group.join(n, size_bytes=30) for n in range(7)), *(group.join(n) for n in range(20, 40)))

    assert [item for items in seen for item in items] == [*range(7), *range(20, 40)]
    assert [len(items) for items in seen] == [3, 3, 10, 10, 1]
    assert group.groups == 5


async def test_a_failure_is_told_to_its_own_group_only(executor: ThreadPoolExecutor) -> None:
    group = GroupCommit(doubling([]), executor=executor, limits=LIMITS)

    answers = await asyncio.gather(*(group.join(n) for n in range(25)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [int] * 10 + [RuntimeError] * 10 + [int] * 5


async def test_a_full_queue_refuses_and_drains(executor: ThreadPoolExecutor) -> None:
    group = GroupCommit(doubling([]), executor=executor, limits=LIMITS)

    answers = await asyncio.gather(*(group.join(0) for _ in range(120)), return_exceptions=True)

    assert sum(isinstance(answer, Overloaded) for answer in answers) == 20
    assert await group.join(1) == 2


async def test_a_caller_cancelled_in_the_queue_is_left_out(executor: ThreadPoolExecutor) -> None:
    seen: list[list[int]] = []
    group = GroupCommit(doubling(seen), executor=executor, limits=LIMITS)
    tasks = [asyncio.create_task(group.join(n)) for n in range(3)]
    await asyncio.sleep(0)

    tasks[1].cancel()
    await asyncio.wait(tasks)

    assert seen == [[0, 2]]


async def test_idle_returns_when_nothing_waits_or_runs(executor: ThreadPoolExecutor) -> None:
    group = GroupCommit(doubling([]), executor=executor, limits=LIMITS)
    task = asyncio.create_task(group.join(1))
    await asyncio.sleep(0)

    await group.idle()

    assert task.done() or await task == 2
    assert "queued=0" in repr(group)
