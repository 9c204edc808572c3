"""Series made up to try the detector on: what servers and businesses measure, and what goes wrong with it.

Each kind draws an ordinary course, with what is unusual but nobody's business (jobs that run by the clock, single high
readings, gaps), and then something that somebody would have labelled. As in the public benchmark, windows together
cover a tenth of a series, and each is centred, roughly, on where its anomaly begins. The same kind and seed give the
same series.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from types import MappingProxyType
from typing import Final

from benchmarks.detector_scoring import Window

MINUTES_5: Final = 300
MINUTES_30: Final = 1800
HOUR: Final = 3600
BEGIN: Final = datetime(2024, 3, 4, 7, 40)  # noqa: DTZ001 - as the benchmark's files: no zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Rows and what is labelled in them."""

    name: str
    times: Sequence[datetime]
    values: Sequence[float]
    windows: Sequence[Window]


class Draft:
    """A series while it is drawn. State: its values, the moments, and where its anomalies begin."""

    def __init__(self, chance: Random, *, rows: int, interval_s: int) -> None:
        self.chance = chance
        self.rows = rows
        self.interval_s = interval_s
        self.values = [0.0] * rows
        self.labels: list[int] = []
        first = BEGIN + timedelta(seconds=chance.randrange(7 * 24 * 12) * MINUTES_5)
        self.times = [first + timedelta(seconds=interval_s * row) for row in range(rows)]

    @property
    def day(self) -> int:
        """Rows in a day."""
        return 86_400 // self.interval_s

    def places(self, count: int) -> list[int]:
        """Return rows for so many anomalies, after the learning, and never too close."""
        apart = self.rows // (9 * count)
        while True:
            found = sorted(self.chance.randrange(int(0.22 * self.rows), int(0.94 * self.rows)) for _ in range(count))
            if all(later - earlier > apart for earlier, later in pairwise(found)):
                return found

    def hour(self, row: int) -> float:
        """Return the time of day of a row, in hours."""
        moment = self.times[row]
        return moment.hour + moment.minute / 60

    def is_weekend(self, row: int) -> bool:
        """Return whether a row is on a Saturday or Sunday."""
        return self.times[row].weekday() >= 5

    def lasting(self, low: float, high: float) -> int:
        """Return a random number of rows, given in shares of a window's half."""
        half = self.rows * 0.05
        return max(1, int(half * self.chance.uniform(low, high)))

    def finish(self, name: str, *, drop: float = 0.0) -> Series:
        """Return the series, with a share of its rows missing."""
        width = int(0.1 * self.rows / max(1, len(self.labels)))
        spans = []
        last = -1
        for label in sorted(self.labels):
            first = label - int(width * (0.5 + self.chance.uniform(-0.12, 0.12)))
            spans.append((max(first, last + 1), min(first + width - 1, self.rows - 1)))
            last = spans[-1][1]
        kept = [row for row in range(self.rows) if self.chance.random() >= drop]
        return Series(
            name=name,
            times=[self.times[row] for row in kept],
            values=[self.values[row] for row in kept],
            windows=[
                Window(
                    first=next(at for at, row in enumerate(kept) if row >= first),
                    last=max(at for at, row in enumerate(kept) if row <= last),
                )
                for first, last in spans
            ],
        )


def heavy(chance: Random, *, shape: float) -> float:
    """Return a Pareto-like number from 0, mostly small."""
    return float(chance.paretovariate(shape)) - 1


