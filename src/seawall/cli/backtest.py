"""`seawall backtest`: what would have been said, or done, on a past that is already known?"""

import csv
import sys
from typing import TextIO

import click

from seawall.monitoring.backtest import judge


@click.group()
def backtest() -> None:
    """Try what Seawall decides by on a series of your own, before you trust it."""


@backtest.command()
@click.argument("file", type=click.File(encoding="utf-8-sig"), metavar="FILE.csv")
def detector(file: TextIO) -> None:
    """Print what the anomaly detector says of each row of FILE.csv, or of standard input when it is `-`.

    FILE.csv has the columns timestamp and value, and may have more. What is printed is CSV as well: timestamp, value,
    anomaly_score (0 to 1), alert (1 once an episode, when the score reaches 0.5; else 0). Each row is judged by those
    before it. A value that is empty or nan is passed over.
    """
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("timestamp", "value", "anomaly_score", "alert"))
    for row in judge(file):
        out.writerow((row.timestamp, row.value, row.score, int(row.is_alert)))
