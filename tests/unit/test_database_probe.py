"""What the keeper says of a database before it knows, and while it speaks to it twice. No server is needed."""

import asyncio
import json
from typing import Any, cast

import pytest

from seawall.database import Endpoint
from seawall.database.session import Session as Connection
from seawall.monitoring import database_probe
from seawall.monitoring.database_probe import DatabaseProbe
from seawall.monitoring.database_sight import Session

ENDPOINT = Endpoint(host="nowhere", port=1, user="seawall", password="", database="seawall")
SESSION = Session(
    pid=1, began_s=0.0, role="seawall", application="", state="active", doing="", for_s=99.0, is_ours=True
)
SERVER = {"connections_max": 97, "role_max": None}
COUNTS = ("connections", "foreign", "role", "active", "active_foreign", "lock_waiters")
IDLE = ("idle_in_transaction", "idle_in_transaction_s", "longest_statement_s")
SEEN: dict[str, Any] = {
    "in_recovery": False,
    "opened_ever": 1,
    "counts": dict.fromkeys((*COUNTS, *IDLE)),
    **dict.fromkeys(("waiters", "blockers", "longest", "idle", "holders", "replicas")),
}


class OneAtATime:
    """Stands for a connection, which takes one statement at a time. State: how many it has, and the most there were."""

    is_lost = False
    pid = 0

    def __init__(self) -> None:
        self.under_way = self.most = 0

    async def value(self, statement: str, *_: object, within_s: float) -> Any:
        assert within_s > 0
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _turn in range(5):
            await asyncio.sleep(0)
        self.under_way -= 1
        if "pg_cancel_backend" in statement:
            return True
        return json.dumps(SERVER if "data_directory" in statement else SEEN)

    def drop(self) -> None:
        """It is not open."""


async def test_before_the_first_look_nobody_says_that_it_is_down() -> None:
    probe = DatabaseProbe([ENDPOINT], role="seawall")

    assert probe.point() == {}


async def test_a_session_is_stopped_and_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = OneAtATime()

    async def opened(*_: object, **__: object) -> Connection:
        return cast(Connection, connection)

    monkeypatch.setattr(database_probe, "open_session", opened)
    probe = DatabaseProbe([ENDPOINT], role="seawall")
    await probe.look()

    cancelling = asyncio.create_task(probe.cancel(SESSION))
    await asyncio.sleep(0)
    await probe.look()

    assert await cancelling
    assert connection.most == 1
    assert probe.point()["database.up"] == 1.0
