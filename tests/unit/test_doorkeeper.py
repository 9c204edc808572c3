"""Whose request it is, as far as its head tells, and what lies in a head are good for."""

import math
from typing import cast

import pytest

from seawall.access import Caller
from seawall.admission import Gate, GateSettings, Standing
from seawall.clock import monotonic_s
from seawall.edge import Exchange
from seawall.edge.body import Body, BodyMemory
from seawall.edge.connection import Connection
from seawall.edge.head import Head
from seawall.errors import Overloaded
from seawall.s3.doorkeeper import CHARGED_BYTES, Doorkeeper, claimed_key, number_of, urgency_of
from seawall.telemetry.purpose import Urgency

KEY = "SWABCDEFGHIJKLMNOPQR"
PEER = "192.0.2.1"
SCOPE = "20261124/us-east-1/s3/aws4_request"
SIGNED = {"authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/{SCOPE}, SignedHeaders=host, Signature=00"}


class AConnection:
    """Keeps what is sent, as a connection does."""

    def common_headers(self) -> str:
        return ""

    def will_close(self, exchange: Exchange) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass


def an_exchange(
    method: str = "GET",
    query: str = "",
    headers: dict[str, str] | None = None,
    *,
    peer: str = PEER,
    length: int | None = 0,
) -> Exchange:
    head = Head(
        method=method,
        path="/bucket/key",
        query=query,
        headers=headers or {},
        keep_alive=True,
        content_length=length,
        expects_continue=False,
    )
    body = Body(
        length,
        memory=BodyMemory(limit_bytes=1 << 30),
        say_continue=None,
        stop_receiving=lambda: None,
        go_on_receiving=lambda: None,
    )
    connection = cast("Connection", AConnection())
    return Exchange(connection, head, body, peer=peer, request_id="1", started_s=monotonic_s())


def a_caller(account_id: int = 1, *, is_background: bool = False) -> Caller:
    return Caller(account_id=account_id, canonical_id="", display_name="", is_admin=False, is_background=is_background)


def a_doorkeeper(*, fair_per_s: float = math.inf, has_room: bool = True) -> Doorkeeper:
    doorkeeper = Doorkeeper(Gate(GateSettings(), {}, now_s=monotonic_s()), has_room=lambda: has_room)
    doorkeeper.gate.shares.fair_per_s = fair_per_s
    return doorkeeper


def ask(doorkeeper: Doorkeeper, exchange: Exchange, caller: Caller | None = None, *, key: str = KEY) -> Exchange:
    """Have a request let in, understood where somebody signed it, and answered."""
    assert doorkeeper.admit(exchange) is None
    try:
        if caller is not None:
            exchange.account = caller.account_id
            doorkeeper.recognise(exchange, caller, key)
    except Overloaded:
        exchange.respond(503, [])
    else:
        exchange.respond(200, [])
    doorkeeper.leave(exchange)
    return exchange


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", SIGNED),
        (f"X-Amz-Credential={KEY}%2F{SCOPE}", {}),
        (f"prefix=a&X-Amz-Credential={KEY}/{SCOPE}", {}),
        (f"a=X-Amz-Credential=lucky%2F&X-Amz-Credential={KEY}%2f{SCOPE}", {}),
        (f"aX-Amz-Credential=lucky%2F&X-Amz-Credential={KEY}%2F{SCOPE}", {}),
    ],
)
def test_the_key_claimed_is_the_one_whose_signature_will_be_checked(query: str, headers: dict[str, str]) -> None:
    assert claimed_key(an_exchange(query=query, headers=headers)) == KEY


@pytest.mark.parametrize("length", [3, 128])
def test_a_key_of_any_length_is_found(length: int) -> None:
    key = "k" * length

    assert claimed_key(an_exchange(query=f"X-Amz-Credential={key}%2F{SCOPE}")) == key
    assert claimed_key(an_exchange(headers={"authorization": f"Credential={key}/{SCOPE}"})) == key


@pytest.mark.parametrize(
    ("query", "headers"),
    [("", {}), ("list-type=2", {}), ("", {"authorization": "Basic abc"}), (f"X-Amz-Credential={'k' * 129}%2F", {})],
)
def test_who_claims_no_key_that_can_be_has_none(query: str, headers: dict[str, str]) -> None:
    assert claimed_key(an_exchange(query=query, headers=headers)) == ""


