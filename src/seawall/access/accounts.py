"""The accounts of the service, for operators: add, list, remove, give a new key."""

import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime

from seawall.access.callers import QUERIES
from seawall.database import Database, Transaction
from seawall.errors import AccountExists, BucketNotEmpty, Invalid, NoSuchAccount

NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
ACCESS_KEY = re.compile(r"[A-Za-z0-9._-]{3,128}")
SECRET_KEY = re.compile(r"[\x21-\x7e]{8,128}")
TEXT_MAX = 256
CANONICAL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """An account to be made. What is left empty is made up."""

    name: str
    canonical_id: str = ""
    display_name: str = ""
    email: str = ""
    access_key: str = ""
    secret_key: str = ""
    is_admin: bool = False
    is_background: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise Invalid("An account's name has 1 to 64 letters, digits and . _ @ + -")
        if self.canonical_id and not CANONICAL_ID.fullmatch(self.canonical_id):
            raise Invalid("An account's id has 1 to 128 letters, digits and . _ -")
        for text in (self.display_name, self.email):
            if len(text) > TEXT_MAX or not text.isprintable():
                raise Invalid(f"A display name and an email have up to {TEXT_MAX} printable characters.")
        if self.access_key and not ACCESS_KEY.fullmatch(self.access_key):
            raise Invalid("An access key has 3 to 128 letters, digits and . _ -")
        if self.secret_key and not SECRET_KEY.fullmatch(self.secret_key):
            raise Invalid("A secret key has 8 to 128 printable ASCII characters without spaces.")

    def __repr__(self) -> str:
        return f"<NewAccount {self.name}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account as operators see it: without secrets."""

    account_id: int
    canonical_id: str
    name: str
    display_name: str
    email: str
    is_admin: bool
    is_background: bool
    created_at: datetime
    access_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """An access key and its secret, shown once to whoever asked for them."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"<KeyPair {self.access_key}>"


def new_access_key() -> str:
    """Return 20 capital letters and digits, as S3 clients expect."""
    return "SW" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))


def new_secret_key() -> str:
    """Return 40 letters and digits: 238 bits nobody can guess, and nothing a shell would mangle."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(40))


class AccountBook:
    """Adds, lists and removes accounts. Nodes hear of it by the access epoch."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, new: NewAccount) -> KeyPair:
        """Make an account with one access key.

        Raises:
            AccountExists: its name, id or access key is taken; nothing was made.
        """
        async with self._database.transaction() as transaction:
            row = await transaction.fetch_one(
                QUERIES["add_account"],
                new.canonical_id or secrets.token_hex(32),
                new.name,
                new.display_name or new.name,
                new.email,
                new.is_admin,
                new.is_background,
            )
            if row is None:
                raise AccountExists(f"There is an account named {new.name} already, or one with its id.")
            pair = KeyPair(access_key=new.access_key or new_access_key(), secret_key=new.secret_key or new_secret_key())
            await self._add_key(transaction, row["account_id"], pair)
        return pair

    async def list(self) -> list[Account]:
        """Return all accounts by name."""
        return [
            Account(**{**row, "access_keys": tuple(row["access_keys"])})
            for row in await self._database.fetch(QUERIES["list_accounts"])
        ]

    async def give_new_key(self, name: str) -> KeyPair:
        """Replace an account's access keys by a new one.

        Raises:
            NoSuchAccount: there is none of that name.
        """
        pair = KeyPair(access_key=new_access_key(), secret_key=new_secret_key())
        async with self._database.transaction() as transaction:
            account_id = await self._find(transaction, name)
            await transaction.fetch(QUERIES["remove_access_keys"], account_id)
            await self._add_key(transaction, account_id, pair)
        return pair

    async def remove(self, name: str) -> None:
        """Remove an account and its keys.

        Raises:
            NoSuchAccount: there is none of that name.
            BucketNotEmpty: it still owns buckets.
        """
        async with self._database.transaction() as transaction:
            account_id = await self._find(transaction, name)
            if (await transaction.fetch_one(QUERIES["owns_buckets"], account_id))["answer"]:
                raise BucketNotEmpty(f"{name} still owns buckets: delete them first.")
            await transaction.fetch(QUERIES["remove_account"], account_id)

    async def _find(self, transaction: Transaction, name: str) -> int:
        row = await transaction.fetch_one(QUERIES["account_by_name"], name)
        if row is None:
            raise NoSuchAccount(f"There is no account named {name}.")
        return int(row["account_id"])

    async def _add_key(self, transaction: Transaction, account_id: int, pair: KeyPair) -> None:
        row = await transaction.fetch_one(QUERIES["add_access_key"], pair.access_key, account_id, pair.secret_key)
        if row is None:
            raise AccountExists(f"The access key {pair.access_key} is in use already.")
