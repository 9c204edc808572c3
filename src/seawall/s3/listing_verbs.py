"""ListObjects and ListObjectsV2."""

from collections.abc import Callable
from urllib.parse import quote

from seawall.objects import ObjectStore
from seawall.objects.listing import Page, decode_token, encode_token, seek_position
from seawall.objects.things import Bucket
from seawall.s3 import xml
from seawall.s3.errors import S3Error
from seawall.s3.requests import S3Request, owner_of

PAGE_MAX = 1000


class ListingVerbs:
    """The two ways to list a bucket."""

    def __init__(self, store: ObjectStore, *, token_secret: bytes) -> None:
        self._store = store
        self._secret = token_secret

    async def list_objects(self, request: S3Request) -> None:
        """Answer ListObjects, the first version."""
        query = request.query
        prefix, delimiter, limit = _shape(request)
        marker = query.get("marker", "")
        bucket, page = await self._page(
            request,
            prefix=prefix,
            delimiter=delimiter,
            seek=seek_position(prefix=prefix, delimiter=delimiter, start_after=marker),
            limit=limit,
        )
        owner = await self._store.buckets.owner(bucket)
        request.respond_xml(
            xml.list_objects(
                [*page.objects()],
                bucket=bucket.name,
                prefix=prefix,
                marker=marker,
                # Without a delimiter the last key is marker enough, and S3 leaves it at that.
                next_marker=page.last_name if page.is_truncated and delimiter else None,
                delimiter=delimiter or None,
                max_keys=limit,
                is_truncated=page.is_truncated,
                common_prefixes=page.prefixes,
                owner=owner_of(owner),
                encode=encoding_of(request),
            )
        )

    async def list_objects_v2(self, request: S3Request) -> None:
        """Answer ListObjectsV2."""
        query = request.query
        prefix, delimiter, limit = _shape(request)
        start_after = query.get("start-after", "")
        token = query.get("continuation-token")
        if token is not None:
            if not token:
                raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
            seek = decode_token(self._secret, token)
        else:
            seek = seek_position(prefix=prefix, delimiter=delimiter, start_after=start_after)
        bucket, page = await self._page(request, prefix=prefix, delimiter=delimiter, seek=seek, limit=limit)
        owner = None
        if query.get("fetch-owner") == "true":
            named = await self._store.buckets.owner(bucket)
            owner = owner_of(named)
        request.respond_xml(
            xml.list_objects_v2(
                [*page.objects()],
                bucket=bucket.name,
                prefix=prefix,
                delimiter=delimiter or None,
                max_keys=limit,
                is_truncated=page.is_truncated,
                common_prefixes=page.prefixes,
                start_after=start_after or None,
                token=token,
                next_token=None if page.next_seek is None else encode_token(self._secret, page.next_seek),
                owner=owner,
                encode=encoding_of(request),
            )
        )

    async def _page(
        self, request: S3Request, *, prefix: str, delimiter: str, seek: str, limit: int
    ) -> tuple[Bucket, Page]:
        bucket, page = await self._store.list(
            request.caller, request.target.bucket, prefix=prefix, delimiter=delimiter, seek=seek, limit=limit
        )
        if "x-amz-expected-bucket-owner" in request.headers:
            request.require_bucket_owner(await self._store.buckets.owner(bucket))
        return bucket, page


def encoding_of(request: S3Request) -> Callable[[str], str] | None:
    """Return how keys are written when the client cannot take them as they are.

    Raises:
        S3Error: `InvalidArgument` for an encoding S3 does not know.
    """
    wanted = request.query.get("encoding-type")
    if wanted is None:
        return None
    if wanted != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
    return lambda text: quote(text, safe="/-_.~*")


def _shape(request: S3Request) -> tuple[str, str, int]:
    query = request.query
    limit = request.number("max-keys", default=PAGE_MAX, low=0, high=PAGE_MAX)
    return query.get("prefix", ""), query.get("delimiter", ""), limit
