"""What the service says about itself can be read by Prometheus, by programs and by eyes."""

import io
import json
import logging

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from seawall.telemetry.log import EyeFormatter, JsonFormatter, set_up_logging
from seawall.telemetry.metrics import DEFINITIONS, FleetCollector, Histogram, RequestMetrics, number, registry_of
from seawall.telemetry.request_log import quoted


def record(**fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": "node.started", "levelno": logging.INFO, "levelname": "INFO", **fields})
    made.created = 1_700_000_000.5
    return made


def test_a_log_line_for_programs_is_an_event_with_fields() -> None:
    line = json.loads(JsonFormatter("keeper").format(record(node="node-1", pid=7)))

    assert line == {
        "at": "2023-11-14T22:13:20.500+00:00",
        "level": "info",
        "process": "keeper",
        "event": "node.started",
        "node": "node-1",
        "pid": 7,
    }


def test_a_log_line_for_eyes_is_short() -> None:
    assert EyeFormatter("keeper").format(record(pid=7)) == "22:13:20 keeper  node.started pid=7"


def test_fields_named_like_secrets_are_never_written() -> None:
    line = JsonFormatter("keeper").format(
        record(root_secret_key="hunter2", password="hunter2", authorization="hunter2")
    )

    assert "hunter2" not in line


def test_an_exception_is_written_with_its_stack() -> None:
    stream = io.StringIO()
    before = logging.getLogger().handlers[:]
    try:
        set_up_logging("keeper", stream=stream, as_json=True)
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("test").exception("loop.failed")
    finally:
        logging.getLogger().handlers[:] = before

    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


def test_a_histogram_counts_what_equals_a_bound_below_it() -> None:
    histogram = Histogram((1.0, 2.0))

    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)

    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 12.0


def test_the_fleets_metrics_are_rendered_with_a_node_label() -> None:
    metrics = RequestMetrics()
    metrics.observe("GetObject", 200, 0.003, sent_bytes=10, received_bytes=0)
    metrics.observe("PutObject", 200, 99.0, sent_bytes=0, received_bytes=7)
    snapshot = {**metrics.snapshot(), "http_server_connections": [number(3)]}

    text = generate_latest(registry_of(FleetCollector(lambda: [("node-1", snapshot)]))).decode()

    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.removesuffix("_total") for family in families} == {
        definition.name.removesuffix("_total") for definition in DEFINITIONS
    }
    samples = {
        (sample.name, sample.labels.get("operation"), sample.labels.get("le")): sample.value
        for sample in families["http_server_request_duration_seconds"].samples
        if sample.labels["node"] == "node-1"
    }
    name = "http_server_request_duration_seconds"
    assert samples[f"{name}_bucket", "GetObject", "0.0025"] == 0
    assert samples[f"{name}_bucket", "GetObject", "0.005"] == 1
    assert samples[f"{name}_count", "GetObject", None] == 1
    assert samples[f"{name}_bucket", "PutObject", "10.0"] == 0
    assert samples[f"{name}_bucket", "PutObject", "+Inf"] == 1
    assert samples[f"{name}_sum", "PutObject", None] == 99.0


def test_text_in_a_request_line_is_valid_json_whatever_it_holds() -> None:
    for text in ("/a/b", '/a"b', "/a\\b", "/a\nb", "/é", "", "/%22"):
        assert json.loads(quoted(text)) == text
