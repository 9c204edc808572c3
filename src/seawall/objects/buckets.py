"""Buckets: made, found, listed, deleted.

A node remembers which number stands for a bucket's name. That is safe because a number is never
used twice and only an empty bucket can be deleted: what is found under a remembered number is
right, and when nothing is found, or the caller is refused, the name is looked up again.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from seawall.access import Caller, require_owner
from seawall.database import Database, load_queries
from seawall.errors import BucketExists, BucketNotEmpty, BucketOwned, Denied, NoSuchBucket
from seawall.objects.things import Bucket, Owner

QUERIES = load_queries(__package__, "objects.sql")
REMEMBERED_MAX = 10_000

T = TypeVar("T")


class Buckets:
    """Finds buckets by name. State: the names, and the names of owners, it has seen."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Bucket] = {}
        self._owners: dict[int, Owner] = {}

    def __repr__(self) -> str:
        return f"<Buckets {len(self._known)} known>"

    def known(self, caller: Caller | None, name: str) -> Bucket | None:
        """Return a remembered bucket the caller may use; None when it has to be looked up."""
        bucket = self._known.get(name)
        if bucket is not None and caller is not None and (caller.account_id == bucket.owner_id or caller.is_admin):
            return bucket
        return None

    async def find(self, caller: Caller | None, name: str) -> Bucket:
        """Look a bucket up in the catalogue.

        Raises:
            NoSuchBucket: there is none of that name.
            Denied: it is somebody else's.
        """
        row = await self._database.read(QUERIES["bucket_by_name"], name)
        if row is None:
            self._known.pop(name, None)
            if caller is None:
                raise Denied
            raise NoSuchBucket
        bucket = Bucket.of(row)
        if len(self._known) >= REMEMBERED_MAX and name not in self._known:
            self._known.pop(next(iter(self._known)))
        # Remembered even when it is refused: what was known before is wrong.
        self._known[name] = bucket
        require_owner(caller, bucket.owner_id)
        return bucket

    async def using(self, caller: Caller | None, name: str, act: Callable[[Bucket], Awaitable[T | None]]) -> T | None:
        """Run `act` on a bucket; once more if it found nothing and the bucket is another by now.

        Raises:
            NoSuchBucket, Denied: as `find`.
        """
        bucket = self.known(caller, name)
        if bucket is not None:
            answer = await act(bucket)
            if answer is not None:
                return answer
        found = await self.find(caller, name)
        if bucket is not None and found.bucket_id == bucket.bucket_id:
            return None
        return await act(found)

    async def owner(self, bucket: Bucket) -> Owner:
        """Return how the owner of a bucket is called. That never changes for one account."""
        owner = self._owners.get(bucket.owner_id)
        if owner is None:
            row = await self._database.read(QUERIES["account"], bucket.owner_id)
            if row is None:
                raise NoSuchBucket
            if len(self._owners) >= REMEMBERED_MAX:
                self._owners.clear()
            owner = self._owners[bucket.owner_id] = Owner(
                canonical_id=row["canonical_id"], display_name=row["display_name"]
            )
        return owner

    async def add(self, caller: Caller, name: str, *, region: str) -> Bucket:
        """Make a bucket for the caller.

        Raises:
            BucketOwned: the caller has it already.
            BucketExists: somebody else has.
        """
        row = await self._database.fetch_one(QUERIES["add_bucket"], name, caller.account_id, region)
        if row is None:
            present = await self._database.read(QUERIES["bucket_by_name"], name)
            if present is not None and present["owner_id"] == caller.account_id:
                raise BucketOwned
            raise BucketExists
        return Bucket.of(row)

    async def list(
        self, caller: Caller, *, prefix: str, after: str, limit: int, regions: Collection[str] | None = None
    ) -> list[Bucket]:
        """Return the caller's buckets by name, those behind `after`; of all regions, or of some."""
        wanted = None if regions is None else [*regions]
        rows = await self._database.fetch(QUERIES["buckets_of"], caller.account_id, after, prefix, limit, wanted)
        return [Bucket.of(row) for row in rows]

    async def delete(self, caller: Caller | None, name: str) -> None:
        """Delete an empty bucket, and uploads nobody completed with it.

        Raises:
            BucketNotEmpty: there are objects in it.
            NoSuchBucket, Denied: as `find`.
        """
        bucket = await self.find(caller, name)
        async with self._database.transaction() as transaction:
            # After this lock nobody adds anything: every writer shares it first.
            if await transaction.fetch_one(QUERIES["hold_bucket"], bucket.bucket_id) is None:
                raise NoSuchBucket
            if (await transaction.fetch_one(QUERIES["bucket_holds_objects"], bucket.bucket_id))["answer"]:
                raise BucketNotEmpty
            uploads = await transaction.fetch(QUERIES["remove_uploads_of_bucket"], bucket.bucket_id)
            if uploads:
                await transaction.fetch(QUERIES["remove_parts_of_uploads"], [row["upload_id"] for row in uploads])
            await transaction.fetch(QUERIES["remove_bucket"], bucket.bucket_id)
        self._known.pop(name, None)
