"""Exports name only metrics that are there, and are written so that they can be read."""

import re

import pytest

from seawall.errors import Misconfigured
from seawall.monitoring.dashboard import graphs
from seawall.monitoring.exports import prometheus_rules
from seawall.monitoring.objectives import RULES, ObjectiveSettings, objectives_of
from seawall.monitoring.yaml_text import yaml_of
from seawall.telemetry.metrics import DEFINITIONS
from seawall.telemetry.points import GROUPS
from seawall.telemetry.seconds import Outcome, SecondCounts
from seawall.telemetry.segments import SEGMENTS

OBJECTIVES = objectives_of(ObjectiveSettings())


def test_only_metrics_that_are_there_are_asked_for() -> None:
    known = {definition.name for definition in DEFINITIONS}
    expressions = [line for _, row in graphs(OBJECTIVES) for graph in row for _, line in graph.lines]
    text = "\n".join([*expressions, prometheus_rules(OBJECTIVES, scrape_s=2)])
    named = {
        name.removesuffix("_bucket")
        for name in re.findall(r"\b(?:seawall|http_server|db_client|process)_\w+", text)
        if not name.startswith("seawall_objective")
    }

    assert named <= known


def test_prometheus_counts_what_our_own_alerts_count() -> None:
    counts = SecondCounts()
    ends: list[tuple[str, Outcome, float]] = [
        ("reads", Outcome.SERVED, 0.1),
        ("reads", Outcome.SERVED, 0.6),
        ("reads", Outcome.FAILED, 0.6),
        ("reads", Outcome.GONE, 0.6),
        ("reads", Outcome.GAVE_UP, 0.6),
        ("writes", Outcome.REFUSED, 0.01),
        ("writes", Outcome.SERVED, 3.0),
        ("writes", Outcome.NO_ROOM, 0.1),
        ("others", Outcome.SERVED, 0.1),
    ]
    for group, outcome, took_s in ends:
        counts.observe(GROUPS.index(group), outcome, took_s, [took_s] + [0.0] * (len(SEGMENTS) - 1), moved_bytes=0)

    exported = {tuple(sample["labels"]): sample["value"] for sample in counts.outcome_samples()}
    point = counts.take()

    for objective in OBJECTIVES:
        good, bad = ["in_time", "slow"], ["slow"]
        if objective.limit_s is None:
            good, bad = ["in_time", "slow", "failed", "refused"], ["failed", "refused"]
        total, wrong = (
            sum(exported[group, outcome] for group in objective.groups for outcome in outcomes)
            for outcomes in (good, bad)
        )
        assert objective.counts(point) == (total, wrong)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"availability": 99.9}, "The objective for availability is 99.9; it must be from 0.95 on, and below 1."),
        ({"latency": 1.0}, "The objective for latency is 1; it must be from 0.95 on, and below 1."),
        ({"read_s": 0.3}, "The objective for reads is 0.3 s, which is not counted; these are: 0.0005, 0.001,"),
    ],
)
def test_a_promise_that_cannot_be_watched_is_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        ObjectiveSettings(**settings)

    assert str(refusal.value).startswith(complaint)


def test_no_rule_asks_for_more_than_everything() -> None:
    for objective in objectives_of(ObjectiveSettings(availability=0.95, latency=0.95)):
        assert all(rule.short_share(objective) < 0.75 and rule.long_share(objective) < 0.75 for rule in RULES)


def test_yaml_is_quoted_where_it_has_to_be() -> None:
    text = yaml_of(
        {"on": "yes", "a": ["x y", 'say "it\'s"', "10s", "a:b", "- x", ""], "b": {}, "number": 1.5, "true_": True}
    )

    assert text.splitlines() == [
        '"on": "yes"',
        "a:",
        '  - "x y"',
        "  - 'say \"it''s\"'",
        "  - 10s",
        "  - a:b",
        '  - "- x"',
        '  - ""',
        "b: {}",
        "number: 1.5",
        "true_: true",
    ]
