"""How often is the right layer named? Each fault and trap is rehearsed under load, and the keeper asked what it thinks.

Two answers count: what it says when it is asked, some seconds into the fault, and what it said by itself, as its
journal has it. Users do not notice every fault (nodes keep the connections they have), so not each makes an alert; the
answer when asked is there for all of them.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from seawall.clock import monotonic_s, wall_s
from seawall.drills.faults import Fault
from seawall.drills.generator import GeneratorFailed
from seawall.drills.instance import Instance, InstanceFailed
from seawall.drills.rehearsal import SECONDS, WHOLE_MAX_S, CannotRehearse, rehearse
from seawall.errors import SeawallError
from seawall.monitoring.things import Layer
from seawall.telemetry.journal import Event, read_events
from seawall.telemetry.link import ask

ASKED_AFTER_S: Final = 8.0
"""An alert takes a few seconds, and a diagnosis may take ten more."""

USUAL_FOR_S: Final = 20
"""How long the load is on before anything is broken: a keeper knows what is usual from more than a few seconds."""

GOAL: Final = 0.9
"""Of those that were tried."""

UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rehearsal. What was not said is None; times are in seconds from the moment at which the fault was in force.

    `asked` is the suspect when the keeper was asked, `unknown` where it suspected nobody; `told` the suspect of its own
    first diagnosis. `why` says why there is no answer: it was skipped, or broke.
    """

    fault: Fault
    asked: str | None = None
    mechanism: str = ""
    alerted_s: float | None = None
    told: str | None = None
    told_s: float | None = None
    why: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the layer that was broken is the first suspect."""
        return self.asked == self.fault.suspect.value


# Acting.


async def try_each(
    faults: Iterable[Fault],
    *,
    times: int,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Trial]:
    """Rehearse each so many times, in turns, so that a bad moment of the machine does not meet one fault only."""
    some = [*faults]
    trials: list[Trial] = []
    for turn in range(1, times + 1):
        for fault in some:
            trial = await try_one(fault, seconds=seconds)
            trials.append(trial)
            tell(f"{turn}/{times} {_line_of(trial)}")
    return trials


async def try_one(fault: Fault, *, seconds: float = SECONDS) -> Trial:
    """Break something on a service under load, and hear what its keeper makes of it."""
    heard = _Heard()
    try:
        async with asyncio.timeout(WHOLE_MAX_S + seconds):
            lasts_s = max(seconds, ASKED_AFTER_S + 1)
            await rehearse(fault, seconds=lasts_s, before_s=USUAL_FOR_S, during=heard.listen)
    except (_HeardAll, CannotRehearse, InstanceFailed, GeneratorFailed, SeawallError, TimeoutError, OSError) as error:
        if heard.answer is None:
            return Trial(fault=fault, why=str(error) or "it took too long")
    if heard.answer is None:
        return Trial(fault=fault, why="the keeper did not answer")
    return trial_of(fault, heard.answer, heard.events, broken_s=heard.broken_s)


class _HeardAll(Exception):
    """What was to be heard was heard: nothing has to be watched after the fault was put right."""


class _Heard:
    """State: what the keeper said."""

    def __init__(self) -> None:
        self.broken_s = 0.0
        self.answer: dict[str, Any] | None = None
        self.events: list[Event] = []

    async def listen(self, instance: Instance) -> None:
        """Ask it some seconds into the fault, and then look what it has written down by itself."""
        self.broken_s, due_s = wall_s(), monotonic_s() + ASKED_AFTER_S
        await asyncio.sleep(due_s - monotonic_s())
        try:
            self.answer = await ask(instance.data_dir / "run" / "keeper.sock", "diagnose")
        finally:
            self.events = await asyncio.to_thread(lambda: [*read_events(instance.data_dir / "journal")])
        raise _HeardAll


# Decisions.


def trial_of(fault: Fault, answer: dict[str, Any], events: Iterable[Event], *, broken_s: float) -> Trial:
    """Return what was said, in time of the fault."""
    since = [event for event in events if event.at_s >= broken_s]
    alert = next((event for event in since if event.kind == "alert.fired"), None)
    diagnosis = next((event for event in since if event.kind == "diagnosis"), None)
    return Trial(
        fault=fault,
        asked=answer["suspect"] or UNKNOWN,
        mechanism=answer["mechanism"],
        alerted_s=None if alert is None else alert.at_s - broken_s,
        told=None if diagnosis is None else diagnosis.fields.get("suspect") or UNKNOWN,
        told_s=None if diagnosis is None else diagnosis.at_s - broken_s,
    )


def is_good(trials: Sequence[Trial]) -> bool:
    """Return whether the goal is reached: nine in ten are right, and no trap was taken."""
    answered = [trial for trial in trials if trial.asked is not None]
    right = sum(trial.is_right for trial in answered)
    trapped = any(trial.fault.is_trap and not trial.is_right for trial in answered)
    return bool(answered) and right >= GOAL * len(answered) and not trapped


def as_json(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return everything that was heard, for programs."""
    return [
        {
            "fault": trial.fault.name,
            "to_be_named": trial.fault.suspect.value,
            "asked": trial.asked,
            "right": trial.is_right,
            "mechanism": trial.mechanism,
            "alerted_s": trial.alerted_s,
            "told": trial.told,
            "told_s": trial.told_s,
            "why": trial.why,
        }
        for trial in trials
    ]