def poisson(chance: Random, mean: float) -> float:
    """Return a count; by the normal law when many are expected."""
    if mean > 30:
        return float(max(0, round(chance.gauss(mean, math.sqrt(mean)))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return float(count)


def idle_with_jobs(chance: Random) -> Draft:
    """An idle CPU with a job by the clock; then a peak that is higher, or one that is not due."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    every, height, noise = chance.choice((144, 288, 576)), chance.uniform(0.8, 3.0), chance.uniform(0.01, 0.04)
    for row in range(draft.rows):
        draft.values[row] = round(0.1 + abs(chance.gauss(0, noise)) + (0.05 if chance.random() < 0.1 else 0), 3)
        if row % every == every // 3:
            draft.values[row] += height * chance.uniform(0.9, 1.1)
    for place in draft.places(chance.choice((1, 2))):
        if chance.random() < 0.5:
            draft.values[place] += height * chance.uniform(1.5, 2.5)
        else:
            for row in range(place, min(draft.rows, place + draft.lasting(0.02, 0.3))):
                draft.values[row] += height * chance.uniform(0.3, 0.8)
        draft.labels.append(place)
    return draft


def busy_with_levels(chance: Random) -> Draft:
    """A CPU at a steady load that moves to another level, and perhaps back."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    level, noise, drift = chance.uniform(12, 60), chance.uniform(0.3, 2.5), 0.0
    places = draft.places(chance.choice((1, 2)))
    for row in range(draft.rows):
        if row in places:
            level += chance.choice((-1, 1)) * noise * chance.uniform(4, 14)
        drift = 0.995 * drift + chance.gauss(0, noise / 20)
        draft.values[row] = level + drift + chance.gauss(0, noise)
        if chance.random() < 0.002:
            draft.values[row] += noise * chance.uniform(3, 6)
    draft.labels.extend(places)
    return draft


def requests_by_day(chance: Random) -> Draft:
    """Requests counted at a balancer, more by day, in bursts; then a burst that is much larger, or a hush."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    mean, swing = chance.uniform(30, 120), chance.uniform(0.2, 0.6)
    for row in range(draft.rows):
        rate = mean * (1 + swing * math.sin((draft.hour(row) - 9) * math.pi / 12))
        draft.values[row] = poisson(chance, rate * chance.gammavariate(2.0, 0.5))
    for place in draft.places(chance.choice((1, 2, 2))):
        if chance.random() < 0.75:
            for row in range(place, min(draft.rows, place + draft.lasting(0.01, 0.15))):
                draft.values[row] += round(mean * chance.uniform(4, 9))
        else:
            for row in range(place, min(draft.rows, place + draft.lasting(0.3, 0.6))):
                draft.values[row] = poisson(chance, 0.05 * mean)
        draft.labels.append(place)
    return draft


def mentions(chance: Random) -> Draft:
    """How often a company is mentioned: by day and night, with small crowds all the time; then a big story."""
    draft = Draft(chance, rows=15_800, interval_s=MINUTES_5)
    mean, crowd = chance.choice((3.0, 8.0, 20.0, 80.0)), 0.0
    for row in range(draft.rows):
        rate = mean * (1 + 0.6 * math.sin((draft.hour(row) - 10) * math.pi / 12))
        crowd = 0.9 * crowd + (mean * heavy(chance, shape=2.2) if chance.random() < 0.01 else 0.0)
        draft.values[row] = poisson(chance, rate * chance.gammavariate(6.0, 1 / 6) + crowd)
        if chance.random() < 0.001:
            draft.values[row] += round(mean * heavy(chance, shape=1.5))
    for place in draft.places(chance.choice((2, 3, 4))):
        height, fades = mean * chance.uniform(4, 25), chance.uniform(0.5, 0.98)
        for row in range(place, min(draft.rows, place + 300)):
            draft.values[row] += poisson(chance, height * fades ** (row - place))
        draft.labels.append(place)
    return draft


def traffic(chance: Random) -> Draft:
    """Cars at a sensor: quiet nights, two rushes on workdays, many rows missing; then a jam where none is due."""
    draft = Draft(chance, rows=3200, interval_s=MINUTES_5)
    is_speed = chance.random() < 0.5
    for row in range(draft.rows):
        hour, weekend = draft.hour(row), draft.is_weekend(row)
        rush = sum(math.exp(-(((hour - peak) / width) ** 2)) for peak, width in ((8, 1.5), (17, 2.2)))
        load = 0.15 + 0.5 * max(0.0, math.sin((hour - 6) * math.pi / 16)) + (0.15 if weekend else 0.5) * rush
        load *= chance.gauss(1, 0.12)
        draft.values[row] = (
            68 - 14 * load + chance.gauss(0, 3) if is_speed else max(0.0, 12 * load + chance.gauss(0, 1.5))
        )
    for place in draft.places(chance.choice((1, 2, 3))):
        for row in range(place, min(draft.rows, place + draft.lasting(0.1, 0.5))):
            draft.values[row] = (
                chance.uniform(12, 35) if is_speed else max(0.0, draft.values[row]) + chance.uniform(12, 28)
            )
        draft.labels.append(place)
    return draft


def prices(chance: Random) -> Draft:
    """What an advertisement costs each hour: mostly steady, sometimes high; then very high, or high for long."""
    draft = Draft(chance, rows=1630, interval_s=HOUR)
    middle, width = chance.uniform(0.1, 1.5), chance.uniform(0.15, 0.4)
    for row in range(draft.rows):
        rate = 1 + 0.2 * math.sin(draft.hour(row) * math.pi / 12)
        draft.values[row] = middle * rate * math.exp(chance.gauss(0, width))
        if chance.random() < 0.006:
            draft.values[row] *= 1 + chance.uniform(1, 4)
    for place in draft.places(chance.choice((1, 2, 3))):
        if chance.random() < 0.7:
            for row in range(place, min(draft.rows, place + chance.choice((1, 1, 2, 4)))):
                draft.values[row] = middle * chance.uniform(8, 25)
        else:
            for row in range(place, min(draft.rows, place + draft.lasting(0.2, 0.8))):
                draft.values[row] *= chance.uniform(1.5, 3)
        draft.labels.append(place)
    return draft


def office_hours(chance: Random) -> Draft:
    """Low by night, high by day, like clockwork; then a day that is higher, lower, flat, or does not come."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    low, high, noise = 20.0, chance.uniform(60, 90), chance.uniform(1, 5)
    what = chance.choice(("up", "down", "flat", "missing", "night", "none"))
    for row in range(draft.rows):
        by_day = 9 <= draft.hour(row) < 18
        draft.values[row] = (high if by_day else low) + chance.uniform(-noise, noise)
    if what == "none":
        return draft
    day = chance.randrange(6, 12)
    start = next(
        row for row in range(day * draft.day, draft.rows) if draft.hour(row) == (22.0 if what == "night" else 9.0)
    )
    for row in range(start, min(draft.rows, start + 9 * 12)):
        changed = {"up": high * 1.5, "down": (low + high) / 2, "flat": draft.values[start - 1], "missing": low,
                   "night": high}[what]  # fmt: skip
        draft.values[row] = changed + (0 if what == "flat" else chance.uniform(-noise, noise))
    draft.labels.append(start)
    return draft


def spike_density(chance: Random) -> Draft:
    """Rare peaks over nothing; then they come more often, or no more."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    rate = chance.uniform(0.006, 0.03)
    place = draft.places(1)[0]
    more = rate < 0.02
    stop = place + int(draft.rows * 0.07)
    for row in range(draft.rows):
        now = rate if not place <= row < stop else (rate * chance.uniform(8, 14) if more else 0.0)
        draft.values[row] = chance.uniform(1, 3) if chance.random() < now else chance.choice((0.0, 0.0, 0.0, 0.1))
    draft.labels.append(place)
    return draft


def riders(chance: Random) -> Draft:
    """Passengers each half hour, by day and week; then a holiday, a storm, or a night that does not end."""
    draft = Draft(chance, rows=10_320, interval_s=MINUTES_30)
    for row in range(draft.rows):
        hour, weekend = draft.hour(row), draft.is_weekend(row)
        course = 14_000 + 9_000 * math.sin((hour - 10.5) * math.pi / 12) + 3_500 * math.sin((hour - 6) * math.pi / 6)
        if weekend:
            course += 4_000 * math.cos((hour - 1) * math.pi / 6) - 1_500
        draft.values[row] = max(50.0, course * (1 + 0.03 * math.sin(row / 700)) * chance.gauss(1, 0.03))
    for place in draft.places(chance.choice((3, 4, 5))):
        factor = chance.choice((0.2, 0.5, 0.6, 1.45))
        for row in range(place, min(draft.rows, place + chance.choice((14, 30, 48)))):
            draft.values[row] *= factor
        draft.labels.append(place)
    return draft


def machine(chance: Random) -> Draft:
    """The temperature of a machine, wandering; then it falls fast, some time after it began to tremble."""
    draft = Draft(chance, rows=16_000, interval_s=MINUTES_5)
    swing, slow = 0.0, 0.0
    places = draft.places(chance.choice((2, 3)))
    fall = 0.0
    for row in range(draft.rows):
        slow = 0.9995 * slow + chance.gauss(0, 0.12)
        swing = 0.99 * swing + chance.gauss(0, 0.5)
        if any(place <= row < place + 150 for place in places):
            fall += (chance.uniform(35, 60) - fall) * 0.03
        else:
            fall *= 0.97
        draft.values[row] = 88 + slow + swing - fall + chance.gauss(0, 0.6)
    draft.labels.extend(places)
    return draft


def room(chance: Random) -> Draft:
    """The temperature of a room each hour, by day and by season; then the cooling stops, or runs too hard."""
    draft = Draft(chance, rows=7200, interval_s=HOUR)
    wander = 0.0
    for row in range(draft.rows):
        wander = 0.98 * wander + chance.gauss(0, 0.35)
        draft.values[row] = (
            71
            + 2.5 * math.sin(row / 1100)
            + 1.5 * math.sin(draft.hour(row) * math.pi / 12)
            + wander
            + chance.gauss(0, 0.4)
        )
    for place in draft.places(2):
        move = chance.choice((-1, 1)) * chance.uniform(5, 12)
        for row in range(place, min(draft.rows, place + draft.lasting(0.05, 0.4))):
            draft.values[row] += move
        draft.labels.append(place)
    return draft


def bursts(chance: Random) -> Draft:
    """Bytes that come in bursts over nearly nothing; then a burst like none before, or a standing stream."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    base, every = chance.uniform(50, 5e5), chance.choice((12, 30, 72))
    for row in range(draft.rows):
        draft.values[row] = base * (0.5 + chance.random())
        if row % every == 0 or chance.random() < 0.01:
            draft.values[row] = base * (5 + 6 * min(heavy(chance, shape=2.5), 3))
    for place in draft.places(chance.choice((1, 2))):
        if chance.random() < 0.6:
            draft.values[place] = base * chance.uniform(50, 150)
        else:
            for row in range(place, min(draft.rows, place + draft.lasting(0.2, 0.6))):
                draft.values[row] += base * chance.uniform(8, 15)
        draft.labels.append(place)
    return draft


def latency(chance: Random) -> Draft:
    """The latency of requests, trembling; then a dip, a peak, and the failure."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    slow = 0.0
    for row in range(draft.rows):
        slow = 0.998 * slow + chance.gauss(0, 0.06)
        draft.values[row] = 45 + slow + chance.gauss(0, 1.6)
    for place in draft.places(3):
        move = chance.choice((-14, 20, 55)) * chance.uniform(0.8, 1.2)
        for row in range(place, min(draft.rows, place + chance.choice((1, 1, 3, 12)))):
            draft.values[row] += move * chance.uniform(0.7, 1)
        draft.labels.append(place)
    return draft


def noise_that_changes(chance: Random) -> Draft:
    """A level that stays, while what is around it trembles more, or hardly at all, or stands still."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    level, noise = chance.uniform(10, 1000), chance.uniform(1, 5)
    place = draft.places(1)[0]
    factor, stop = chance.choice((0.0, 0.2, 3.0, 5.0)), place + draft.lasting(1.0, 6.0)
    stuck = level + chance.gauss(0, noise)
    for row in range(draft.rows):
        inside = place <= row < stop
        draft.values[row] = (
            stuck if inside and factor == 0 else level + chance.gauss(0, noise * (factor if inside else 1))
        )
    draft.labels.append(place)
    return draft


def swing_that_changes(chance: Random) -> Draft:
    """A daily swing that becomes larger or smaller, or comes twice as often."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    place = draft.places(1)[0]
    factor, times = chance.choice(((0.2, 1), (2.0, 1), (1.0, 2), (1.0, 3)))
    stop = place + draft.lasting(1.0, 3.0)
    for row in range(draft.rows):
        inside = place <= row < stop
        angle = (draft.hour(row) - 6) * math.pi / 12 * (times if inside else 1)
        draft.values[row] = 50 + 20 * (factor if inside else 1) * math.sin(angle) + chance.gauss(0, 2)
    draft.labels.append(place)
    return draft


def leak(chance: Random) -> Draft:
    """Memory that stays where it is, and then grows until somebody restarts the process."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    place = draft.places(1)[0]
    noise = chance.uniform(0.5, 2)
    stop = place + draft.lasting(1.0, 3.0)
    for row in range(draft.rows):
        grown = (row - place) * noise * 0.15 if place <= row < stop else 0.0
        draft.values[row] = 40 + grown + chance.gauss(0, noise)
    draft.labels.append(place)
    return draft


def keys_pressed(chance: Random) -> Draft:
    """What somebody types each half hour: nothing by night, irregularly by day; then at night, or without end."""
    draft = Draft(chance, rows=2500, interval_s=MINUTES_30)
    for row in range(draft.rows):
        works = 9 <= draft.hour(row) < 18 and not draft.is_weekend(row) and chance.random() < 0.7
        draft.values[row] = poisson(chance, 40 * heavy(chance, shape=3)) if works else 0.0
    for place in draft.places(chance.choice((1, 2))):
        for row in range(place, min(draft.rows, place + draft.lasting(0.1, 0.5))):
            draft.values[row] = poisson(chance, 150 * chance.uniform(0.3, 1.5))
        draft.labels.append(place)
    return draft


def misconfigured(chance: Random) -> Draft:
    """The CPU of a group of servers, by day and week, for two months; then its days are others for a while."""
    draft = Draft(chance, rows=18_000, interval_s=MINUTES_5)
    level, swing, noise = chance.uniform(35, 50), chance.uniform(10, 25), chance.uniform(3, 8)
    place, what = draft.places(1)[0], chance.choice(("high", "low", "flat", "restless"))
    stop, slow = place + draft.lasting(0.6, 1.6), 0.0
    for row in range(draft.rows):
        slow = 0.95 * slow + chance.gauss(0, noise / 4)
        course = swing * math.sin((draft.hour(row) - 9) * math.pi / 12) * (0.6 if draft.is_weekend(row) else 1)
        inside = place <= row < stop
        move = (
            {"high": 0.9 * swing, "low": -0.9 * swing, "flat": -course, "restless": slow * 2}[what] if inside else 0.0
        )
        draft.values[row] = min(100.0, max(0.0, level + course + slow + move + chance.gauss(0, noise)))
    draft.labels.append(place)
    return draft


def mentions_of_a_share(chance: Random) -> Draft:
    """Mentions in crowds of all sizes, by a heavy tail: labelled are the largest, and one that is not."""
    draft = Draft(chance, rows=15_800, interval_s=MINUTES_5)
    mean, crowd, mood = chance.choice((5.0, 15.0, 40.0, 90.0)), 0.0, 0.0
    begins: list[tuple[float, int]] = []
    for row in range(draft.rows):
        mood = 0.98 * mood + chance.gauss(0, 0.06)
        rate = mean * math.exp(mood) * (1 + 0.5 * math.sin((draft.hour(row) - 10) * math.pi / 12))
        crowd *= 0.8
        if chance.random() < 0.004:
            size = mean * 1.5 * (heavy(chance, shape=1.3) + 0.5)
            crowd += min(size, mean * 60)
            begins.append((size, row))
        draft.values[row] = poisson(chance, rate * chance.gammavariate(8.0, 1 / 8) + crowd)
    begins = sorted((size, row) for size, row in begins if 0.2 * draft.rows < row < 0.95 * draft.rows)
    wanted = [row for _, row in begins[-2:]] + [chance.choice(begins[-12:-2])[1]]
    apart = draft.rows // 27
    for row in wanted:
        if all(abs(row - other) > apart for other in draft.labels):
            draft.labels.append(row)
    return draft


def travel_time(chance: Random) -> Draft:
    """Seconds along a road: a few minutes late by day, with jams of all lengths; then the worst of them."""
    draft = Draft(chance, rows=2500, interval_s=600)
    base, jam = chance.uniform(60, 200), 0.0
    for row in range(draft.rows):
        rush = sum(math.exp(-(((draft.hour(row) - peak) / 1.8) ** 2)) for peak in (8, 17))
        jam = 0.6 * jam + (base * heavy(chance, shape=2.0) if chance.random() < 0.04 else 0.0)
        draft.values[row] = round(base * (1 + 0.25 * rush * chance.random()) + chance.gauss(0, 4) + min(jam, 3 * base))
    for place in draft.places(chance.choice((2, 3))):
        for row in range(place, min(draft.rows, place + draft.lasting(0.05, 0.4))):
            draft.values[row] += round(base * chance.uniform(1, 5))
        draft.labels.append(place)
    return draft


def bytes_received(chance: Random) -> Draft:
    """Bytes on a network: noise over many sizes, bursts at any time; then a new level, a long burst, or the highest."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    level, width = 10 ** chance.uniform(3, 6), chance.uniform(0.1, 0.6)
    for row in range(draft.rows):
        draft.values[row] = level * math.exp(chance.gauss(0, width))
        if chance.random() < 0.01:
            draft.values[row] *= chance.uniform(2, 10)
    for place in draft.places(chance.choice((1, 2))):
        what = chance.choice(("level", "burst", "peak"))
        lasts = {"level": draft.lasting(1, 2), "burst": draft.lasting(0.05, 0.2), "peak": 1}[what]
        factor = {"level": chance.uniform(1.5, 3), "burst": chance.uniform(3, 8), "peak": chance.uniform(12, 40)}[what]
        for row in range(place, min(draft.rows, place + lasts)):
            draft.values[row] *= factor
        draft.labels.append(place)
    return draft


def small_changes(chance: Random) -> Draft:
    """A CPU that does little, with small peaks now and then; then a little more of something, which was labelled."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    level, noise = chance.uniform(1, 5), chance.uniform(0.05, 0.3)
    for row in range(draft.rows):
        draft.values[row] = level + chance.gauss(0, noise)
        if chance.random() < 0.01:
            draft.values[row] += noise * chance.uniform(2, 8)
    for place in draft.places(chance.choice((1, 2))):
        what, stop = chance.choice(("level", "noise", "peaks")), place + draft.lasting(0.2, 1.0)
        for row in range(place, min(draft.rows, stop)):
            draft.values[row] += {
                "level": noise * 1.5,
                "noise": chance.gauss(0, noise * 1.8),
                "peaks": noise * 8 if chance.random() < 0.08 else 0.0,
            }[what]
        draft.labels.append(place)
    return draft


def season(chance: Random) -> Draft:
    """The temperature of an office each hour, with gaps, wandering more by itself than at what is labelled."""
    draft = Draft(chance, rows=7200, interval_s=HOUR)
    wander = 0.0
    for row in range(draft.rows):
        wander = 0.985 * wander + chance.gauss(0, 0.45)
        draft.values[row] = 71 + 3 * math.sin(row / 1100) + 2 * math.sin(draft.hour(row) * math.pi / 12) + wander
        draft.values[row] += chance.gauss(0, 0.5)
    for place in draft.places(2):
        move = chance.choice((-1, 1)) * chance.uniform(3, 8)
        for row in range(place, min(draft.rows, place + draft.lasting(0.05, 0.4))):
            draft.values[row] += move
        draft.labels.append(place)
    return draft


def busy_and_stopped(chance: Random) -> Draft:
    """A CPU that has all it can do, with short rests; then it rests for long, or moves, or does not rest any more."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    level, noise, rate = chance.uniform(70, 95), chance.uniform(0.5, 3), chance.choice((0.0, 0.005, 0.02))
    for row in range(draft.rows):
        draft.values[row] = level + chance.gauss(0, noise) - (chance.uniform(5, 30) if chance.random() < rate else 0)
    for place in draft.places(chance.choice((1, 2))):
        depth = chance.uniform(0.15, 0.9) * level
        for row in range(place, min(draft.rows, place + draft.lasting(0.01, 1.0))):
            draft.values[row] -= depth
        draft.labels.append(place)
    return draft


def clicks(chance: Random) -> Draft:
    """What a click costs each hour: peaks of all heights at any time, the highest of which are labelled."""
    draft = Draft(chance, rows=1630, interval_s=HOUR)
    middle, begins = chance.uniform(0.05, 0.5), list[tuple[float, int]]()
    for row in range(draft.rows):
        draft.values[row] = middle * math.exp(chance.gauss(0, 0.25))
        if chance.random() < 0.02:
            size = 1 + heavy(chance, shape=1.2)
            draft.values[row] *= min(size, 40)
            begins.append((size, row))
    begins = sorted((size, row) for size, row in begins if 0.2 * draft.rows < row < 0.95 * draft.rows)
    for _, row in reversed(begins[-6:]):
        if len(draft.labels) < 3 and all(abs(row - other) > draft.rows // 27 for other in draft.labels):
            draft.labels.append(row)
    return draft


def nothing_wrong(chance: Random) -> Draft:
    """Nothing to be found: noise, a standstill, a clean swing, or a clean swing by clockwork."""
    draft = Draft(chance, rows=4032, interval_s=MINUTES_5)
    what = chance.choice(("even", "bell", "still", "swing", "square"))
    for row in range(draft.rows):
        hour = draft.hour(row)
        draft.values[row] = {
            "even": chance.uniform(8, 19),
            "bell": chance.gauss(50, 7),
            "still": 45.0,
            "swing": 50 + 20 * math.sin(hour * math.pi / 12),
            "square": 80.0 if 9 <= hour < 18 else 20.0,
        }[what]
    return draft


KINDS: Final[Mapping[str, Callable[[Random], Draft]]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            idle_with_jobs, busy_with_levels, requests_by_day, mentions, traffic, prices, office_hours, spike_density,
            riders, machine, room, bursts, latency, noise_that_changes, swing_that_changes, leak, keys_pressed,
            misconfigured, mentions_of_a_share, travel_time, bytes_received, small_changes, season, busy_and_stopped,
            clicks, nothing_wrong,
        )
    }
)  # fmt: skip

MISSING: Final = MappingProxyType({"traffic": 0.22, "requests_by_day": 0.01, "travel_time": 0.15, "season": 0.03})
"""The share of rows that never arrived, for the kinds where that happens."""


def make(kind: str, seed: int) -> Series:
    """Return the series of a kind and a seed."""
    draft = KINDS[kind](Random(f"{kind} {seed}"))
    return draft.finish(f"{kind}-{seed}", drop=MISSING.get(kind, 0.0))
