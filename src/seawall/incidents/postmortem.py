"""The draft of a post-mortem: what a person would have gathered from five dashboards, and room for what only they know.

No sentence stands here without a number or an event behind it. What somebody did is never the root cause: that it could
do harm is. Judgement (what went well, where we were lucky, what to do next) is left blank, visibly.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from seawall.incidents.figures import charts_of, marks_of
from seawall.incidents.pages import Blank, Block, Bullets, Document, Figure, Paragraph, Section, Table
from seawall.incidents.record import CAUSES, LOST_SHARE, SLOW_SHARE, Counts, Incident
from seawall.incidents.series import binned, quantile_s, rate, sparkline
from seawall.incidents.store import Row
from seawall.incidents.timeline import BEFORE_S, SENTENCES, Line, also_ill, cleared, done, timeline
from seawall.incidents.wording import clock, day, duration, listed, many, percent, sentence
from seawall.telemetry.charts import Chart, human
from seawall.telemetry.points import total

SPARKS: Final = 60
"""How wide a chart is where there is only text."""
GREW: Final = 1.5
"""Demand that grew by so much just before counts as an occasion."""
TRIGGERS: Final = (
    "drill.begun",
    "settings.changed",
    "node.died",
    "node.silent",
    "postgresql.died",
    "database.down",
    "database.failover",
    "clock.jumped",
)
"""Events that may have set it off, when they lie between a minute before the begin and the detection."""
OF_PEOPLE: Final = frozenset({"settings.changed", "drill.begun"})
GROUP_NAMES: Final = {"reads": "reads of files", "writes": "writes of files", "others": "everything else"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What would have prevented it or made it smaller, found elsewhere: by the check-up, by a drill."""

    text: str
    source: str


def draft(incident: Incident, rows: Sequence[Row], *, now_s: float, remedies: Sequence[Remedy] = ()) -> Document:
    """Return the draft for an incident, from its record and its points."""
    state = "over" if not incident.is_open else f"going on, as of {clock(now_s)}"
    lines = timeline(incident, rows)
    return Document(
        title=incident.title,
        facts=[
            f"Incident {incident.id}",
            f"{day(incident.began_s)}, {clock(incident.began_s)} to "
            f"{clock(incident.recovered_s) if incident.recovered_s is not None else '…'} UTC",
            f"severity: {incident.severity.value}",
            state,
        ],
        sections=[
            Section(title="Summary", blocks=[Paragraph(_summary(incident, now_s)), _times(incident)]),
            Section(title="Impact", blocks=[*_impact(incident, now_s)]),
            Section(title="What it looked like", blocks=[*_figures(incident, rows)]),
            Section(title="Timeline", blocks=[_timeline(incident, lines)]),
            Section(title="Root cause and trigger", blocks=[*_cause(incident, rows)]),
            Section(title="What was ruled out", blocks=[*_ruled_out(incident)]),
            Section(title="Resolution", blocks=[*_resolution(incident, rows)]),
            Section(title="Corrective and preventive actions", blocks=[*_remedies(incident, remedies)]),
            Section(title="What went well", blocks=[Blank("What helped, and should stay as it is.")]),
            Section(title="What went badly", blocks=[Blank("What took too long, misled, or was missing.")]),
            Section(title="Where we got lucky", blocks=[Blank("What would have made it worse, and happened not to.")]),
            Section(title="Similar incidents", blocks=[*_similar(incident)]),
        ],
        foot=f"Drafted by Seawall at {day(now_s)} {clock(now_s)} UTC from {many(len(rows), 'row')} of measurements, "
        f"{many(len(incident.happenings), 'event')} of the journal and "
        f"{many(len(incident.diagnoses), 'diagnosis', 'diagnoses')}. All times are UTC.",
    )


# Summary.


