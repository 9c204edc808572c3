"""The same objectives for those who have Prometheus: its rules, and a configuration for its Alertmanager.

They fire like the alerts of this service, a scrape or two later, and also when the keeper is gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from seawall.monitoring.objectives import DAY, EVENTS_MIN, HOUR, MINUTE, RULES, BurnRule, Objective
from seawall.monitoring.things import Severity
from seawall.monitoring.watches import (
    LEVEL_SLOT_S,
    MISSED_MIN,
    RESTART_S,
    SILENCE,
    SILENT_S,
    percent,
    while_of,
)
from seawall.monitoring.yaml_text import Value, yaml_of

SLOW_INTERVAL_S: Final = 60
"""How often the rules for hours are evaluated."""

REQUESTS: Final = "seawall_requests_total"

HEAD: Final = """\
# Printed by `seawall export {what}` from the objectives of this service.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receivers:
    """Who is told, by files that hold secrets: a PagerDuty integration key for pages, a Slack webhook for the rest."""

    pagerduty_key_file: str = "/etc/alertmanager/seawall-pagerduty.key"
    slack_url_file: str = "/etc/alertmanager/seawall-slack.url"


def prometheus_rules(objectives: Sequence[Objective], *, scrape_s: int, rules: Sequence[BurnRule] = RULES) -> str:
    """Return a rules file for Prometheus.

    Args:
        objectives: what is promised.
        scrape_s: how often Prometheus looks. The shortest window is 10 s, and needs two looks.
        rules: when it is at risk.
    """
    parts: tuple[tuple[str, int, list[BurnRule], list[Value]], ...] = (
        ("seawall-seconds", scrape_s, [rule for rule in rules if rule.step_s == 1], [*_others()]),
        ("seawall-hours", SLOW_INTERVAL_S, [rule for rule in rules if rule.step_s > 1], []),
    )
    first = {objective.name: objective for objective in reversed(objectives)}
    groups: list[Value] = []
    for group, every_s, some, more in parts:
        if some:
            alerts = [_burn_alert(first[name], rule, every_s=every_s) for rule in some for name in sorted(first)]
            listed = [*_records(objectives, some), *alerts, *more]
            groups.append({"name": group, "interval": f"{every_s}s", "rules": listed})
    return HEAD.format(what="prometheus-rules") + yaml_of({"groups": groups})


def alertmanager_config(receivers: Receivers) -> str:
    """Return a configuration for Alertmanager: pages to PagerDuty, warnings to Slack, one notification an episode."""
    same: Value = ["objective", "of"]
    return HEAD.format(what="alertmanager") + yaml_of(
        {
            "route": {
                "receiver": "seawall-warnings",
                # What fires together is told together.
                "group_by": ["service"],
                "group_wait": "0s",
                "group_interval": "30s",
                "repeat_interval": "4h",
                "routes": [{"matchers": ['severity="page"'], "receiver": "seawall-pages"}],
            },
            "inhibit_rules": [
                # What a fast rule tells need not be told by its slower ones, nor as a warning.
                {
                    "source_matchers": ['rule="60s/10s"'],
                    "target_matchers": ['rule=~"1h/5m|6h/30m|3d/6h"'],
                    "equal": same,
                },
                {"source_matchers": ['severity="page"'], "target_matchers": ['severity="warning"'], "equal": same},
            ],
            "receivers": [
                {
                    "name": "seawall-pages",
                    "pagerduty_configs": [
                        {
                            "routing_key_file": receivers.pagerduty_key_file,
                            "severity": "critical",
                            "description": "{{ (index .Alerts 0).Annotations.summary }}",
                        }
                    ],
                },
                {
                    "name": "seawall-warnings",
                    "slack_configs": [
                        {
                            "api_url_file": receivers.slack_url_file,
                            "send_resolved": True,
                            "title": "{{ (index .Alerts 0).Annotations.summary }}",
                            "text": "{{ range .Alerts }}{{ .Annotations.description }}\n{{ end }}",
                        }
                    ],
                },
            ],
        }
    )


