"""`/healthz`, `/readyz` and `/metrics`, for a node or for the fleet; and `/incidents`, where they are kept.

It answers when the database does not: that is when it is needed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from seawall.edge import Exchange, Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether requests should be sent here, and the reason when not."""

    ready: bool
    reason: str = ""


class HealthDoor:
    """Answers load balancers and Prometheus. State: none; it asks.

    `incidents` answers what is below `/incidents`, where there is somebody to keep them.
    """

    def __init__(
        self, readiness: Callable[[], Readiness], registry: CollectorRegistry, incidents: Handler | None = None
    ) -> None:
        self._readiness = readiness
        self._registry = registry
        self._incidents = incidents

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        exchange.operation = exchange.path
        if self._incidents is not None and (exchange.path == "/incidents" or exchange.path.startswith("/incidents/")):
            await self._incidents(exchange)
        elif exchange.method not in {"GET", "HEAD"}:
            _respond(exchange, 405, {"error": "only GET and HEAD are possible here"})
        elif exchange.path == "/healthz":
            _respond(exchange, 200, {"alive": True})
        elif exchange.path == "/readyz":
            readiness = self._readiness()
            _respond(exchange, 200 if readiness.ready else 503, {"ready": readiness.ready, "reason": readiness.reason})
        elif exchange.path == "/metrics":
            exchange.respond(200, [("Content-Type", CONTENT_TYPE_LATEST)], generate_latest(self._registry))
        else:
            _respond(exchange, 404, {"error": "there are /healthz, /readyz and /metrics here"})


def _respond(exchange: Exchange, status: int, answer: dict[str, object]) -> None:
    body = json.dumps(answer).encode() + b"\n"
    exchange.respond(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body)
