"""Links that were followed lately: a crowd follows the same one, and it need not be understood twice.

A presigned URL says all there is to say about a request: whoever sends the same method, host, path
and query, and no header that could change their meaning, asks for the same with the same right. What
was found out about the first holds for the next, until it expires or its key is revoked.
"""

from collections.abc import Mapping
from typing import NamedTuple

from seawall.access import Credential
from seawall.edge import Exchange
from seawall.s3.operations import Target
from seawall.s3.signature import UNSIGNED_PAYLOAD, Claim, Signed

LIMIT = 4096
# Far above what a link needs; a client's own long ones must not fill our memory.
NAME_LENGTH_MAX = 4096

Name = tuple[str, str, str, str]


class Link(NamedTuple):
    """A request whose signature held: what it asks, who signed it, and until when it may be asked."""

    target: Target
    query: Mapping[str, str]
    operation: str
    credential: Credential
    signed: Signed
    expires_at_s: float


class Links:
    """Remembers links. State: at most `LIMIT` of them; the oldest goes first."""

    def __init__(self) -> None:
        self._links: dict[Name, Link] = {}

    def __repr__(self) -> str:
        return f"<Links {len(self._links)} of {LIMIT}>"

    def find(self, exchange: Exchange, *, now_s: float) -> Link | None:
        """Return the link this request follows, if it is known and has not expired.

        Whether its credential still holds is for the caller to check.
        """
        link = self._links.get(_name(exchange))
        if link is None or now_s >= link.expires_at_s or not _is_plain(exchange.headers):
            return None
        return link

    def remember(
        self, exchange: Exchange, claim: Claim, *, target: Target, query: Mapping[str, str], operation: str,
        credential: Credential, signed: Signed,
    ) -> None:  # fmt: skip
        """Keep what was found out about a request, if it is all in its link."""
        if exchange.method not in {"GET", "HEAD"}:
            return  # Nobody sends a crowd to write the same object.
        if claim.form != "presigned" or claim.payload != UNSIGNED_PAYLOAD or not _is_plain(exchange.headers):
            return
        if "X-Amz-SignedHeaders=host&" not in f"{exchange.query}&":
            return
        if len(exchange.path) + len(exchange.query) > NAME_LENGTH_MAX:
            return
        if len(self._links) >= LIMIT:
            del self._links[next(iter(self._links))]
        self._links[_name(exchange)] = Link(
            target, query, operation, credential, signed, claim.signed_at_s + claim.expires_s
        )


def _name(exchange: Exchange) -> Name:
    return exchange.method, exchange.headers.get("host", ""), exchange.path, exchange.query


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Whether no header says anything about who is asking, or what for."""
    return "authorization" not in headers and not any([name[:6] == "x-amz-" for name in headers])  # noqa: C419 - faster
