import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from seawall.access import AccountBook, Credentials, NewAccount, callers
from seawall.access.callers import EPOCH_INTERVAL_S, REMEMBERED_MAX, TRUST_S
from seawall.clock import monotonic_s
from seawall.database import Database, DatabaseSettings, Endpoint, Query
from seawall.errors import DatabaseDown, Overloaded, Unavailable


@pytest.fixture
async def database(database_endpoint: Endpoint) -> AsyncIterator[Database]:
    async with Database(database_endpoint, DatabaseSettings(), application_name="tests of access") as opened:
        yield opened


@asynccontextmanager
async def following(credentials: Credentials) -> AsyncIterator[None]:
    """Poll the epoch for the length of the block."""
    task = asyncio.create_task(credentials.follow_epoch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class FakeDatabase:
    """A catalogue of one key. State: the epoch, whether the key is there, and what was asked."""

    epoch: int = 1
    secret: str | None = "secret"
    down: Unavailable | None = None
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def read(self, query: Query, *key: object) -> Any:
        self.asked.append(query.name)
        found = self._row()
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def fetch_one(self, query: Query, *arguments: object) -> Any:
        self.asked.append(query.name)
        if self.down:
            raise self.down
        return {"epoch": self.epoch}

    def _row(self) -> dict[str, object] | None:
        if self.down:
            raise self.down
        if self.secret is None:
            return None
        return {
            "secret_key": self.secret,
            "account_id": 1,
            "canonical_id": "canonical",
            "display_name": "Alice",
            "is_admin": False,
            "is_background": False,
        }


def credentials_of(fake: FakeDatabase) -> Credentials:
    return Credentials(cast("Database", fake))


class Clock:
    """The monotonic clock as credentials read it. State: how far it was put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        monkeypatch.setattr(callers, "monotonic_s", lambda: monotonic_s() + self.ahead_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def polled(credentials: Credentials) -> None:
    """Let one poll happen."""
    async with following(credentials):
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_key_is_asked_for_once_and_then_remembered() -> None:
    fake = FakeDatabase()
    credentials = credentials_of(fake)
    assert credentials.remembered("key") is None

    found = await credentials.find("key")

    assert found is not None
    assert credentials.remembered("key") is found
    assert fake.asked == ["access.credential"]


async def test_a_key_nobody_has_is_asked_for_each_time() -> None:
    fake = FakeDatabase(secret=None)
    credentials = credentials_of(fake)

    assert [await credentials.find("key") for _ in range(3)] == [None, None, None]
    assert credentials.remembered("key") is None
    fake.secret = "made just now"
    found = await credentials.find("key")

    assert found is not None
    assert found.secret_key == "made just now"


async def test_a_revoked_key_is_not_accepted_a_second_later(database: Database) -> None:
    accounts, credentials = AccountBook(database), Credentials(database)
    old = await accounts.add(NewAccount(name="alice"))
    async with following(credentials):
        await asyncio.sleep(0.1)
        assert await credentials.find(old.access_key) is not None
        assert credentials.remembered(old.access_key) is not None

        new = await accounts.give_new_key("alice")
        revoked_s = time.monotonic()
        while credentials.remembered(old.access_key) is not None:
            await asyncio.sleep(0.01)
        assert time.monotonic() - revoked_s < 2 * EPOCH_INTERVAL_S

        assert await credentials.find(old.access_key) is None
        found = await credentials.find(new.access_key)
        assert found is not None
        assert found.secret_key == new.secret_key


async def test_a_removed_account_is_nobody_a_second_later(database: Database) -> None:
    accounts, credentials = AccountBook(database), Credentials(database)
    pair = await accounts.add(NewAccount(name="alice"))
    async with following(credentials):
        await asyncio.sleep(0.1)
        await credentials.find(pair.access_key)

        await accounts.remove("alice")
        await asyncio.sleep(2 * EPOCH_INTERVAL_S)

        assert credentials.remembered(pair.access_key) is None
        assert await credentials.find(pair.access_key) is None


async def test_a_key_that_was_revoked_while_it_was_being_looked_up_is_not_remembered() -> None:
    fake = FakeDatabase(gate=asyncio.Event())
    credentials = credentials_of(fake)
    await polled(credentials)
    finding = asyncio.create_task(credentials.find("key"))
    await asyncio.sleep(0)

    fake.secret, fake.epoch = None, 2
    await polled(credentials)
    assert fake.gate is not None
    fake.gate.set()

    assert await finding is not None, "it was true when it was asked"
    assert credentials.remembered("key") is None


async def test_the_first_answer_of_the_database_forgets_what_was_learnt_before_it() -> None:
    credentials = credentials_of(FakeDatabase())
    await credentials.find("key")

    await polled(credentials)

    assert credentials.remembered("key") is None


@pytest.mark.parametrize("error", [DatabaseDown(), Overloaded()], ids=["down", "overloaded"])
async def test_while_the_database_is_away_what_is_remembered_holds_for_a_minute(
    clock: Clock, error: Unavailable
) -> None:
    fake = FakeDatabase()
    credentials = credentials_of(fake)
    await polled(credentials)
    await credentials.find("key")
    fake.down = error

    clock.ahead_s = TRUST_S - 1
    await polled(credentials)
    assert credentials.remembered("key") is not None
    with pytest.raises(type(error)):
        await credentials.find("another key")

    clock.ahead_s = TRUST_S + 1
    await polled(credentials)
    with pytest.raises(DatabaseDown):
        credentials.remembered("key")
    assert credentials.remembered("another key") is None

    fake.down = None
    await polled(credentials)
    assert credentials.remembered("key") is not None
    assert credentials.silence_s < TRUST_S


async def test_a_change_made_while_the_database_was_away_is_heard_of_at_once(clock: Clock) -> None:
    fake = FakeDatabase()
    credentials = credentials_of(fake)
    await polled(credentials)
    await credentials.find("key")
    fake.down = DatabaseDown()
    clock.ahead_s = TRUST_S - 1
    await polled(credentials)

    fake.down, fake.secret, fake.epoch = None, None, 2
    await polled(credentials)

    assert credentials.remembered("key") is None


async def test_no_more_keys_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED_MAX >= 10_000
    monkeypatch.setattr(callers, "REMEMBERED_MAX", 3)
    credentials = credentials_of(FakeDatabase())

    for number in range(5):
        await credentials.find(f"{number}")

    assert [number for number in range(5) if credentials.remembered(f"{number}")] == [2, 3, 4]


async def test_secrets_stay_out_of_what_is_printed() -> None:
    credentials = credentials_of(FakeDatabase(secret="do not tell"))

    found = await credentials.find("key")

    assert "do not tell" not in f"{found!r} {credentials!r}"


async def test_all_nodes_sign_with_the_same_secret(database: Database) -> None:
    secrets = [await Credentials(database).service_secret() for _ in range(2)]

    assert secrets[0] == secrets[1]
    assert len(secrets[0]) == 32
