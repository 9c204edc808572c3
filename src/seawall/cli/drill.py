"""`seawall drill`: rehearsals on a throwaway service, each with a hypothesis and a scoreboard."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from seawall.cli.options import json_option
from seawall.drills import scoreboard
from seawall.drills.chart import timelines
from seawall.drills.debacle import DEBACLE, replay
from seawall.drills.generator import GeneratorFailed, Progress
from seawall.drills.instance import InstanceFailed, running_instance
from seawall.drills.load import Manner
from seawall.drills.surge import (
    Act,
    Shape,
    Surge,
    TooFewOffered,
    complaints_of,
    find_capacity,
    goals_of,
    load_of,
    perform,
    retry_of,
)
from seawall.errors import SeawallError

FAILED = (GeneratorFailed, InstanceFailed, TooFewOffered)
BAR = 24
MANNERS = [manner.value for manner in Manner]
SHAPES = [shape.value for shape in Shape]

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def drill() -> None:
    """Rehearse what can go wrong, on a throwaway service in a temporary directory."""


def out_option(command: Command) -> Command:
    """Give a command `--out`."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Where the scoreboard (JSON), the chart (SVG) and a page with both (HTML) are written.",
    )(command)


@drill.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the drills."""
    known = {
        "debacle": "The outage, replayed in two acts with the same load: as it was, and as it is.",
        "surge": "Far more users than can be served, and how the service takes it.",
    }
    click.echo(
        json.dumps(known, indent=2) if as_json else "\n".join(f"{name:<12} {what}" for name, what in known.items())
    )


@drill.command()
@click.option("--multiple", type=click.FloatRange(min=1.1, max=20), default=DEBACLE.multiple, show_default=True,
              help="How much the surge brings, in parts of the capacity.")  # fmt: skip
@click.option("--users", type=click.IntRange(min=10, max=50_000), default=DEBACLE.users, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=3), default=DEBACLE.surge_s, show_default=True,
              help="How long the surge lasts.")  # fmt: skip
@click.option("--after", type=click.FloatRange(min=5), default=DEBACLE.after_s, show_default=True,
              help="How long it is watched afterwards, in seconds.")  # fmt: skip
@click.option("--retry", type=click.Choice(MANNERS), default=DEBACLE.retry.manner.value, show_default=True,
              help="What users do who are not served.")  # fmt: skip
@out_option
@json_option
def debacle(
    *, multiple: float, users: int, seconds: float, after: float, retry: Manner, out: Path | None, as_json: bool
) -> None:
    """Replay the outage in two acts: as it was, and as it is. Exit code 0 if the service falls in the first only."""
    surge = replace(
        DEBACLE, multiple=multiple, users=users, surge_s=seconds, after_s=after, retry=retry_of(Manner(retry))
    )
    whole_s = surge.before_s + surge.surge_s + surge.after_s

    async def run(directory: Path) -> tuple[Mapping[str, Act], Sequence[str]]:
        with Bar(whole_s) as bar:
            found = await replay(surge, directory=directory, tell=bar.tell, hear=bar.hear)
        return found.acts, found.complaints

    _conclude(run, title="The outage, replayed", out=out, as_json=as_json)


@drill.command()
@click.option("--shape", type=click.Choice(SHAPES), default=Shape.CROWD.value, show_default=True,
              help="Who makes the surge: everybody, work in the background, or one tenant.")  # fmt: skip
@click.option("--multiple", type=click.FloatRange(min=1.1, max=20), default=10.0, show_default=True,
              help="How much the surge brings, in parts of the measured capacity.")  # fmt: skip
@click.option("--users", type=click.IntRange(min=10, max=50_000), default=4000, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=3), default=15.0, show_default=True,
              help="How long the surge lasts.")  # fmt: skip
@click.option("--after", type=click.FloatRange(min=5), default=20.0, show_default=True,
              help="How long it is watched afterwards, in seconds.")  # fmt: skip
@click.option("--retry", type=click.Choice(MANNERS), default=Manner.POLITE.value, show_default=True,
              help="What users do who are not served.")  # fmt: skip
@out_option
@json_option
def surge(
    *,
    shape: Shape,
    multiple: float,
    users: int,
    seconds: float,
    after: float,
    retry: Manner,
    out: Path | None,
    as_json: bool,
) -> None:
    """Let far more users come than can be served. Exit code 0 if the service did as it should."""
    wanted = Surge(
        shape=Shape(shape),
        multiple=multiple,
        users=users,
        surge_s=seconds,
        after_s=after,
        retry=retry_of(Manner(retry)),
    )
    whole_s = wanted.before_s + wanted.surge_s + wanted.after_s

    async def run(directory: Path) -> tuple[Mapping[str, Act], Sequence[str]]:
        with Bar(whole_s) as bar:
            bar.tell("starting the service")
            async with running_instance(wanted.settings) as instance:
                capacity = await find_capacity(instance, wanted)
                bar.tell(
                    f"capacity {capacity.served_per_s:,.0f} requests/s; the generator can offer "
                    f"{capacity.offered_per_s:,.0f}/s"
                )
                load = load_of(wanted, capacity_per_s=capacity.served_per_s)
                act = await perform(
                    instance,
                    load,
                    capacity=capacity,
                    ledger=directory,
                    hear=lambda progress: bar.hear("surge", progress),
                )
        return {f"{multiple:g} ×": act}, complaints_of(act, wanted, goals_of(wanted))

    _conclude(run, title=f"A surge of {multiple:g} × the capacity", out=out, as_json=as_json)


class Bar:
    """Says on standard error how far a drill is. State: whether the last line is still being written.

    One line that is rewritten where somebody watches; elsewhere a line for each thing that is begun.
    """

    def __init__(self, whole_s: float) -> None:
        self._whole_s = whole_s
        self._is_watched = sys.stderr.isatty()
        self._is_open = False

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_line()

    def tell(self, what: str) -> None:
        """Say what is begun."""
        self._end_line()
        click.echo(f"{what} ...", err=True)

    def hear(self, name: str, progress: Progress) -> None:
        """Show one second of an act."""
        if not self._is_watched:
            return
        part = min(1.0, (progress.second + 1) / self._whole_s)
        bar = "#" * int(part * BAR)
        click.echo(
            f"\r  {name}  [{bar:<{BAR}}] {progress.second + 1:>3} of {self._whole_s:.0f} s   "
            f"asked {progress.due:>5,}/s, answered {progress.served:>5,}/s, waiting {progress.waiting:>6,} ",
            nl=False,
            err=True,
        )
        self._is_open = True

    def _end_line(self) -> None:
        if self._is_open:
            click.echo("", err=True)
            self._is_open = False


def _conclude(
    run: Callable[[Path], Awaitable[tuple[Mapping[str, Act], Sequence[str]]]],
    *,
    title: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a drill, print its board, write its files, and exit with the answer."""
    # Whoever ends us ends the service as well: as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="seawall-drill-") as scratch:
            acts, complaints = asyncio.run(_run(run, Path(scratch)))
    except FAILED as error:
        raise SeawallError(f"the drill could not be held: {error}") from error
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        found = scoreboard.as_json(acts, complaints=complaints)
        (out / "scoreboard.json").write_text(json.dumps(found, indent=2) + "\n")
        (out / "chart.svg").write_text(timelines(acts))
        (out / "drill.html").write_text(scoreboard.page(acts, title=title, complaints=complaints))
    if as_json:
        click.echo(json.dumps(scoreboard.as_json(acts, complaints=complaints), indent=2))
    else:
        click.echo(f"\n{title}\n\n{scoreboard.text(acts, complaints=complaints)}")
        if out is not None:
            click.echo(f"\nA page with the chart: {out / 'drill.html'}")
    raise SystemExit(1 if complaints else 0)


async def _run(run: Callable[[Path], Awaitable[Result]], directory: Path) -> Result:
    return await run(directory)
