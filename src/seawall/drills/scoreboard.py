"""What is said of a drill when it is over: a table for people, JSON for programs, a page with charts for both.

Every line is a figure that was measured. What was not measured has no line.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Final

from seawall.drills.chart import timelines
from seawall.drills.outcomes import Slice
from seawall.drills.rehearsal import PATIENCE_S, NotRehearsed, Result, is_well
from seawall.drills.response import Response
from seawall.drills.surge import MIB, Act
from seawall.monitoring.words import duration

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
td { text-align: right; font-variant-numeric: tabular-nums; } th { text-align: left; font-weight: 500; }
svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
.held { color: #0b6e4f; } .fell { color: #b3261e; }
"""

THEN: Final = "the outage"
"""What is replayed, in the table of how it was noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: what it is, and how it was in each act, as people read it."""

    label: str
    values: tuple[str, ...]


def lines_of(acts: Mapping[str, Act]) -> list[Line]:
    """Return the lines of the board."""
    each = [*acts.values()]
    every = [act.summary.everybody for act in each]
    lines = [
        _line("capacity, requests/s", [f"{act.capacity_per_s:,.0f}" for act in each]),
        _line("asked in the surge, of the capacity", [_times(one.during.due, one, act) for one, act in _both(acts)]),
        _line("with what was asked again", [_times(one.during.attempts, one, act) for one, act in _both(acts)]),
        _line("users affected", [_percent(one.whole.affected_share) for one in every]),
        _line("users affected after the surge", [_percent(one.after.affected_share) for one in every]),
        _line("goodput in the surge, of the capacity", [f"{act.goodput:.2f}" for act in each]),
        _line("p99 of admitted requests in the surge", [_ms(one.during.attempt_p99_ms) for one in every]),
        _line("seconds of impact", [f"{act.impact_s}" for act in each]),
        _line("serving again, after the surge", [_seconds(act.serving_after_s) for act in each]),
        _line("everybody served in time again", [_seconds(one.recovered_s) for one in every]),
        _line("acknowledged writes lost", [_lost(act) for act in each]),
        _line("most memory of a node", [f"{act.rss_most_bytes / MIB:,.0f} MiB" for act in each]),
    ]
    groups = [act.summary.by_group for act in each]
    for name in groups[0] if len(groups[0]) > 1 else ():
        shares = [_percent(group[name].during.served_share) for group in groups]
        lines.append(_line(f"served in the surge: {name}", shares))
    return lines


def response_lines(responses: Mapping[str, Response]) -> list[Line]:
    """Return the lines of the second board: how it was noticed, and what came of it, in time since it began."""
    each = [*responses.values()]
    return [
        *(
            _line(label, [_after(getattr(one, name)) for one in each])
            for label, name in (
                ("noticed", "detected_s"),
                ("the cause named", "diagnosed_s"),
                ("something done about it", "mitigated_s"),
                ("recovered", "recovered_s"),
            )
        ),
        _line("suspected", [one.suspect or "nobody" for one in each]),
    ]


def responses_of(acts: Mapping[str, Act], original: Response | None) -> dict[str, Response]:
    """Return the columns of the second board: the outage that is replayed, if one is, and the acts."""
    then = {} if original is None else {THEN: original}
    return {**then, **{name: act.response for name, act in acts.items()}}


def text(acts: Mapping[str, Act], *, complaints: Sequence[str], original: Response | None = None) -> str:
    """Return the boards as tables of text, and the judgement."""
    responses = responses_of(acts, original)
    first, second = _table(acts, lines_of(acts)), _table(responses, response_lines(responses))
    return "\n".join([*first, "", *second, "", *judgement(complaints)])


def _table(names: Iterable[str], lines: Sequence[Line]) -> list[str]:
    heads = [*names]
    wide = max(len(line.label) for line in lines)
    columns = [max(12, len(head), *(len(line.values[at]) for line in lines)) for at, head in enumerate(heads)]
    named = "  ".join(f"{head:>{width}}" for head, width in zip(heads, columns, strict=True))
    rows = [f"{'':<{wide}}  {named}", f"{'':<{wide}}  " + "  ".join("-" * width for width in columns)]
    for line in lines:
        values = "  ".join(f"{value:>{width}}" for value, width in zip(line.values, columns, strict=True))
        rows.append(f"{line.label:<{wide}}  {values}")
    return rows


def judgement(complaints: Sequence[str]) -> list[str]:
    """Return what is said in the end."""
    if not complaints:
        return ["The hypothesis held."]
    return ["The hypothesis did not hold:", *(f"- {complaint}" for complaint in complaints)]


