"""Who may see and change what operators see: whoever has the root account's keys, over loopback.

The keys are in a 0600 file, not in the database: it works while that is down. A password that travels in the clear goes
no further than this machine; from elsewhere, a tunnel or a proxy with TLS on this machine brings it here.
"""

import asyncio
import binascii
import hmac
import ipaddress
from base64 import b64decode
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Final

from seawall.edge import Exchange

WRONG_WAITS_S: Final = 1.0
"""Who guesses learns so late that it was wrong."""
WRONG_WAITING_MAX: Final = 16
"""So many may wait for that; who guesses more at once is sent away."""


class Entry(Enum):
    """Whether somebody may come in, or why not."""

    OPEN = "open"
    NO_KEYS = "no keys"
    TOO_MANY_GUESSES = "too many guesses"
    FROM_AFAR = "from afar"
    CROSS_SITE = "cross-site"
    NOT_JSON = "not json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"<_Keys {self.access_key}>"


class RootEntry:
    """Lets in who has the root account's keys. State: the keys as last read, and how many guesses wait."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: _Keys | None = None
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<RootEntry {self._path}, {self._waiting} wrong guesses waiting>"

    async def judge(self, exchange: Exchange) -> Entry:
        """Say whether a request is let in; it takes a while to say that keys are wrong."""
        if not is_loopback(exchange.peer):
            return Entry.FROM_AFAR
        if exchange.method not in {"GET", "HEAD"}:
            # A browser sends what it knows along with whatever another site has it send.
            if is_cross_site(exchange.headers):
                return Entry.CROSS_SITE
            if exchange.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return Entry.NOT_JSON
        claimed = claimed_keys(exchange.headers.get("authorization", ""))
        if claimed is None:
            return Entry.NO_KEYS
        await self._read()
        # First: whoever else guesses must not lock out who knows.
        if self._keys is not None and are_same(claimed, (self._keys.access_key, self._keys.secret_key)):
            return Entry.OPEN
        if self._waiting >= WRONG_WAITING_MAX:
            return Entry.TOO_MANY_GUESSES
        self._waiting += 1
        try:
            await asyncio.sleep(WRONG_WAITS_S)
        finally:
            self._waiting -= 1
        return Entry.NO_KEYS

    async def _read(self) -> None:
        """Read the keys, for they may be new ones; while the file cannot be read, those known hold."""
        try:
            found = read_keys(await asyncio.to_thread(self._path.read_text, encoding="utf-8"))
        except (OSError, ValueError):
            return
        if found is not None:
            self._keys = _Keys(access_key=found[0], secret_key=found[1])


def read_keys(text: str) -> tuple[str, str] | None:
    """Return the pair a file of root keys holds, or None where one is missing.

    >>> read_keys("access_key = A\\nsecret_key = b = c\\n")
    ('A', 'b = c')
    """
    lines = (line.partition(" = ") for line in text.splitlines())
    found = {name: value for name, equals, value in lines if equals}
    access_key, secret_key = found.get("access_key", ""), found.get("secret_key", "")
    return (access_key, secret_key) if access_key and secret_key else None


def claimed_keys(authorization: str) -> tuple[str, str] | None:
    """Return the name and the password of HTTP Basic authentication (RFC 7617), or None where there are none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


def are_same(claimed: tuple[str, str], known: tuple[str, str]) -> bool:
    """Say whether two pairs are the same, in a time that says nothing of where they differ or how long they are."""
    same = [
        hmac.compare_digest(sha256(one.encode()).digest(), sha256(other.encode()).digest())
        for one, other in zip(claimed, known, strict=True)
    ]
    return all(same)


def is_loopback(peer: str) -> bool:
    """Say whether an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("::ffff:127.0.0.1"), is_loopback("10.0.0.7")
    (True, True, True, False)
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_cross_site(headers: dict[str, str]) -> bool:
    """Say whether a browser says that another site has it send this; who is no browser says nothing."""
    if headers.get("sec-fetch-site", "none").lower() not in {"same-origin", "none"}:
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
