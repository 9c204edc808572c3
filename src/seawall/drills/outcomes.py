"""How it went for those who came: what is remembered of each request, and what follows from it.

Time is counted from the moment at which a request was due, not from the one at which the generator got round to it:
a service, or a generator, that stands still makes all wait who were due meanwhile, and all of them are counted.

A *request* is what a user wants, an *attempt* each time they ask for it. Served is who got it while they were still
there. Affected is a user of whom a request was never served, or later than they would have waited for one answer.

Source: Tene, "How NOT to Measure Latency" (coordinated omission), 2013.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from seawall.drills.hypothesis import Second, seconds_of
from seawall.drills.load import Kind, Load

SERVED_SHARE: Final = 0.95
"""Recovered is who serves this share of the arrivals of every second, from then to the end."""

LATE_MAX_MS: Final = 50.0
"""When one in a hundred requests begins later than this, the generator offered another load than it was told to."""

ANSWERS_MAX: Final = 100
"""How many different answers are told apart; there are far fewer unless something is very wrong."""


class Outcome(IntEnum):
    """How an attempt ended; that of the last one is the request's."""

    SERVED = 0
    REFUSED = 1
    """The service said that it has too much to do."""
    FAILED = 2
    """Another answer than a good one, or the connection ended."""
    TIMED_OUT = 3
    """The user went."""


def outcome_of(status: int) -> Outcome:
    """Return what a status code means to whoever asked."""
    if 200 <= status < 300:
        return Outcome.SERVED
    return Outcome.REFUSED if status in {429, 503} else Outcome.FAILED


def is_worth_another(status: int) -> bool:
    """Return whether the same request may be answered better later; status 0 is no answer at all."""
    return status in {0, 429} or status >= 500


class Finished(NamedTuple):
    """One request when it is over; moments in seconds from the start of the load.

    `asked_s` is when its last attempt was meant to begin.
    """

    crowd: int
    sort: int
    user: int
    due_s: float
    begun_s: float
    asked_s: float
    ended_s: float
    attempts: int
    outcome: Outcome


class Records:
    """What is remembered of each request, in 50 bytes. State: one row a request that is over."""

    def __init__(self) -> None:
        self._moments = array("d")
        self._numbers = array("l")

    def __len__(self) -> int:
        return len(self._moments) // 4

    def add(self, row: Finished) -> None:
        """Remember one."""
        crowd, sort, user, due_s, begun_s, asked_s, ended_s, attempts, outcome = row
        self._moments.extend((due_s, begun_s, asked_s, ended_s))
        self._numbers.append(((((user << 12 | min(attempts, 4095)) << 8 | crowd) << 8) | sort) << 2 | outcome)

    def __iter__(self) -> Iterator[Finished]:
        moments = iter(self._moments)
        for packed, due_s, begun_s, asked_s, ended_s in zip(
            self._numbers, moments, moments, moments, moments, strict=True
        ):
            rest, outcome = packed >> 2, Outcome(packed & 3)
            crowd, sort, attempts, user = rest >> 8 & 255, rest & 255, rest >> 16 & 4095, rest >> 28
            yield Finished(crowd, sort, user, due_s, begun_s, asked_s, ended_s, attempts, outcome)


@dataclass(slots=True)
class Series:
    """Counts for each second: requests due, attempts begun, and attempts that ended, by how."""

    due: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    timed_out: list[int] = field(default_factory=list)

    def count(self, counts: list[int], at_s: float) -> None:
        """Count one in its second."""
        second = int(at_s)
        if second >= len(counts):
            for each in (self.due, self.attempts, self.served, self.refused, self.failed, self.timed_out):
                each.extend([0] * (second + 1 - len(each)))
        counts[second] += 1

    def add(self, other: "Series") -> None:
        """Count what was counted elsewhere."""
        for mine, its in zip(self._all(), other._all(), strict=True):
            mine.extend([0] * (len(its) - len(mine)))
            for second, count in enumerate(its):
                mine[second] += count

    def only(self, second: int) -> "Series":
        """Return the counts of one second."""
        return Series(*(counts[second : second + 1] for counts in self._all()))

    def ended(self, outcome: Outcome) -> list[int]:
        """Return the counts of attempts that ended so."""
        return (self.served, self.refused, self.failed, self.timed_out)[outcome]

    def _all(self) -> tuple[list[int], ...]:
        return (self.due, self.attempts, self.served, self.refused, self.failed, self.timed_out)