def as_json(acts: Mapping[str, Act], *, complaints: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured, as JSON."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - slow to import, and for this alone

    adapter = TypeAdapter(Act)
    return {
        "held": not complaints,
        "complaints": [*complaints],
        "acts": {
            name: {
                **json.loads(adapter.dump_json(act)),
                "goodput": act.goodput,
            }
            for name, act in acts.items()
        },
    }


def page(acts: Mapping[str, Act], *, title: str, complaints: Sequence[str], original: Response | None = None) -> str:
    """Return a page that needs nothing else: the boards and the timelines."""
    responses = responses_of(acts, original)
    tables = _html_table(acts, lines_of(acts)) + _html_table(responses, response_lines(responses))
    verdict = "".join(f"<p>{escape(sentence)}</p>" for sentence in judgement(complaints))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{escape(title)}</h1>'
        f'<div class="{"fell" if complaints else "held"}">{verdict}</div>'
        f"{tables}{timelines(acts)}</html>\n"
    )


def _html_table(names: Iterable[str], lines: Sequence[Line]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(line.label)}</th>{''.join(f'<td>{escape(value)}</td>' for value in line.values)}</tr>"
        for line in lines
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


# Of faults.


HEADS: Final = ("", "before", "during", "after", "slowest", "recovered", "writes lost", "the hypothesis")


def fault_row(result: Result) -> tuple[str, ...]:
    """Return one line of the table of faults: shares are of small reads served in time."""
    if isinstance(result, NotRehearsed):
        return (result.fault.name, *["–"] * 6, "skipped" if result.is_skipped else "no drill")
    verdict = result.verdict
    return (
        result.fault.name,
        *(_percent(share) for share in (verdict.before, verdict.during, verdict.after)),
        f"{verdict.slowest_s:.2f} s" if verdict.slowest_s < PATIENCE_S else "no answer",
        _seconds(verdict.recovered_s),
        f"{verdict.lost_writes} of {result.acknowledged_writes:,}",
        "did not hold" if result.complaints else "held",
    )


def faults_text(results: Sequence[Result]) -> str:
    """Return the table of faults, and below it what was not as it should be."""
    rows = [HEADS, *(fault_row(result) for result in results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADS))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = []
    for name, *cells in rows:
        figures = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *figures]))
    remarks = [f"- {result.fault.name}: {remark}" for result in results for remark in _remarks(result)]
    return "\n".join([*lines, *(["", *remarks] if remarks else [])])


def faults_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return everything that was measured, as JSON."""
    return {
        "held": all(is_well(result) for result in results),
        "faults": {result.fault.name: _fault_json(result) for result in results},
    }


def _fault_json(result: Result) -> dict[str, Any]:
    fault = result.fault
    declared = {"about": fault.about, "suspect": fault.suspect.value, "hypothesis": _finite(asdict(fault.hypothesis))}
    if isinstance(result, NotRehearsed):
        return {**declared, "outcome": "skipped" if result.is_skipped else "no drill", "why": result.why}
    return {
        **declared,
        "outcome": "did not hold" if result.complaints else "held",
        "complaints": [*result.complaints],
        "verdict": asdict(result.verdict),
        "broken_s": result.broken_s,
        "mended_s": result.mended_s,
        "acknowledged_writes": result.acknowledged_writes,
        "unreadable_writes": result.unreadable_writes,
        "answers": dict(result.answers),
        "reads": [asdict(second) for second in result.reads],
        "series": asdict(result.series),
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with null for what has no bound: JSON knows no infinity."""
    return {name: None if value == math.inf else value for name, value in values.items()}


def _remarks(result: Result) -> Sequence[str]:
    return (result.why,) if isinstance(result, NotRehearsed) else result.complaints


def _line(label: str, values: Sequence[str]) -> Line:
    return Line(label=label, values=tuple(values))


def _both(acts: Mapping[str, Act]) -> list[tuple[Slice, Act]]:
    return [(act.summary.everybody, act) for act in acts.values()]


def _times(count: int, one: Slice, act: Act) -> str:
    return f"{count / one.during.seconds / act.capacity_per_s:.1f} ×" if one.during.seconds else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _ms(value_ms: float | None) -> str:
    return "nobody served" if value_ms is None else f"{value_ms:,.0f} ms"


def _after(value_s: float | None) -> str:
    return "never" if value_s is None else duration(value_s)


def _seconds(value_s: float | None) -> str:
    return "never" if value_s is None else f"{value_s:.1f} s"


def _lost(act: Act) -> str:
    verdict = act.ledger
    said = f"{verdict.lost + verdict.wrong} of {verdict.acknowledged:,}"
    return f"{said} ({verdict.unreadable} unreadable)" if verdict.unreadable else said
