"""The surge, rehearsed in short on a real service; judged by half the margins, for machines that are busy."""

from dataclasses import replace
from pathlib import Path

import pytest

from seawall.drills.debacle import CONNECTIONS_MAX
from seawall.drills.instance import running_instance
from seawall.drills.load import Manner
from seawall.drills.surge import (
    Capacity,
    Goals,
    Shape,
    Surge,
    complaints_of,
    find_capacity,
    goals_of,
    load_of,
    perform,
    retry_of,
)

SHORT = Surge(multiple=6.0, users=1500, before_s=2.0, surge_s=6.0, after_s=7.0)


def half_of(goals: Goals) -> Goals:
    return Goals(
        goodput_min=goals.goodput_min / 2,
        p99_max_ms=goals.p99_max_ms * 2,
        serving_after_max_s=goals.serving_after_max_s * 2,
        group_min=1 - (1 - goals.group_min) * 2,
        rss_max_bytes=goals.rss_max_bytes,
    )


@pytest.mark.timeout(600)
async def test_in_a_surge_the_service_does_what_it_can_is_fair_and_loses_nothing(tmp_path: Path) -> None:
    complaints: dict[str, list[str]] = {}
    async with running_instance(SHORT.settings) as instance:
        capacity = await find_capacity(instance, SHORT)
        for shape, manner in (
            (Shape.CROWD, Manner.INSTANT),
            (Shape.BACKGROUND, Manner.POLITE),
            (Shape.TENANT, Manner.INSTANT),
        ):
            surge = replace(SHORT, shape=shape, retry=retry_of(manner))
            load = load_of(surge, capacity_per_s=capacity.served_per_s)
            act = await perform(instance, load, capacity=capacity, ledger=tmp_path, over_s=0.0)
            complaints[shape] = complaints_of(act, surge, half_of(goals_of(surge)))

    assert complaints == {shape: [] for shape in Shape}


@pytest.mark.timeout(300)
async def test_without_its_protections_the_same_service_goes_down_and_stays_down(tmp_path: Path) -> None:
    surge = replace(SHORT, multiple=3.0, users=1000, calm=0.25, retry=retry_of(Manner.INSTANT))
    settings = {
        **surge.settings,
        "SEAWALL_DRILL_CONNECTIONS_MAX": str(CONNECTIONS_MAX),
        "SEAWALL_DRILL_UNPROTECTED": "true",
    }
    async with running_instance(settings) as instance:
        # What it can serve as it is: 6 connections, each held for so long.
        capacity = Capacity(served_per_s=6 / surge.hold_s, offered_per_s=0.0)
        load = load_of(surge, capacity_per_s=capacity.served_per_s)
        act = await perform(instance, load, capacity=capacity, ledger=tmp_path, verify_s=1.0, over_s=0.0)

    assert act.goodput < 0.5
    assert act.serving_after_s is None or act.serving_after_s > 3
    assert (act.summary.everybody.whole.affected_share or 0) > 0.3
