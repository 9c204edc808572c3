"""The S3 door: every request comes in here and every answer goes out here.

In order: what is named, what is asked, who asks, may they, then the verb. What a verb raises
becomes S3's words in one place. A body is not received before its request was authenticated.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from seawall.access import Credentials
from seawall.clock import wall_s
from seawall.edge import ClientGone, Exchange
from seawall.errors import SeawallError
from seawall.objects import ObjectStore, Uploads
from seawall.s3.bucket_verbs import BucketVerbs
from seawall.s3.errors import S3Error, error_xml, translate
from seawall.s3.listing_verbs import ListingVerbs
from seawall.s3.object_verbs import ObjectVerbs
from seawall.s3.operations import OPERATIONS, find_operation, read_query, read_target
from seawall.s3.requests import S3Request
from seawall.s3.signature import Signed, SigningKeys, parse, verify
from seawall.s3.upload_verbs import UploadVerbs

log = logging.getLogger(__name__)

Verb = Callable[[S3Request], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """What an operator chooses about the S3 door.

    `domains`: host names under which buckets are addressed as `bucket.domain`.
    """

    region: str = "us-east-1"
    domains: tuple[str, ...] = ()


class S3Door:
    """Answers S3 requests. State: the signing keys of those who signed lately."""

    def __init__(
        self, store: ObjectStore, credentials: Credentials, settings: S3Settings, *, token_secret: bytes
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._signing_keys = SigningKeys()
        uploads = Uploads(store)
        buckets = BucketVerbs(store, region=settings.region)
        objects = ObjectVerbs(store, uploads)
        listing = ListingVerbs(store, token_secret=token_secret)
        parts = UploadVerbs(store, uploads)
        self._verbs: Mapping[str, Verb] = {
            "ListBuckets": buckets.list_buckets,
            "CreateBucket": buckets.create_bucket,
            "HeadBucket": buckets.head_bucket,
            "DeleteBucket": buckets.delete_bucket,
            "GetBucketLocation": buckets.get_bucket_location,
            "ListObjects": listing.list_objects,
            "ListObjectsV2": listing.list_objects_v2,
            "GetObject": objects.get_object,
            "HeadObject": objects.head_object,
            "PutObject": objects.put_object,
            "CopyObject": objects.copy_object,
            "DeleteObject": objects.delete_object,
            "DeleteObjects": objects.delete_objects,
            "GetObjectAttributes": objects.get_object_attributes,
            "CreateMultipartUpload": parts.create,
            "UploadPart": parts.upload_part,
            "UploadPartCopy": parts.upload_part_copy,
            "ListParts": parts.list_parts,
            "CompleteMultipartUpload": parts.complete,
            "AbortMultipartUpload": parts.abort,
            "ListMultipartUploads": parts.list_uploads,
        }
        if set(self._verbs) != set(OPERATIONS.values()):
            raise RuntimeError("the table of operations and the verbs do not agree")

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        try:
            target = read_target(exchange.path, exchange.headers.get("host", ""), domains=self._settings.domains)
            query = read_query(exchange.query) if exchange.query else {}
            request = await self._authenticated(exchange, S3Request(exchange, target, query))
            operation = find_operation(exchange.method, target, query, exchange.headers)
            exchange.operation = operation
            await self._verbs[operation](request)
        except ClientGone:
            raise
        except Exception as error:
            if exchange.answered:
                raise
            self._refuse(exchange, error)

    async def _authenticated(self, exchange: Exchange, request: S3Request) -> S3Request:
        """Find out who is calling.

        Raises:
            S3Error: the claim is false, or nobody is known under that key.
        """
        claim = parse(
            method=exchange.method, raw_path=exchange.path, raw_query=exchange.query, headers=exchange.headers
        )
        if claim is None:
            return request
        credential = self._credentials.remembered(claim.access_key) or await self._credentials.find(claim.access_key)
        if credential is None:
            raise S3Error("InvalidAccessKeyId", fields={"AWSAccessKeyId": claim.access_key})
        signed: Signed = verify(claim, secret=credential.secret_key, now_s=wall_s(), keys=self._signing_keys)
        request.caller = credential.caller
        request.signed = signed
        exchange.account = credential.caller.account_id
        return request

    def _refuse(self, exchange: Exchange, error: Exception) -> None:
        """Tell the client what went wrong, and the log what the client must not know."""
        answer = translate(error)
        exchange.error = answer.code
        if answer.status >= 500 and not (
            isinstance(error, SeawallError | S3Error) and answer.status in {501, 503, 507}
        ):
            log.error(
                "s3.failed",
                exc_info=error,
                extra={"request_id": exchange.request_id, "path": exchange.path, "error": repr(error)},
            )
        headers = [("x-amz-request-id", exchange.request_id), *answer.headers.items()]
        if answer.status == 304:
            exchange.respond(304, headers)
            return
        body = error_xml(answer, exchange.path, exchange.request_id)
        if exchange.method == "HEAD":
            exchange.respond_head(
                answer.status, [("Content-Type", "application/xml"), *headers], content_length=len(body)
            )
        else:
            exchange.respond(answer.status, [("Content-Type", "application/xml"), *headers], body)
