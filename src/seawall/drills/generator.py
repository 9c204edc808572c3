"""Make users come: the load generator, in a process and on a core of its own.

    python -m seawall.drills.generator < ORDER.json

The order is one JSON document on standard input. On standard output there is a line of JSON for each second, and the
result as the last one. `generate` and `keep_busy` start such a process, and are what drills call.

It is written for speed, with callbacks instead of tasks: what it costs is what cannot be offered. Everything is
bounded: users are made when they first come, a request is forgotten but for 50 bytes when it is over, and what was
acknowledged goes to a file. When more wait than it can remember, it drops requests and says so.
"""

import asyncio
import gc
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

import uvloop
from pydantic import TypeAdapter

from seawall.clock import monotonic_s
from seawall.drills.client import (
    Answer,
    Caller,
    Link,
    Links,
    Signer,
    Target,
    body_of,
    method_and_query,
    object_key,
)
from seawall.drills.load import Arrival, Kind, Load
from seawall.drills.outcomes import (
    Finished,
    Outcome,
    Records,
    Summary,
    Tally,
    is_worth_another,
    outcome_of,
    percentile,
    summarize,
)
from seawall.service import raise_descriptor_limit

WAITING_MAX: Final = 50_000
"""How many requests may be under way or resting between attempts, at some 1 KiB each."""

TICK_S: Final = 0.01
"""How exact deadlines are."""

BEGUN_AT_ONCE: Final = 64
"""After so many requests, answers are looked at first: who is late must not also be deaf."""

DRAIN_EXTRA_S: Final = 10.0
"""How much longer than users would wait by themselves the last are waited for: Retry-After is the service's to say."""

WARM_UP_S: Final = 0.5
REST_S: Final = 0.01
"""How long a worker that was refused waits, where all that counts is that they are few and never idle."""

CHILD_PATIENCE_S: Final = 60.0
LINE_MAX_BYTES: Final = 256 << 20
VERIFY_PATIENCE_S: Final = 60.0
VERIFY_ATTEMPT_S: Final = 10.0
VERIFY_PAUSE_S: Final = 0.5
REMARKS_MAX: Final = 20

ENOUGH: Final = signal.SIGTERM
"""Tells a generator to let nobody come any more."""


# What is asked for, and what is answered.


