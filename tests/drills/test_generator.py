"""The load generator against the real service, and against servers that misbehave in a known way."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.drills.conftest import CONNECTIONS_MAX

from seawall.drills.client import Caller, Signer, Target, body_of, object_key
from seawall.drills.generator import GeneratorFailed, Order, Progress, generate, verify_ledger
from seawall.drills.instance import Stage, measure_capacity, prove_generator
from seawall.drills.load import GIVE_UP, POLITE, USUAL_MIX, Crowd, Kind, Load, Phase, Retry, Sort, instant
from seawall.drills.outcomes import LATE_MAX_MS

READS = (Sort(kind=Kind.GET),)


def a_load(
    *,
    rate_per_s: float = 100.0,
    seconds: float = 2.0,
    mix: tuple[Sort, ...] = READS,
    think_s: float = 0.5,
    retry: Retry = GIVE_UP,
    deadline_s: float = 5.0,
    user_connections: int = 6,
) -> Load:
    crowd = Crowd(
        name="all",
        phases=(Phase(rate_per_s=rate_per_s, seconds=seconds),),
        mix=mix,
        think_s=think_s,
        retry=retry,
        deadline_s=deadline_s,
        user_connections=user_connections,
    )
    return Load(crowds=(crowd,))


@contextmanager
def held_still(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def generator_pid() -> int:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (found,) = [
        int(pid) for pid in children if b"seawall.drills.generator" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


@asynccontextmanager
async def server_that_says(answer: bytes, times: Counter[str]) -> AsyncIterator[Target]:
    """Answers every request in the same way, and counts them by their first line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                times[head.split(b"\r\n")[0].decode()] += 1
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield Target(host=host, port=port, bucket="anything")
    finally:
        server.close()
        await server.wait_closed()


def an_order(target: Target, load: Load) -> Order:
    keys = tuple((f"SWNOBODY{number:04d}", "a-secret-of-nobody") for number in range(load.users))
    return Order(target=target, users=keys, objects=10, object_bytes=1, tag="test", load=load)


async def test_signed_requests_of_every_kind_are_served_and_what_was_stored_is_there(
    stage: Stage, tmp_path: Path
) -> None:
    mix = (*USUAL_MIX, Sort(kind=Kind.BUCKETS, share=5), Sort(kind=Kind.GET, share=10, background=True))
    seconds: list[Progress] = []
    ledger = tmp_path / "ledger"

    order = stage.order(a_load(rate_per_s=150, mix=mix), ledger=ledger)
    summary = await generate(order, hear=seconds.append)
    verdict = await verify_ledger(ledger, order.target, stage.instance.root_keys)

    whole = summary.everybody.whole
    assert summary.answers == {"200": whole.due}
    assert whole.served == whole.due == pytest.approx(300, abs=90)
    assert set(summary.by_class) == {"interactive", "normal", "background"}
    assert all(each.whole.served > 0 for each in summary.by_class.values())
    assert whole.users > 60
    assert whole.users_affected == 0
    assert sum(second.served for second in seconds) == pytest.approx(whole.served, abs=5)
    assert verdict.held
    assert verdict.acknowledged == summary.by_class["normal"].whole.served > 0


async def test_a_service_that_stands_still_makes_all_wait_who_were_due_meanwhile(stage: Stage) -> None:
    still_s = 1.0
    running = asyncio.create_task(generate(stage.order(a_load(rate_per_s=100, seconds=3.0))))
    await asyncio.sleep(2.0)
    with held_still(stage.instance.node_pids()):
        await asyncio.sleep(still_s)
    summary = await running

    whole = summary.everybody.whole
    # A third of all were due while it stood still: had each waited for the one before, it would have been one.
    assert whole.served == whole.due
    assert whole.p50_ms is not None
    assert whole.p95_ms is not None
    assert whole.p50_ms < 200
    assert 500 < whole.p95_ms < 1500 * still_s
    assert summary.effort.bottleneck is None


async def test_a_generator_that_stands_still_says_so(stage: Stage) -> None:
    def hear(progress: Progress) -> None:
        if progress.second == 0:
            with held_still([generator_pid()]):
                time.sleep(0.5)

    summary = await generate(stage.order(a_load(rate_per_s=100, seconds=3.0)), hear=hear)

    assert summary.effort.late_p99_ms > LATE_MAX_MS
    assert "the generator was" in str(summary.effort.bottleneck)
    # Its own lateness is on the account of those who waited for it.
    assert summary.everybody.whole.p99_ms is not None
    assert summary.everybody.whole.p99_ms > 300


async def test_users_go_at_their_deadline_and_come_back_by_another_connection(stage: Stage) -> None:
    load = a_load(rate_per_s=50, seconds=4.0, deadline_s=0.3, user_connections=1)
    running = asyncio.create_task(generate(stage.order(load)))
    await asyncio.sleep(2.0)
    with held_still(stage.instance.node_pids()):
        await asyncio.sleep(1.0)
    summary = await running

    whole = summary.everybody.whole
    assert whole.timed_out > 20
    assert summary.answers["timed out"] == whole.timed_out
    assert whole.users_affected > 10
    assert whole.served > 100
    assert sum(summary.everybody.series.served[-1:]) > 0


