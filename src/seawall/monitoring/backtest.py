"""What a detector would have said of a series that is already there: rows in, judgements out, in order."""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from seawall.errors import SeawallError
from seawall.monitoring.detector import Detector

TIMESTAMP, VALUE = "timestamp", "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A row, its two fields as they came, and what was thought of it."""

    timestamp: str
    value: str
    score: float
    is_alert: bool


def judge(lines: Iterable[str]) -> Iterator[Judged]:
    """Yield what a detector says of each row of a CSV that has the columns `timestamp` and `value`, among others.

    Timestamps are ISO 8601 or seconds since 1970; they may come twice and in any order. A value that is empty or not a
    number (`nan`) was not measured: it is passed over with a score of 0.

    Raises:
        SeawallError: a column is missing, or a field cannot be read; says on which line. Rows before it were yielded.
    """
    reader = csv.reader(lines)
    detector = Detector()
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not header:
            raise SeawallError(f"the file is empty; its first line should name the columns: {TIMESTAMP},{VALUE}")
        missing = [name for name in (TIMESTAMP, VALUE) if name not in header]
        if missing:
            raise SeawallError(f"no column {' and no column '.join(missing)}; the first line names {', '.join(header)}")
        at, of = header.index(TIMESTAMP), header.index(VALUE)
        for row in reader:
            if not row:
                continue
            if len(row) <= max(at, of):
                raise SeawallError(f"line {reader.line_num}: {len(row)} fields, where the first line has {len(header)}")
            moment, value = _moment(row[at], line=reader.line_num), _number(row[of], line=reader.line_num)
            verdict = detector.observe(moment, value)
            yield Judged(timestamp=row[at], value=row[of], score=verdict.score, is_alert=verdict.is_alert)
    except csv.Error as error:
        raise SeawallError(f"line {reader.line_num}: not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise SeawallError(f"after line {reader.line_num}: not UTF-8 text ({error.reason})") from error


def _moment(text: str, *, line: int) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        pass
    try:
        return datetime.fromtimestamp(float(text), tz=UTC)
    except (ValueError, OverflowError, OSError):
        raise SeawallError(
            f"line {line}: {text!r} is no time; write it as 2026-11-24 16:05:00, or in seconds since 1970"
        ) from None


def _number(text: str, *, line: int) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise SeawallError(f"line {line}: {text!r} is no number") from None
