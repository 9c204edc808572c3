"""`seawall backtest detector`: CSV in, CSV out, and a clear word when it cannot be read."""

import csv
import io
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from seawall.cli.backtest import backtest
from seawall.errors import SeawallError

HEADER = "timestamp,value,anomaly_score,alert"


def run(text: str | bytes) -> Result:
    return CliRunner().invoke(backtest, ["detector", "-"], input=text)


def written(rows: int = 500, *, odd: int | None = 400) -> str:
    chance = Random(1)
    lines = ["timestamp,value"]
    for row in range(rows):
        value = 90 if row == odd else chance.gauss(10, 1)
        lines.append(f"2026-11-{1 + row // 288:02} {row // 12 % 24:02}:{row % 12 * 5:02}:00,{value:.3f}")
    return "\n".join(lines) + "\n"


def read(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == HEADER
    return list(csv.DictReader(io.StringIO(result.output)))


def complaint(result: Result) -> str:
    assert isinstance(result.exception, SeawallError)
    return str(result.exception)


def test_each_row_comes_back_as_it_was_with_a_score_and_whether_it_is_an_alert() -> None:
    text = written()

    rows = read(run(text))

    assert [f"{row['timestamp']},{row['value']}" for row in rows] == text.splitlines()[1:]
    assert [number for number, row in enumerate(rows) if row["alert"] == "1"] == [400]
    assert all(0 <= float(row["anomaly_score"]) <= 1 for row in rows)
    assert float(rows[400]["anomaly_score"]) >= 0.5


def test_a_file_is_read_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text(written(), encoding="utf-8-sig")

    result = CliRunner().invoke(backtest, ["detector", str(path)])

    assert read(result) == read(run(written()))


def test_columns_may_stand_in_any_order_and_among_others() -> None:
    text = "host, Value ,TIMESTAMP\n" + "".join(f'"a, b",{row}.5,{1_700_000_000 + row * 60}\n' for row in range(3))

    rows = read(run(text))

    assert [(row["timestamp"], row["value"]) for row in rows] == [
        (str(1_700_000_000 + row * 60), f"{row}.5") for row in range(3)
    ]


@pytest.mark.parametrize("nothing", ["", "nan", "NaN", "inf", "-inf", " "])
def test_what_was_not_measured_is_passed_over(nothing: str) -> None:
    lines = written().splitlines()
    lines.insert(300, f"2026-11-02 00:56:00,{nothing}")

    rows = read(run("\n".join(lines)))

    assert rows[299] == {
        "timestamp": "2026-11-02 00:56:00",
        "value": nothing,
        "anomaly_score": "0.0",
        "alert": "0",
    }
    assert rows[:299] + rows[300:] == read(run(written()))


def test_rows_may_come_twice_and_in_any_order() -> None:
    header, *lines = written().splitlines()
    Random(2).shuffle(lines)

    rows = read(run("\n".join([header, *lines, *lines[:100]])))

    assert len(rows) == 600


def test_blank_lines_and_a_series_without_rows_are_no_mistake() -> None:
    assert read(run("timestamp,value\n")) == []
    assert len(read(run("timestamp,value\n\n2026-11-24,1\n\n"))) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("time,value\n1,2\n", "no column timestamp; the first line names time, value"),
        ("a,b\n1,2\n", "no column timestamp and no column value"),
        ("timestamp,value\n2026-11-24,1\n2026-11-25,12 %\n", "line 3: '12 %' is no number"),
        ("timestamp,value\n2026-11-24,1\nyesterday,2\n", "line 3: 'yesterday' is no time"),
        ("timestamp,value\n1e99,2\n", "line 2: '1e99' is no time"),
        ("timestamp,value\n2026-11-24\n", "line 2: 1 fields, where the first line has 2"),
        (b"timestamp,value\n2026-11-24,1\n\xff\xfe,2\n", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str | bytes, says: str) -> None:
    assert says in complaint(run(text))


def test_rows_before_the_one_that_cannot_be_read_are_judged() -> None:
    result = run("timestamp,value\n2026-11-24,1\n2026-11-25,x\n")

    assert result.output.splitlines() == [HEADER, "2026-11-24,1,0.0,0"]
    assert "line 3" in complaint(result)


def test_a_file_that_is_not_there_is_a_mistake_of_the_caller() -> None:
    assert CliRunner().invoke(backtest, ["detector", "/nowhere/series.csv"]).exit_code == 2