def markdown(trials: Sequence[Trial]) -> str:
    """Return the confusion table: what was broken, by row, and who was suspected first, by column."""
    answered = [trial for trial in trials if trial.asked is not None]
    columns = [*(layer.value for layer in Layer), UNKNOWN]
    faults = list(dict.fromkeys(trial.fault.name for trial in trials))
    lines = [
        f"| fault | to be named | {' | '.join(columns)} | right | alert after | named by itself after |",
        f"|---|---|{'--:|' * (len(columns) + 3)}",
    ]
    for name in faults:
        own = [trial for trial in answered if trial.fault.name == name]
        fault = next(trial.fault for trial in trials if trial.fault.name == name)
        counts = Counter(trial.asked for trial in own)
        cells = [_cell(counts[column], is_right=column == fault.suspect.value) for column in columns]
        right = f"{sum(trial.is_right for trial in own)} of {len(own)}" if own else "–"
        alerts = _seconds([trial.alerted_s for trial in own])
        named = _seconds([trial.told_s for trial in own if trial.told == fault.suspect.value])
        lines.append(f"| {name} | {fault.suspect.value} | {' | '.join(cells)} | {right} | {alerts} | {named} |")
    return "\n".join([*lines, "", *_sums(answered), *_untried(trials)])


def _sums(answered: Sequence[Trial]) -> list[str]:
    if not answered:
        return ["Nothing was answered."]
    traps = [trial for trial in answered if trial.fault.is_trap]
    right = sum(trial.is_right for trial in answered)
    lines = [f"Right first suspect: {right} of {len(answered)} ({right / len(answered):.1%})."]
    if traps:
        taken = sum(not trial.is_right for trial in traps)
        lines.append(f"Traps taken: {taken} of {len(traps)}.")
    wrong = [trial for trial in answered if not trial.is_right]
    return [*lines, *(f"- {trial.fault.name}, {trial.asked}: {trial.mechanism}" for trial in wrong)]


def _untried(trials: Sequence[Trial]) -> list[str]:
    return [f"- {trial.fault.name}: not tried: {trial.why}" for trial in trials if trial.asked is None]


def _cell(count: int, *, is_right: bool) -> str:
    if not count:
        return ""
    return f"**{count}**" if is_right else str(count)


def _seconds(found: Iterable[float | None]) -> str:
    """Return the median of those that are known."""
    known = [value for value in found if value is not None]
    return f"{median(known):.1f} s" if known else "–"


def _line_of(trial: Trial) -> str:
    if trial.asked is None:
        return f"{trial.fault.name}: no answer: {trial.why}"
    verdict = "right" if trial.is_right else f"wrong, it is {trial.fault.suspect.value}"
    alert = "" if trial.alerted_s is None else f", an alert after {trial.alerted_s:.1f} s"
    return f"{trial.fault.name}: {trial.asked} ({verdict}{alert})"
