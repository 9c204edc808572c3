"""Which requests a tracing system is told of, and what it is told.

Both are decided when a request is over, from plain values: most are not told, and cost no more than a throw of the
dice. `trace_export` sends what is told; it alone knows the libraries of the extra `otel`, and is loaded only where
traces are wanted.

Names of attributes are OpenTelemetry's where it has one. Keys and buckets are what users call their files, queries hold
signatures, and addresses are people's: none of them is told. The request's identifier is, and the request's line in the
log has the rest.

Sources: OpenTelemetry semantic conventions 1.44, "HTTP spans" (but for `url.path`, as said); W3C Trace Context.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from random import random
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from seawall.errors import Misconfigured
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import SEGMENTS

if TYPE_CHECKING:
    from seawall.telemetry.trace_export import TraceExport

ASKED_AT_ONCE: Final = 10.0
"""So many requests in a row may be told because their clients ask for it, before only their share is."""

NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
NOT_INSTALLED: Final = (
    "SEAWALL_TRACES_URL is set, but what sends traces is not installed. Install it with "
    f"`{sys.executable} -m pip install 'seawall[otel]'`, or leave the setting empty."
)

METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
SEGMENT_NAMES: Final = tuple(f"seawall.segment.{segment.name.lower()}_s" for segment in SEGMENTS)
OURS: Final = frozenset({Outcome.REFUSED, Outcome.FAILED, Outcome.NO_ROOM, Outcome.DISK_FAILED})

# Later versions may say more, behind another dash; the first is exactly so long, and ff is none.
TRACEPARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
SAMPLED: Final = 1

HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE: Final = re.compile(r"[ -~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Where traces go to, as the operator wrote it down; an empty `url`, or a share of 0: nowhere.

    Raises:
        Misconfigured: they cannot work, or the extra that sends them is not installed.
    """

    url: str = ""
    share: float = 0.01
    """The part of requests that is told, from 0 to 1."""
    headers: str = field(default="", repr=False)
    """Sent along, as `name=value,name=value` with percent-encoded values; secret."""

    def __post_init__(self) -> None:
        headers_of(self.headers)
        if self.url:
            check_url(self.url)
        if self.wanted and not is_installed():
            raise Misconfigured(NOT_INSTALLED)

    @property
    def wanted(self) -> bool:
        """Whether anything is told at all."""
        return bool(self.url) and self.share > 0


def check_url(url: str) -> None:
    """Refuse what is no address of a receiver, and what would put a secret into the log.

    Raises:
        Misconfigured: it says what is wrong, and repeats nothing of it.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise Misconfigured("SEAWALL_TRACES_URL is not an address like http://127.0.0.1:4318/v1/traces.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Misconfigured(
            "SEAWALL_TRACES_URL may be logged, so it holds no user, password or query: what the receiver wants to know "
            "goes into SEAWALL_TRACES_HEADERS."
        )
    if parts.path in {"", "/"}:
        raise Misconfigured("SEAWALL_TRACES_URL lacks its path, which is /v1/traces at most receivers.")


def headers_of(text: str) -> Mapping[str, str]:
    """Read headers as OpenTelemetry writes them in a variable: `name=value,name=value`, with values percent-encoded.

    >>> headers_of("authorization=Bearer%20abc, x-tenant=7")
    {'authorization': 'Bearer abc', 'x-tenant': '7'}

    Raises:
        Misconfigured: they are none. It repeats no value.
    """
    found: dict[str, str] = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
        name, _, value = (part.strip() for part in pair.partition("="))
        value = unquote(value)
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise Misconfigured(
                f"SEAWALL_TRACES_HEADERS is not name=value,name=value (number {number}); commas in a value are %2C."
            )
        found[name.lower()] = value
    return found


def is_installed() -> bool:
    """Say whether the extra `otel` is there, without loading it."""
    try:
        return all(find_spec(name) is not None for name in NEEDED)
    except ModuleNotFoundError:
        return False


def load_export(settings: TraceSettings, *, node: str, address: str, port: int) -> "TraceExport":
    """Return what sends traces, for a node that listens at an address.

    Raises:
        Misconfigured: the extra is not installed, or not whole.
    """
    try:
        from seawall.telemetry.trace_export import TraceExport  # noqa: PLC0415 - see above

        # The library loads some of what it needs only now.
        return TraceExport(settings, node=node, address=address, port=port)
    except ImportError as error:
        raise Misconfigured(f"{NOT_INSTALLED} ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The part of a trace a client says its request belongs to."""

    trace_id: int
    span_id: int
    sampled: bool


def parent_of(header: str | None) -> Parent | None:
    """Read a `traceparent`. What is malformed is as if it were not there, as its specification wants.

    >>> parent_of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").sampled
    True
    """
    match = TRACEPARENT.fullmatch(header) if header is not None else None
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id=trace_id, span_id=span_id, sampled=bool(int(match[4], 16) & SAMPLED))


class Sampler:
    """Decides which requests are told: `share` of them, whatever clients say. State: what those that ask have left.

    Without a trace of its client, chance decides. Of requests that bring one, those are told whose client keeps its own
    (the sampled flag): then both halves of a trace are there. No more than `share` of all that bring one are, so that
    nobody can have everything exported, and nobody takes the place of those who do not ask.
    """

    def __init__(self, share: float, *, draw: Callable[[], float] = random) -> None:
        self._share = share
        self._draw = draw
        self._left = ASKED_AT_ONCE

    def __repr__(self) -> str:
        return f"<Sampler {self._share:g}, {self._left:.2f} left for those who ask>"

    def takes(self, header: str | None) -> bool:
        """Decide about one request from its `traceparent`."""
        if header is None:
            return self._draw() < self._share
        parent = parent_of(header)
        if parent is None:
            return self._draw() < self._share
        self._left = min(ASKED_AT_ONCE, self._left + self._share)
        if not parent.sampled or self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """What is known of a request when it is over."""

    operation: str
    method: str
    status: int
    """0 where it was not answered."""
    outcome: Outcome
    error: str
    """The code the client was told, if it was one."""
    request_id: str
    account: int | None
    received_bytes: int
    sent_bytes: int
    duration_s: float
    sums_s: Sequence[float]
    """The seconds it spent, by segment."""
    parent: Parent | None


def error_type(request: EndedRequest) -> str:
    """Return what went wrong in one word; empty where it did not, or where the client is to blame."""
    if request.status < 500 and request.outcome not in OURS:
        return ""
    if request.error:
        return request.error
    return str(request.status) if request.status >= 500 else request.outcome.name.lower()


def attributes_of(request: EndedRequest) -> dict[str, str | int | float]:
    """Return what is told of a request, beside its name and its times."""
    found: dict[str, str | int | float] = {
        "http.request.method": request.method if request.method in METHODS else "_OTHER",
        "url.scheme": "http",
        "http.request.body.size": request.received_bytes,
        "http.response.body.size": request.sent_bytes,
        "aws.request_id": request.request_id,
        "seawall.outcome": request.outcome.name.lower(),
    }
    if request.status:
        found["http.response.status_code"] = request.status
    if request.account is not None:
        found["seawall.account"] = request.account
    if error := error_type(request):
        found["error.type"] = error
    found.update((name, sum_s) for name, sum_s in zip(SEGMENT_NAMES, request.sums_s, strict=True) if sum_s > 0)
    return found
