"""A dashboard for Grafana, with what somebody on call looks at first: what is asked, what becomes of it, and why."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from seawall.monitoring.objectives import Objective
from seawall.monitoring.watches import percent

SCHEMA_VERSION: Final = 39
"""Grafana 10.4 and later take it as it is, and older ones leave out what they do not know."""

WIDTH: Final = 24
HEIGHT: Final = 8
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
READS: Final = 'operation=~"GetObject|HeadObject"'
WRITES: Final = 'operation=~"PutObject|CopyObject|UploadPart|CompleteMultipartUpload|DeleteObjects?"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One graph: its title, what it is for, the unit, and its lines, as legends and expressions."""

    title: str
    description: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    width: int = 8
    stacked: bool = False
    limit: float | None = None


def grafana_dashboard(objectives: Sequence[Objective]) -> str:
    """Return the dashboard as Grafana imports it."""
    dashboard = {
        "uid": "seawall",
        "title": "Seawall",
        "tags": ["seawall"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "annotations": {"list": [_alerts()]},
        "panels": [*_panels(objectives)],
    }
    return json.dumps(dashboard, indent=2) + "\n"


def graphs(objectives: Sequence[Objective]) -> tuple[tuple[str, tuple[Graph, ...]], ...]:
    """Return the rows and their graphs."""
    return (
        ("What is asked, and what becomes of it", (*_traffic(), _promises(objectives))),
        ("How long it takes", _times()),
        ("What is scarce", _scarce()),
        ("Nodes", _nodes()),
    )


def _rate(metric: str, *, by: str = "", where: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    selected = f"{metric}{{{where}}}" if where else metric
    return f"sum{grouped} (rate({selected}[$__rate_interval]))"


def _equal(**labels: str) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


def _traffic() -> tuple[Graph, ...]:
    requests = "seawall_requests_total"
    return (
        Graph(
            title="Requests",
            description="By kind: reads and writes of objects, and others, such as listing.",
            unit="reqps",
            lines=(("{{group}}", _rate(requests, by="group")),),
            stacked=True,
        ),
        Graph(
            title="Went wrong",
            description="The share of requests that failed, were refused, or took longer than promised.",
            unit="percentunit",
            lines=tuple(
                (outcome, f"{_rate(requests, where=_equal(outcome=outcome))} / {_rate(requests)}")
                for outcome in ("failed", "refused", "slow")
            ),
        ),
    )


def _promises(objectives: Sequence[Objective]) -> Graph:
    def burn(objective: Objective) -> str:
        which = _equal(objective=objective.name, of=objective.of)
        bad, requests = (f"seawall:objective_{what}:increase1h{{{which}}}" for what in ("bad", "requests"))
        return f"{bad} / {requests} / {objective.budget:.6g}"

    return Graph(
        title="How fast what may go wrong is used up, over an hour",
        description="1 is as fast as is promised; from 14.4 on somebody is woken.",
        unit="none",
        lines=tuple((f"{objective.key}, {percent(objective.target)}", burn(objective)) for objective in objectives),
        limit=14.4,
    )


def _times() -> tuple[Graph, ...]:
    def quantiles(where: str) -> tuple[tuple[str, str], ...]:
        buckets = _rate("http_server_request_duration_seconds_bucket", by="le", where=f'{where},status!~"5.."')
        return tuple((f"p{share:g}", f"histogram_quantile({share / 100:g}, {buckets})") for share in (50, 95, 99))

    segments = "seawall_request_segment_seconds_total"
    return (
        Graph(
            title="Reads",
            description="GET and HEAD of objects, from the head of the request to the end of the answer.",
            unit="s",
            lines=quantiles(READS),
        ),
        Graph(
            title="Writes",
            description="What writes or deletes objects, from the head of the request to the end of the answer.",
            unit="s",
            lines=quantiles(WRITES),
        ),
        Graph(
            title="Where requests spend their time",
            description="Seconds in each segment, a second: of all requests together.",
            unit="s",
            lines=(("{{segment}}", _rate(segments, by="segment")),),
            stacked=True,
        ),
    )


def _scarce() -> tuple[Graph, ...]:
    return (
        Graph(
            title="Connections to PostgreSQL",
            description="Lent and idle, how many there may be, and who waits for one.",
            unit="short",
            lines=(
                ("{{state}}", "sum by (state) (db_client_connections)"),
                ("at the most", "sum(db_client_connection_max)"),
                ("tasks that wait", "sum(db_client_connection_pending_requests)"),
                ("rows that wait", "sum(db_client_batch_pending_rows)"),
            ),
        ),
        Graph(
            title="Admission",
            description="Requests that were let in or refused, and how many are let in at the most.",
            unit="reqps",
            lines=(
                ("{{outcome}}", _rate("seawall_gate_requests_total", by="outcome")),
                ("may come in", "sum(seawall_gate_pace_per_second) < +Inf"),
            ),
        ),
        Graph(
            title="Queues, in parts of what is tolerated",
            description="Above 1, less is let in: that resource is what limits the service.",
            unit="percentunit",
            lines=(("{{resource}}", "max by (resource) (seawall_gate_level)"),),
            limit=1,
        ),
    )


def _nodes() -> tuple[Graph, ...]:
    return (
        Graph(
            title="Nodes",
            description="Those that report, and how many there should be.",
            unit="short",
            lines=(("report", "count(seawall_node_up)"), ("expected", "max(seawall_nodes_expected)")),
        ),
        Graph(
            title="Processor",
            description="Cores each node uses. It is one event loop: 1 is all it can have.",
            unit="short",
            lines=(("{{node}}", _rate("process_cpu_seconds_total", by="node")),),
        ),
        Graph(
            title="Memory",
            description="Resident memory of each node.",
            unit="bytes",
            lines=(("{{node}}", "sum by (node) (process_resident_memory_bytes)"),),
        ),
    )


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{service="seawall",alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{of}} {{rule}}",
    }


def _panels(objectives: Sequence[Objective]) -> Iterator[dict[str, Any]]:
    numbers, y = count(1), 0
    for title, row in graphs(objectives):
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": next(numbers), "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for graph in row:
            yield _panel(graph, next(numbers), x=x, y=y)
            x += graph.width
        y += HEIGHT


def _panel(graph: Graph, number: int, *, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if graph.limit is not None:
        steps.append({"color": "red", "value": graph.limit})
    custom = {
        "drawStyle": "line",
        "fillOpacity": 30 if graph.stacked else 0,
        "stacking": {"mode": "normal" if graph.stacked else "none"},
        "thresholdsStyle": {"mode": "off" if graph.limit is None else "line"},
    }
    return {
        "id": number,
        "type": "timeseries",
        "title": graph.title,
        "description": graph.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": graph.width, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": graph.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(graph.lines)
        ],
    }
