"""`seawall drill`: rehearsals on a throwaway service, each with a hypothesis and a scoreboard."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from seawall.cli.options import json_option
from seawall.drills import accuracy, scoreboard
from seawall.drills.chart import fault_timeline, timelines
from seawall.drills.debacle import DEBACLE, replay
from seawall.drills.faults import FAULTS, Fault, Need
from seawall.drills.generator import GeneratorFailed, Progress
from seawall.drills.instance import InstanceFailed, running_instance
from seawall.drills.load import Manner
from seawall.drills.rehearsal import BEFORE_S, SECONDS, Rehearsal, Result, rehearse_each, watched_s
from seawall.drills.response import ORIGINAL, Response
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

Found = TypeVar("Found")
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def drill() -> None:
    """Rehearse what can go wrong, on a throwaway service in a temporary directory."""


def out_option(written: str) -> Callable[[Command], Command]:
    """Return what gives a command `--out`, for what is written there."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help=f"The directory in which {written} are written.",
    )


@drill.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the drills."""
    known = {
        "debacle": "The outage, replayed in two acts with the same load: as it was, and as it is.",
        "surge": "Far more users than can be served, and how the service takes it.",
        "diagnosis": "Every fault and trap, and whether the service names what was broken.",
    }
    faults = {f"fault {fault.name}": fault_line(fault) for fault in FAULTS}
    everything = {**known, **faults}
    wide = max(map(len, everything))
    click.echo(
        json.dumps(everything, indent=2)
        if as_json
        else "\n".join(f"{name:<{wide}}  {what}" for name, what in everything.items())
    )


def fault_line(fault: Fault) -> str:
    """Return what is said of a fault in a list: what it is, whom a diagnosis should name, what the drill needs."""
    needs = "".join(f" Needs {need}." for need in Need if need in fault.needs)
    return f"{fault.about} To be named: {fault.suspect}.{needs}"


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
@out_option("the scoreboard (JSON), the chart (SVG) and a page with both (HTML)")
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

    _conclude(run, title="The outage, replayed", out=out, as_json=as_json, original=ORIGINAL)


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
@out_option("the scoreboard (JSON), the chart (SVG) and a page with both (HTML)")
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


ALL = "all"


@drill.command()
@click.argument("name", type=click.Choice([ALL, *(fault.name for fault in FAULTS)]), metavar="NAME", required=False)
@click.option("--list", "as_list", is_flag=True, help="List the faults, instead.")
@click.option("--seconds", type=click.FloatRange(min=2, max=120), default=SECONDS, show_default=True,
              help="How long it is broken.")  # fmt: skip
@out_option("the scoreboard (JSON) and a timeline of each fault (SVG)")
@json_option
def fault(*, name: str | None, as_list: bool, seconds: float, out: Path | None, as_json: bool) -> None:
    """Break something, under load, and put it right: NAME is a fault, or `all` for one after the other.

    Exit code 0 if what had to hold did, before, during and after. A fault that cannot be rehearsed here is skipped
    aloud, which is no failure.
    """
    if as_list:
        wide = max(len(one.name) for one in FAULTS)
        told = {one.name: fault_line(one) for one in FAULTS}
        click.echo(
            json.dumps(told, indent=2) if as_json else "\n".join(f"{key:<{wide}}  {text}" for key, text in told.items())
        )
        return
    if name is None:
        raise click.UsageError("Which fault? `seawall drill fault --list` names them; `all` is each of them.")
    wanted = [one for one in FAULTS if name in {ALL, one.name}]

    async def run() -> list[Result]:
        with Bar(BEFORE_S + seconds + max(map(watched_s, wanted))) as bar:
            return await rehearse_each(wanted, seconds=seconds, tell=bar.tell, hear=bar.hear)

    results = held_to_the_end(run)
    found = scoreboard.faults_json(results)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scoreboard.json").write_text(json.dumps(found, indent=2) + "\n")
        for result in results:
            if isinstance(result, Rehearsal):
                (out / f"{result.fault.name}.svg").write_text(fault_timeline(result))
    click.echo(json.dumps(found, indent=2) if as_json else scoreboard.faults_text(results))
    raise SystemExit(0 if found["held"] else 1)


@drill.command()
@click.option("--times", type=click.IntRange(min=1, max=100), default=1, show_default=True,
              help="How often each is rehearsed.")  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice([fault.name for fault in FAULTS]), metavar="NAME",
              help="A fault; may be given several times.")  # fmt: skip
@json_option
def diagnosis(*, times: int, only: Sequence[str], as_json: bool) -> None:
    """Break everything that can be broken, and see whom the service suspects. Some 50 s for each.

    Exit code 0 if nine in ten are right, and no trap was taken.
    """
    wanted = [one for one in FAULTS if not only or one.name in only]
    trials = held_to_the_end(
        lambda: accuracy.try_each(wanted, times=times, tell=lambda line: click.echo(line, err=True))
    )
    click.echo(json.dumps(accuracy.as_json(trials), indent=2) if as_json else accuracy.markdown(trials))
    raise SystemExit(0 if accuracy.is_good(trials) else 1)


def held_to_the_end(run: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
    """Run a drill. Ctrl-C, and whoever ends us, end it in order: what was broken is put right first.

    Raises:
        click.Abort: somebody did.
    """

    async def held() -> Found:
        itself = asyncio.current_task()
        assert itself is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, itself.cancel)
        return await run()

    try:
        return asyncio.run(held())
    except asyncio.CancelledError:
        raise click.Abort from None


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
    original: Response | None = None,
) -> None:
    """Run a drill, print its board, write its files, and exit with the answer."""
    # Whoever ends us ends the service as well: as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="seawall-drill-") as scratch:
            acts, complaints = asyncio.run(_run(run, Path(scratch)))
    except FAILED as error:
        raise SeawallError(f"the drill could not be held: {error}") from error
    drafted = {name: act.response.post_mortem for name, act in acts.items() if act.response.post_mortem}
    if out is None and drafted:
        # A draft is left in any case: it is what a drill is remembered by.
        out = Path(tempfile.mkdtemp(prefix="seawall-drill-"))
    drafts = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, forms in drafted.items():
            for form, draft in forms.items():
                path = out / f"post-mortem-{name.replace(' ', '-')}.{form}"
                path.write_text(draft)
                drafts.append(path)
        found = scoreboard.as_json(acts, complaints=complaints)
        (out / "scoreboard.json").write_text(json.dumps(found, indent=2) + "\n")
        (out / "chart.svg").write_text(timelines(acts))
        (out / "drill.html").write_text(scoreboard.page(acts, title=title, complaints=complaints, original=original))
    if as_json:
        click.echo(json.dumps(scoreboard.as_json(acts, complaints=complaints), indent=2))
    else:
        click.echo(f"\n{title}\n\n{scoreboard.text(acts, complaints=complaints, original=original)}")
        for path in drafts:
            click.echo(f"\nThe post-mortem, drafted: {path}")
        if out is not None:
            click.echo(f"\nA page with the chart: {out / 'drill.html'}")
    raise SystemExit(1 if complaints else 0)


async def _run(run: Callable[[Path], Awaitable[Found]], directory: Path) -> Found:
    return await run(directory)