@dataclass(frozen=True, slots=True, kw_only=True)
class Busyness:
    """So many workers, each asking for one thing after the other, for so long (closed loop)."""

    kind: Kind
    workers: int
    seconds: float
    size_bytes: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a generator is to do: put a load on the service, or keep it busy.

    `users` are access keys and their secrets. `objects` were stored before under `object_key`, of `object_bytes` each.
    `tag` is part of the keys of what is stored, so that two runs store different things. `ledger` is where every
    acknowledged PUT is noted. `core` is the one to run on.
    """

    target: Target
    users: tuple[tuple[str, str], ...]
    objects: int
    object_bytes: int
    tag: str
    load: Load | None = None
    busyness: Busyness | None = None
    ledger: Path | None = None
    core: int | None = None

    def __post_init__(self) -> None:
        if (self.load is None) == (self.busyness is None):
            raise ValueError("an order is for a load or for busyness")
        needed = self.load.users if self.load is not None else 1
        if len(self.users) < needed:
            raise ValueError(f"the load brings {needed:,} users, and only {len(self.users):,} have keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One second of a load. `waiting` are requests under way; `late_ms` is how late the latest was begun."""

    second: int
    due: int
    attempts: int
    served: int
    refused: int
    failed: int
    timed_out: int
    waiting: int
    connections: int
    late_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a service served to those who kept it busy; percentiles are None where it served nobody."""

    per_s: float
    served: int
    refused: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of acknowledged PUTs. `remarks` name the first that were lost, wrong, or could not be read."""

    acknowledged: int
    intact: int
    lost: int
    wrong: int
    unreadable: int
    remarks: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether every acknowledged write is there, as it was written."""
        return self.intact == self.acknowledged


class GeneratorFailed(RuntimeError):
    """The load generator ended before its work was done."""


ORDER: Final = TypeAdapter(Order)
PROGRESS: Final = TypeAdapter(Progress)
SUMMARY: Final = TypeAdapter(Summary)
PACE: Final = TypeAdapter(Pace)


# For drills.


async def generate(
    order: Order, *, hear: Callable[[Progress], None] = lambda _: None, enough: asyncio.Event | None = None
) -> Summary:
    """Put a load on the service by a process of its own; `hear` is told of each second.

    Once `enough` is set nobody comes any more, and those who are there are waited for.

    Raises:
        GeneratorFailed: it did not do so. The message holds its last words.
    """
    assert order.load is not None
    seconds = order.load.end_s + order.load.last_words_s + DRAIN_EXTRA_S
    return SUMMARY.validate_json(await _in_own_process(order, seconds=seconds, hear=hear, enough=enough))


async def keep_busy(order: Order) -> Pace:
    """Keep the service busy by a process of its own; errors as `generate`."""
    assert order.busyness is not None
    return PACE.validate_json(await _in_own_process(order, seconds=order.busyness.seconds, hear=lambda _: None))


async def verify_ledger(
    ledger: Path, target: Target, keys: tuple[str, str], *, workers: int = 8, patience_s: float = VERIFY_PATIENCE_S
) -> Verdict:
    """Read everything that was acknowledged, and compare it with what was sent.

    What could not be read `patience_s` after this began is unreadable, which is not lost.
    """
    deadline_s = monotonic_s() + patience_s
    counts = dict.fromkeys(("intact", "lost", "wrong", "unreadable"), 0)
    remarks: list[str] = []

    async def work(lines: Iterator[str]) -> None:
        async with Caller(target, Signer(*keys)) as caller:
            for line in lines:
                key, size, etag = line.split()
                found = await _look_up(caller, key, size_bytes=int(size), etag=etag, deadline_s=deadline_s)
                counts[found] += 1
                if found != "intact" and len(remarks) < REMARKS_MAX:
                    remarks.append(f"{key} is {found}")

    with ledger.open() as file:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work(file))
    return Verdict(acknowledged=sum(counts.values()), remarks=tuple(remarks), **counts)


async def _look_up(caller: Caller, key: str, *, size_bytes: int, etag: str, deadline_s: float) -> str:
    """Return what became of one acknowledged PUT."""
    while (left_s := deadline_s - monotonic_s()) > 0:
        answer = await caller.ask("GET", caller.target.path(key), timeout_s=min(VERIFY_ATTEMPT_S, left_s))
        if answer.status == 200:
            right = answer.body == body_of(key, size_bytes) and answer.etag == etag
            return "intact" if right and _md5(answer.body) == etag else "wrong"
        if answer.status == 404:
            return "lost"
        await asyncio.sleep(VERIFY_PAUSE_S)
    return "unreadable"


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


async def _in_own_process(
    order: Order, *, seconds: float, hear: Callable[[Progress], None], enough: asyncio.Event | None = None
) -> bytes:
    """Run a generator; return its last line."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seawall.drills.generator"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=LINE_MAX_BYTES,
        # Ctrl-C is for whoever runs the drill, who then ends us.
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    result = b""
    complaint = asyncio.create_task(child.stderr.read())
    stopping = asyncio.create_task(_stop_when(enough, child)) if enough is not None else None
    try:
        async with asyncio.timeout(seconds + CHILD_PATIENCE_S):
            child.stdin.write(ORDER.dump_json(order) + b"\n")
            child.stdin.close()
            async for line in child.stdout:
                if line.startswith(b'{"second":'):
                    hear(PROGRESS.validate_json(line))
                else:
                    result = line
            code = await child.wait()
    except TimeoutError as error:
        raise GeneratorFailed(f"the load generator was not done {CHILD_PATIENCE_S:g} s after its time") from error
    finally:
        if stopping is not None:
            stopping.cancel()
        if child.returncode is None:
            child.kill()
            await child.wait()
        said = (await complaint).decode(errors="replace").strip()
    if code != 0 or not result:
        raise GeneratorFailed(f"the load generator failed (exit code {code}): {said[-2000:] or 'it said nothing'}")
    return result


async def _stop_when(enough: asyncio.Event, child: asyncio.subprocess.Process) -> None:
    await enough.wait()
    with suppress(ProcessLookupError):
        child.send_signal(ENOUGH)


# The process.


class _User:
    """One user. State: their idle links, how many others they have, and what waits for one of those."""

    __slots__ = ("busy", "idle", "number", "signer", "source", "waiting")

    def __init__(self, number: int, signer: Signer, source: str | None) -> None:
        self.number = number
        self.signer = signer
        self.source = source
        self.idle: list[Link] = []
        self.busy = 0
        self.waiting: deque[tuple[_Request, int]] = deque()