def _summary(incident: Incident, now_s: float) -> str:
    impact, counts = incident.impact, incident.impact.counts
    until = f"until {clock(now_s)}, and still," if incident.recovered_s is None else f"to {clock(incident.recovered_s)}"
    lasted = duration((incident.recovered_s or now_s) - incident.began_s)
    since = f"On {day(incident.began_s)} from {clock(incident.began_s)}"
    parts = [f"{since} {until} ({lasted}), {_what_users_had(counts)}."]
    if impact.users_seen:
        parts.append(
            f"{many(impact.users_failed, 'user')} of the {impact.users_seen:,} who asked for something "
            f"({percent(impact.users_failed / impact.users_seen)}) had at least one request that failed or was refused."
        )
    best = incident.best
    if best is not None and best.suspect is not None:
        explains = f", which explains {percent(best.share)} of what users noticed" if best.share is not None else ""
        parts.append(f"The cause: {CAUSES[best.suspect]}{explains}. {sentence(best.mechanism)}")
    elif best is not None:
        parts.append(f"The cause is not known. {sentence(best.mechanism)}")
    parts.append(_how_it_went(incident))
    return " ".join(parts)


def _what_users_had(counts: Counts) -> str:
    if not counts.requests:
        return "no request ended, so nobody can say how many suffered"
    if not counts.bad:
        return f"none of {many(counts.requests, 'request')} failed, was refused, or was slow"
    bad = [
        f"{percent(number / counts.requests)} {name}"
        for name, number in (("failed", counts.failed), ("were refused", counts.refused), ("were slow", counts.slow))
        if number
    ]
    return f"of {many(counts.requests, 'request')}, {listed(bad)}"


def _how_it_went(incident: Incident) -> str:
    steps = [f"It was detected {duration(incident.detected_s - incident.began_s)} after it began"]
    if incident.diagnosed_s is not None:
        steps.append(f"diagnosed after {duration(incident.diagnosed_s - incident.began_s)}")
    if incident.mitigated_s is not None:
        steps.append(f"acted upon after {duration(incident.mitigated_s - incident.began_s)}")
    if incident.recovered_s is not None:
        steps.append(f"over after {duration(incident.recovered_s - incident.began_s)}")
    return f"{listed(steps)}."


def _times(incident: Incident) -> Table:
    numbers = {name: mark.number for mark, name in marks_of(incident)}
    absent = {
        "diagnosed": "not: nothing explained it" if incident.diagnoses else "not: no diagnosis was made",
        "mitigated": "not: nothing was done by the service" if not incident.is_open else "not yet",
        "recovered": "not yet",
    }
    rows, before_s = [], incident.began_s
    for name, at_s in (
        ("began", incident.began_s),
        ("detected", incident.detected_s),
        ("diagnosed", incident.diagnosed_s),
        ("mitigated", incident.mitigated_s),
        ("recovered", incident.recovered_s),
    ):
        if at_s is None:
            rows.append(["", name.capitalize(), absent[name], "", ""])
            continue
        step = "" if name == "began" else _after(at_s - before_s)
        since = "" if name == "began" else duration(at_s - incident.began_s)
        rows.append([str(numbers[name]), name.capitalize(), clock(at_s), since, step])
        before_s = at_s
    header = ["", "", "at", "after the begin", "after the step before"]
    return Table(header=header, rows=rows, numbers=frozenset({3, 4}))


def _after(seconds: float) -> str:
    return duration(seconds) if seconds >= 0 else f"{duration(-seconds)} before"


# Impact.


