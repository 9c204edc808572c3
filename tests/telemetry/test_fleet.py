"""The fleet's points: what nodes report, put together, remembered, and found again after a crash or a set clock."""

import asyncio
import random
import signal
import stat
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seawall.monitoring import fleet as module
from seawall.monitoring import fleet_files
from seawall.monitoring.fleet import Fleet, canonical
from seawall.telemetry.link import Link, Message, report
from seawall.telemetry.points import NAMES

START_S = 1_700_000_000.0
"""A whole minute would be 1_699_999_980."""


class Clock:
    """A clock that is moved by hand. State: both times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 5000.0
        self.ahead_s = START_S - 5000.0
        monkeypatch.setattr(module, "monotonic_s", lambda: self.now_s)
        monkeypatch.setattr(module, "wall_s", self.wall_s)

    def wall_s(self) -> float:
        return self.now_s + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def wait(event: threading.Event) -> None:
    event.wait(60)


class Told:
    """What was told. State: all of it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


def summary(requests: float = 1.0, **more: Any) -> Message:
    return {"point": {"reads.requests": requests, "reads.seconds": requests / 10}, **more}


async def settle(fleet: Fleet) -> None:
    async with asyncio.timeout(30):
        while fleet.desk.waiting:
            await asyncio.sleep(0.001)


async def pass_seconds(fleet: Fleet, clock: Clock, count: int, *, nodes: tuple[str, ...] = ("a",), **more: Any) -> None:
    for _ in range(count):
        if fleet.desk.waiting > 20:
            await settle(fleet)
        clock.now_s += 0.5
        for node in nodes:
            fleet.hear(node, summary(**more))
        clock.now_s += 0.5
        fleet.look(clock.now_s, clock.wall_s())


async def test_the_fleets_point_is_its_nodes_points_put_together(tmp_path: Path, clock: Clock) -> None:
    async with Fleet(tmp_path, tell=Told()) as fleet:
        fleet.note_keeper({"database.up": 1.0, "unknown": 3.0})
        fleet.expect(["a", "b", "c"])
        await pass_seconds(fleet, clock, 3, nodes=("a", "b"), requests=2.0)

        times = [at_s for at_s, _ in fleet.recent(100)]
        _, last = fleet.recent(100)[-1]

    assert times == [START_S, START_S + 1, START_S + 2]
    assert last == {
        "reads.requests": 4.0,
        "reads.seconds": 0.4,
        "seconds": 1.0,
        "nodes.up": 2.0,
        "nodes.expected": 3.0,
        "users.seen": 0.0,
        "users.failed": 0.0,
        "database.up": 1.0,
    }


async def test_what_the_keeper_measured_is_forgotten_when_it_is_stale(tmp_path: Path, clock: Clock) -> None:
    async with Fleet(tmp_path, tell=Told()) as fleet:
        fleet.note_keeper({"database.up": 1.0})
        await pass_seconds(fleet, clock, 10)

        assert ["database.up" in point for _, point in fleet.recent(10)] == [True] * 5 + [False] * 5


