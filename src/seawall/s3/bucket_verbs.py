"""The operations on the service and on buckets, but for listing what is in them."""

import ipaddress
import re

from seawall.objects import ObjectStore
from seawall.s3 import xml
from seawall.s3.errors import S3Error
from seawall.s3.operations import refuse_unbuilt
from seawall.s3.requests import S3Request, owner_of

BUCKETS_PAGE_MAX = 10_000
# Source: Amazon S3 User Guide, "General purpose bucket naming rules".
BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def check_bucket_name(name: str) -> None:
    """Refuse a name S3 would refuse.

    Raises:
        S3Error: `InvalidBucketName`.
    """
    valid = BUCKET_NAME.fullmatch(name) and not name.startswith(RESERVED_STARTS) and not name.endswith(RESERVED_ENDS)
    if valid:
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            return
    raise S3Error("InvalidBucketName", fields={"BucketName": name})


class BucketVerbs:
    """ListBuckets, CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation."""

    def __init__(self, store: ObjectStore, *, region: str) -> None:
        self._buckets = store.buckets
        self._region = region

    async def list_buckets(self, request: S3Request) -> None:
        """Answer ListBuckets."""
        caller = request.identified_caller
        limit = request.number("max-buckets", default=BUCKETS_PAGE_MAX, low=1, high=BUCKETS_PAGE_MAX)
        prefix = request.query.get("prefix", "")
        after = request.query.get("continuation-token", "")
        region = request.query.get("bucket-region", "")
        # A bucket without a region of its own is where the service is.
        regions = {region, ""} if region == self._region else {region} if region else None
        found = await self._buckets.list(caller, prefix=prefix, after=after, limit=limit + 1, regions=regions)
        page = found[:limit]
        request.respond_xml(
            xml.list_buckets(
                [(bucket.name, bucket.created_at, bucket.region or self._region) for bucket in page],
                owner=owner_of(caller),
                prefix=prefix or None,
                next_token=page[-1].name if len(found) > limit else None,
            )
        )

    async def create_bucket(self, request: S3Request) -> None:
        """Answer CreateBucket."""
        caller = request.identified_caller
        name = request.target.bucket
        check_bucket_name(name)
        refuse_unbuilt(request.headers)
        body = await request.read_document(xml.CONFIGURATION_BYTES_MAX)
        region = xml.parse_create_bucket(body) if body else None
        await self._buckets.add(caller, name, region=region or "")
        request.respond(200, [("Location", f"/{name}")])

    async def head_bucket(self, request: S3Request) -> None:
        """Answer HeadBucket."""
        bucket = await self._buckets.find(request.caller, request.target.bucket)
        request.require_bucket_owner(await self._buckets.owner(bucket))
        request.respond(200, [("x-amz-bucket-region", bucket.region or self._region)])

    async def delete_bucket(self, request: S3Request) -> None:
        """Answer DeleteBucket."""
        bucket = await self._buckets.find(request.caller, request.target.bucket)
        request.require_bucket_owner(await self._buckets.owner(bucket))
        await self._buckets.delete(request.caller, bucket.name)
        request.respond(204)

    async def get_bucket_location(self, request: S3Request) -> None:
        """Answer GetBucketLocation."""
        bucket = await self._buckets.find(request.caller, request.target.bucket)
        request.require_bucket_owner(await self._buckets.owner(bucket))
        request.respond_xml(xml.location(bucket.region or self._region))
