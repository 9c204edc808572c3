"""What the gate is told of an S3 request, from its head alone, and what those who are turned away are told.

Nothing here costs more than a look at the head: no signature is checked, no body received, nothing asked of the
database or the disk.
"""

import re
import zlib
from collections.abc import Callable
from typing import Final

from seawall.access import Caller
from seawall.admission import Gate, Standing
from seawall.clock import monotonic_s
from seawall.edge import Exchange, PutOff
from seawall.errors import Overloaded
from seawall.s3.errors import respond_error, translate
from seawall.telemetry.purpose import Urgency
from seawall.telemetry.seconds import Outcome

PRIORITY_HEADER: Final = "x-seawall-priority"
"""A client may say that a request is less urgent than it looks; never that it is more."""

PRIORITIES: Final = {urgency.name.lower(): urgency for urgency in Urgency}

ADMITTED, STRANGER, WAITING, CLOSED = 1, 2, 3, 4
"""What an exchange's ticket says: it was let in as somebody's whom we know, or a stranger's; it waits to be told
that it may not start, or is told nothing."""

CHARGED_BYTES: Final = 1024 * 1024
"""So many bytes of a body count as much as a request does."""

SMALL: Final = 1 / 16
"""What is sent counts from so much on, in parts of `CHARGED_BYTES`."""

ACQUAINTED_MAX: Final = 50_000
"""So many pairs of access key and address are remembered; then they are learnt anew, which takes a request each."""

STRANGERS: Final = 1 << 40
"""Numbers from here on are those of addresses, below are accounts'."""

# Access keys are what `access.accounts` takes for one. In a link, the slash behind it may be encoded.
_IN_HEADER: Final = re.compile(r"Credential=([A-Za-z0-9._-]{3,128})/")
_IN_LINK: Final = re.compile(r"(?:^|&)X-Amz-Credential=([A-Za-z0-9._-]{3,128})(?:/|%2[Ff])")


