"""What is exported is taken by the tools it is meant for, and fires like our own alerts."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from tests.monitoring.promtool import run, story, unit_test, write_tests
from tests.monitoring.scenarios import SCENARIOS, seconds_to_page, table

from seawall.monitoring.dashboard import WIDTH, grafana_dashboard, graphs
from seawall.monitoring.exports import SLOW_INTERVAL_S, Receivers, alertmanager_config, prometheus_rules
from seawall.monitoring.objectives import RULES, Objective, ObjectiveSettings, objectives_of
from seawall.monitoring.yaml_text import yaml_of

OBJECTIVES = objectives_of(ObjectiveSettings())
LAX = objectives_of(ObjectiveSettings(availability=0.95, latency=0.95, read_s=1.0, write_s=10.0))


@pytest.mark.parametrize("objectives", [OBJECTIVES, LAX], ids=["usual", "lax"])
def test_promtool_takes_the_rules(tmp_path: Path, objectives: tuple[Objective, ...]) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(prometheus_rules(objectives, scrape_s=2))

    said = run("promtool", "check", "rules", "--lint-fatal", str(path))

    assert "SUCCESS" in said


@pytest.mark.parametrize("is_fast", [True, False], ids=["seconds", "hours"])
def test_the_rules_fire_as_our_own_alerts_do(tmp_path: Path, *, is_fast: bool) -> None:
    times_s = [(scenario, seconds_to_page(scenario)) for scenario in SCENARIOS]
    tests = [
        unit_test(scenario, fires_at_s=at_s)
        for scenario, at_s in times_s
        # What must never be told must not be told by the rules for hours, either.
        if (scenario.step_s == 1 if is_fast else scenario.step_s > 1 or at_s is None)
    ]
    rules = prometheus_rules(OBJECTIVES, scrape_s=1, rules=RULES[:1] if is_fast else RULES[1:])
    path = write_tests(tmp_path, rules=rules, tests=tests, every_s=1 if is_fast else SLOW_INTERVAL_S)

    said = run("promtool", "test", "rules", str(path))

    assert "SUCCESS" in said


def test_prometheus_may_look_every_five_seconds(tmp_path: Path) -> None:
    scenarios = [replace(scenario, step_s=5) for scenario in SCENARIOS if scenario.name in {"100 % fail", "30 % fail"}]
    tests = [unit_test(scenario, fires_at_s=seconds_to_page(scenario)) for scenario in scenarios]

    path = write_tests(
        tmp_path, rules=prometheus_rules(OBJECTIVES, scrape_s=5, rules=RULES[:1]), tests=tests, every_s=5
    )

    assert "SUCCESS" in run("promtool", "test", "rules", str(path))


def test_the_page_on_alerts_says_what_the_simulations_say() -> None:
    assert table() in (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def test_a_node_that_is_missing_and_one_that_is_not_there_are_told(tmp_path: Path) -> None:
    test = story(
        {
            'seawall_node_up{node="node-1"}': "1x60 stale _x60",
            'seawall_node_up{node="node-2"}': "1x20 stale _x100",
            "seawall_nodes_expected": "2x120",
        },
        fired_at={20: (), 59: ("SeawallNodesMissing",), 85: ("SeawallNodes",)},
    )

    path = write_tests(tmp_path, rules=prometheus_rules(OBJECTIVES, scrape_s=1), tests=[test], every_s=1)

    assert "SUCCESS" in run("promtool", "test", "rules", str(path))


def test_traffic_that_stops_is_told(tmp_path: Path) -> None:
    test = story(
        {
            'seawall_requests_total{node="node-1",group="reads",outcome="in_time"}': "0+50x400 20000x60",
            'seawall_node_up{node="node-1"}': "1x500",
        },
        fired_at={400: (), 412: ("SeawallTraffic",)},
    )

    path = write_tests(tmp_path, rules=prometheus_rules(OBJECTIVES, scrape_s=1), tests=[test], every_s=1)

    assert "SUCCESS" in run("promtool", "test", "rules", str(path))


def test_amtool_takes_the_configuration_and_routes_by_severity(tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(alertmanager_config(Receivers()))

    assert "SUCCESS" in run("amtool", "check-config", str(path))
    for severity, receiver in (("page", "seawall-pages"), ("warning", "seawall-warnings")):
        said = run("amtool", "config", "routes", "test", f"--config.file={path}", f"severity={severity}")
        assert said.split()[0] == receiver


def test_every_graph_asks_what_prometheus_understands(tmp_path: Path) -> None:
    expressions = [
        expression.replace("$__rate_interval", "1m")
        for _, row in graphs(OBJECTIVES)
        for graph in row
        for _, expression in graph.lines
    ]
    rules = [{"record": f"graph:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    path = tmp_path / "graphs.yml"
    path.write_text(yaml_of({"groups": [{"name": "graphs", "rules": rules}]}))

    assert f"{len(expressions)} rules found" in run("promtool", "check", "rules", str(path))


def test_the_dashboard_has_its_panels_in_their_places() -> None:
    panels = json.loads(grafana_dashboard(OBJECTIVES))["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(place["x"] + place["w"] <= WIDTH for place in places)
    for one, other in combinations(places, 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)
    for panel in panels:
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
