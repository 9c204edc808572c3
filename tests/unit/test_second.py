"""Whose a request claims to be is believed for counting users, and nobody has to answer for what others claim."""

from tests.unit.test_doorkeeper import KEY, SIGNED, a_caller, an_exchange

from seawall.admission import Gate, GateSettings
from seawall.clock import monotonic_s
from seawall.s3.doorkeeper import Doorkeeper
from seawall.service.second import Second
from seawall.telemetry.loop_lag import LoopLag
from seawall.telemetry.metrics import RequestMetrics
from seawall.telemetry.seconds import SLOW_S, Outcome

ALICE = a_caller(7)


def a_second() -> tuple[Doorkeeper, Second]:
    gate = Gate(GateSettings(), {}, now_s=monotonic_s())
    doorkeeper = Doorkeeper(gate, has_room=lambda: True, remembered={KEY: ALICE}.get)
    return doorkeeper, Second(doorkeeper, LoopLag(), RequestMetrics(), SLOW_S)


def refuse(second: Second, *, peer: str) -> None:
    exchange = an_exchange(headers=SIGNED, peer=peer)
    exchange.outcome, exchange.operation = Outcome.REFUSED, "refused"
    second.observe(exchange, 0.1)
    second.count()


def test_who_floods_in_somebody_elses_name_is_not_taken_for_them() -> None:
    _, second = a_second()

    for _ in range(100):
        refuse(second, peer="198.51.100.66")

    assert second.tenants.take() == ([], 0.0)
    assert second.users.failed.everybody() == [7]


def test_what_an_account_is_refused_at_an_address_it_has_signed_from_is_its_own() -> None:
    doorkeeper, second = a_second()
    known = an_exchange(headers=SIGNED)
    assert doorkeeper.admit(known) is None
    doorkeeper.recognise(known, ALICE, KEY)

    refuse(second, peer=known.peer)

    assert [(account, refused) for account, _, _, refused in second.tenants.take()[0]] == [(7, 1)]