def _impact(incident: Incident, now_s: float) -> Iterator[Block]:
    impact, counts = incident.impact, incident.impact.counts
    items = []
    if impact.users_seen:
        items.append(
            f"Users: {impact.users_failed:,} of {impact.users_seen:,} distinct accounts "
            f"({percent(impact.users_failed / impact.users_seen)}), counted exactly, in whole minutes."
        )
    else:
        items.append("Users: no account was seen in that time.")
    if impact.keys_claimed:
        items.append(
            f"Besides, something failed for {many(impact.keys_claimed, 'access key')} that nobody could look up yet: "
            "to whom they belong is added when the database answers."
        )
    if impact.keys_of_nobody:
        items.append(f"{many(impact.keys_of_nobody, 'access key')} that were claimed belong to no account.")
    lasted_s = (incident.recovered_s or now_s) - incident.began_s
    items.append(
        f"Time: {duration(impact.bad_s)} of {duration(lasted_s)} in which at least {percent(LOST_SHARE)} of what was "
        f"asked failed or was refused, or {percent(SLOW_SHARE)} was slow, or no node was ready."
    )
    if impact.worst is not None and impact.worst.counts.bad:
        worst = impact.worst.counts
        items.append(
            f"The worst minute: {clock(impact.worst.began_s)[:5]}, in which {worst.bad:,} of "
            f"{many(worst.requests, 'request')} failed, were refused or slow ({percent(worst.bad_share)})."
        )
    unwatched_s = lasted_s - impact.watched_s
    if unwatched_s >= 3:
        items.append(
            f"For {duration(unwatched_s)} of it nothing was measured; what happened then is not in these numbers."
        )
    yield Bullets(items)
    if counts.requests:
        rows = [_counted(GROUP_NAMES.get(group, group), one) for group, one in impact.groups.items() if one.requests]
        yield Table(
            header=["", "requests", "failed", "refused", "slow"],
            rows=[*rows, _counted("all", counts)],
            numbers=frozenset({1, 2, 3, 4}),
            strong=frozenset({len(rows)}),
        )


def _counted(name: str, counts: Counts) -> list[str]:
    def part(number: int) -> str:
        return f"{number:,} ({percent(number / counts.requests)})" if number else "0"

    return [name, f"{counts.requests:,}", part(counts.failed), part(counts.refused), part(counts.slow)]


# Charts and timeline.


def _figures(incident: Incident, rows: Sequence[Row]) -> Iterator[Block]:
    charts = charts_of(incident, rows)
    if not charts:
        yield Paragraph("No measurements of that time were kept.")
        return
    marks = [f"{mark.number} {name} {clock(mark.at_s)}" for mark, name in marks_of(incident)]
    yield Paragraph(f"Marked on all of them: {', '.join(marks)}.")
    for chart in charts:
        yield Figure(chart=chart, text=text_chart(chart))


def text_chart(chart: Chart) -> str:
    """Return a chart as lines of bars, each with the largest value it had, and the marks above."""
    first_s, last_s = chart.moments[0], chart.moments[-1]
    wide = max(len(series.name) for series in chart.series)
    each = max(1, math.ceil(len(chart.moments) / SPARKS))
    columns = math.ceil(len(chart.moments) / each)
    pins = [" "] * columns
    for mark in chart.marks:
        part = (mark.at_s - first_s) / (last_s - first_s) if last_s > first_s else 0.0
        place = min(columns - 1, max(0, int(part * columns)))
        while place < columns - 1 and pins[place] != " ":
            place += 1
        pins[place] = str(mark.number)
    lines = [chart.title, f"{'':{wide}}  {''.join(pins)}".rstrip()]
    for series in chart.series:
        values = [_most(series.values[number : number + each]) for number in range(0, len(series.values), each)]
        known = [value for value in series.values if value is not None]
        most = human(float(f"{max(known):.3g}"), chart.unit) if known else "not measured"
        lines.append(f"{series.name:{wide}}  {sparkline(values)}  at most {most}")
    lines.append(f"{'':{wide}}  {clock(first_s)}{clock(last_s):>{max(9, columns - 8)}}")
    return "\n".join(lines)


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _timeline(incident: Incident, lines: Sequence[Line]) -> Table:
    rows = [[clock(line.at_s), _offset(line.at_s - incident.began_s), line.text, f"`{line.source}`"] for line in lines]
    return Table(
        header=["at", "from the begin", "what happened", "read from"],
        rows=rows,
        numbers=frozenset({0, 1}),
        strong=frozenset(number for number, line in enumerate(lines) if line.is_milestone),
        is_wide=True,
    )