async def test_the_past_is_found_again_by_who_comes_next(tmp_path: Path, clock: Clock) -> None:
    async with Fleet(tmp_path, tell=Told()) as fleet:
        await pass_seconds(fleet, clock, 95, users={"minute": int(START_S // 60), "seen": [1, 2], "failed": [2]})
        before = fleet.recent(1000)

    async with Fleet(tmp_path, tell=Told()) as fleet:
        assert fleet.recent(1000) == before
        await pass_seconds(fleet, clock, 5)
        by_seconds = await fleet.series(START_S, START_S + 100)
        by_ten = await fleet.series(START_S - 7000, START_S + 100)
        by_minute = await fleet.series(START_S - 100_000, START_S + 200, 2000)
        few = await fleet.series(START_S, START_S + 100, 10, names={"reads.requests", "seconds"})
        node = await fleet.node_series("a", START_S, START_S + 100)

    assert [point["reads.requests"] for _, point in by_seconds] == [1.0] * 100
    assert [point["reads.requests"] for _, point in by_ten] == [10.0] * 10
    assert [point["seconds"] for _, point in by_ten] == [10.0] * 10
    assert [at_s for at_s, _ in by_ten] == [START_S + 10 * number for number in range(10)]
    # 1 700 000 000 is 20 s into its minute; the last one is as far as it has come.
    assert [(at_s - START_S, point["reads.requests"]) for at_s, point in by_minute] == [(-20, 40), (40, 60)]
    assert [point for _, point in few] == [{"reads.requests": 10.0, "seconds": 10.0}] * 10
    assert len(node) == 100
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()} == {0o600}


async def test_what_was_known_when_the_keeper_was_killed_is_put_together_with_what_comes(
    tmp_path: Path, clock: Clock
) -> None:
    killed = Fleet(tmp_path, tell=Told())
    await killed.__aenter__()
    await pass_seconds(killed, clock, 75, users={"minute": int(START_S // 60), "seen": [1, 2], "failed": []})
    await settle(killed)
    before = killed.recent(1000)
    clock.now_s += 3.0

    async with Fleet(tmp_path, tell=Told()) as fleet:
        assert fleet.recent(1000) == before
        await pass_seconds(fleet, clock, 60)
        by_minute = await fleet.series(START_S - 100_000, START_S + 200, 2000, names={"seconds"})
        users = await fleet.users_between(START_S, START_S + 200)

    assert by_minute == [(START_S - 20, {"seconds": 40}), (START_S + 40, {"seconds": 57})]
    assert users.seen.count == 2
    await killed.desk.close()


async def test_users_are_exact_over_minutes_restarts_and_nodes(tmp_path: Path, clock: Clock) -> None:
    chance = random.Random(2)
    seen: dict[int, set[int]] = {}
    failed: dict[int, set[int]] = {}
    for _ in range(2):
        async with Fleet(tmp_path, tell=Told()) as fleet:
            for _ in range(100):
                clock.now_s += 0.5
                minute = int(clock.wall_s() // 60)
                for node in ("a", "b"):
                    some = [chance.randrange(100_000) for _ in range(20)]
                    seen.setdefault(minute, set()).update(some)
                    failed.setdefault(minute, set()).update(some[:3])
                    users = {"minute": minute, "seen": some, "failed": some[:3], "claimed": [f"key {minute}"]}
                    fleet.hear(node, summary(users=users))
                clock.now_s += 0.5
                fleet.look(clock.now_s, clock.wall_s())
                await settle(fleet)
            _, point = fleet.recent(1)[0]
            assert point["users.seen"] == len(seen[minute])
            assert point["users.failed"] == len(failed[minute])
            for since_s, until_s in ((START_S, clock.wall_s()), (START_S + 61, START_S + 100)):
                found = await fleet.users_between(since_s, until_s)
                minutes = range(int(since_s // 60), int(until_s // 60) + 1)
                assert {*found.seen} == set().union(*(seen.get(minute, set()) for minute in minutes))
                assert {*found.failed} == set().union(*(failed.get(minute, set()) for minute in minutes))
                assert found.claimed == {f"key {minute}" for minute in minutes if minute in seen}


async def test_a_node_that_hangs_is_noticed_and_so_is_its_return(tmp_path: Path, clock: Clock) -> None:
    told = Told()
    async with Fleet(tmp_path, tell=told) as fleet:
        fleet.expect(["a", "b"])
        await pass_seconds(fleet, clock, 3, nodes=("a", "b"))
        await pass_seconds(fleet, clock, 4)
        assert set(fleet.silent()) == {"b"}
        await pass_seconds(fleet, clock, 3)
        assert fleet.recent(1)[0][1]["nodes.up"] == 1
        await pass_seconds(fleet, clock, 2, nodes=("a", "b"))
        assert not fleet.silent()
        assert fleet.recent(1)[0][1]["nodes.up"] == 2

    assert [(kind, fields["node"]) for kind, fields in told.events] == [("node.silent", "b"), ("node.back", "b")]
    assert told.events[0][1]["silent_s"] <= 4.5


async def test_a_node_that_is_not_expected_any_more_is_not_missed(tmp_path: Path, clock: Clock) -> None:
    told = Told()
    async with Fleet(tmp_path, tell=told) as fleet:
        fleet.expect(["a", "b"])
        await pass_seconds(fleet, clock, 3, nodes=("a", "b"))
        fleet.expect(["a"])
        await pass_seconds(fleet, clock, 100)

        assert repr(fleet) == "<Fleet 103 seconds, 0 silent nodes>"
    assert not told.events


@pytest.mark.parametrize("jump_s", [-3600.0, -7.0, 5.0, 3600.0, 86400.0 * 400])
async def test_a_clock_that_is_set_leaves_an_unbroken_past(tmp_path: Path, clock: Clock, jump_s: float) -> None:
    told = Told()
    async with Fleet(tmp_path, tell=told) as fleet:
        await pass_seconds(fleet, clock, 200)
        clock.ahead_s += jump_s
        await pass_seconds(fleet, clock, 100)
        recent = fleet.recent(300)
        series = await fleet.series(clock.wall_s() - 60, clock.wall_s())

    assert [kind for kind, _ in told.events] == ["clock.jumped"]
    assert told.events[0][1] == {"by_s": pytest.approx(jump_s)}
    assert [at_s for at_s, _ in recent] == [clock.wall_s() - 300 + number for number in range(300)]
    assert all(point["reads.requests"] == 1.0 for _, point in [*recent, *series])
    assert len(series) == 60


async def test_a_clock_that_is_drifting_is_followed_without_a_word(tmp_path: Path, clock: Clock) -> None:
    told = Told()
    async with Fleet(tmp_path, tell=told) as fleet:
        for _ in range(300):
            await pass_seconds(fleet, clock, 1)
            clock.ahead_s += 0.01
        (at_s, _), *_ = fleet.recent(1)

    assert abs(at_s + 1 - clock.wall_s()) <= 1.0
    assert not told.events


async def test_the_largest_tenants_are_summed_up_over_nodes(tmp_path: Path, clock: Clock) -> None:
    async with Fleet(tmp_path, tell=Told()) as fleet:
        # 10,000 tenants come by; one of them is everywhere.
        for second in range(50):
            clock.now_s += 0.5
            for node in range(10):
                others = [[second * 200 + node * 20 + number, 1, 0.001, 0] for number in range(1, 20)]
                fleet.hear(f"node-{node}", summary(tenants=[[77_777, 5, 0.05, 1], *others]))
            clock.now_s += 0.5
            fleet.look(clock.now_s, clock.wall_s())
        top = fleet.top_tenants()

    assert len(top) == 20
    assert (top[0].number, top[0].requests, top[0].refused) == (77_777, 500, 100)
    assert top[0].share == pytest.approx(0.5)


async def test_a_disk_that_hangs_holds_nobody_up_and_costs_no_user(tmp_path: Path, clock: Clock) -> None:
    goes_on = threading.Event()
    async with Fleet(tmp_path, tell=Told()) as fleet:
        assert fleet.desk.put(partial(wait, goes_on))
        for _ in range(fleet_files.WAITING_MAX * 3):
            minute = int(clock.wall_s() // 60)
            clock.now_s += 0.5
            fleet.hear("a", summary(users={"minute": minute, "seen": [int(clock.now_s)], "failed": []}))
            clock.now_s += 0.5
            fleet.look(clock.now_s, clock.wall_s())
        assert len(fleet.recent(1000)) == fleet_files.WAITING_MAX * 3
        assert fleet.desk.turned_away > fleet_files.WAITING_MAX
        assert fleet.desk.waiting <= fleet_files.WAITING_MAX
        with pytest.raises(TimeoutError):
            await fleet.series(START_S, START_S + 10)
        goes_on.set()
        await settle(fleet)
        await pass_seconds(fleet, clock, 1)
        users = await fleet.users_between(START_S, clock.wall_s())

    assert users.seen.count == fleet_files.WAITING_MAX * 3


async def test_a_disk_that_fails_is_counted_and_tried_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_files, "AGAIN_S", 0.0)
    (tmp_path / "fleet").write_text("not a directory")
    async with Fleet(tmp_path / "fleet", tell=Told()) as fleet:
        await pass_seconds(fleet, clock, 10)
        with pytest.raises(OSError, match="director"):
            await fleet.users_between(START_S, START_S + 10)
        assert fleet.files.failed
        assert len(fleet.recent(10)) == 10

        (tmp_path / "fleet").unlink()
        await pass_seconds(fleet, clock, 10)
        assert len(await fleet.series(START_S, START_S + 100)) == 10


async def test_rings_of_nodes_that_are_gone_are_removed(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_files, "PRUNE_S", 0.0)
    monkeypatch.setattr(fleet_files, "NODE_RINGS_MAX", 3)
    async with Fleet(tmp_path, tell=Told()) as fleet:
        for number in range(6):
            await pass_seconds(fleet, clock, 2, nodes=(f"../node {number}",))
            await fleet.series(START_S, START_S + 1)
        found = {path.name for path in (tmp_path / "nodes").iterdir()}

    assert len(found) <= 4
    assert "..%2Fnode%205.ring" in found
    assert {path.name for path in tmp_path.iterdir()} <= {
        "nodes",
        "users",
        "fleet-1s.ring",
        "fleet-10s.ring",
        "fleet-60s.ring",
    }


@pytest.mark.parametrize(
    "message",
    [
        {"point": {"reads.requests": "many"}},
        {"point": [1, 2]},
        {"users": {"seen": [1]}},
        {"users": {"minute": 1, "seen": ["one"]}},
        {"tenants": [["one"]]},
        {"tenants": [[1, 2]]},
        {"tenants": {"1": 2}},
    ],
)
async def test_a_summary_that_makes_no_sense_is_refused(tmp_path: Path, clock: Clock, message: Message) -> None:
    async with Fleet(tmp_path, tell=Told()) as fleet:
        with pytest.raises(ValueError, match="makes no sense"):
            fleet.hear("a", message)
        await pass_seconds(fleet, clock, 1)


def test_a_canonical_point_holds_numbers_of_known_columns_only() -> None:
    found = canonical({"unknown": 1.0, "loop.lag_s": float("nan"), "reads.requests": 2, "reads.failed": 0})

    assert found == {"reads.requests": 2.0, "reads.failed": 0.0}
    assert all(any(name is known for known in NAMES) for name in found)


async def test_the_keeper_hears_its_nodes_and_tells_of_each_second(tmp_path: Path) -> None:
    async def answer(message: Message) -> Message:
        return message

    async with Fleet(tmp_path / "fleet", tell=Told()) as fleet:
        running = asyncio.create_task(fleet.run())
        async with Link(tmp_path / "run" / "keeper.sock", answer, hear=fleet.hear) as link:
            nodes = [
                asyncio.create_task(report(link.path, f"node-{number}", lambda: summary(ready=True)))
                for number in (1, 2)
            ]
            async with asyncio.timeout(30):
                while not fleet.recent(1) or fleet.recent(1)[0][1].get("nodes.up") != 2:
                    await fleet.another_second()

            assert link.summaries()["node-1"] == {"node": "node-1", "ready": True}
            for task in (*nodes, running):
                task.cancel()
            await asyncio.gather(*nodes, running, return_exceptions=True)


async def test_a_process_that_is_stopped_without_dying_is_noticed_within_five_seconds(tmp_path: Path) -> None:
    program = """if True:
        import asyncio, pathlib, sys
        from seawall.telemetry.link import report
        asyncio.run(report(pathlib.Path(sys.argv[1]), "node-1", lambda: {"point": {"reads.requests": 1}}))
    """

    async def answer(message: Message) -> Message:
        return message

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    told = Told()
    async with (
        Fleet(tmp_path / "fleet", tell=told) as fleet,
        Link(tmp_path / "run" / "keeper.sock", answer, hear=fleet.hear) as link,
    ):
        fleet.expect(["node-1"])
        running = asyncio.create_task(fleet.run())
        node = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(link.path))
        try:
            await until(link.summaries)
            node.send_signal(signal.SIGSTOP)
            await until(fleet.silent)
            node.send_signal(signal.SIGCONT)
            await until(lambda: not fleet.silent())
        finally:
            node.kill()
            await node.wait()
            running.cancel()
            await asyncio.wait([running])

    assert [kind for kind, _ in told.events] == ["node.silent", "node.back"]
    assert told.events[0][1]["silent_s"] <= 5