class Tally:
    """Counts attempts as they happen. State: a series for each sort of each crowd, and how often which answer came."""

    def __init__(self) -> None:
        self.series: dict[tuple[int, int], Series] = {}
        self.answers: dict[str, int] = {}

    def of(self, crowd: int, sort: int) -> Series:
        """Return the counts of one sort of request of one crowd."""
        found = self.series.get((crowd, sort))
        if found is None:
            found = self.series[crowd, sort] = Series()
        return found

    def second(self, number: int) -> dict[str, int]:
        """Return what was counted in one second, by name."""
        everything = Series()
        for series in self.series.values():
            everything.add(series.only(number))
        return {name: sum(counts) for name, counts in asdict(everything).items()}

    def note(self, answer: str) -> None:
        """Count an answer by its name."""
        name = answer if answer in self.answers or len(self.answers) < ANSWERS_MAX else "other"
        self.answers[name] = self.answers.get(name, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How it went in a stretch of time.

    Requests and users are those whose requests were due in it. `goodput_per_s` counts the answers given in it to users
    who were still there, `in_time_per_s` those of them that came within one deadline of when they were due: after a
    refusal and a pause no answer can. Percentiles are of served requests, in ms: from when they were due, pauses and
    all, and (`attempt`) from when the attempt that was served was meant to begin. None: nobody was served.
    """

    seconds: float
    due: int
    begun_per_s: float
    attempts: int
    served: int
    served_in_time: int
    refused: int
    failed: int
    timed_out: int
    goodput_per_s: float
    in_time_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    attempt_p50_ms: float | None
    attempt_p95_ms: float | None
    attempt_p99_ms: float | None
    users: int
    users_affected: int

    @property
    def served_share(self) -> float | None:
        """Which share of the requests was served in the end; None where none was due."""
        return self.served / self.due if self.due else None

    @property
    def affected_share(self) -> float | None:
        """Which share of the users was affected; None where none came."""
        return self.users_affected / self.users if self.users else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How it went for some of the requests: in all, and before, during and after the surge.

    `recovered_s` counts from the surge's end; None: never, or nobody came to see.
    """

    whole: Figures
    before: Figures
    during: Figures
    after: Figures
    recovered_s: float | None
    series: Series

    @property
    def refusals(self) -> int:
        """How many attempts were refused."""
        return sum(self.series.refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What the load cost its generator. Lateness is from due to begun, at the 99th percentile, in ms.

    `dropped` are requests it did not even begin, because too many were waiting; `busy_share` is the share of the load's
    time in which its one core worked for it.
    """

    late_p99_ms: float
    surge_late_p99_ms: float
    late_max_ms: float
    dropped: int
    busy_share: float
    connections_most: int

    @property
    def bottleneck(self) -> str | None:
        """Say why the figures are the generator's rather than the service's; None where they are the service's."""
        if self.dropped:
            return f"the generator dropped {self.dropped:,} requests: more were waiting than it can remember"
        worst_ms = max(self.late_p99_ms, self.surge_late_p99_ms)
        if worst_ms > LATE_MAX_MS:
            return (
                f"the generator was {worst_ms:,.0f} ms late at the 99th percentile (tolerated: {LATE_MAX_MS:g} ms) "
                f"and busy for {self.busy_share:.0%} of the time: it offered less, and later, than it was told to"
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a load went: for all, for each class and for each tenant group; and which answers were given how often.

    `began_s` is when, on the machine's monotonic clock, which all its processes share; everything else counts from
    then. `reads` are the small reads that people wait for, by the second in which they were due.
    """

    began_s: float
    end_s: float
    surge_from_s: float
    surge_until_s: float
    everybody: Slice
    by_class: Mapping[str, Slice]
    by_group: Mapping[str, Slice]
    reads: tuple[Second, ...]
    answers: Mapping[str, int]
    effort: Effort


def summarize(
    load: Load,
    records: Records | Sequence[Finished],
    tally: Tally,
    *,
    began_s: float = 0.0,
    dropped: int,
    busy_share: float,
    connections_most: int,
) -> Summary:
    """Sum up a run."""
    everybody = _Gathered(load)
    by_class: dict[str, _Gathered] = {}
    by_group: dict[str, _Gathered] = {}
    places: dict[tuple[int, int], tuple[_Gathered, ...]] = {}
    for number, crowd in enumerate(load.crowds):
        group = by_group.setdefault(crowd.name, _Gathered(load))
        for at, sort in enumerate(crowd.mix):
            urgency = by_class.setdefault(sort.urgency.name.lower(), _Gathered(load))
            places[number, at] = (everybody, urgency, group)

    late_s, surge_late_s = array("d"), array("d")
    for row in records:
        late_s.append(row.begun_s - row.due_s)
        if load.surge_from_s <= row.due_s < load.surge_until_s:
            surge_late_s.append(row.begun_s - row.due_s)
        deadline_s = load.crowds[row.crowd].deadline_s
        for gathered in places[row.crowd, row.sort]:
            gathered.add(row, deadline_s=deadline_s)
    for where, series in tally.series.items():
        for gathered in places[where]:
            gathered.series.add(series)

    return Summary(
        began_s=began_s,
        end_s=load.end_s,
        surge_from_s=load.surge_from_s,
        surge_until_s=load.surge_until_s,
        everybody=everybody.slice(),
        by_class={name: gathered.slice() for name, gathered in by_class.items()},
        by_group={name: gathered.slice() for name, gathered in by_group.items()},
        reads=tuple(seconds_of(_reads(load, records))),
        answers=dict(sorted(tally.answers.items(), key=lambda item: -item[1])),
        effort=Effort(
            late_p99_ms=_ms(percentile(late_s, 0.99)) or 0.0,
            surge_late_p99_ms=_ms(percentile(surge_late_s, 0.99)) or 0.0,
            late_max_ms=_ms(max(late_s, default=0.0)) or 0.0,
            dropped=dropped,
            busy_share=busy_share,
            connections_most=connections_most,
        ),
    )


def _reads(load: Load, records: Iterable[Finished]) -> Iterator[tuple[float, float, bool]]:
    """Yield the small reads that people wait for: when due, how long until answered or gone, and whether served."""
    is_read = {
        (number, at)
        for number, crowd in enumerate(load.crowds)
        for at, sort in enumerate(crowd.mix)
        if sort.kind is Kind.GET and not sort.background
    }
    for row in records:
        if (row.crowd, row.sort) in is_read:
            yield row.due_s, row.ended_s - row.due_s, row.outcome is Outcome.SERVED


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that this share of all values does not exceed.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    return _ranked(sorted(values), share)


def recovered_s(due: Sequence[int], served: Sequence[int], *, share: float = SERVED_SHARE) -> float | None:
    """Return the seconds after which every second's arrivals are served, but for one in twenty, to the end.

    Looked for in steps of a tenth of a second; None where there is no such moment at least a second before the end, or
    nobody came from whom to know.

    Args:
        due: how many were due in each tenth of a second.
        served: how many of those were served in time.
        share: what is enough.

    >>> recovered_s([1] * 30, [0] * 10 + [1] * 20)
    1.0
    """
    if not any(due):
        return None
    for start in range(len(due) - 9):
        seconds = range(start, len(due) - 9, 10)
        if all(sum(served[at : at + 10]) >= share * sum(due[at : at + 10]) for at in seconds):
            return start / 10
    return None


class _Window:
    """Gathers what was due, and what was answered, in a stretch of time. State: see the names."""

    __slots__ = (
        "affected",
        "answered",
        "answered_in_time",
        "attempt_s",
        "attempts",
        "begun",
        "from_s",
        "in_time",
        "outcomes",
        "took_s",
        "until_s",
        "users",
    )

    def __init__(self, from_s: float, until_s: float) -> None:
        self.from_s = from_s
        self.until_s = until_s
        self.outcomes = [0, 0, 0, 0]
        self.attempts = 0
        self.begun = 0
        self.in_time = 0
        self.answered = 0
        self.answered_in_time = 0
        self.took_s = array("d")
        self.attempt_s = array("d")
        self.users: set[int] = set()
        self.affected: set[int] = set()

    def add(self, row: Finished, *, deadline_s: float) -> None:
        served, took_s = row.outcome is Outcome.SERVED, row.ended_s - row.due_s
        in_time = served and took_s <= deadline_s
        self.begun += self.from_s <= row.begun_s < self.until_s
        if served and self.from_s <= row.ended_s < self.until_s:
            self.answered += 1
            self.answered_in_time += in_time
        if not self.from_s <= row.due_s < self.until_s:
            return
        self.outcomes[row.outcome] += 1
        self.attempts += row.attempts
        self.users.add(row.user)
        if served:
            self.took_s.append(took_s)
            self.attempt_s.append(row.ended_s - row.asked_s)
        if in_time:
            self.in_time += 1
        else:
            self.affected.add(row.user)

    def figures(self) -> Figures:
        took_s, attempt_s = sorted(self.took_s), sorted(self.attempt_s)
        seconds = self.until_s - self.from_s
        served, refused, failed, timed_out = self.outcomes
        return Figures(
            seconds=seconds,
            due=sum(self.outcomes),
            begun_per_s=self.begun / seconds if seconds else 0.0,
            attempts=self.attempts,
            served=served,
            served_in_time=self.in_time,
            refused=refused,
            failed=failed,
            timed_out=timed_out,
            goodput_per_s=self.answered / seconds if seconds else 0.0,
            in_time_per_s=self.answered_in_time / seconds if seconds else 0.0,
            p50_ms=_ms(_ranked(took_s, 0.5)),
            p95_ms=_ms(_ranked(took_s, 0.95)),
            p99_ms=_ms(_ranked(took_s, 0.99)),
            attempt_p50_ms=_ms(_ranked(attempt_s, 0.5)),
            attempt_p95_ms=_ms(_ranked(attempt_s, 0.95)),
            attempt_p99_ms=_ms(_ranked(attempt_s, 0.99)),
            users=len(self.users),
            users_affected=len(self.affected),
        )


class _Gathered:
    """Gathers one slice. State: its windows, and the tenths of seconds after the surge."""

    __slots__ = ("_due", "_served", "_until_s", "_windows", "series")

    def __init__(self, load: Load) -> None:
        stretches = (
            (0.0, load.end_s),
            (0.0, load.surge_from_s),
            (load.surge_from_s, load.surge_until_s),
            (load.surge_until_s, load.end_s),
        )
        self._windows = [_Window(*stretch) for stretch in stretches]
        self._until_s = load.surge_until_s
        self._due = [0] * round((load.end_s - load.surge_until_s) * 10)
        self._served = [0] * len(self._due)
        self.series = Series()

    def add(self, row: Finished, *, deadline_s: float) -> None:
        for window in self._windows:
            window.add(row, deadline_s=deadline_s)
        tenth = int((row.due_s - self._until_s) * 10)
        if row.due_s >= self._until_s and tenth < len(self._due):
            self._due[tenth] += 1
            self._served[tenth] += row.outcome is Outcome.SERVED and row.ended_s - row.due_s <= deadline_s

    def slice(self) -> Slice:
        whole, before, during, after = (window.figures() for window in self._windows)
        return Slice(
            whole=whole,
            before=before,
            during=during,
            after=after,
            recovered_s=recovered_s(self._due, self._served),
            series=self.series,
        )


def _ranked(ranked: Sequence[float], share: float) -> float | None:
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))] if ranked else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
