import json
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from tests.incidents import kit

from seawall.access import AccountBook, NewAccount
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.incidents.copies import Copies
from seawall.incidents.record import Incident, noted


@pytest.fixture
async def database(database_endpoint: Endpoint) -> AsyncIterator[Database]:
    async with Database((database_endpoint,), DatabaseSettings(), application_name="test") as opened:
        yield opened


async def test_a_record_is_copied_and_replaced(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    copies = Copies(database)
    incident, _ = kit.whole()
    going_on = replace(incident, status=incident.status.OPEN, resolved_s=None, recovered_s=None)

    await copies.keep(going_on)
    await copies.keep(noted(incident, kit.note("so it was")))

    rows = await connection.fetch("select * from incidents")
    assert [(row["id"], row["status"]) for row in rows] == [("2026-11-24-1", "resolved")]
    assert rows[0]["began_at"].timestamp() == kit.BEGAN_S
    assert rows[0]["resolved_at"].timestamp() == kit.RESOLVED_S
    assert Incident.from_json(json.loads(rows[0]["record"])).notes[0].text == "so it was"


async def test_a_note_with_a_nul_does_not_stop_the_copy(
    database: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    incident, _ = kit.whole()

    await Copies(database).keep(noted(incident, kit.note("a\0b \\u0000 c")))

    record = json.loads(await connection.fetchval("select record from incidents"))
    assert record["notes"][0]["text"].startswith("a\ufffdb")


async def test_whose_keys_were_claimed_is_answered_for_those_that_are_somebodys(database: Database) -> None:
    pairs = [await AccountBook(database).add(NewAccount(name=f"user-{number}")) for number in range(3)]
    numbers = {account.access_keys[0]: account.account_id for account in await AccountBook(database).list()}
    keys = [pair.access_key for pair in pairs]

    found = await Copies(database).owners([*keys, "nobody's", "with a \0"])

    assert found == {key: numbers[key] for key in keys}
