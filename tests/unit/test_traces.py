"""Which requests are traced, and what is told of them, is decided from plain values."""

import importlib.abc
import random
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.errors import Misconfigured
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import SEGMENTS, Segment
from seawall.telemetry.traces import (
    ASKED_AT_ONCE,
    EndedRequest,
    Sampler,
    TraceSettings,
    attributes_of,
    error_type,
    headers_of,
    load_export,
    parent_of,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT, NOT_KEPT = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


def ended(
    *,
    method: str = "GET",
    status: int = 200,
    outcome: Outcome = Outcome.SERVED,
    error: str = "",
    account: int | None = 7,
    sums_s: Sequence[float] = (0.0,) * len(SEGMENTS),
) -> EndedRequest:
    return EndedRequest(
        operation="GetObject",
        method=method,
        status=status,
        outcome=outcome,
        error=error,
        request_id="0123456789ABCDEF",
        account=account,
        received_bytes=0,
        sent_bytes=1024,
        duration_s=0.25,
        sums_s=sums_s,
        parent=None,
    )


# What a client says.


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (KEPT, True),
        (NOT_KEPT, False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_traceparent_says_whose_part_a_request_is_and_whether_it_is_kept(header: str, *, sampled: bool) -> None:
    parent = parent_of(header)

    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert parent.sampled is sampled


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        KEPT.upper(),
        KEPT[:-1],
        f"{KEPT}0",
        f"{KEPT}-more",
        f"{KEPT}\n",
        f" {KEPT}",
        f"{KEPT},{KEPT}",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-٠١",
        "-" * 10_000,
    ],
)
def test_a_malformed_traceparent_is_none(header: str | None) -> None:
    assert parent_of(header) is None


@given(header=st.text("0123456789abcdefF-, \n٠", max_size=60))
def test_no_traceparent_is_too_odd_to_be_read(header: str) -> None:
    parent_of(header)


# Which are told.


@pytest.mark.parametrize("header", [None, "nonsense"])
def test_chance_decides_about_requests_without_a_trace_of_their_own(header: str | None) -> None:
    below, above = Sampler(0.25, draw=lambda: 0.2499), Sampler(0.25, draw=lambda: 0.25)

    assert below.takes(header)
    assert not above.takes(header)


def test_chance_takes_the_share() -> None:
    sampler = Sampler(0.1, draw=random.Random(1).random)

    taken = sum(sampler.takes(None) for _ in range(20_000))

    assert 1_800 < taken < 2_200


def test_what_its_client_does_not_keep_is_not_told() -> None:
    sampler = Sampler(1.0)

    assert not any(sampler.takes(NOT_KEPT) for _ in range(100))


def test_nobody_can_have_everything_told_by_asking_for_it() -> None:
    sampler = Sampler(0.01, draw=lambda: 1.0)

    taken = sum(sampler.takes(KEPT) for _ in range(10_000))

    assert 100 <= taken <= 100 + ASKED_AT_ONCE


def test_who_asks_within_the_share_is_always_told() -> None:
    sampler = Sampler(0.01)
    headers = [KEPT if number % 100 == 0 else NOT_KEPT for number in range(10_000)]

    told = [header for header in headers if sampler.takes(header)]

    assert len(told) == 100


@given(
    share=st.floats(0, 1),
    said=st.lists(st.sampled_from([KEPT, NOT_KEPT]), max_size=300),
)
def test_of_those_that_bring_a_trace_no_more_than_the_share_are_told(share: float, said: list[str]) -> None:
    sampler = Sampler(share)

    taken = sum(sampler.takes(header) for header in said)

    assert taken <= share * len(said) + ASKED_AT_ONCE + 1e-6
    assert taken <= said.count(KEPT)


def test_with_a_share_of_all_everything_is_told_but_what_its_client_does_not_keep() -> None:
    sampler = Sampler(1.0)

    assert [sampler.takes(header) for header in (None, KEPT, NOT_KEPT, "nonsense")] == [True, True, False, True]


# What is told.


