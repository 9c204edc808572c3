"""Which account an access key belongs to, remembered for as long as it is true.

Nodes poll one number, the access epoch, that every change to accounts or keys increases: a revoked
key is forgotten within a second. While the database is away, what is remembered holds for a
minute, so that a short outage of the catalogue does not log everybody out.
"""

import asyncio
from dataclasses import dataclass

from seawall.clock import monotonic_s
from seawall.database import Database, load_queries
from seawall.errors import DatabaseDown, Unavailable

QUERIES = load_queries(__package__, "access.sql")

EPOCH_INTERVAL_S = 0.5
# How long credentials are believed without having heard from the database.
TRUST_S = 60.0
REMEMBERED_MAX = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated account, here and now."""

    account_id: int
    canonical_id: str
    display_name: str
    is_admin: bool
    is_background: bool = False
    """Whether nothing it asks for is urgent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """An access key's secret, and whose it is."""

    secret_key: str
    caller: Caller

    def __repr__(self) -> str:
        return f"<Credential of {self.caller.display_name}>"


class Credentials:
    """Looks access keys up. State: what it found since the access epoch last grew."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Credential] = {}
        self._epoch = 0
        self._heard_s = monotonic_s()

    def __repr__(self) -> str:
        return f"<Credentials {len(self._known)} known, epoch {self._epoch}>"

    @property
    def silence_s(self) -> float:
        """How long ago the database was heard from."""
        return monotonic_s() - self._heard_s

    async def service_secret(self) -> bytes:
        """Return what the nodes share to sign what they hand out."""
        return bytes((await self._database.fetch_one(QUERIES["service_secret"]))["secret"])

    def remembered(self, access_key: str) -> Credential | None:
        """Return the credential if it is known and can still be trusted."""
        credential = self._known.get(access_key)
        if credential is not None and self.silence_s > TRUST_S:
            raise DatabaseDown("Access keys cannot be checked: the database has been away for too long.")
        return credential

    def caller_of(self, access_key: str) -> Caller | None:
        """Return whose a key is, if that is known, trusted or not: it is for counting, not for letting anybody in."""
        credential = self._known.get(access_key)
        return None if credential is None else credential.caller

    async def find(self, access_key: str) -> Credential | None:
        """Return the credential of an access key, or None where there is no such key.

        Raises:
            Unavailable: the database could not be asked.
        """
        epoch = self._epoch
        row = await self._database.read(QUERIES["credential"], access_key)
        if row is None:
            return None
        credential = Credential(
            secret_key=row["secret_key"],
            caller=Caller(
                account_id=row["account_id"],
                canonical_id=row["canonical_id"],
                display_name=row["display_name"],
                is_admin=row["is_admin"],
                is_background=row["is_background"],
            ),
        )
        if epoch == self._epoch:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[access_key] = credential
        return credential

    async def follow_epoch(self) -> None:
        """Forget what is known whenever an account or key changed. Runs until cancelled."""
        while True:
            try:
                row = await self._database.fetch_one(QUERIES["epoch"])
            except Unavailable:
                pass  # `remembered` counts how long this goes on.
            else:
                self._heard_s = monotonic_s()
                if row["epoch"] != self._epoch:
                    self._epoch = row["epoch"]
                    self._known.clear()
            await asyncio.sleep(EPOCH_INTERVAL_S)
