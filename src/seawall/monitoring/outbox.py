"""Notices on their way out: each target has a line of its own, and no line delays another, nor whoever writes.

In a line the notices of one incident keep their order. What fails for now is tried again after a pause that doubles,
behind the notices of other incidents, so that one notice a target chokes on holds up no other; a newer update takes
the place of one that was not sent yet. That an incident opened, was taken on, and ended is told as long as its patience
lasts. What became of each notice is told to whoever asked for it, but for updates that were replaced.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from seawall.clock import monotonic_s
from seawall.monitoring.notices import Notice, Status
from seawall.monitoring.notifications import Target
from seawall.monitoring.posting import Outcome, Poster, Verdict

log = logging.getLogger(__name__)

# An incident has four or five notices: so many are fifty incidents nobody could be told of.
WAITING_MAX = 256
# As long as somebody may still want to hear that it began.
PATIENCE_S = 1800.0
PAUSE_S = (1.0, 60.0)
# A target that asks for more is asked again after so long.
RETRY_AFTER_MAX_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one notice at one target. It may be written down: it holds no secret."""

    target: str
    place: str
    incident: str
    status: str
    is_sent: bool
    tries: int
    took_s: float
    """From when it was to be told until this was known."""
    reason: str

    @property
    def kind(self) -> str:
        """Return what it is called in the journal."""
        return "notification.sent" if self.is_sent else "notification.failed"

    def fields(self) -> dict[str, Any]:
        """Return what is written to the journal beside the kind."""
        return asdict(self)


Tell = Callable[[Delivery], None]


async def tell_once(targets: Iterable[Target], poster: Poster, notices: Sequence[Notice]) -> list[Delivery]:
    """Send notices to targets at once, each a single time, and return what became of them, target by target.

    What follows one that failed is not sent to that target.
    """

    async def tell(target: Target) -> list[Delivery]:
        found: list[Delivery] = []
        for notice in notices:
            began_s = monotonic_s()
            outcome = await target.tell(notice, poster)
            is_sent = outcome.verdict is Verdict.SENT
            took_s = monotonic_s() - began_s
            found.append(_delivery(target, notice, outcome.reason, is_sent=is_sent, tries=1, took_s=took_s))
            if not is_sent:
                break
        return found

    return [one for several in await asyncio.gather(*map(tell, targets)) for one in several]


def _delivery(target: Target, notice: Notice, reason: str, *, is_sent: bool, tries: int, took_s: float) -> Delivery:
    return Delivery(
        target=target.name,
        place=target.place,
        incident=notice.incident_id,
        status=notice.status.value,
        is_sent=is_sent,
        tries=tries,
        took_s=round(took_s, 3),
        reason=reason,
    )


@dataclass(eq=False, slots=True)
class Letter:
    """A notice in the line of one target. State: how often it was tried."""

    notice: Notice
    put_s: float
    tries: int = 0


class Line:
    """What waits for one target, the first to be sent first. Knows no sockets and no clock; times are monotonic.

    State: the letters, the one under way, how often in a row the target failed, and until when it is left alone.
    """

    def __init__(self, *, waiting_max: int = WAITING_MAX, patience_s: float = PATIENCE_S) -> None:
        self._letters: list[Letter] = []
        self._under_way: Letter | None = None
        self._waiting_max = waiting_max
        self._patience_s = patience_s
        self._failures = 0
        self._paused_until_s = 0.0

    def __repr__(self) -> str:
        return f"<Line {len(self)} waiting, {self._failures} failures in a row>"

    def __len__(self) -> int:
        return len(self._letters) + (self._under_way is not None)

    def put(self, notice: Notice, *, now_s: float) -> list[Letter]:
        """Add a notice; return what is given up because the line is full, which may be the new one itself.

        Updates go first, the oldest of them. If there are none, it is the new one: what came before it tells of its
        own incident, and would be told wrongly without its beginning.
        """
        if notice.status is Status.UPDATED:
            self._letters = [one for one in self._letters if not _supersedes(notice, one.notice)]
        letter = Letter(notice, now_s)
        self._letters.append(letter)
        if len(self._letters) <= self._waiting_max:
            return []
        updates = (one for one in self._letters if one.notice.status is Status.UPDATED)
        given_up = next(updates, letter)
        self._letters.remove(given_up)
        return [given_up]

    def take(self, *, now_s: float) -> Letter | None:
        """Return what is to be sent now, if something is; the same again until it is said what became of it."""
        if self._under_way is None and self._letters and now_s >= self._paused_until_s:
            self._under_way = self._letters.pop(0)
        return self._under_way

    def wait_s(self, *, now_s: float) -> float | None:
        """Return how long nothing is to be done, unless something is put; None: for ever."""
        return max(0.0, self._paused_until_s - now_s) if self._letters else None

    def done(self, *, is_target_well: bool) -> None:
        """Forget what was under way: it was sent, or never can be."""
        self._under_way = None
        if is_target_well:
            self._failures = 0

    def failed(self, *, now_s: float, retry_after_s: float | None, jitter: float) -> list[Letter]:
        """Put back what was under way, and go on with another incident after a pause; return what is given up.

        Args:
            retry_after_s: what the target asked for.
            jitter: 0 to 1, at random.
        """
        assert self._under_way is not None
        letter, self._under_way = self._under_way, None
        self._failures += 1
        self._paused_until_s = now_s + pause_s(self._failures, retry_after_s=retry_after_s, jitter=jitter)
        incident = letter.notice.incident_id
        others = [one for one in self._letters if one.notice.incident_id != incident]
        same = [one for one in self._letters if one.notice.incident_id == incident]
        if not any(_supersedes(one.notice, letter.notice) for one in same):
            same.insert(0, letter)
        late = [one for one in (*others, *same) if now_s - one.put_s >= self._patience_s]
        self._letters = [one for one in (*others, *same) if one not in late]
        return late

    def clear(self) -> list[Letter]:
        """Take out and return everything."""
        under_way = [] if self._under_way is None else [self._under_way]
        letters, self._letters, self._under_way = [*under_way, *self._letters], [], None
        return letters