def _records(objectives: Sequence[Objective], rules: Sequence[BurnRule]) -> list[Value]:
    windows = sorted({seconds for rule in rules for seconds in (rule.long_s, rule.short_s)})
    return [
        {"record": _name(what, window_s), "expr": expression, "labels": _labels(objective)}
        for window_s in windows
        for objective in objectives
        for what, expression in (
            ("requests", f"sum(increase({_selector(objective)}[{_duration(window_s)}]))"),
            ("bad", f"sum(increase({_selector(objective, bad=True)}[{_duration(window_s)}]))"),
        )
    ]


def _name(what: str, window_s: int) -> str:
    return f"seawall:objective_{what}:increase{_duration(window_s)}"


def _labels(objective: Objective) -> dict[str, Value]:
    return {"objective": objective.name, "of": objective.of}


def _selector(objective: Objective, *, bad: bool = False) -> str:
    """Return what counts for an objective, or what of it went wrong."""
    matchers = []
    if len(objective.groups) == 1:
        matchers.append(f'group="{objective.groups[0]}"')
    if objective.limit_s is None:
        matchers += ['outcome=~"failed|refused"'] if bad else []
    else:
        matchers += ['outcome="slow"' if bad else 'outcome=~"in_time|slow"']
    return f"{REQUESTS}{{{','.join(matchers)}}}" if matchers else REQUESTS


def _burn_alert(objective: Objective, rule: BurnRule, *, every_s: int) -> Value:
    name = objective.name
    wrong = "fail or are refused" if objective.limit_s is None else "take longer than promised"

    def share(window_s: int) -> str:
        bad, requests = (f'{_name(what, window_s)}{{objective="{name}"}}' for what in ("bad", "requests"))
        # Where Prometheus has not seen all of the window, the rest is taken to have been well.
        looks = f"count_over_time({requests}[{_duration(window_s)}])"
        return f"{bad} / {requests} * clamp_max({looks} / {window_s // every_s}, 1)"

    return {
        "alert": f"Seawall{name.title()}",
        "expr": f"{share(rule.short_s)} >= {rule.short_share(objective):.6g}\n"
        f"and {share(rule.long_s)} >= {rule.long_share(objective):.6g}\n"
        f'and {_name("bad", rule.long_s)}{{objective="{name}"}} >= {EVENTS_MIN}',
        "labels": {"severity": str(rule.severity), "service": "seawall", "rule": rule.name},
        "annotations": {
            "summary": f"Too many {{{{ $labels.of }}}} {wrong}",
            "description": f"{{{{ $value | humanizePercentage }}}} of {{{{ $labels.of }}}} {wrong} "
            f"(in {while_of(rule.short_s)}, and so for {while_of(rule.long_s)}); "
            f"promised are at most {percent(objective.budget)}.",
        },
    }


def _alert(name: str, severity: Severity, *, expression: str, for_s: int, summary: str, description: str) -> Value:
    return {
        "alert": name,
        "expr": expression,
        "for": f"{for_s}s",
        "labels": {"severity": str(severity), "service": "seawall"},
        "annotations": {"summary": summary, "description": description},
    }


def _others() -> Iterator[Value]:
    yield _alert(
        "SeawallNodes",
        Severity.PAGE,
        expression="absent(seawall_node_up)",
        for_s=SILENT_S,
        summary="No node serves",
        description="No node reports to the keeper, or the keeper itself does not answer Prometheus.",
    )
    yield _alert(
        "SeawallNodesMissing",
        Severity.WARNING,
        expression="count(seawall_node_up) < max(seawall_nodes_expected)",
        for_s=RESTART_S,
        summary="Some nodes are missing",
        description="Only {{ $value }} nodes report. The others are dead, or hang.",
    )
    requests = f'{_name("requests", LEVEL_SLOT_S)}{{objective="availability",of="requests"}}'
    level = f"avg_over_time({requests}[30s] offset 15s)"
    least = f"min_over_time({requests}[5m] offset 15s)"
    yield _alert(
        "SeawallTraffic",
        # How many users there are, which makes it a page, is not known here.
        Severity.WARNING,
        expression=f"{requests} < {SILENCE} * {level}\nand {level} >= {MISSED_MIN}\nand {least} >= 0.5 * {level}",
        for_s=0,
        summary="Requests have stopped coming",
        description="Hardly a request has ended for 10 s, where there was a steady level for five minutes.",
    )


def _duration(seconds: int) -> str:
    for unit_s, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if seconds % unit_s == 0:
            return f"{seconds // unit_s}{unit}"
    return f"{seconds}s"
