import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.access import AccountBook, Caller, Credentials, NewAccount, require_owner
from seawall.access.accounts import ACCESS_KEY, SECRET_KEY, new_access_key, new_secret_key
from seawall.database import Database, DatabaseSettings, Endpoint
from seawall.errors import AccountExists, BucketExists, BucketNotEmpty, Denied, Invalid, NoSuchAccount
from seawall.objects.buckets import Buckets


@pytest.fixture
async def database(database_endpoint: Endpoint) -> AsyncIterator[Database]:
    async with Database(database_endpoint, DatabaseSettings(), application_name="tests of access") as opened:
        yield opened


@pytest.fixture
def accounts(database: Database) -> AccountBook:
    return AccountBook(database)


async def epoch(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    return int(await connection.fetchval("select epoch from access_epoch"))


async def caller_of(database: Database, access_key: str) -> Caller:
    credential = await Credentials(database).find(access_key)
    assert credential is not None
    return credential.caller


async def test_an_account_is_what_was_asked_for(accounts: AccountBook, database: Database) -> None:
    pair = await accounts.add(
        NewAccount(
            name="alice",
            canonical_id="canonical-1",
            display_name="Alice Ä.",
            email="alice@example.org",
            access_key="AKALICE",
            secret_key="her-secret",
            is_admin=True,
        )
    )

    (account,) = await accounts.list()
    assert (pair.access_key, pair.secret_key) == ("AKALICE", "her-secret")
    assert (account.name, account.canonical_id, account.display_name) == ("alice", "canonical-1", "Alice Ä.")
    assert (account.email, account.is_admin, account.access_keys) == ("alice@example.org", True, ("AKALICE",))
    caller = await caller_of(database, "AKALICE")
    assert (caller.account_id, caller.is_admin) == (account.account_id, True)


async def test_what_is_left_empty_is_made_up_and_different_each_time(accounts: AccountBook) -> None:
    pairs = [await accounts.add(NewAccount(name=f"account-{n}")) for n in range(3)]

    assert len({pair.access_key for pair in pairs}) == len({pair.secret_key for pair in pairs}) == 3
    assert [account.display_name for account in await accounts.list()] == ["account-0", "account-1", "account-2"]
    assert len({account.canonical_id for account in await accounts.list()}) == 3


@pytest.mark.parametrize(
    "twin",
    [
        NewAccount(name="alice"),
        NewAccount(name="other", canonical_id="canonical-1"),
        NewAccount(name="other", access_key="AKALICE"),
    ],
    ids=["name", "id", "access key"],
)
async def test_what_is_taken_is_refused_and_nothing_is_made(accounts: AccountBook, twin: NewAccount) -> None:
    await accounts.add(NewAccount(name="alice", canonical_id="canonical-1", access_key="AKALICE"))

    with pytest.raises(AccountExists):
        await accounts.add(twin)

    assert [account.name for account in await accounts.list()] == ["alice"]


async def test_of_many_who_make_the_same_account_at_once_one_does(accounts: AccountBook) -> None:
    made = await asyncio.gather(*(accounts.add(NewAccount(name="alice")) for _ in range(8)), return_exceptions=True)

    assert [type(outcome) for outcome in made].count(AccountExists) == 7
    assert len(await accounts.list()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a" * 65},
        {"name": "alice\n"},
        {"name": "ok", "canonical_id": "a/b"},
        {"name": "ok", "access_key": "ab"},
        {"name": "ok", "access_key": "a/b/c"},
        {"name": "ok", "secret_key": "short"},
        {"name": "ok", "secret_key": "with a space"},
        {"name": "ok", "display_name": "a\0b"},
        {"name": "ok", "display_name": "two\nlines"},
        {"name": "ok", "email": "a" * 257},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        NewAccount(**wrong)  # type: ignore[arg-type]


async def test_a_new_key_replaces_the_old_ones(accounts: AccountBook, database: Database) -> None:
    old = await accounts.add(NewAccount(name="alice"))

    new = await accounts.give_new_key("alice")

    (account,) = await accounts.list()
    assert account.access_keys == (new.access_key,)
    assert await Credentials(database).find(old.access_key) is None


async def test_every_change_increases_the_epoch_and_looking_does_not(
    accounts: AccountBook, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    epochs = [await epoch(connection)]
    await accounts.add(NewAccount(name="alice"))
    epochs.append(await epoch(connection))
    await accounts.give_new_key("alice")
    epochs.append(await epoch(connection))
    await accounts.remove("alice")
    epochs.append(await epoch(connection))
    await accounts.list()

    assert epochs == sorted(set(epochs))
    assert await epoch(connection) == epochs[-1]


async def test_an_account_that_owns_buckets_stays(accounts: AccountBook, database: Database) -> None:
    pair = await accounts.add(NewAccount(name="alice"))
    caller = await caller_of(database, pair.access_key)
    buckets = Buckets(database)
    await buckets.add(caller, "hers", region="")

    with pytest.raises(BucketNotEmpty):
        await accounts.remove("alice")
    await buckets.delete(caller, "hers")
    await accounts.remove("alice")

    assert await accounts.list() == []


async def test_an_account_and_a_bucket_of_it_never_pass_each_other(accounts: AccountBook, database: Database) -> None:
    buckets = Buckets(database)
    for turn in range(20):
        pair = await accounts.add(NewAccount(name=f"account-{turn}"))
        caller = await caller_of(database, pair.access_key)

        added, removed = await asyncio.gather(
            buckets.add(caller, f"bucket-{turn}", region=""),
            accounts.remove(f"account-{turn}"),
            return_exceptions=True,
        )

        if removed is None:
            assert isinstance(added, BucketExists)
        else:
            assert isinstance(removed, BucketNotEmpty)
            assert not isinstance(added, BaseException)


async def test_somebody_nobody_knows_cannot_be_changed(accounts: AccountBook) -> None:
    with pytest.raises(NoSuchAccount):
        await accounts.give_new_key("nobody")
    with pytest.raises(NoSuchAccount):
        await accounts.remove("nobody")


async def test_secrets_stay_out_of_what_is_printed(accounts: AccountBook) -> None:
    new = NewAccount(name="alice", secret_key="do-not-tell")

    pair = await accounts.add(new)

    assert "do-not-tell" not in f"{new!r} {pair!r} {await accounts.list()!r}"


def test_made_up_keys_are_keys() -> None:
    for _ in range(100):
        assert ACCESS_KEY.fullmatch(new_access_key())
        assert SECRET_KEY.fullmatch(new_secret_key())


@given(account_id=st.integers(1, 5), owner_id=st.integers(1, 5), is_admin=st.booleans())
def test_only_the_owner_and_administrators_are_let_in(*, account_id: int, owner_id: int, is_admin: bool) -> None:
    caller = Caller(account_id=account_id, canonical_id="c", display_name="d", is_admin=is_admin)

    if account_id == owner_id or is_admin:
        assert require_owner(caller, owner_id) is caller
    else:
        with pytest.raises(Denied):
            require_owner(caller, owner_id)


def test_a_caller_without_an_account_is_let_in_nowhere() -> None:
    with pytest.raises(Denied):
        require_owner(None, 1)