async def test_refusals_of_the_service_are_counted(stage: Stage) -> None:
    load = a_load(rate_per_s=400, seconds=2.0, think_s=1.0)
    assert load.users > CONNECTIONS_MAX

    summary = await generate(stage.order(load))

    whole = summary.everybody.whole
    assert whole.refused > 0
    assert whole.served > 0
    assert whole.due == whole.served + whole.refused + whole.failed
    assert summary.everybody.refusals == whole.refused
    assert summary.effort.connections_most >= CONNECTIONS_MAX


@pytest.mark.parametrize(("retry", "attempts"), [(GIVE_UP, 1), (instant(2), 3), (POLITE, 4)])
async def test_the_refused_ask_again_as_is_their_manner(retry: Retry, attempts: int) -> None:
    said = b"<Error><Code>SlowDown</Code></Error>"
    busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\nRetry-After: 0.2\r\n\r\n%b" % (len(said), said)
    times: Counter[str] = Counter()
    async with server_that_says(busy, times) as target:
        summary = await generate(an_order(target, a_load(rate_per_s=20, seconds=0.5, retry=retry)))

    whole = summary.everybody.whole
    assert whole.due == whole.refused > 0
    assert whole.attempts == attempts * whole.due == times.total() == summary.everybody.refusals
    assert summary.answers == {"503 SlowDown": times.total()}


async def test_who_is_denied_does_not_ask_again() -> None:
    times: Counter[str] = Counter()
    async with server_that_says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", times) as target:
        summary = await generate(an_order(target, a_load(rate_per_s=20, seconds=0.5, retry=instant(5))))

    assert summary.everybody.whole.failed == times.total() > 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx", "200 of the wrong length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxx", "more than announced"),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "not an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not an answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "a head without an end"),
    ],
)
async def test_nothing_but_the_right_answer_counts_as_one(answer: bytes, reason: str) -> None:
    async with server_that_says(answer, Counter()) as target:
        summary = await generate(an_order(target, a_load(rate_per_s=20, seconds=0.5)))

    assert summary.answers == {reason: summary.everybody.whole.failed}
    assert summary.everybody.whole.failed == summary.everybody.whole.due > 0


async def test_who_finds_nobody_failed() -> None:
    summary = await generate(an_order(Target(host="127.0.0.1", port=1), a_load(rate_per_s=20, seconds=0.5)))

    assert summary.answers == {"ConnectionRefusedError": summary.everybody.whole.failed}


async def test_a_write_that_was_lost_or_changed_is_found(stage: Stage, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    order = stage.order(a_load(rate_per_s=20, seconds=1.0, mix=(Sort(kind=Kind.PUT, size_bytes=100),)), ledger=ledger)
    await generate(order)
    key, size, etag = ledger.read_text().splitlines()[0].split()
    async with Caller(order.target, Signer(*stage.instance.root_keys)) as root:
        changed = await root.ask("PUT", order.target.path(key), body=b"something else")
    with ledger.open("a") as file:
        file.write(f"put/nobody/00000001 {size} {etag}\n")

    verdict = await verify_ledger(ledger, order.target, stage.instance.root_keys)

    assert changed.status == 200
    assert not verdict.held
    assert (verdict.wrong, verdict.lost, verdict.unreadable) == (1, 1, 0)
    assert verdict.intact == verdict.acknowledged - 2
    assert set(verdict.remarks) == {f"{key} is wrong", "put/nobody/00000001 is lost"}


async def test_a_generator_that_fails_says_why(stage: Stage, tmp_path: Path) -> None:
    order = stage.order(a_load(), ledger=tmp_path / "no such directory" / "ledger")

    with pytest.raises(GeneratorFailed, match="no such directory"):
        await generate(order)


def test_an_order_needs_a_key_for_every_user_and_one_thing_to_do(stage: Stage) -> None:
    order = stage.order(a_load())

    with pytest.raises(ValueError, match="users"):
        replace(order, users=order.users[:1])
    with pytest.raises(ValueError, match="busyness"):
        replace(order, load=None)


async def test_a_load_that_is_called_off_leaves_no_process(stage: Stage) -> None:
    running = asyncio.create_task(generate(stage.order(a_load(seconds=30.0))))
    await asyncio.sleep(1.0)
    pid = generator_pid()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not Path(f"/proc/{pid}").exists()


async def test_capacity_and_what_the_generator_can_offer_are_measured(stage: Stage) -> None:
    pace = await measure_capacity(stage, workers=4, seconds=1.0)
    proof = await prove_generator(stage, rate_per_s=200, seconds=1.0, users=50)

    assert pace.per_s > 50
    assert pace.p99_ms is not None
    assert proof.offered_per_s == pytest.approx(200, abs=70)
    assert proof.summary.answers == {"200": proof.summary.everybody.whole.due}


def test_no_two_keys_have_the_same_bytes() -> None:
    bodies = {body_of(object_key(number), size) for number in range(100) for size in (100, 5000)}

    assert len(bodies) == 200
    assert {len(body) for body in bodies} == {100, 5000}
    assert len(body_of("large", 3 << 20)) == 3 << 20


async def test_a_load_ends_when_it_is_enough(stage: Stage) -> None:
    enough = asyncio.Event()
    began_s = time.monotonic()

    def hear(progress: Progress) -> None:
        if progress.second >= 1:
            enough.set()

    summary = await generate(stage.order(a_load(seconds=60.0)), hear=hear, enough=enough)

    assert 2 <= len(summary.reads) <= 5
    assert summary.everybody.whole.due == sum(second.asked for second in summary.reads) > 50
    assert time.monotonic() - began_s < 20
    assert began_s < summary.began_s < time.monotonic()
