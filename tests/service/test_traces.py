"""Traces of the real service: what arrives, what is kept to ourselves, and what a bad receiver may not do."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.service.conftest import StartService
from tests.service.kit import RunningService, wait_until
from tests.telemetry.receivers import hanging, receiving, values_of

WITHIN_S = 30.0
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET_KEY = "what-nobody-else-should-read.txt"


def saying(service: RunningService, header: str) -> Any:
    """Return a client that says to which trace its requests belong."""
    client = service.s3(user_agent_extra=header)

    def say(request: AWSRequest, **_: Any) -> None:
        request.headers["traceparent"] = header

    client.meta.events.register("before-sign.s3", say)
    return client


def test_requests_are_told_with_their_segments_and_without_what_is_the_users(start_service: StartService) -> None:
    with receiving() as receiver:
        service = start_service(
            SEAWALL_TRACES_URL=receiver.url,
            SEAWALL_TRACES_SHARE="1",
            SEAWALL_TRACES_HEADERS="authorization=Bearer%20hunter2",
        )
        bucket = service.new_bucket()
        put = service.s3().put_object(Bucket=bucket, Key=SECRET_KEY, Body=b"x" * 5000)
        saying(service, f"00-{TRACE}-{PARENT}-01").get_object(Bucket=bucket, Key=SECRET_KEY)["Body"].read()
        saying(service, f"00-{TRACE}-{PARENT}-00").head_object(Bucket=bucket, Key=SECRET_KEY)
        with pytest.raises(ClientError, match="NoSuchKey"):
            saying(service, "complete nonsense").get_object(Bucket=bucket, Key="missing")

        wait_until(lambda: len(receiver.spans) == 4, within_s=WITHIN_S, what="all but one are told")
        counted = 'seawall_traces_total{node="node-1",result="sent"} 4.0'
        wait_until(lambda: counted in metrics(service), within_s=WITHIN_S, what="they are counted")
        page = metrics(service)
        assert service.stop() == 0

    assert 'seawall_traces_total{node="node-1",result="lost"} 0.0' in page
    by_name: dict[str, list[Span]] = {}
    for span in receiver.spans:
        by_name.setdefault(span.name, []).append(span)
    assert {name: len(spans) for name, spans in by_name.items()} == {"CreateBucket": 1, "PutObject": 1, "GetObject": 2}
    told = values_of([*by_name["PutObject"][0].attributes])
    assert told["aws.request_id"] == put["ResponseMetadata"]["RequestId"]
    assert (told["server.address"], told["server.port"]) == service.address
    assert told["http.response.status_code"] == 200
    assert int(told["http.request.body.size"]) >= 5000
    segments = {name: value for name, value in told.items() if name.startswith("seawall.segment.")}
    took_s = (by_name["PutObject"][0].end_time_unix_nano - by_name["PutObject"][0].start_time_unix_nano) / 1e9
    assert sum(map(float, segments.values())) == pytest.approx(took_s, abs=1e-5)
    assert {"seawall.segment.database_s", "seawall.segment.disk_s"} <= segments.keys()
    asked, missing = sorted(by_name["GetObject"], key=lambda span: span.start_time_unix_nano)
    assert (asked.trace_id.hex(), asked.parent_span_id.hex()) == (TRACE, PARENT)
    assert missing.trace_id.hex() != TRACE
    assert not missing.parent_span_id
    assert values_of([*missing.attributes])["http.response.status_code"] == 404
    sent = b"".join(batch.SerializeToString() for batch in receiver.batches)
    assert SECRET_KEY.encode() not in sent
    assert bucket.encode() not in sent
    assert {headers["authorization"] for headers in receiver.headers} == {"Bearer hunter2"}
    assert service.troubles() == []
    assert "hunter2" not in service.log_path.read_text()


def metrics(service: RunningService) -> str:
    return service.health("/metrics")[1].decode()


def test_a_receiver_that_hangs_keeps_nobody_from_being_served_and_no_node_from_stopping(
    start_service: StartService,
) -> None:
    with hanging() as (url, came):
        service = start_service(SEAWALL_TRACES_URL=url, SEAWALL_TRACES_SHARE="1")
        bucket = service.new_bucket()
        assert came.wait(WITHIN_S)

        service.s3().put_object(Bucket=bucket, Key="key", Body=b"body")
        body = service.s3().get_object(Bucket=bucket, Key="key")["Body"].read()
        (node,) = service.node_pids()
        began_s = time.monotonic()
        code = service.stop()

    assert (body, code) == (b"body", 0)
    assert time.monotonic() - began_s < WITHIN_S
    assert not Path(f"/proc/{node}").exists()
    assert service.troubles() == []


def test_without_the_extra_up_says_how_to_install_it_and_does_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
    fresh = RunningService(
        data_dir=tmp_path / "data",
        home=tmp_path,
        settings={
            "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
            "SEAWALL_TRACES_URL": "http://127.0.0.1:4318/v1/traces",
        },
    )

    done = fresh.command("up", expect=1)

    assert " -m pip install 'seawall[otel]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "pg").exists()