def _offset(seconds: float) -> str:
    return f"−{duration(-seconds)}" if seconds <= -1 else f"+{duration(seconds)}" if seconds >= 1 else "0"


# Causes.


def _cause(incident: Incident, rows: Sequence[Row]) -> Iterator[Block]:
    best = incident.best
    if best is None:
        yield Paragraph("Not known: no diagnosis was made.")
    elif best.suspect is None:
        yield Paragraph(f"Not known. {sentence(best.mechanism)}")
    else:
        explains = f" and explains {percent(best.share)} of what users noticed" if best.share is not None else ""
        yield Paragraph(
            f"Root cause: {CAUSES[best.suspect]}. {sentence(best.mechanism)} The suspect is `{best.suspect.value}`"
            f"{explains}, by the diagnosis of {clock(best.at_s)}."
        )
    if best is not None and best.evidence:
        yield Bullets([sentence(line) for line in best.evidence])
    if best is not None and (ill := also_ill(best)):
        yield Paragraph("Not well either, and explaining less:")
        yield Bullets([f"`{one.layer.value}`: {one.reason.partition(': ')[2].rstrip('.')}." for one in ill])
    others = {one.suspect.value: one for one in incident.diagnoses if one.suspect is not None and one is not best}
    if best is not None and best.suspect is not None:
        others.pop(best.suspect.value, None)
    if others:
        named = [f"`{name}` at {clock(one.at_s)}" for name, one in others.items()]
        yield Paragraph(f"Named at other times, and explaining less: {listed(named)}.")
    triggers = [*_triggers(incident, rows)]
    yield Paragraph("What changed before it and may have set it off, and what did not:")
    yield Bullets(triggers)
    yield Blank("What made this possible, in systems and in how we work; not who.")


def _triggers(incident: Incident, rows: Sequence[Row]) -> Iterator[str]:
    before, during = _asked_per_s(incident, rows)
    if before and during and during >= GREW * before:
        yield (
            f"Demand grew: from {before:,.0f} requests a second in the minute before to {during:,.0f} by the time it "
            f"was detected ({during / before:.1f} times as many)."
        )
    elif before and during:
        yield (
            f"Not demand: {before:,.0f} requests a second came in the minute before, {during:,.0f} between begin and "
            "detection."
        )
    for one in incident.happenings:
        if one.kind in TRIGGERS and incident.began_s - BEFORE_S <= one.at_s <= incident.detected_s:
            when = f"{clock(one.at_s)}, {_relative(one.at_s - incident.began_s)}"
            not_who = " That this could do harm is the cause, not that it was done." if one.kind in OF_PEOPLE else ""
            yield f"{sentence(SENTENCES[one.kind](one.fields))[:-1]} ({when}).{not_who}"
    culprit = incident.best.culprit if incident.best is not None else None
    if culprit is not None:
        who = culprit.name if culprit.name.startswith(culprit.kind) else f"the {culprit.kind} {culprit.name}"
        ours = ", one of our own" if culprit.is_ours else ""
        yield f"Singled out: {who}{ours}."
    if before is None and not any(one.kind in TRIGGERS for one in incident.happenings):
        yield "Nothing was measured before it began, and the journal has no event of that time."


def _relative(seconds: float) -> str:
    return f"{duration(-seconds)} before the begin" if seconds < 0 else f"{duration(seconds)} after the begin"


