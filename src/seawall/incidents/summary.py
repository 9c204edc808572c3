"""An incident in a few lines: for notices, lists, and one screen at 3 AM."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from seawall.incidents.postmortem import trend
from seawall.incidents.record import Incident
from seawall.incidents.store import Row
from seawall.incidents.timeline import also_ill, cleared, done, suspect_of, timeline
from seawall.incidents.wording import clock, day, duration, listed, many, percent, sentence

TREND: Final = 60
LINES_SHOWN: Final = 20


def in_short(incident: Incident) -> dict[str, Any]:
    """Return what a list says of an incident."""
    counts = incident.impact.counts
    best = incident.best
    return {
        "id": incident.id,
        "status": incident.status.value,
        "severity": incident.severity.value,
        "title": incident.title,
        "began_s": incident.began_s,
        "detected_s": incident.detected_s,
        "recovered_s": incident.recovered_s,
        "resolved_s": incident.resolved_s,
        "suspect": best.suspect.value if best is not None and best.suspect is not None else None,
        "users_failed": incident.impact.users_failed,
        "users_seen": incident.impact.users_seen,
        "requests": counts.requests,
        "failed": counts.failed,
        "refused": counts.refused,
        "acknowledged_by": incident.acknowledged.who if incident.acknowledged is not None else None,
    }


def summary_line(incident: Incident, now_s: float) -> str:
    """Return one sentence: since when, how it was noticed, and how it stands."""
    first = incident.alerts[0].alert
    if incident.recovered_s is not None:
        lasted = duration(incident.recovered_s - incident.began_s)
        return f"Over: it lasted {lasted}, from {clock(incident.began_s)} to {clock(incident.recovered_s)} UTC."
    since = duration(now_s - incident.began_s)
    return f"Since {clock(incident.began_s)} UTC ({since}): {sentence(first.reason)}"


def impact_line(incident: Incident) -> str:
    """Return whom it hit, in one line; nothing where nobody knows yet."""
    impact, counts = incident.impact, incident.impact.counts
    parts = []
    if impact.users_seen:
        share = percent(impact.users_failed / impact.users_seen)
        parts.append(f"{impact.users_failed:,} of {many(impact.users_seen, 'user')} ({share})")
    if counts.requests:
        bad = [
            f"{number:,} {name}"
            for name, number in (("failed", counts.failed), ("refused", counts.refused), ("slow", counts.slow))
            if number
        ]
        parts.append(f"of {many(counts.requests, 'request')} {listed(bad) or 'none failed'}")
    if impact.keys_claimed:
        parts.append(f"{many(impact.keys_claimed, 'access key')} not looked up yet")
    return "; ".join(parts)


def diagnosis_lines(incident: Incident) -> Iterator[str]:
    """Yield what is thought to be the cause, what was done, and what to do: a line each."""
    best = incident.best
    if best is not None:
        yield f"{suspect_of(best)}: {sentence(best.mechanism)}"
        yield from (f"Evidence: {sentence(line)}" for line in best.evidence[:3])
        if innocent := cleared(best):
            yield f"Ruled out: {listed([one.layer.value for one in innocent])}."
    yield from (f"Done: {sentence(done(action))}" for action in incident.actions[-3:])
    if best is not None:
        yield from (f"To do: {sentence(line)}" for line in best.advice[:3])


def one_screen(incident: Incident, rows: Sequence[Row], *, now_s: float, width: int = 100) -> list[str]:
    """Return all that somebody woken up needs, in lines of a terminal: what, whom, why, why not, and what happened."""
    state = "OPEN" if incident.is_open else "resolved"
    since = duration(incident.until_s(now_s) - incident.began_s)
    head = f"{incident.id}  {state}  {incident.severity.value}  "
    when = f"{day(incident.began_s)} {clock(incident.began_s)} UTC, {'for' if incident.is_open else 'lasted'} {since}"
    lines = [
        *_wrapped(head, incident.title, width),
        *_wrapped("", f"{when}; {_steps(incident)}", width),
        "",
        *_labelled("impact", [impact_line(incident) or "not known yet"], width),
    ]
    if incident.acknowledged is not None:
        by = incident.acknowledged
        lines += _labelled("taken by", [f"{by.who} at {clock(by.at_s)}"], width)
    elif incident.is_open:
        lines += _labelled("taken by", [f"nobody yet: seawall incidents acknowledge {incident.id}"], width)
    best = incident.best
    if best is None:
        lines += _labelled("suspect", ["no diagnosis yet"], width)
    else:
        lines += _labelled("suspect", [f"{suspect_of(best)}: {sentence(best.mechanism)}"], width)
        lines += _labelled("evidence", [sentence(line) for line in best.evidence], width)
        lines += _labelled("ill too", [f"{one.layer.value}: {sentence(one.reason)}" for one in also_ill(best)], width)
        lines += _labelled("ruled out", [f"{one.layer.value}: {sentence(one.reason)}" for one in cleared(best)], width)
    lines += _labelled("done", [f"{clock(one.at_s)} {sentence(done(one))}" for one in incident.actions[-5:]], width)
    if best is not None and incident.is_open:
        lines += _labelled("to do", [sentence(line) for line in best.advice], width)
    lines += _labelled(
        "like", [f"{one.id} ({one.score:.2f}): {one.title}; {one.ended_by}" for one in incident.similar], width
    )
    for what, bars in trend(rows, min(TREND, width - 12)).items():
        if bars.strip(" ▁"):
            lines.append(f"{what:<10}  {bars}")
    happened = timeline(incident, rows)
    skipped = len(happened) - LINES_SHOWN
    lines += ["", *([f"{'':<10}  {many(skipped, 'line')} before these, in the post-mortem"] if skipped > 0 else [])]
    for line in happened[-LINES_SHOWN:]:
        offset = line.at_s - incident.began_s
        text = f"{clock(line.at_s)}  {('−' if offset < 0 else '+') + duration(abs(offset)):<11} {line.text}"
        lines.append(text if len(text) <= width else text[: width - 1] + "…")
    return lines


def _steps(incident: Incident) -> str:
    found = []
    for name, at_s in (
        ("detected", incident.detected_s),
        ("diagnosed", incident.diagnosed_s),
        ("acted upon", incident.mitigated_s),
    ):
        if at_s is not None:
            found.append(f"{name} after {duration(at_s - incident.began_s)}")
    return ", ".join(found)


def _labelled(label: str, texts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for number, text in enumerate(texts):
        lines += _wrapped(f"{label if number == 0 else '':<10}  ", text, width)
    return lines


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Return text behind a head, in lines as long as the terminal's, those that follow set in as far."""
    lines, line = [], head
    for word in text.split():
        if len(line) + len(word) + 1 > width and line.strip():
            lines.append(line.rstrip())
            line = " " * len(head)
        line += word + " "
    return [*lines, line.rstrip()]