def _supersedes(newer: Notice, older: Notice) -> bool:
    return older.status is newer.status is Status.UPDATED and older.incident_id == newer.incident_id


def pause_s(failures: int, *, retry_after_s: float | None, jitter: float) -> float:
    """Return how long a target is left alone after so many failures in a row.

    >>> [pause_s(failures, retry_after_s=None, jitter=1.0) for failures in (1, 2, 3, 9)]
    [1.0, 2.0, 4.0, 60.0]
    >>> pause_s(1, retry_after_s=3600.0, jitter=0.0)
    120.0
    """
    least, most = PAUSE_S
    pause = min(most, least * 2.0 ** min(failures - 1, 16)) * (0.5 + jitter / 2)
    return max(pause, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S))


class Outbox:
    """Sends notices to every target. State: a line for each.

    `put` never waits. `run` sends until it is cancelled, and can be run again. `close` gives up what is left.

    Args:
        tell: hears what became of each notice.
    """

    def __init__(
        self, targets: Sequence[Target], poster: Poster, *, tell: Tell, patience_s: float = PATIENCE_S
    ) -> None:
        self._poster = poster
        self._tell = tell
        self._lines = {target: Line(patience_s=patience_s) for target in targets}
        self._news = {target: asyncio.Event() for target in targets}

    def __repr__(self) -> str:
        return f"<Outbox {', '.join(f'{target.name}: {len(line)}' for target, line in self._lines.items())}>"

    @property
    def waiting(self) -> int:
        """Return how many notices wait, over all targets."""
        return sum(map(len, self._lines.values()))

    def put(self, notice: Notice) -> None:
        """Have a notice sent to every target. To be called where the event loop runs."""
        for target, line in self._lines.items():
            self._give_up(target, line.put(notice, now_s=monotonic_s()), reason="too many notices wait for it")
            self._news[target].set()

    async def run(self) -> None:
        """Send what is put. Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for target in self._lines:
                group.create_task(self._empty(target), name=f"notify {target.name}")
            if not self._lines:
                await asyncio.Event().wait()

    def close(self) -> None:
        """Give up what is left. Of one that is under way nobody knows whether it arrived."""
        for target, line in self._lines.items():
            self._give_up(target, line.clear(), reason="the service was stopped before")
        self._poster.close()

    async def _empty(self, target: Target) -> None:
        """Send what stands in the line of a target. Runs until cancelled."""
        line, news = self._lines[target], self._news[target]
        while True:
            letter = line.take(now_s=monotonic_s())
            if letter is None:
                news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(line.wait_s(now_s=monotonic_s())):
                        await news.wait()
                continue
            letter.tries += 1
            outcome = await self._try(target, letter.notice)
            self._conclude(target, letter, outcome)

    async def _try(self, target: Target, notice: Notice) -> Outcome:
        try:
            return await target.tell(notice, self._poster)
        except Exception as error:
            # Ours, and in every attempt: the other notices must not wait behind it.
            log.exception("notification.broken", extra={"target": target.name, "incident": notice.incident_id})
            return Outcome(verdict=Verdict.NEVER, reason=f"it could not be written: {type(error).__name__}")

    def _conclude(self, target: Target, letter: Letter, outcome: Outcome) -> None:
        line = self._lines[target]
        if outcome.verdict is not Verdict.LATER:
            line.done(is_target_well=outcome.verdict is Verdict.SENT)
            self._hear(target, letter, outcome.reason, is_sent=outcome.verdict is Verdict.SENT)
            return
        log.warning(
            "notification.delayed",
            extra={
                "target": target.name,
                "place": target.place,
                "incident": letter.notice.incident_id,
                "tries": letter.tries,
                "reason": outcome.reason,
            },
        )
        jitter = random.random()  # noqa: S311 - not a secret
        late = line.failed(now_s=monotonic_s(), retry_after_s=outcome.retry_after_s, jitter=jitter)
        self._give_up(target, late, reason=f"given up: {outcome.reason}")

    def _give_up(self, target: Target, letters: Iterable[Letter], *, reason: str) -> None:
        for letter in letters:
            self._hear(target, letter, reason, is_sent=False)

    def _hear(self, target: Target, letter: Letter, reason: str, *, is_sent: bool) -> None:
        took_s = monotonic_s() - letter.put_s
        delivery = _delivery(target, letter.notice, reason, is_sent=is_sent, tries=letter.tries, took_s=took_s)
        try:
            self._tell(delivery)
        except Exception:
            # A journal that cannot be written keeps nobody from being told.
            log.exception("notification.untold", extra=delivery.fields())
