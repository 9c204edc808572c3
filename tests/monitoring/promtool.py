"""Prometheus' own tools, and the scenarios as its unit tests."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.monitoring.scenarios import Scenario, points
from tests.service.kit import need

from seawall.monitoring.yaml_text import Value, yaml_of

RUNS_FOR_S = 120.0


def run(program: str, *arguments: str, text: str | None = None) -> str:
    """Run a tool; return what it says. It must be content."""
    done = subprocess.run(
        [need(program), *arguments], input=text, capture_output=True, text=True, timeout=RUNS_FOR_S, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def series_of(scenario: Scenario) -> Mapping[str, str]:
    """Return what a node would have counted at each step, by outcome."""
    counts = {"in_time": 0.0, "slow": 0.0, "failed": 0.0, "refused": 0.0}
    told: dict[str, list[str]] = {outcome: ["0"] for outcome in counts}
    for second, point in enumerate(points(scenario), 1):
        for outcome in ("slow", "failed", "refused"):
            counts[outcome] += point[f"reads.{outcome}"]
        bad = point["reads.slow"] + point["reads.failed"] + point["reads.refused"]
        counts["in_time"] += point["reads.requests"] - bad
        if second % scenario.step_s == 0:
            for outcome, values in told.items():
                values.append(f"{counts[outcome]:g}")
    return {outcome: " ".join(_shortened(values)) for outcome, values in told.items()}


def _shortened(values: list[str]) -> Iterator[str]:
    """Yield `3x4` for a value that comes five times in a row, as promtool writes it."""
    at = 0
    while at < len(values):
        end = at
        while end + 1 < len(values) and values[end + 1] == values[at]:
            end += 1
        yield values[at] if end == at else f"{values[at]}x{end - at}"
        at = end + 1


def unit_test(scenario: Scenario, *, fires_at_s: float | None) -> Value:
    """Return a scenario as a unit test: it pages at that time, give or take, and not before; None: it says nothing."""
    node = {"node": "node-1", "instance": "keeper", "job": "seawall"}
    labels = ",".join(f'{name}="{value}"' for name, value in node.items())
    began_s, ends_s = scenario.phases[0].seconds, sum(phase.seconds for phase in scenario.phases)
    input_series: list[Value] = [
        {"series": f'seawall_requests_total{{{labels},group="reads",outcome="{outcome}"}}', "values": values}
        for outcome, values in series_of(scenario).items()
    ]
    input_series.append({"series": f"seawall_node_up{{{labels}}}", "values": f"1x{ends_s // scenario.step_s}"})
    fired = "count by (alertname) (count_over_time(ALERTS{{alertstate='firing'{more}}}[1d]))"
    looks: list[Value] = []
    if fires_at_s is None:
        looks.append({"eval_time": f"{ends_s}s", "expr": fired.format(more=""), "exp_samples": []})
    else:
        more = ",rule='60s/10s'" if scenario.step_s <= 5 else ",severity='page'"
        give_s = max(2 * scenario.step_s, round(0.03 * fires_at_s))
        name = f'{{alertname="Seawall{scenario.alert.title()}"}}'
        before_s, after_s = (round(began_s + fires_at_s + give) for give in (-give_s, give_s))
        looks += [
            {"eval_time": f"{before_s}s", "expr": fired.format(more=more), "exp_samples": []},
            {
                "eval_time": f"{after_s}s",
                "expr": fired.format(more=more),
                "exp_samples": [{"labels": name, "value": 1}],
            },
        ]
    return {
        "name": scenario.name,
        "interval": f"{scenario.step_s}s",
        "input_series": input_series,
        "promql_expr_test": looks,
    }


def story(series: Mapping[str, str], *, fired_at: Mapping[int, tuple[str, ...]]) -> Value:
    """Return values of series a second as a unit test, and which alerts fire at which second."""
    looks: list[Value] = [
        {
            "eval_time": f"{at_s}s",
            "expr": "count by (alertname) (ALERTS{alertstate='firing'})",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
        }
        for at_s, names in fired_at.items()
    ]
    input_series: list[Value] = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1s", "input_series": input_series, "promql_expr_test": looks}


def write_tests(directory: Path, *, rules: str, tests: list[Value], every_s: int) -> Path:
    """Write rules and their tests; return the path of the tests."""
    (directory / "rules.yml").write_text(rules)
    path = directory / "tests.yml"
    path.write_text(yaml_of({"rule_files": ["rules.yml"], "evaluation_interval": f"{every_s}s", "tests": tests}))
    return path
