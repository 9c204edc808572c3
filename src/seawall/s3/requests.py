"""One S3 request: what it names, who sent it, and how it is answered."""

from collections.abc import Mapping

from seawall.access import Caller
from seawall.edge import Exchange
from seawall.errors import Denied
from seawall.objects.things import Owner
from seawall.s3 import xml
from seawall.s3.errors import S3Error
from seawall.s3.headers import CHECKSUM_HEADERS, Headers, read_announced_checksum, read_digests
from seawall.s3.operations import Target
from seawall.s3.payload import read_payload
from seawall.s3.signature import Signed
from seawall.telemetry.purpose import STALENESS

XML_TYPE = ("Content-Type", "application/xml")


class S3Request:
    """An exchange in S3's words. State: who is calling, once that is known."""

    __slots__ = ("caller", "exchange", "headers", "query", "signed", "target")

    def __init__(
        self,
        exchange: Exchange,
        target: Target,
        query: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> None:
        self.exchange = exchange
        self.target = target
        self.query = query
        self.headers = headers
        self.caller: Caller | None = None
        self.signed: Signed | None = None

    @property
    def identified_caller(self) -> Caller:
        """The caller of an operation that nobody can do without an account.

        Raises:
            Denied: nobody knows who is calling.
        """
        if self.caller is None:
            raise Denied
        return self.caller

    def respond(self, status: int, headers: Headers | None = None, body: bytes = b"") -> None:
        """Answer at once."""
        self.exchange.respond(status, self.with_id(headers or []), body)

    def respond_xml(self, body: bytes, headers: Headers | None = None) -> None:
        """Answer 200 with a document."""
        self.exchange.respond(200, self.with_id([XML_TYPE, *(headers or [])]), body)

    def with_id(self, headers: Headers) -> Headers:
        """Return the headers with what stands on every answer: the request's id, and whether it may be outdated."""
        staleness_s = STALENESS.get()
        if staleness_s:
            headers = [("x-seawall-stale-s", f"{staleness_s:.1f}"), *headers]
        return [("x-amz-request-id", self.exchange.request_id), *headers]

    async def read_document(
        self, limit: int, *, must_be_checked: bool = False, checksum_is_of_document: bool = True
    ) -> bytes:
        """Return a request body that is a document, checked against what was announced about it.

        Raises:
            S3Error: `MissingContentLength`, `MaxMessageLengthExceeded`, or `InvalidRequest` where
                a digest is a must and none was sent.
            Invalid: it is not what was announced.
        """
        headers = self.headers
        if not checksum_is_of_document:
            headers = {name: value for name, value in headers.items() if name not in CHECKSUM_HEADERS}
        payload = read_payload(self.exchange.body, headers, self.signed)
        if payload.size_bytes > limit:
            raise S3Error("MaxMessageLengthExceeded")
        is_checked = "content-md5" in headers or "x-amz-trailer" in headers
        if must_be_checked and not is_checked and read_announced_checksum(headers)[0] is None:
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5")
        digests = read_digests(headers, payload=self.payload_digest)
        data = b"".join(payload.decode(await payload.read()))
        digests.update(data)
        payload.finish(digests)
        return data

    @property
    def payload_digest(self) -> str:
        """What the signature says of the body: a SHA-256 in hexadecimal, or a word."""
        return self.signed.payload if self.signed is not None else ""

    def number(self, name: str, *, default: int, low: int, high: int) -> int:
        """Return a whole number from the query.

        Raises:
            S3Error: `InvalidArgument`.
        """
        text = self.query.get(name)
        if text is None or text == "":
            return default
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if value < low or (value > high and name == "partNumber"):
            raise S3Error(
                "InvalidArgument",
                f"Argument {name} must be an integer between {low} and {high}",
                fields={"ArgumentName": name, "ArgumentValue": text},
            )
        return min(value, high)

    def require_bucket_owner(self, owner: Owner, *, header: str = "x-amz-expected-bucket-owner") -> None:
        """Refuse where the client expects the bucket to be somebody else's.

        Raises:
            Denied.
        """
        expected = self.headers.get(header)
        if expected is not None and expected != owner.canonical_id:
            raise Denied


def owner_of(account: Caller | Owner) -> xml.Owner:
    """Return how an account appears as the owner of what is theirs."""
    return xml.Owner(account.canonical_id, account.display_name)