@pytest.mark.parametrize(
    ("method", "query", "expected"),
    [
        ("POST", "uploadId=1", Urgency.CRITICAL),
        ("DELETE", "a=b&uploadId=1", Urgency.CRITICAL),
        ("DELETE", "myuploadId=1", Urgency.NORMAL),
        ("DELETE", "a=uploadId=1", Urgency.NORMAL),
        ("PUT", "partNumber=1&uploadId=1", Urgency.NORMAL),
        ("GET", "uploadId=1", Urgency.INTERACTIVE),
    ],
)
def test_only_what_ends_an_upload_is_critical(method: str, query: str, expected: Urgency) -> None:
    assert urgency_of(an_exchange(method, query)) is expected


def test_a_stranger_is_not_critical_whatever_it_asks_for() -> None:
    doorkeeper = a_doorkeeper()

    ask(doorkeeper, an_exchange("POST", "uploadId=1", SIGNED), a_caller())
    assert doorkeeper.gate.counts.admitted[Urgency.CRITICAL] == 0
    complete = ask(doorkeeper, an_exchange("POST", "uploadId=1", SIGNED), a_caller())

    assert doorkeeper.gate.counts.admitted[Urgency.CRITICAL] == 1
    assert complete.urgency == Urgency.CRITICAL


def test_who_was_recognised_at_an_address_has_the_share_of_the_account_from_then_on() -> None:
    doorkeeper = a_doorkeeper(fair_per_s=10.0)
    shares, now_s = doorkeeper.gate.shares, monotonic_s()
    ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(7))

    shares.charge(number_of(PEER), now_s=now_s, cost=100.0)
    known = ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(7))

    assert known.status == 200
    assert shares.take(7, now_s=now_s) is not Standing.BEYOND
    assert shares.take(number_of(PEER), now_s=now_s) is Standing.BEYOND


def test_a_stranger_of_an_account_that_has_had_its_share_is_turned_away_once_that_is_known() -> None:
    doorkeeper = a_doorkeeper(fair_per_s=10.0)
    doorkeeper.gate.shares.charge(7, now_s=monotonic_s(), cost=100.0)

    elsewhere = [
        ask(doorkeeper, an_exchange(headers=SIGNED, peer=f"192.0.2.{number}"), a_caller(7)) for number in range(20)
    ]
    another = ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(8))

    assert {exchange.status for exchange in elsewhere} == {503}
    assert another.status == 200
    assert doorkeeper.gate.in_flight == 0


def test_a_length_that_was_only_claimed_costs_the_account_nothing() -> None:
    doorkeeper = a_doorkeeper(fair_per_s=10.0)
    ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(7))

    forged = an_exchange("PUT", headers=SIGNED, length=10**17)
    assert doorkeeper.admit(forged) is None
    forged.respond(403, [])
    doorkeeper.leave(forged)

    assert doorkeeper.gate.shares.take(7, now_s=monotonic_s()) is not Standing.BEYOND


@pytest.mark.parametrize("length", [50 * CHARGED_BYTES, None])
def test_bytes_that_are_sent_are_charged_announced_or_not(length: int | None) -> None:
    doorkeeper = a_doorkeeper(fair_per_s=10.0)

    upload = an_exchange("PUT", headers=SIGNED, length=length)
    upload.body.received = 50 * CHARGED_BYTES
    ask(doorkeeper, upload, a_caller(7))

    assert doorkeeper.gate.shares.take(7, now_s=monotonic_s()) is Standing.BEYOND


def test_an_account_marked_as_background_is_that_from_its_first_request_on() -> None:
    doorkeeper = a_doorkeeper()

    first = ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(is_background=True))
    ask(doorkeeper, an_exchange(headers=SIGNED), a_caller(is_background=True))

    assert first.urgency == Urgency.BACKGROUND
    assert doorkeeper.gate.counts.admitted[Urgency.BACKGROUND] == 1


def test_without_memory_for_bodies_who_brings_none_is_let_in_all_the_same() -> None:
    doorkeeper = a_doorkeeper(has_room=False)

    refused = [an_exchange("PUT", headers=SIGNED, length=length) for length in (1, CHARGED_BYTES, None)]
    put_off = [doorkeeper.admit(exchange) for exchange in refused]
    assert doorkeeper.gate.waiting == len(refused)
    for exchange in refused:
        doorkeeper.leave(exchange)
    read = ask(doorkeeper, an_exchange(headers=SIGNED), a_caller())
    emptied = ask(doorkeeper, an_exchange("PUT", headers=SIGNED, length=0), a_caller())

    assert None not in put_off
    assert (read.status, emptied.status) == (200, 200)
    assert (doorkeeper.gate.waiting, doorkeeper.gate.in_flight) == (0, 0)
    assert doorkeeper.gate.pace_per_s == math.inf
