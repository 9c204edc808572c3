"""How the keeper took it: when it noticed, whom it suspected, what it did, and the post-mortem it drafted."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from seawall.clock import monotonic_s
from seawall.drills.instance import Instance
from seawall.errors import SeawallError
from seawall.telemetry.link import ask

EARLY_S: Final = 2.0
"""An incident may begin so long before the load that caused it: when both began is known to a second."""

POLL_S: Final = 0.5
ANSWER_S: Final = 10.0
MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Times in seconds since it began; None is never. `post_mortem` is the draft, by its form (`md`, `html`)."""

    incident: str = ""
    title: str = ""
    suspect: str = ""
    detected_s: float | None = None
    diagnosed_s: float | None = None
    mitigated_s: float | None = None
    recovered_s: float | None = None
    post_mortem: Mapping[str, str] | None = None


ORIGINAL: Final = Response(
    title="The outage of which this is a replay",
    suspect="the network, wrongly, for more than an hour",
    detected_s=15 * MINUTE,
    diagnosed_s=2 * HOUR,
    mitigated_s=4 * HOUR,
    recovered_s=6 * HOUR,
)


def response_of(
    incident: Mapping[str, Any], *, began_s: float, ended_s: float, post_mortem: Mapping[str, str]
) -> Response:
    """Return what an incident's record says of a load.

    Args:
        incident: the record.
        began_s: the moment on the wall clock that counts as its begin.
        ended_s: when the load ended: that nobody comes any more is no trouble.
        post_mortem: the draft, by its form.
    """
    since_s = began_s - EARLY_S
    diagnoses = [one for one in incident["diagnoses"] if one["suspect"] is not None and one["at_s"] >= since_s]
    best = max(diagnoses, key=lambda one: (one["share"] or 0.0, one["at_s"]), default=None)
    alerts_s = [raised["alert"]["fired_s"] for raised in incident["alerts"]]
    return Response(
        incident=incident["id"],
        title=incident["title"],
        suspect=best["suspect"] if best is not None else "unknown",
        # It may have begun before, with something small that was not over yet.
        detected_s=_first_after(alerts_s, began_s),
        diagnosed_s=_first_after([one["at_s"] for one in diagnoses], began_s),
        mitigated_s=_first_after([action["at_s"] for action in incident["actions"]], began_s),
        recovered_s=_after(_recovered_s(incident, ended_s=ended_s), began_s),
        post_mortem=post_mortem,
    )


def _first_after(times_s: Iterable[float], began_s: float) -> float | None:
    return _after(min((at_s for at_s in times_s if at_s >= began_s - EARLY_S), default=None), began_s)


def _recovered_s(incident: Mapping[str, Any], *, ended_s: float) -> float | None:
    """Return when the trouble of the last alert of a load ended; None: it did not."""
    ends_s = [raised["ended_s"] for raised in incident["alerts"] if raised["alert"]["fired_s"] < ended_s]
    return max(ends_s, default=None) if None not in ends_s else None


async def read_response(
    instance: Instance,
    *,
    began_s: float,
    ended_s: float,
    patience_s: float,
    meanwhile: Callable[[], Awaitable[object]],
) -> Response:
    """Ask the keeper about the incident of a load that began and ended then, and wait so long for it to be over.

    `meanwhile` asks the service for a little, again and again: while nobody asks, nobody can say that it is better.
    What the keeper does not answer is not known: a response without an incident.
    """
    path = instance.data_dir / "run" / "keeper.sock"
    asked_s = monotonic_s()
    deadline_s = asked_s + patience_s
    while True:
        found: dict[str, Any] | None = None
        try:
            known = await ask(path, "incidents.list")
            # The latest first: the one that goes on, or was over after this began.
            mine = [one for one in known if (one["resolved_s"] or math.inf) >= began_s]
            if mine:
                found = await ask(path, "incidents.show", id=mine[0]["id"])
        except SeawallError:
            found = None
        is_over = found is not None and _recovered_s(found, ended_s=ended_s) is not None
        # A keeper with a dead service beside it may be busy: it has a moment to answer in any case.
        until_s = deadline_s if found is not None else max(deadline_s, asked_s + ANSWER_S)
        if is_over or monotonic_s() > until_s:
            break
        await asyncio.sleep(POLL_S)
        await meanwhile()
    if found is None:
        return Response()
    drafts: dict[str, str] = {}
    for form in ("md", "html"):
        drafts[form] = await ask(path, "incidents.post-mortem", id=found["id"], format=form)
    return response_of(found, began_s=began_s, ended_s=ended_s, post_mortem=drafts)


def _after(at_s: float | None, began_s: float) -> float | None:
    return None if at_s is None else max(0.0, at_s - began_s)
