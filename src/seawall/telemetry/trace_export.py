"""Send traces by OTLP over HTTP, with OpenTelemetry's own libraries: the extra `otel`.

Spans (OpenTelemetry's word) wait in a bounded queue and are encoded and sent by a thread of the library, in batches. A
request never waits for that, and what the receiver does not take is counted and gone: traces must not take the service
down.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context

from seawall.clock import monotonic_s, wall_s
from seawall.telemetry.traces import EndedRequest, Parent, Sampler, TraceSettings, attributes_of, error_type, headers_of

log = logging.getLogger(__name__)

WAITING_MAX: Final = 2048
"""Spans that wait, or are being sent; some 4 KiB each."""
BATCH_MAX: Final = 128
"""Few, since the thread that encodes them takes the interpreter from requests meanwhile."""
INTERVAL_S: Final = 1.0
SEND_S: Final = 5.0
"""A batch that is not taken within this time, with retries, is lost."""
STOP_S: Final = 2.0
"""How long a node that stops waits for what is still to be sent."""
TROUBLE_TOLD_S: Final = 60.0
"""How often it is logged that a receiver does not take traces."""
NANO: Final = 1_000_000_000


class TraceExport:
    """Tells of requests that have ended. State: what waits, what was sent and what was lost, in spans."""

    def __init__(self, settings: TraceSettings, *, node: str, address: str, port: int) -> None:
        self.sampler = Sampler(settings.share)
        self._settings = settings
        self._told = 0
        self._dropped = 0
        self._server: dict[str, str | int | float] = {"server.address": address, "server.port": port}
        self._exporter = CountingExporter(settings.url, headers=dict(headers_of(settings.headers)), timeout=SEND_S)
        # Not at the interpreter's end, where it would wait for half a minute: see `__aexit__`.
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource_of(node), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=WAITING_MAX,
                max_export_batch_size=BATCH_MAX,
                schedule_delay_millis=INTERVAL_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("seawall", version("seawall"))
        self._trouble = Trouble(settings.url)

    def __repr__(self) -> str:
        return f"<TraceExport {self.waiting} waiting, {self.sent} sent, {self.lost} lost>"

    @property
    def waiting(self) -> int:
        """Spans that wait, or are being sent."""
        return self._told - self._exporter.sent - self._exporter.lost

    @property
    def sent(self) -> int:
        """Spans the receiver took."""
        return self._exporter.sent

    @property
    def lost(self) -> int:
        """Spans it did not take, or that were too many."""
        return self._exporter.lost + self._dropped

    async def __aenter__(self) -> Self:
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(self._trouble)
        log.info("traces.on", extra={"url": self._settings.url, "share": self._settings.share})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left, for `STOP_S` at the most."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            self._provider.shutdown()
            # The loop may have ended long before.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(stopped.set)

        threading.Thread(target=stop, name="stop traces", daemon=True).start()
        try:
            async with asyncio.timeout(STOP_S):
                await stopped.wait()
        except TimeoutError:
            log.warning("traces.left_behind", extra={"url": self._settings.url, "count": self.waiting})
        finally:
            # What is still being sent ends by itself, and nothing is sent after it.
            self._exporter.shutdown()
            logging.getLogger(OTLPSpanExporter.__module__).removeFilter(self._trouble)

    def tell(self, request: EndedRequest) -> None:
        """Have a request sent that has ended just now. It never raises."""
        if self.waiting >= WAITING_MAX:
            self._dropped += 1
            return
        try:
            self._tell(request, ended_s=wall_s())
        except Exception as error:
            self._dropped += 1
            log.exception("traces.failed", extra={"error": repr(error)})

    def _tell(self, request: EndedRequest, *, ended_s: float) -> None:
        ended_ns = int(ended_s * NANO)
        span = self._tracer.start_span(
            request.operation,
            context=context_of(request.parent),
            kind=SpanKind.SERVER,
            attributes={**self._server, **attributes_of(request)},
            # From its end and its length: a clock that was set meanwhile changes neither.
            start_time=ended_ns - int(request.duration_s * NANO),
        )
        if not span.is_recording():
            # OTEL_SDK_DISABLED says so.
            return
        if error_type(request):
            span.set_status(StatusCode.ERROR)
        self._told += 1
        span.end(ended_ns)


class CountingExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter. State: how many spans were sent and lost, and whether it may still send."""

    sent = 0
    lost = 0
    _stopped = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch: called by the thread, and never by two at once."""
        result = SpanExportResult.FAILURE if self._stopped else super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        """Send nothing more; what waits to be tried again is given up."""
        if not self._stopped:
            self._stopped = True
            super().shutdown()  # type: ignore[no-untyped-call]


class Trouble(logging.Filter):
    """Makes what the exporter complains of an event of ours, once a minute at most. State: when the last was."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._told_s = -TROUBLE_TOLD_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written, and rewrite it."""
        now_s = monotonic_s()
        if now_s - self._told_s < TROUBLE_TOLD_S:
            return False
        self._told_s = now_s
        record.problem, record.url = record.getMessage(), self._url
        record.msg, record.args = "traces.not_sent", ()
        return True


def resource_of(node: str) -> Resource:
    """Return who tells: a service, of which there are several nodes."""
    return Resource.create(
        {"service.name": "seawall", "service.version": version("seawall"), "service.instance.id": node}
    )


def context_of(parent: Parent | None) -> Context:
    """Return the trace a request belongs to: its client's, or a new one."""
    if parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), Context())
