"""`/incidents` on the console port: what went wrong, for programs and browsers of operators.

All of it needs the root account's keys: incidents name statements, sessions, and how many users there are. Answers are
JSON but for the post-mortem, which is Markdown, or a page.
"""

import json
import re
from typing import Any, Final

from seawall.console.root_entry import Entry, RootEntry
from seawall.edge import Exchange
from seawall.errors import Invalid, Missing, SeawallError
from seawall.incidents.desk import IncidentDesk

BODY_MAX_BYTES: Final = 64 * 1024
PLACE: Final = re.compile(
    r"/incidents(?:/(?P<id>latest|[0-9-]{1,24})(?P<part>/post-mortem(?:\.html)?|/notes|/acknowledge)?)?/?"
)
READ: Final = frozenset({None, "/post-mortem", "/post-mortem.html"})

REFUSALS: Final[dict[Entry, tuple[int, str]]] = {
    Entry.NO_KEYS: (401, "the root account's access key and secret are needed here, as HTTP Basic authentication"),
    Entry.TOO_MANY_GUESSES: (429, "too many wrong keys are being tried; try again in a second"),
    Entry.FROM_AFAR: (
        403,
        "incidents are told on this machine only: use a tunnel, or a proxy with TLS here",
    ),
    Entry.CROSS_SITE: (403, "another site may not have this sent"),
    Entry.NOT_JSON: (415, "what is written is sent as application/json"),
}

PAGE_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    # The page has neither script nor anything from elsewhere; were something smuggled into it, it would do nothing.
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class IncidentDoor:
    """Tells of incidents, and takes notes. State: none of its own."""

    def __init__(self, desk: IncidentDesk, entry: RootEntry) -> None:
        self._desk = desk
        self._entry = entry

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request for `/incidents` or what is below."""
        exchange.operation = "/incidents"
        entry = await self._entry.judge(exchange)
        if entry is not Entry.OPEN:
            status, reason = REFUSALS[entry]
            ask = [("WWW-Authenticate", 'Basic realm="Seawall console", charset="UTF-8"')] if status == 401 else []
            _respond(exchange, status, {"error": reason}, ask)
            return
        place = PLACE.fullmatch(exchange.path)
        if place is None:
            _respond(exchange, 404, {"error": "there are /incidents, /incidents/ID, and its post-mortem and notes"})
            return
        try:
            await self._answer(exchange, place["id"], place["part"])
        except Missing as error:
            _respond(exchange, 404, {"error": str(error)})
        except Invalid as error:
            _respond(exchange, 400, {"error": str(error)})
        except SeawallError as error:
            _respond(exchange, 503, {"error": str(error)})

    async def _answer(self, exchange: Exchange, incident_id: str | None, part: str | None) -> None:
        allowed = ("GET", "HEAD") if part in READ else ("POST",)
        if exchange.method not in allowed:
            answer = {"error": f"here only {' and '.join(allowed)} are possible"}
            _respond(exchange, 405, answer, [("Allow", ", ".join(allowed))])
        elif incident_id is None:
            _respond(exchange, 200, {"incidents": await self._desk.listed()})
        elif part is None:
            _respond(exchange, 200, (await self._desk.find(incident_id)).as_json())
        elif part == "/notes":
            said = await _said(exchange)
            text = said.get("text")
            if not isinstance(text, str):
                raise Invalid('A note is sent as {"text": "…"}, with "who" if it is somebody else\'s.')
            incident = await self._desk.note(incident_id, who=_who(said), text=text)
            _respond(exchange, 201, incident.as_json())
        elif part == "/acknowledge":
            incident = await self._desk.acknowledge(incident_id, who=_who(await _said(exchange)))
            _respond(exchange, 200, incident.as_json())
        else:
            form = "html" if part.endswith(".html") else "md"
            text = await self._desk.post_mortem(incident_id, form)
            kind = "text/html" if form == "html" else "text/markdown"
            exchange.respond(200, [("Content-Type", f"{kind}; charset=utf-8"), *PAGE_HEADERS], text.encode())


async def _said(exchange: Exchange) -> dict[str, Any]:
    body = b"".join(await exchange.body.read(limit=BODY_MAX_BYTES))
    try:
        said = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Invalid("The body is not JSON.") from error
    if not isinstance(said, dict):
        raise Invalid("The body is not a JSON object.")
    return said


def _who(said: dict[str, Any]) -> str:
    who = said.get("who", "root")
    return who if isinstance(who, str) else "root"


def _respond(exchange: Exchange, status: int, answer: object, headers: list[tuple[str, str]] | None = None) -> None:
    body = json.dumps(answer, default=str).encode() + b"\n"
    head = [
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *(headers or []),
    ]
    exchange.respond(status, head, body)
