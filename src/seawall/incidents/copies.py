"""What of incidents is in PostgreSQL: a copy of each record, and the answer to whose an access key is."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from seawall.database import Database, load_queries
from seawall.incidents.record import Incident

QUERIES: Final = load_queries(__package__, "incidents.sql")
OWNERS_MAX: Final = 1000
"""Keys that are asked for at once."""


class Copies:
    """Speaks to the database about incidents. State: none."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, incident: Incident) -> None:
        """Copy a record; what was copied before is replaced.

        Raises:
            Unavailable: it was not, or nobody knows; doing it again is harmless.
        """
        # PostgreSQL's text and jsonb hold no NUL, and somebody may have sent one.
        record = json.dumps(incident.as_json(), default=str).replace("\\u0000", "\\ufffd")
        await self._database.fetch(
            QUERIES["keep"],
            incident.id,
            incident.status.value,
            incident.began_s,
            incident.resolved_s,
            incident.title.replace("\0", "\ufffd"),
            record,
        )

    async def owners(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the accounts of access keys, as far as they have one.

        Raises:
            Unavailable: nobody answered.
        """
        found: dict[str, int] = {}
        usable = [key for key in keys if "\0" not in key]
        for number in range(0, len(usable), OWNERS_MAX):
            rows = await self._database.fetch(QUERIES["owners"], usable[number : number + OWNERS_MAX])
            found.update({row["access_key"]: row["account_id"] for row in rows})
        return found