class _Request:
    """One request. State: how far it is. `live` is the number of the attempt under way, 0 between attempts."""

    __slots__ = ("arrival", "asked_s", "attempts", "begun_s", "key", "link", "live", "opening", "user")

    def __init__(self, arrival: Arrival, user: _User, key: str, begun_s: float) -> None:
        self.arrival = arrival
        self.user = user
        self.key = key
        self.begun_s = begun_s
        self.asked_s = arrival.due_s
        self.attempts = 0
        self.live = 0
        self.link: Link | None = None
        self.opening: asyncio.Task[Link] | None = None


class _Crowds:
    """Makes the users of a load come. State: who is there, what became of the others, and what they were told."""

    def __init__(self, order: Order, load: Load, *, say: Callable[[object], None], ledger: IO[str] | None) -> None:
        self._order = order
        self._target = order.target
        self._load = load
        self._say = say
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._noise = random.Random(load.seed)  # noqa: S311 - not a secret
        self._arrivals = load.arrivals()
        self._next = next(self._arrivals, None)
        self._users: dict[int, _User] = {}
        self._here: set[_Request] = set()
        self._deadlines: list[deque[tuple[float, _Request, int]]] = [deque() for _ in load.crowds]
        self._opening: set[asyncio.Task[Link]] = set()
        self._records = Records()
        self._tally = Tally()
        self._series = [[self._tally.of(at, sort) for sort in range(len(c.mix))] for at, c in enumerate(load.crowds)]
        self._links = Links()
        self._stored = 0
        self._dropped = 0
        self._late_s = 0.0
        self._is_over = False
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._began_s = 0.0

    async def come(self) -> Summary:
        """Let them come, and wait for the last."""
        self._loop.add_signal_handler(ENOUGH, self._let_nobody_come)
        spent_s, self._began_s = _cpu_s(), monotonic_s()
        busy_share = 0.0
        parent = os.getppid()
        self._step()
        second = 0
        give_up_s = self._load.end_s + self._load.last_words_s + DRAIN_EXTRA_S
        while not self._done.done():
            await asyncio.sleep(TICK_S)
            now_s = self._now_s()
            self._expire(now_s)
            if now_s <= self._load.end_s:
                busy_share = (_cpu_s() - spent_s) / now_s
            if now_s >= second + 1:
                self._report(second)
                second += 1
                if os.getppid() != parent:
                    raise GeneratorFailed("whoever ordered the load is gone")
            if now_s >= give_up_s:
                break
        if self._done.done():
            self._done.result()
        self._is_over = True
        for request in [*self._here]:
            self._let_go(request)
            self._finish(request, Outcome.TIMED_OUT)
        if self._opening:
            await asyncio.wait(self._opening, timeout=1.0)
        for user in self._users.values():
            for link in user.idle:
                link.give_up()
        self._report(second)
        return summarize(
            self._load,
            self._records,
            self._tally,
            began_s=self._began_s,
            dropped=self._dropped,
            busy_share=busy_share,
            connections_most=self._links.most,
        )

    def _now_s(self) -> float:
        return monotonic_s() - self._began_s

    # A request comes, is tried, and ends.

    def _step(self) -> None:
        """Let those come who are due."""
        now_s = self._now_s()
        for _ in range(BEGUN_AT_ONCE):
            arrival = self._next
            if arrival is None:
                self._end_if_all_went()
                return
            if arrival.due_s > now_s:
                self._loop.call_later(arrival.due_s - now_s, self._step)
                return
            self._begin(arrival, now_s)
            self._next = next(self._arrivals, None)
        self._loop.call_soon(self._step)

    def _begin(self, arrival: Arrival, now_s: float) -> None:
        series = self._series[arrival.crowd][arrival.sort]
        series.count(series.due, arrival.due_s)
        if len(self._here) >= WAITING_MAX:
            self._dropped += 1
            return
        self._late_s = max(self._late_s, now_s - arrival.due_s)
        user = self._users.get(arrival.user)
        if user is None:
            signer = Signer(*self._order.users[arrival.user])
            user = self._users[arrival.user] = _User(arrival.user, signer, self._target.source_of(arrival.user))
        request = _Request(arrival, user, self._key(arrival), now_s)
        self._here.add(request)
        self._attempt(request, arrival.due_s)

    def _key(self, arrival: Arrival) -> str:
        kind = self._load.crowds[arrival.crowd].mix[arrival.sort].kind
        if kind is Kind.GET:
            return object_key(self._noise.randrange(self._order.objects))
        if kind is Kind.PUT:
            self._stored += 1
            return f"put/{self._order.tag}/{self._stored:08d}"
        return ""

    def _attempt(self, request: _Request, planned_s: float) -> None:
        if self._is_over:
            return
        now_s = self._now_s()
        request.attempts += 1
        request.live = request.attempts
        request.asked_s = planned_s
        crowd = request.arrival.crowd
        series = self._series[crowd][request.arrival.sort]
        series.count(series.attempts, now_s)
        self._deadlines[crowd].append((now_s + self._load.crowds[crowd].deadline_s, request, request.live))
        self._seek_link(request)

    def _seek_link(self, request: _Request) -> None:
        user = request.user
        while user.idle:
            link = user.idle.pop()
            if link.is_usable:
                user.busy += 1
                self._send(request, link)
                return
            link.give_up()
        if user.busy < self._load.crowds[request.arrival.crowd].user_connections:
            user.busy += 1
            opening = self._loop.create_task(Link.open(self._target, self._links, source=user.source))
            request.opening = opening
            self._opening.add(opening)
            opening.add_done_callback(partial(self._opened, request, request.live))
        else:
            user.waiting.append((request, request.live))

    def _opened(self, request: _Request, attempt: int, opening: "asyncio.Task[Link]") -> None:
        self._opening.discard(opening)
        user = request.user
        error = None if opening.cancelled() else opening.exception()
        if error is not None and not isinstance(error, OSError):
            self._break(error)
        elif request.live != attempt or self._is_over:
            # The user went meanwhile.
            if not opening.cancelled() and error is None:
                user.idle.append(opening.result())
            self._free(user)
        elif error is not None:
            request.opening = None
            self._ended(request, Answer(0, type(error).__name__), Outcome.FAILED)
            self._free(user)
        else:
            request.opening = None
            self._send(request, opening.result())

    def _send(self, request: _Request, link: Link) -> None:
        sort = self._load.crowds[request.arrival.crowd].mix[request.arrival.sort]
        method, query = method_and_query(sort.kind)
        path = "/" if sort.kind is Kind.BUCKETS else self._target.path(request.key)
        more = {"x-seawall-priority": "background"} if sort.background else None
        if sort.kind is Kind.PUT:
            body = body_of(request.key, sort.size_bytes)
            data = request.user.signer.head(
                method,
                path,
                query,
                host=self._target.name,
                payload=hashlib.sha256(body).hexdigest(),
                length=len(body),
                more=more,
            )
            data += body
        else:
            data = request.user.signer.head(method, path, query, host=self._target.name, more=more)
        request.link = link
        link.ask(data, partial(self._heard, request, link))

    def _heard(self, request: _Request, link: Link, answer: Answer) -> None:
        request.link = None
        if link.is_usable:
            request.user.idle.append(link)
        sort = self._load.crowds[request.arrival.crowd].mix[request.arrival.sort]
        outcome = outcome_of(answer.status)
        if outcome is Outcome.SERVED and sort.kind is Kind.GET and answer.length != self._order.object_bytes:
            outcome, answer = Outcome.FAILED, answer._replace(reason="of the wrong length")
        elif outcome is Outcome.SERVED and sort.kind is Kind.PUT and self._ledger is not None:
            self._ledger.write(f"{request.key} {sort.size_bytes} {answer.etag or '-'}\n")
        self._ended(request, answer, outcome)
        self._free(request.user)

    def _free(self, user: _User) -> None:
        """One of the user's links does nothing any more, or is no more: another request may have it."""
        user.busy -= 1
        while user.waiting and not self._is_over:
            request, attempt = user.waiting.popleft()
            if request.live == attempt:
                self._seek_link(request)
                return

    def _expire(self, now_s: float) -> None:
        """End the attempts of those who have waited as long as they want to."""
        for deadlines in self._deadlines:
            while deadlines and deadlines[0][0] <= now_s:
                _, request, attempt = deadlines.popleft()
                if request.live == attempt:
                    self._let_go(request)
                    self._ended(request, Answer(0, "timed out"), Outcome.TIMED_OUT)

    def _let_go(self, request: _Request) -> None:
        """Close the connection of the attempt under way, as a user who goes does."""
        request.live = 0
        if request.link is not None:
            link, request.link = request.link, None
            link.give_up()
            self._free(request.user)
        elif request.opening is not None:
            opening, request.opening = request.opening, None
            opening.cancel()

    def _ended(self, request: _Request, answer: Answer, outcome: Outcome) -> None:
        """An attempt is over: the request as well, unless the user asks again."""
        now_s = self._now_s()
        request.live = 0
        crowd, sort = request.arrival.crowd, request.arrival.sort
        series = self._series[crowd][sort]
        series.count(series.ended(outcome), now_s)
        self._tally.note(f"{answer.status or ''} {answer.reason}".strip())
        pause_s = None
        if outcome is not Outcome.SERVED and is_worth_another(answer.status) and not self._is_over:
            pause_s = self._load.crowds[crowd].retry.pause_s(
                attempts=request.attempts, retry_after_s=answer.retry_after_s, luck=self._noise.random()
            )
        if pause_s is None:
            self._finish(request, outcome)
        elif pause_s > 0:
            self._loop.call_later(pause_s, self._attempt, request, now_s + pause_s)
        else:
            self._loop.call_soon(self._attempt, request, now_s)

    def _finish(self, request: _Request, outcome: Outcome) -> None:
        due_s, crowd, sort, user = request.arrival
        asked_s, begun_s, now_s = request.asked_s, request.begun_s, self._now_s()
        self._records.add(Finished(crowd, sort, user, due_s, begun_s, asked_s, now_s, request.attempts, outcome))
        self._here.discard(request)
        self._end_if_all_went()

    def _let_nobody_come(self) -> None:
        self._next = None
        self._end_if_all_went()

    def _end_if_all_went(self) -> None:
        if self._next is None and not self._here and not self._done.done():
            self._done.set_result(None)

    def _break(self, error: BaseException) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _report(self, second: int) -> None:
        """Say how a second went, and let the ledger be read up to here."""
        if self._ledger is not None:
            self._ledger.flush()
        self._say(
            {
                "second": second,
                **self._tally.second(second),
                "waiting": len(self._here),
                "connections": self._links.open,
                "late_ms": round(self._late_s * 1e3, 1),
            }
        )
        self._late_s = 0.0


