"""What the gate is told of an S3 request, from its head alone, and what those who are turned away are told.

Nothing here costs more than a look at the head: no signature is checked, no body received, nothing asked of the
database or the disk.
"""

import zlib
from typing import Final

from seawall.access import Credentials
from seawall.admission import Gate
from seawall.clock import monotonic_s
from seawall.edge import Exchange, PutOff
from seawall.errors import Overloaded
from seawall.s3.errors import respond_error, translate
from seawall.telemetry.purpose import Urgency

PRIORITY_HEADER: Final = "x-seawall-priority"
"""A client may say that a request is less urgent than it looks; never that it is more."""

PRIORITIES: Final = {urgency.name.lower(): urgency for urgency in Urgency}

ADMITTED, WAITING, CLOSED = 1, 2, 3
"""What an exchange's ticket says: it was let in, waits to be told that it was not, or is told nothing."""

CHARGED_BYTES: Final = 1024 * 1024
"""So many bytes of a body count as much as a request does."""

SMALL: Final = 1 / 16
"""What is sent counts from so much on, in parts of `CHARGED_BYTES`."""

ACQUAINTED_MAX: Final = 50_000
"""So many pairs of account and address are remembered; then they are learnt anew, which takes a request each."""

STRANGERS: Final = 1 << 40
"""Numbers from here on are those of addresses, below are accounts'."""

PUBLISHED_MAX: Final = 128
"""No access key is longer (`access.accounts`); what claims to be is nobody's."""


class Doorkeeper:
    """Asks the gate about each request, and gives the ticket back. State: which accounts came from which addresses.

    A request's share is its account's where a signature of that account held that came from the same address: whoever
    claims somebody else's key takes from what strangers at their own address have.
    """

    def __init__(self, gate: Gate, credentials: Credentials) -> None:
        self.gate = gate
        self._credentials = credentials
        self._acquainted: set[tuple[int, str]] = set()

    def admit(self, exchange: Exchange) -> PutOff | None:
        """Decide whether a request may start: called with its head, before anything else is done."""
        urgency = urgency_of(exchange)
        key, peer = claimed_key(exchange), exchange.peer
        credential = self._credentials.peek(key) if key else None
        tenant = 0
        if credential is not None:
            account = credential.caller.account_id
            if (account, peer) in self._acquainted:
                tenant = account
            if credential.caller.is_background:
                urgency = Urgency.BACKGROUND
        tenant = tenant or number_of(peer)
        user = number_of(key) if key else tenant
        exchange.urgency = urgency
        cost = 1.0 + (exchange.body.length or 0) / CHARGED_BYTES
        refusal = self.gate.enter(urgency, user, tenant, now_s=monotonic_s(), cost=cost)
        if refusal is None:
            exchange.ticket = ADMITTED
            return None
        if refusal.delay_s is None:
            exchange.ticket, exchange.operation = CLOSED, "refused"
            return PutOff(0.0, None)
        exchange.ticket = WAITING
        self.gate.waiting += 1
        retry_after_s = refusal.retry_after_s
        return PutOff(refusal.delay_s, lambda exchange: _say_no(exchange, retry_after_s))

    def recognise(self, exchange: Exchange) -> None:
        """Remember that an account's signature held, and where it came from."""
        assert exchange.account is not None
        if len(self._acquainted) >= ACQUAINTED_MAX:
            self._acquainted.clear()
        self._acquainted.add((exchange.account, exchange.peer))

    def leave(self, exchange: Exchange) -> None:
        """Take the ticket back, whatever it said: the exchange is over."""
        if exchange.ticket == ADMITTED:
            account = exchange.account
            tenant = number_of(exchange.peer) if account is None else account
            sent = exchange.sent_bytes / CHARGED_BYTES
            cost = 1.0 + exchange.body.received / CHARGED_BYTES + sent
            self.gate.leave(tenant, served=exchange.status != 503, cost=cost)
            if sent > SMALL:
                self.gate.shares.charge(tenant, now_s=monotonic_s(), cost=sent)
        elif exchange.ticket == WAITING:
            self.gate.waiting -= 1


def urgency_of(exchange: Exchange) -> Urgency:
    """Return how urgent a request is, as far as its head tells; a client may call it less urgent.

    The operation decides in the end (`s3.operations.URGENCIES`); this tells the same from less.
    """
    if exchange.method in {"GET", "HEAD"}:
        urgency = Urgency.INTERACTIVE
    elif "uploadId=" in exchange.query and exchange.method in {"POST", "DELETE"}:
        urgency = Urgency.CRITICAL
    else:
        urgency = Urgency.NORMAL
    called = exchange.headers.get(PRIORITY_HEADER)
    return urgency if called is None else max(urgency, PRIORITIES.get(called.lower(), urgency))


def claimed_key(exchange: Exchange) -> str:
    """Return the access key a request claims to be signed with; empty where it claims none.

    It is not checked here, and whoever lies about it is turned away sooner, at the most.
    """
    said = exchange.headers.get("authorization")
    if said is not None:
        start, end = said.find("Credential=") + 11, "/"
    else:
        said = exchange.query
        start, end = said.find("X-Amz-Credential=") + 17, "%2F"
    if start < 17 and said is exchange.query:
        return ""
    stop = said.find(end, start, start + PUBLISHED_MAX)
    return said[start:stop] if stop > start >= 11 else ""


def number_of(name: str) -> int:
    """Return a number for an address or an access key, which is no account's."""
    return STRANGERS + zlib.crc32(name.encode())


def _say_no(exchange: Exchange, retry_after_s: float) -> None:
    exchange.operation = "refused"
    respond_error(exchange, translate(Overloaded(retry_after_s=retry_after_s)))