def test_a_request_is_told_in_opentelemetrys_words_and_with_its_segments() -> None:
    sums_s = [0.0] * len(SEGMENTS)
    sums_s[Segment.OTHER], sums_s[Segment.DATABASE_WAIT] = 0.05, 0.2

    found = attributes_of(ended(sums_s=sums_s))

    assert found == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "http.request.body.size": 0,
        "http.response.body.size": 1024,
        "aws.request_id": "0123456789ABCDEF",
        "seawall.outcome": "served",
        "seawall.account": 7,
        "seawall.segment.other_s": 0.05,
        "seawall.segment.database_wait_s": 0.2,
    }


def test_what_is_not_known_is_not_told() -> None:
    found = attributes_of(ended(status=0, account=None, outcome=Outcome.GAVE_UP, method="PROPFIND"))

    assert not {"http.response.status_code", "seawall.account", "error.type"} & found.keys()
    assert found["http.request.method"] == "_OTHER"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (ended(), ""),
        (ended(status=404, error="NoSuchKey"), ""),
        (ended(status=200, outcome=Outcome.GONE), ""),
        (ended(status=503, outcome=Outcome.REFUSED, error="SlowDown"), "SlowDown"),
        (ended(status=0, outcome=Outcome.REFUSED), "refused"),
        (ended(status=500, outcome=Outcome.FAILED), "500"),
        (ended(status=200, outcome=Outcome.DISK_FAILED), "disk_failed"),
        (ended(status=501, error="NotImplemented"), "NotImplemented"),
    ],
)
def test_an_error_is_what_is_our_fault(request_: EndedRequest, said: str) -> None:
    assert error_type(request_) == said
    assert attributes_of(request_).get("error.type", "") == said


# Settings.


def test_headers_are_read_as_opentelemetry_writes_them() -> None:
    assert headers_of("") == {}
    assert headers_of("Authorization=Bearer%20a%2Cb=c, x-tenant = 7 ,") == {
        "authorization": "Bearer a,b=c",
        "x-tenant": "7",
    }


@pytest.mark.parametrize("text", ["hunter2", "a b=hunter2", "a=", "=hunter2", "a=hunter2%0d%0ab: c", "a=hunter2ü"])
def test_headers_that_are_none_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Misconfigured, match="SEAWALL_TRACES_HEADERS") as refusal:
        TraceSettings(headers=text)

    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4318",
        "http://",
        "ftp://host/v1/traces",
        "grpc://host:4317/x",
        "http://host:99999/v1/traces",
        "http://[::1/v1/traces",
        "http://host:0/v1/traces",
        "http://host",
        "http://host/",
        "http://host/v1/tra ces",
        "http://me:hunter2@host/v1/traces",
        "http://host/v1/traces?key=hunter2",
    ],
)
def test_an_address_that_cannot_work_or_would_tell_a_secret_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="SEAWALL_TRACES_URL") as refusal:
        TraceSettings(url=url)

    assert "hunter2" not in str(refusal.value)


def test_a_share_of_nothing_or_no_address_means_no_traces() -> None:
    url = "http://127.0.0.1:4318/v1/traces"

    assert not TraceSettings().wanted
    assert not TraceSettings(url=url, share=0.0).wanted
    assert TraceSettings(url=url).wanted
    assert "hunter2" not in repr(TraceSettings(url=url, headers="a=hunter2"))


class Missing(importlib.abc.MetaPathFinder):
    """A Python to which something is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self._name or fullname.startswith(f"{self._name}."):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in [*sys.modules]:
        if module.split(".")[0] == name or module == "seawall.telemetry.trace_export":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(name), *sys.meta_path])


def test_without_the_extra_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "opentelemetry")

    with pytest.raises(Misconfigured, match=r"-m pip install 'seawall\[otel\]'"):
        TraceSettings(url="http://127.0.0.1:4318/v1/traces")


def test_without_the_extra_a_service_without_traces_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "opentelemetry")

    assert not TraceSettings().wanted


def test_where_the_extra_is_not_whole_the_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TraceSettings(url="http://127.0.0.1:4318/v1/traces")
    without(monkeypatch, "requests")
    for module in [*sys.modules]:
        if module.startswith("opentelemetry.exporter"):
            monkeypatch.delitem(sys.modules, module)

    with pytest.raises(Misconfigured, match=r"pip install 'seawall\[otel\]'.*requests"):
        load_export(settings, node="node-1", address="127.0.0.1", port=9000)
