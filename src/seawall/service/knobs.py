"""What the keeper may have a node do differently: one place for all of it.

What restricts somebody ends by itself, unless it is said again: a keeper that died, or forgot, leaves nothing behind.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from seawall.admission import Gate
from seawall.clock import monotonic_s
from seawall.database import Database
from seawall.telemetry.link import Message

log = logging.getLogger(__name__)

LASTS_S: Final = 60.0
"""How long what was told holds."""


class Knobs:
    """State: whether the node was told to end."""

    def __init__(self, gate: Gate, database: Database, *, drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._gate = gate
        self._database = database
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Knobs {self._gate.shares.caps(monotonic_s())}>"

    def turn(self, message: Message) -> None:
        """Do what the keeper says.

        `{"knob": "limit_tenant", "tenant": 7, "per_s": 20.0}`: an account may ask for so much a second, in small
        requests; null: for as much as it likes.
        `{"knob": "eject_server", "server": "host:5433", "out": true}`: a replica is not asked; false: it is again.
        `{"knob": "drain"}`: take no more connections, and end those that are open after their requests.
        """
        now_s = monotonic_s()
        match message:
            case {"knob": "limit_tenant", "tenant": int(tenant), "per_s": int() | float() | None as per_s}:
                self._gate.shares.cap(tenant, per_s, now_s=now_s, until_s=now_s + LASTS_S)
                log.info("knob.limit_tenant", extra={"tenant": tenant, "per_s": per_s})
            case {"knob": "eject_server", "server": str(name), "out": bool(out)}:
                balancer = self._database.balancer
                found = balancer is not None and balancer.put_out(name, until_s=now_s + LASTS_S if out else now_s)
                log.info("knob.eject_server", extra={"server": name, "out": out, "found": found})
            case {"knob": "drain"}:
                log.info("knob.drain")
                self._draining = self._draining or asyncio.create_task(self._drain(), name="drain as told")
            case _:
                log.warning("knob.unknown", extra={"said": str(message)[:200]})

    async def close(self) -> None:
        """Stop what was begun."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.wait([self._draining])
