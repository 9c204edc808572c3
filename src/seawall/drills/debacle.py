"""The outage, replayed: a surge exhausts the database's connections, as it was and as it is.

The same service twice, with the same load: first as the one that went down for six hours, with a connection for each
request, as many as come, and nobody refused; then as it is. It is compressed: seconds stand for what took hours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seawall.drills.generator import Progress
from seawall.drills.instance import running_instance
from seawall.drills.load import Manner
from seawall.drills.surge import (
    OVER_WITHIN_S,
    Act,
    Surge,
    complaints_of,
    find_capacity,
    goals_of,
    load_of,
    perform,
    retry_of,
)

CONNECTIONS_MAX: Final = 60
"""What PostgreSQL accepts, in both acts: few, so that the limit is met on a small machine."""

AS_IT_WAS: Final = "as it was"
AS_IT_IS: Final = "as it is"
VERIFY_S: Final = {AS_IT_WAS: 5.0, AS_IT_IS: 60.0}
"""How long it is tried to read what was acknowledged: not for long where nothing answers."""
OVER_S: Final = {AS_IT_WAS: 0.0, AS_IT_IS: OVER_WITHIN_S}
"""How long it is waited for the incident to be over: not where it is not."""

AFFECTED_MIN: Final = 0.30
"""The outage kept 30 % of the users from their files."""

DEBACLE: Final = Surge(
    multiple=3.0,
    users=3000,
    before_s=5.0,
    surge_s=12.0,
    after_s=20.0,
    retry=retry_of(Manner.INSTANT),
    # So little that a connection for each request is enough for it.
    calm=0.25,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Debacle:
    """Both acts, and what did not come out as it should."""

    surge: Surge
    as_it_was: Act
    as_it_is: Act
    complaints: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether the service went down as it was, and does not as it is."""
        return not self.complaints

    @property
    def acts(self) -> dict[str, Act]:
        """Both, by name, in order."""
        return {AS_IT_WAS: self.as_it_was, AS_IT_IS: self.as_it_is}


def complaints_of_both(surge: Surge, as_it_was: Act, as_it_is: Act) -> list[str]:
    """Return what did not come out as the story has it, or as it should now."""
    found = []
    affected = as_it_was.summary.everybody.whole.affected_share or 0.0
    if affected < AFFECTED_MIN:
        found.append(f"{AS_IT_WAS}: {affected:.0%} of the users were affected, so it was no outage")
    if as_it_was.serving_after_s is not None and as_it_was.serving_after_s <= goals_of(surge).serving_after_max_s:
        found.append(f"{AS_IT_WAS}: it recovered by itself {as_it_was.serving_after_s:g} s after the surge")
    return found + [f"{AS_IT_IS}: {complaint}" for complaint in complaints_of(as_it_is, surge, goals_of(surge))]


async def replay(
    surge: Surge, *, directory: Path, tell: Callable[[str], None], hear: Callable[[str, Progress], None]
) -> Debacle:
    """Replay the outage; `tell` hears what is being done, `hear` each second of an act.

    Raises:
        TooFewOffered: the generator cannot make such a surge.
    """
    settings = {**surge.settings, "SEAWALL_DRILL_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}
    tell("starting the service, to see what it can serve")
    async with running_instance(settings) as instance:
        capacity = await find_capacity(instance, surge)
    load = load_of(surge, capacity_per_s=capacity.served_per_s)
    tell(
        f"capacity {capacity.served_per_s:,.0f} requests/s; the generator can offer {capacity.offered_per_s:,.0f}/s; "
        f"the surge brings {surge.multiple * capacity.served_per_s:,.0f}/s for {surge.surge_s:g} s"
    )
    acts = []
    for name, more in ((AS_IT_WAS, {"SEAWALL_DRILL_UNPROTECTED": "true"}), (AS_IT_IS, {})):
        tell(f"the service {name}")
        async with running_instance({**settings, **more}) as instance:
            acts.append(
                await perform(
                    instance,
                    load,
                    capacity=capacity,
                    ledger=directory,
                    verify_s=VERIFY_S[name],
                    over_s=OVER_S[name],
                    hear=lambda progress, name=name: hear(name, progress),  # type: ignore[misc]
                )
            )
    was, is_now = acts
    return Debacle(
        surge=surge, as_it_was=was, as_it_is=is_now, complaints=tuple(complaints_of_both(surge, was, is_now))
    )