class Doorkeeper:
    """Asks the gate about each request, and gives the ticket back. State: whose keys came from which addresses.

    A request's share is its account's where a signature by the same key held that came from the same address, and the
    address's own else: whoever claims somebody else's key takes from what strangers at their own address have. A
    stranger that turns out to be of an account which has had its share is turned away then.

    Args:
        gate: is asked.
        has_room: whether there is memory for another body. Who brings none is let in all the same: slow uploads fill it
            for as long as they like, and fewer reads would not empty it.
        remembered: whose an access key is, as far as that is known without asking anybody.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        has_room: Callable[[], bool],
        remembered: Callable[[str], Caller | None] = lambda _: None,
    ) -> None:
        self.gate = gate
        self._has_room = has_room
        self._remembered = remembered
        self._acquainted: dict[tuple[str, str], Caller] = {}

    def admit(self, exchange: Exchange) -> PutOff | None:
        """Decide whether a request may start: called with its head, before anything else is done."""
        urgency = exchange.urgency = urgency_of(exchange)
        key, peer = claimed_key(exchange), exchange.peer
        caller = self._acquainted.get((key, peer)) if key else None
        if caller is None:
            tenant = number_of(peer)
            if urgency is Urgency.CRITICAL:
                urgency = Urgency.NORMAL  # Anybody can say so.
        else:
            tenant = caller.account_id
            if caller.is_background:
                urgency = exchange.urgency = Urgency.BACKGROUND
        user = number_of(key) if key else tenant
        if exchange.body.length == 0 or self._has_room():
            refusal = self.gate.enter(urgency, user, tenant, now_s=monotonic_s())
        else:
            refusal = self.gate.turn_down(urgency)
        if refusal is None:
            exchange.ticket = STRANGER if caller is None else ADMITTED
            return None
        exchange.outcome = Outcome.REFUSED
        if refusal.delay_s is None:
            exchange.ticket, exchange.operation = CLOSED, "refused"
            return PutOff(0.0, None)
        exchange.ticket = WAITING
        self.gate.waiting += 1
        retry_after_s = refusal.retry_after_s
        return PutOff(refusal.delay_s, lambda exchange: _say_no(exchange, retry_after_s))

    def whose(self, exchange: Exchange) -> tuple[int | str | None, int | None]:
        """Return for whom a request was that was not served, and whose account has to answer for it; None: nobody's.

        For whom: an account, or a key that nobody knows. A claim is believed there: it is for those who count who was
        affected. Who has to answer may be limited for it, so nobody has for what others claim at other addresses.
        """
        if exchange.account is not None:
            return exchange.account, exchange.account
        key = claimed_key(exchange)
        if not key:
            return None, None
        caller = self._acquainted.get((key, exchange.peer))
        if caller is not None:
            return caller.account_id, caller.account_id
        caller = self._remembered(key)
        return key if caller is None else caller.account_id, None

    def recognise(self, exchange: Exchange, caller: Caller, access_key: str) -> None:
        """Note that a signature held: from now on the request is its account's.

        Raises:
            Overloaded: it was let in as a stranger's, and the account has had its share.
        """
        if not exchange.ticket:
            return
        if len(self._acquainted) >= ACQUAINTED_MAX:
            self._acquainted.clear()
        self._acquainted[access_key, exchange.peer] = caller
        if caller.is_background:
            exchange.urgency = Urgency.BACKGROUND
        shares, account = self.gate.shares, caller.account_id
        if exchange.ticket == STRANGER and shares.take(account, now_s=monotonic_s()) >= Standing.BEYOND:
            raise Overloaded
        announced = (exchange.body.length or 0) / CHARGED_BYTES
        if announced > SMALL:
            shares.charge(account, now_s=monotonic_s(), cost=announced)

    def leave(self, exchange: Exchange) -> None:
        """Take the ticket back, whatever it said: the exchange is over."""
        if exchange.ticket in {ADMITTED, STRANGER}:
            account = exchange.account
            tenant = number_of(exchange.peer) if account is None else account
            received, sent = exchange.body.received / CHARGED_BYTES, exchange.sent_bytes / CHARGED_BYTES
            self.gate.leave(tenant, served=exchange.status != 503, cost=1.0 + received + sent)
            unannounced = sent + received if exchange.body.length is None else sent
            if unannounced > SMALL:
                self.gate.shares.charge(tenant, now_s=monotonic_s(), cost=unannounced)
        elif exchange.ticket == WAITING:
            self.gate.waiting -= 1


def urgency_of(exchange: Exchange) -> Urgency:
    """Return how urgent a request is, as far as its head tells; a client may call it less urgent.

    The operation decides in the end (`s3.operations.URGENCIES`); this tells the same from less.
    """
    if exchange.method in {"GET", "HEAD"}:
        urgency = Urgency.INTERACTIVE
    elif exchange.method in {"POST", "DELETE"} and "&uploadId=" in f"&{exchange.query}":
        urgency = Urgency.CRITICAL
    else:
        urgency = Urgency.NORMAL
    called = exchange.headers.get(PRIORITY_HEADER)
    return urgency if called is None else max(urgency, PRIORITIES.get(called.lower(), urgency))


def claimed_key(exchange: Exchange) -> str:
    """Return the access key a request claims to be signed with; empty where it claims none.

    It is not checked here, and whoever lies about it is a stranger.
    """
    said = exchange.headers.get("authorization")
    found = _IN_LINK.search(exchange.query) if said is None else _IN_HEADER.search(said)
    return "" if found is None else found[1]


def number_of(name: str) -> int:
    """Return a number for an address or an access key, which is no account's."""
    return STRANGERS + zlib.crc32(name.encode())


def _say_no(exchange: Exchange, retry_after_s: float) -> None:
    exchange.operation = "refused"
    respond_error(exchange, translate(Overloaded(retry_after_s=retry_after_s)))
