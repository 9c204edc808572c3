"""The S3 door: every request comes in here and every answer goes out here.

In order: what is named, what is asked, who asks, may they, then the verb. What a verb raises
becomes S3's words in one place. A body is not received before its request was authenticated.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from seawall.access import Credential, Credentials
from seawall.blobs import DiskFailed
from seawall.clock import monotonic_s, wall_s
from seawall.edge import ClientGone, Exchange
from seawall.errors import BlobCorrupt, Overloaded, SeawallError, StorageFull
from seawall.objects import ObjectStore, Uploads
from seawall.s3.bucket_verbs import BucketVerbs
from seawall.s3.doorkeeper import Doorkeeper
from seawall.s3.errors import S3Error, respond_error, translate
from seawall.s3.links import Links
from seawall.s3.listing_verbs import ListingVerbs
from seawall.s3.object_verbs import ObjectVerbs
from seawall.s3.operations import OPERATIONS, URGENCIES, Target, find_operation, hoisted, read_query, read_target
from seawall.s3.requests import S3Request
from seawall.s3.signature import Signed, SigningKeys, parse, verify
from seawall.s3.upload_verbs import UploadVerbs
from seawall.telemetry.purpose import PURPOSE, STALENESS, Purpose, Urgency
from seawall.telemetry.seconds import Outcome
from seawall.telemetry.segments import Segment

log = logging.getLogger(__name__)

Verb = Callable[[S3Request], Awaitable[None]]

# Until the first byte of a body that is not the client's to send.
FIRST_BYTE_S = 5.0
AUTHENTICATION = Purpose(route="authentication", urgency=Urgency.INTERACTIVE)
# Looked up once: they are needed for each request.
AUTHENTICATING, GOING_ON = Segment.AUTHENTICATION, Segment.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """What an operator chooses about the S3 door.

    `domains`: host names under which buckets are addressed as `bucket.domain`. `first_byte_s`: how long an answer may
    take to begin, where the client does not set the pace.
    """

    region: str = "us-east-1"
    domains: tuple[str, ...] = ()
    first_byte_s: float = FIRST_BYTE_S


class S3Door:
    """Answers S3 requests. State: the signing keys of those who signed, and the links followed, lately."""

    def __init__(
        self,
        store: ObjectStore,
        credentials: Credentials,
        settings: S3Settings,
        *,
        token_secret: bytes,
        doorkeeper: Doorkeeper | None = None,
        rehearsal: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._doorkeeper = doorkeeper
        # What drills have each request for an object do first; None outside of them.
        self._rehearsal = rehearsal
        self._credentials = credentials
        self._signing_keys = SigningKeys()
        self._links = Links()
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
        # Requests of one connection may follow each other in one context.
        STALENESS.set(0.0)
        watch = exchange.stopwatch
        watch.switch(AUTHENTICATING, monotonic_s())
        try:
            request = self._follow(exchange) or await self._understand(exchange)
            if self._doorkeeper is not None and request.caller is not None and request.signed is not None:
                self._doorkeeper.recognise(exchange, request.caller, request.signed.access_key)
            PURPOSE.set(purpose_of(exchange, first_byte_s=self._settings.first_byte_s))
            watch.switch(GOING_ON, monotonic_s())
            if self._rehearsal is not None and request.target.key:
                await self._rehearsal()
            await self._verbs[exchange.operation](request)
        except ClientGone:
            raise
        except Exception as error:
            exchange.outcome = outcome_of(error)
            if exchange.answered:
                exchange.outcome = exchange.outcome or Outcome.FAILED
                raise
            self._refuse(exchange, error)

    def _follow(self, exchange: Exchange) -> S3Request | None:
        """Return the request of a link that was followed lately, if nothing about it changed."""
        if not exchange.query:
            return None
        link = self._links.find(exchange, now_s=wall_s())
        if link is None or self._credentials.remembered(link.signed.access_key) is not link.credential:
            return None
        exchange.operation = link.operation
        return _signed_request(
            exchange, link.target, link.query, exchange.headers, credential=link.credential, signed=link.signed
        )

    async def _understand(self, exchange: Exchange) -> S3Request:
        """Find out what is asked, and by whom.

        Raises:
            S3Error: it makes no sense, the claim is false, or nobody is known under that key.
        """
        headers = exchange.headers
        PURPOSE.set(AUTHENTICATION)
        target = read_target(exchange.path, headers.get("host", ""), domains=self._settings.domains)
        query = read_query(exchange.query) if exchange.query else {}
        claim = parse(method=exchange.method, raw_path=exchange.path, raw_query=exchange.query, headers=headers)
        if claim is None:
            exchange.operation = find_operation(exchange.method, target, query, headers)
            return S3Request(exchange, target, query, headers)
        credential = self._credentials.remembered(claim.access_key) or await self._credentials.find(claim.access_key)
        if credential is None:
            raise S3Error("InvalidAccessKeyId", fields={"AWSAccessKeyId": claim.access_key})
        signed = verify(claim, secret=credential.secret_key, now_s=wall_s(), keys=self._signing_keys)
        meant = hoisted(query, headers)
        request = _signed_request(exchange, target, query, meant, credential=credential, signed=signed)
        exchange.operation = find_operation(exchange.method, target, query, meant)
        if meant is not headers:
            return request
        self._links.remember(
            exchange,
            claim,
            target=target,
            query=query,
            operation=exchange.operation,
            credential=credential,
            signed=signed,
        )
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
        respond_error(exchange, answer)


def outcome_of(error: Exception) -> Outcome:
    """Return what an error says of us: it is for clients what it is, and for operators whose fault it is.

    That too much is asked is not for us to repair. That something took too long is, though clients are told the same.
    """
    match error:
        case Overloaded():
            return Outcome.REFUSED
        case StorageFull():
            return Outcome.NO_ROOM
        case TimeoutError() | ConnectionError():
            return Outcome.FAILED
        case DiskFailed() | BlobCorrupt() | OSError():
            return Outcome.DISK_FAILED
    status = translate(error).status
    return Outcome.FAILED if status >= 500 and status != 501 else Outcome.SERVED


def purpose_of(exchange: Exchange, *, first_byte_s: float = FIRST_BYTE_S) -> Purpose:
    """Return in whose name, how urgently and until when an understood request is worked on."""
    urgency = URGENCIES.get(exchange.operation, Urgency.NORMAL)
    # Whoever sends a body, or has bytes copied, sets the pace; an answer that needs neither has to begin in time.
    deadline_s = exchange.started_s + first_byte_s if urgency is Urgency.INTERACTIVE else None
    only_reads = exchange.method in {"GET", "HEAD"}
    if exchange.urgency > urgency:
        urgency = Urgency(exchange.urgency)
    return Purpose(exchange.operation, exchange.account or 0, urgency, deadline_s, only_reads)


def _signed_request(
    exchange: Exchange,
    target: Target,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    credential: Credential,
    signed: Signed,
) -> S3Request:
    request = S3Request(exchange, target, query, headers)
    request.caller = credential.caller
    request.signed = signed
    exchange.account = credential.caller.account_id
    return request
