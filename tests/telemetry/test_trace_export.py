"""Traces arrive at a receiver that takes them; one that does not costs nothing but traces."""

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.telemetry.receivers import hanging, nobody, receiving, values_of

from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import SEGMENTS
from seawall.telemetry.trace_export import STOP_S, WAITING_MAX, TraceExport
from seawall.telemetry.traces import EndedRequest, Parent, TraceSettings

WITHIN_S = 30.0
SLACK_S = 10.0
"""What a busy machine may add to a bound."""


def export_to(url: str, *, headers: str = "") -> TraceExport:
    return TraceExport(
        TraceSettings(url=url, share=1.0, headers=headers), node="node-1", address="192.0.2.1", port=9000
    )


def ended(*, status: int = 200, outcome: Outcome = Outcome.SERVED, parent: Parent | None = None) -> EndedRequest:
    return EndedRequest(
        operation="PutObject",
        method="PUT",
        status=status,
        outcome=outcome,
        error="",
        request_id="0123456789ABCDEF",
        account=7,
        received_bytes=10,
        sent_bytes=0,
        duration_s=0.25,
        sums_s=[0.25, *[0.0] * (len(SEGMENTS) - 1)],
        parent=parent,
    )


async def until(condition: Callable[[], bool], *, what: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {WITHIN_S:g} s: {what}"
        await asyncio.sleep(0.02)


async def test_a_request_arrives_as_a_span_with_its_times_its_parent_and_its_headers() -> None:
    parent = Parent(trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736, span_id=0x00F067AA0BA902B7, sampled=True)
    began_s = time.time()

    with receiving() as receiver:
        async with export_to(receiver.url, headers="authorization=Bearer%20abc") as traces:
            traces.tell(ended(parent=parent))
            await until(lambda: traces.sent == 1, what="the span is sent without anybody stopping")

    (span,) = receiver.spans
    assert (span.name, span.kind) == ("PutObject", Span.SpanKind.SPAN_KIND_SERVER)
    assert span.trace_id == parent.trace_id.to_bytes(16, "big")
    assert span.parent_span_id == parent.span_id.to_bytes(8, "big")
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert began_s * 1e9 <= span.end_time_unix_nano <= time.time() * 1e9
    assert span.status.code == Status.StatusCode.STATUS_CODE_UNSET
    told = values_of([*span.attributes])
    assert (told["server.address"], told["server.port"]) == ("192.0.2.1", 9000)
    assert (told["http.response.status_code"], told["seawall.segment.other_s"]) == (200, 0.25)
    resource = values_of([*receiver.batches[0].resource.attributes])
    assert (resource["service.name"], resource["service.instance.id"]) == ("seawall", "node-1")
    assert receiver.headers[0]["authorization"] == "Bearer abc"


async def test_what_is_left_is_sent_when_a_node_stops_and_what_failed_is_marked() -> None:
    with receiving() as receiver:
        async with export_to(receiver.url) as traces:
            for _ in range(500):
                traces.tell(ended(status=500, outcome=Outcome.FAILED))

    assert (len(receiver.spans), traces.sent, traces.lost, traces.waiting) == (500, 500, 0, 0)
    assert len({span.trace_id for span in receiver.spans}) == 500
    assert all(span.status.code == Status.StatusCode.STATUS_CODE_ERROR for span in receiver.spans)
    assert all(not span.parent_span_id for span in receiver.spans)


async def test_a_receiver_that_is_down_loses_traces_and_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    url = nobody()
    traces = export_to(url)

    with caplog.at_level(logging.INFO):
        began_s = time.monotonic()
        async with traces:
            traces.tell(ended())
            await until(lambda: any(record.msg == "traces.not_sent" for record in caplog.records), what="a complaint")
            traces.tell(ended())
            began_s = time.monotonic()
        stopped_s = time.monotonic() - began_s

    assert stopped_s < STOP_S + SLACK_S
    assert traces.sent == 0
    (complaint,) = (record for record in caplog.records if record.msg == "traces.not_sent")
    assert vars(complaint)["url"] == url
    assert "refused" in vars(complaint)["problem"]
    await until(lambda: traces.lost == 2, what="both are lost")


async def test_a_receiver_that_refuses_is_told_of_the_next_ones_nevertheless() -> None:
    with receiving(status=400) as receiver:
        async with export_to(receiver.url) as traces:
            traces.tell(ended())
            await until(lambda: traces.lost == 1, what="the first is refused")
            receiver.status = 200
            traces.tell(ended())
            await until(lambda: traces.sent == 1, what="the second is taken")

    assert len(receiver.spans) == 1


async def test_a_receiver_that_hangs_holds_up_neither_requests_nor_the_end_of_a_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hanging() as (url, came):
        async with export_to(url) as traces:
            traces.tell(ended())
            assert await asyncio.to_thread(came.wait, WITHIN_S)
            for _ in range(WAITING_MAX + 50):
                traces.tell(ended())
            assert traces.waiting == WAITING_MAX
            assert traces.lost == 51
            began_s = time.monotonic()
        stopped_s = time.monotonic() - began_s

        assert stopped_s < STOP_S + SLACK_S
        assert any(record.msg == "traces.left_behind" for record in caplog.records)
    await until(lambda: traces.waiting == 0, what="the thread gives up what is left")


async def test_a_node_that_is_cancelled_while_it_waits_for_a_receiver_leaves_it() -> None:
    with hanging() as (url, came):
        traces = export_to(url)

        async def live() -> None:
            async with traces:
                traces.tell(ended())
                assert await asyncio.to_thread(came.wait, WITHIN_S)

        task = asyncio.create_task(live())
        assert await asyncio.to_thread(came.wait, WITHIN_S)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: traces.waiting == 0, what="the thread gives up what is left")


async def test_what_cannot_be_told_is_no_trouble_of_the_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with export_to(nobody()) as traces:
        monkeypatch.setattr(traces, "_tell", broken)

        traces.tell(ended())

    assert traces.lost == 1
    assert any(record.msg == "traces.failed" for record in caplog.records)


async def test_a_variable_of_opentelemetry_turns_traces_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    async with export_to(nobody()) as traces:
        traces.tell(ended())

    assert (traces.waiting, traces.sent, traces.lost) == (0, 0, 0)
