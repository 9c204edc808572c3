"""Does the anomaly detector find what people have labelled, early, and without crying wolf; and how fast is it?

One configuration for all series. Series of our own making (`detector_series`), by kind; and, where they are at hand,
files of the public benchmark with a `windows.json` beside them. The scoring is the benchmark's standard profile
(`detector_scoring`): 0 is no detection at all, 100 is perfect. For comparison, the schedule that alarms once each
window's width, whatever happens, and what three simple detectors get with the threshold that suits them best here.

    python -m benchmarks.detector [--seeds 4] [--first-seed 0] [--files DIRECTORY]
    python -m benchmarks.detector --chart FILE.svg --csv FILE.csv
"""

import argparse
import csv
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.detector_chart import chart
from benchmarks.detector_scoring import Outcome, Window, judge, learning_rows
from benchmarks.detector_series import KINDS, Series, make
from seawall.monitoring.detector import Detector, Verdict

THRESHOLDS: Final = (2.5, 3, 4, 5, 6, 8, 10, 14, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one series went: by our detector, by others, and in what time ours did it."""

    kind: str
    rows: int
    seconds: float
    ours: Outcome
    by_score: Mapping[float, Outcome]
    others: Mapping[str, Mapping[float, Outcome]]


def read(path: Path, spans: Sequence[tuple[str, str]]) -> Series:
    """Return a file of the public benchmark, with its labels."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
    windows = []
    for first, last in spans:
        low, high = datetime.fromisoformat(first), datetime.fromisoformat(last)
        inside = [row for row, moment in enumerate(times) if low <= moment <= high]
        windows.append(Window(first=inside[0], last=inside[-1]))
    return Series(name=path.stem, times=times, values=[float(row["value"]) for row in rows], windows=windows)


def verdicts(series: Series) -> list[Verdict]:
    """Return what the detector says of each row."""
    detector = Detector()
    return [detector.observe(moment, value) for moment, value in zip(series.times, series.values, strict=True)]


def deviations(values: Sequence[float], *, rows: int = 400) -> Iterator[float]:
    """Yield how many standard deviations each value is from the mean of the latest rows: the simplest detector."""
    latest: deque[float] = deque(maxlen=rows)
    for value in values:
        mean = sum(latest) / len(latest) if latest else value
        spread = math.sqrt(sum((one - mean) ** 2 for one in latest) / len(latest)) if latest else 0.0
        yield abs(value - mean) / spread if spread and len(latest) >= 50 else 0.0
        latest.append(value)


def jumps(values: Sequence[float]) -> Iterator[float]:
    """Yield how many standard deviations of the steps each step is."""
    return deviations([later - earlier for earlier, later in zip([values[0], *values], values, strict=False)])


def records(values: Sequence[float]) -> Iterator[float]:
    """Yield by how much of the range so far, in twentieths, each value is outside of it."""
    low = high = values[0]
    for value in values:
        past = max(value - high, low - value, 0.0)
        yield 20 * past / (high - low) if high > low else 0.0
        low, high = min(low, value), max(high, value)


OTHERS: Final[Mapping[str, Callable[[Sequence[float]], Iterator[float]]]] = {
    "deviations of the value": deviations,
    "deviations of its steps": jumps,
    "values never seen": records,
}


def said_once(scores: Sequence[float], threshold: float, *, rows: int = 100) -> list[int]:
    """Return where a score reaches a threshold, once in so many rows: what any detector is allowed."""
    found: list[int] = []
    for row, score in enumerate(scores):
        if score >= threshold and (not found or row - found[-1] > rows):
            found.append(row)
    return found


def outcome_of(series: Series, kind: str) -> Result:
    """Judge a series by all detectors."""
    begun = time.process_time()
    found = verdicts(series)
    seconds = time.process_time() - begun
    rows = len(series.values)
    judged = partial(judge, windows=series.windows, rows=rows)
    others = {
        name: {threshold: judged(said_once(scores, threshold)) for threshold in THRESHOLDS}
        for name, scores in ((name, list(score(series.values))) for name, score in OTHERS.items())
    }
    widths = [window.rows for window in series.windows] or [rows // 10]
    others["a schedule"] = {0: judged(range(learning_rows(rows), rows, widths[0]))}
    return Result(
        kind=kind,
        rows=rows,
        seconds=seconds,
        ours=judged([row for row, verdict in enumerate(found) if verdict.is_alert]),
        by_score={
            threshold: judged([row for row, verdict in enumerate(found) if verdict.score >= threshold])
            for threshold in (0.4, 0.45, 0.5, 0.55, 0.6)
        },
        others=others,
    )


def of_kind(kind: str, seed: int) -> Result:
    """Judge a series of our own."""
    return outcome_of(make(kind, seed), kind)


def of_file(path: Path, spans: Sequence[tuple[str, str]]) -> Result:
    """Judge a file of the public benchmark."""
    return outcome_of(read(path, spans), path.stem)


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum."""
    return sum(outcomes, Outcome())


def table(results: Sequence[Result], *, title: str) -> None:
    """Print a line for each kind, and the sum; then what others got."""
    print(f"\n| {title} | windows | found | false alarms | score |\n|---|--:|--:|--:|--:|")
    for kind in dict.fromkeys(result.kind for result in results):
        line(kind, total([result.ours for result in results if result.kind == kind]))
    line("**all**", total([result.ours for result in results]))
    for name in results[0].others:
        by_threshold = [
            total([result.others[name][threshold] for result in results]) for threshold in results[0].others[name]
        ]
        line(f"*{name}*", max(by_threshold, key=lambda outcome: outcome.score))
    print("\nBy the score alone, with a threshold of: ", end="")
    print(", ".join(
        f"{threshold:g}: {total([result.by_score[threshold] for result in results]).score:.1f}"
        for threshold in results[0].by_score
    ))  # fmt: skip
    rows, seconds = sum(result.rows for result in results), sum(result.seconds for result in results)
    print(f"{rows:,} rows in {seconds:.1f} s of CPU: {rows / seconds:,.0f} rows a second")


def line(name: str, outcome: Outcome) -> None:
    """Print one line of a table."""
    score = "–" if math.isnan(outcome.score) else f"{outcome.score:.1f}"
    print(f"| {name} | {outcome.windows} | {outcome.found} | {outcome.false_alarms} | {score} |")


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="series of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--files", type=Path, help="a directory with files of the public benchmark and windows.json")
    parser.add_argument("--chart", type=Path, help="write the chart of docs/detector.md, instead")
    parser.add_argument("--csv", type=Path, help="write the series of that chart, instead")
    asked = parser.parse_args()
    if asked.chart is not None or asked.csv is not None:
        series = make("requests_by_day", 6)
        if asked.chart is not None:
            asked.chart.write_text(chart(series, verdicts(series)))
        if asked.csv is not None:
            rows = zip(series.times, series.values, strict=True)
            asked.csv.write_text("timestamp,value\n" + "".join(f"{moment},{value:g}\n" for moment, value in rows))
        return
    with ProcessPoolExecutor(2) as pool:
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        wanted = [(kind, seed) for kind in KINDS for seed in seeds]
        table(list(pool.map(of_kind, *zip(*wanted, strict=True))), title="series of our own")
        if asked.files is not None:
            windows = json.loads((asked.files / "windows.json").read_text())
            paths = [asked.files / name for name in windows]
            table(list(pool.map(of_file, paths, windows.values())), title="file of the public benchmark")


if __name__ == "__main__":
    main()