def _asked_per_s(incident: Incident, rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Return how many requests a second ended before it began, and then in most seconds until it was detected.

    Most, not the most: requests that had to wait end together in one second, and are no crowd.
    """
    before = [row for row in rows if row.at_s + row.seconds <= incident.began_s]
    until_s = max(incident.detected_s, incident.began_s + 5)
    during = [row for row in rows if incident.began_s <= row.at_s <= until_s]
    usual = sum(total(row.point, "requests") for row in before) / sum(row.seconds for row in before) if before else None
    return usual, median(rate(row, "requests") for row in during) if during else None


def _ruled_out(incident: Incident) -> Iterator[Block]:
    best = incident.best
    innocent = cleared(best) if best is not None else []
    if not innocent:
        yield Paragraph("No layer was cleared by a number." if best is not None else "No diagnosis was made.")
        return
    yield Table(
        header=["innocent", "the number that clears it"],
        rows=[[f"`{one.layer.value}`", sentence(one.reason)] for one in innocent],
    )


# How it ended.


def _resolution(incident: Incident, rows: Sequence[Row]) -> Iterator[Block]:
    if incident.actions:
        yield Paragraph(f"The service did this by itself ({many(len(incident.actions), 'action')}):")
        yield Bullets(
            [f"{clock(action.at_s)}: {sentence(done(action))}{_undone(action.undone_s)}" for action in incident.actions]
        )
    else:
        refused = incident.impact.counts.refused
        also = f", besides refusing {many(refused, 'request')} at the door" if refused else ""
        yield Paragraph(f"The journal holds no action of the service against it{also}.")
    if incident.recovered_s is None:
        yield Paragraph("It is not over.")
    else:
        after = [row for row in rows if row.at_s >= incident.recovered_s]
        yield Paragraph(f"It was over at {clock(incident.recovered_s)}.{_state(after)}{_closed(incident)}")
    yield Blank("What people did to end it, where they did something.")


def _undone(at_s: float | None) -> str:
    return "" if at_s is None else f" Undone at {clock(at_s)}."


def _state(after: Sequence[Row]) -> str:
    seconds = sum(row.seconds for row in after)
    if not seconds:
        return ""
    requests = sum(total(row.point, "requests") for row in after) / seconds
    bad = sum(rate(row, "failed") + rate(row, "refused") for row in after)
    text = f" In the {duration(seconds)} after, {requests:,.0f} requests a second ended"
    slowest_s = quantile_s([row.point for row in after], 0.99)
    if slowest_s is not None:
        text += f", 99 of 100 of those served within {_short(slowest_s)}"
    return f"{text}; {'none was refused and none failed' if not bad else f'{bad:,.0f} failed or were refused'}."


def _short(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _closed(incident: Incident) -> str:
    if incident.resolved_s is None:
        return ""
    return f" The incident was closed at {clock(incident.resolved_s)}, when it had stayed so."


def _remedies(incident: Incident, remedies: Sequence[Remedy]) -> Iterator[Block]:
    best = incident.best
    rows = [["taken", sentence(done(action)), "the service"] for action in incident.actions]
    rows += [["proposed", sentence(advice), "diagnosis"] for advice in (best.advice if best is not None else ())]
    rows += [["proposed", sentence(remedy.text), remedy.source] for remedy in remedies]
    if rows:
        yield Table(header=["", "what", "by"], rows=rows)
    else:
        yield Paragraph("None was taken, and neither diagnosis nor check-up proposes one.")
    yield Blank("Action items: what, who, until when, and how we shall know that it worked.")


def _similar(incident: Incident) -> Iterator[Block]:
    if not incident.similar:
        yield Paragraph("No past incident is like this one.")
        return
    yield Table(
        header=["incident", "likeness", "in what", "how it ended"],
        rows=[
            [f"{one.id} {one.title}", f"{one.score:.2f}", sentence(one.why), sentence(one.ended_by)]
            for one in incident.similar
        ],
        numbers=frozenset({1}),
    )


def trend(rows: Sequence[Row], width: int) -> Mapping[str, str]:
    """Return how an incident went as lines of bars: `failed`, `refused` and `slow` a second."""
    bins = binned(rows, width)
    return {what: sparkline([rate(row, what) for row in bins]) for what in ("failed", "refused", "slow")}