async def _keep_busy(order: Order, busyness: Busyness) -> Pace:
    """Ask with a few workers, each as soon as it was answered."""
    took_s = array("d")
    counts = dict.fromkeys(Outcome, 0)
    began_s = monotonic_s() + WARM_UP_S
    stop_s = began_s + busyness.seconds
    noise = random.Random(1)  # noqa: S311 - not a secret
    method, query = method_and_query(busyness.kind)

    async def work(number: int) -> None:
        user = number % len(order.users)
        stored = 0
        source = order.target.source_of(user)
        async with Caller(order.target, Signer(*order.users[user]), source=source) as caller:
            while (asked_s := monotonic_s()) < stop_s:
                path, body = order.target.path(), None
                if busyness.kind is Kind.GET:
                    path = order.target.path(object_key(noise.randrange(order.objects)))
                elif busyness.kind is Kind.BUCKETS:
                    path = "/"
                elif busyness.kind is Kind.PUT:
                    stored += 1
                    key = f"put/{order.tag}/{number}-{stored:08d}"
                    path, body = order.target.path(key), body_of(key, busyness.size_bytes)
                answer = await caller.ask(method, path, query, body=body)
                outcome, now_s = outcome_of(answer.status), monotonic_s()
                if began_s <= now_s < stop_s:
                    counts[outcome] += 1
                    if outcome is Outcome.SERVED:
                        took_s.append(now_s - asked_s)
                if outcome is not Outcome.SERVED:
                    await asyncio.sleep(REST_S)

    async with asyncio.TaskGroup() as group:
        for number in range(busyness.workers):
            group.create_task(work(number))
    p50_s, p99_s = percentile(took_s, 0.5), percentile(took_s, 0.99)
    return Pace(
        per_s=counts[Outcome.SERVED] / busyness.seconds,
        served=counts[Outcome.SERVED],
        refused=counts[Outcome.REFUSED],
        failed=counts[Outcome.FAILED] + counts[Outcome.TIMED_OUT],
        p50_ms=None if p50_s is None else p50_s * 1e3,
        p99_ms=None if p99_s is None else p99_s * 1e3,
    )


def _cpu_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _obey(order: Order) -> bytes:
    """Do what was ordered; return the last line."""
    # What is there already stays; what is to come is short-lived and mostly free of cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    if order.busyness is not None:
        return PACE.dump_json(await _keep_busy(order, order.busyness))
    assert order.load is not None
    if order.ledger is None:
        return SUMMARY.dump_json(await _Crowds(order, order.load, say=_say, ledger=None).come())
    with order.ledger.open("a") as ledger:
        return SUMMARY.dump_json(await _Crowds(order, order.load, say=_say, ledger=ledger).come())


def main() -> None:
    """Read the order, obey, answer."""
    order = ORDER.validate_json(sys.stdin.readline())
    if order.core is not None:
        os.sched_setaffinity(0, {order.core})
    raise_descriptor_limit()
    sys.stdout.write(uvloop.run(_obey(order)).decode() + "\n")


if __name__ == "__main__":
    main()
